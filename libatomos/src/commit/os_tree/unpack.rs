//! Unpacking kernel modules and documents.
//!
//! ```text
//! usr/lib/modules/V/**/a.ko.xz  → a.ko    and so .zst, .gz; the indexes that name it follow
//! usr/share/doc/**/x.gz         → x       and so beneath usr/share/man and usr/share/info; links to it follow
//! ```
//!
//! Here names change; the bytes are unpacked when they are hashed, and never lie on disk in between. A file keeps owner,
//! mode, times and extended attributes, a module its signature, which is inside. What cannot be unpacked without
//! breaking something stays as it is, and is named in a warning: a file whose unpacked name is taken; one whose bytes
//! are not what its name says (documents are read to their end to know, modules are not: a damaged one is an error), or
//! are signed as they are by an extended attribute; and one that a link elsewhere calls by its compressed name, since whoever reads that link expects compressed bytes.
//!
//! `/etc/alternatives` is the exception to the last: its links stand between a link in `/usr/share/man` and a page there,
//! and nobody else reads them. They keep their names and get new targets.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::unpack::module_index::{self, BINARY, MAX_INDEX, TEXT};
use crate::unpack::{Codec, Compressed, INITRAMFS, MODULES, Unpacker, UpdateCost, begins_as, initramfs};

use super::super::{CommitError, Content, SourceKind, SourceTree};
use super::links::Places;
use super::report::{LeftPacked, OsTreeWarning, Unpacked};
use super::shaper::{Shaper, lossy};
use super::{OsTreeError, Unpack};

/// Directories whose links nobody reads but through others, before and after `/etc` has moved.
const ALTERNATIVES: [&str; 2] = ["etc/alternatives", "usr/etc/alternatives"];

/// A file that could be unpacked.
struct Candidate {
    node: u32,
    path: Vec<u8>,
    what: Compressed,
    codec: Codec,
    /// Its name unpacked.
    name: Box<[u8]>,
}

/// What is to be done, decided before anything is.
#[derive(Default)]
struct Plan {
    files: Vec<Candidate>,
    /// New names of links.
    names: HashMap<u32, Box<[u8]>>,
    /// New targets of links.
    targets: HashMap<u32, Box<[u8]>>,
    left: BTreeMap<LeftPacked, BTreeSet<String>>,
}

/// Unpacks what is asked for.
pub(super) fn arrange(shaper: &mut Shaper<'_>, wanted: Unpack, cancel: &Cancel) -> Result<(), CommitError> {
    if !(wanted.modules || wanted.documents) {
        return Ok(());
    }
    let plan = plan(shaper.tree, wanted, cancel)?;
    // Paths change with names, and indexes have the old ones.
    let renamed = renamed_modules(shaper.tree, &plan);
    for (version, renames) in &renamed {
        rewrite_indexes(shaper.tree, *version, renames)?;
    }
    let mut done: BTreeMap<Compressed, UpdateCost> = BTreeMap::new();
    for file in plan.files {
        shaper.tree.rename(file.node, file.name);
        let node = shaper.tree.node_mut(file.node);
        if let SourceKind::File { size, content } = &mut node.kind {
            let codec = file.codec;
            *content = match content {
                Content::Disk { directory, name } => Content::Unpacked {
                    directory: *directory,
                    name: name.take(),
                    codec,
                },
                Content::Stored(blob) => Content::UnpackedBlob { blob: *blob, codec },
                _ => continue,
            };
            done.entry(file.what).or_default().add(*size);
        }
    }
    for (node, name) in plan.names {
        shaper.tree.rename(node, name);
    }
    for (node, target) in plan.targets {
        shaper.tree.node_mut(node).kind = SourceKind::Symlink(target);
    }
    for (what, cost) in done {
        shaper.note_unpacked(Unpacked {
            what,
            files: cost.files,
            bytes: cost.bytes,
        });
    }
    for (reason, paths) in plan.left {
        shaper.warn(OsTreeWarning::LeftPacked {
            reason,
            paths: paths.into_iter().collect(),
        });
    }
    Ok(())
}

/// Warns of what is still compressed, and says what that costs.
pub(super) fn warn_of_compression(shaper: &mut Shaper<'_>) -> Result<(), CommitError> {
    let mut costs: BTreeMap<Compressed, UpdateCost> = BTreeMap::new();
    let tree = &*shaper.tree;
    for (path, node) in files(tree) {
        let SourceKind::File { size, .. } = &tree.node(node).kind else {
            continue;
        };
        if let Some((what, ..)) = Compressed::of_path(&path) {
            costs.entry(what).or_default().add(*size);
        }
    }
    let versions = tree.find(MODULES).map_or(&[][..], |dir| tree.children(dir));
    for version in versions {
        for node in INITRAMFS
            .iter()
            .filter_map(|name| tree.child(*version, name.as_bytes()))
        {
            let Some(file) = tree.open_content(node)? else {
                continue;
            };
            let bytes = compressed_bytes(&file).map_err(|error| unreadable(tree, node, error))?;
            if bytes > 0 {
                costs.entry(Compressed::Initramfs).or_default().add(bytes);
            }
        }
    }
    for (what, cost) in costs {
        shaper.warn(OsTreeWarning::Compressed { what, cost });
    }
    Ok(())
}

fn compressed_bytes(file: &File) -> io::Result<u64> {
    initramfs::compressed_bytes(file, file.metadata()?.len())
}

fn unreadable(tree: &SourceTree, node: u32, source: io::Error) -> CommitError {
    let path = Places::new(tree).path(node);
    crate::fs::FsError::new("read", lossy(&path), source).into()
}

/// Returns every regular file with its path.
fn files(tree: &SourceTree) -> Vec<(Vec<u8>, u32)> {
    let mut files = Vec::new();
    let mut stack = vec![(0, Vec::new())];
    while let Some((dir, path)) = stack.pop() {
        for child in tree.children(dir) {
            let node = tree.node(*child);
            let path = super::shaper::join(&path, &node.name);
            match &node.kind {
                SourceKind::Dir { .. } => stack.push((*child, path)),
                SourceKind::File { .. } => files.push((path, *child)),
                _ => {}
            }
        }
    }
    files.sort_unstable();
    files
}

fn plan(tree: &SourceTree, wanted: Unpack, cancel: &Cancel) -> Result<Plan, CommitError> {
    let mut plan = Plan::default();
    let places = Places::new(tree);
    let mut candidates: Vec<Candidate> = files(tree)
        .into_iter()
        .filter_map(|(path, node)| {
            let (what, codec, name) = Compressed::of_path(&path)?;
            let asked = match what {
                Compressed::Modules => wanted.modules,
                _ => wanted.documents,
            };
            let name = name.into();
            asked.then_some(Candidate {
                node,
                path,
                what,
                codec,
                name,
            })
        })
        .collect();
    let mut leave = |reason, path: &[u8]| {
        plan.left.entry(reason).or_default().insert(lossy(path));
    };

    // Names: `a.ko.xz` and `a.ko.zst` would both become `a.ko`.
    let mut taken: HashMap<(u32, Box<[u8]>), u32> = HashMap::new();
    for file in &candidates {
        *taken
            .entry((places.parent(file.node), file.name.clone()))
            .or_default() += 1;
    }
    candidates.retain(|file| {
        let place = (places.parent(file.node), file.name.clone());
        let free = taken[&place] == 1 && places.child(place.0, &place.1).is_none();
        if !free {
            leave(LeftPacked::NameTaken, &file.path);
        }
        free
    });

    // Bytes.
    let reasons: Vec<Option<LeftPacked>> = candidates
        .par_iter()
        .map(|file| {
            cancel.check()?;
            look_inside(tree, file)
        })
        .collect::<Result<_, CommitError>>()?;
    let mut reasons = reasons.into_iter();
    candidates.retain(|file| {
        let reason = reasons.next().expect("there is an answer for each candidate");
        if let Some(reason) = reason {
            leave(reason, &file.path);
        }
        reason.is_none()
    });

    // Links. Each leads to one file, which it can keep from being unpacked.
    let sorts: HashMap<u32, Compressed> = candidates.iter().map(|file| (file.node, file.what)).collect();
    let links: Vec<(u32, u32)> = places
        .links()
        .filter_map(|link| Some((link, places.end(link).filter(|end| sorts.contains_key(end))?)))
        .collect();
    let mut kept: HashSet<u32> = HashSet::new();
    for (link, end) in &links {
        if matches!(new_link_name(tree, &places, *link, sorts[end]), Err(InTheWay)) {
            kept.insert(*end);
        }
    }
    candidates.retain(|file| {
        let keep = kept.contains(&file.node);
        if keep {
            leave(LeftPacked::Named, &file.path);
        }
        !keep
    });
    let mut names: HashMap<u32, Box<[u8]>> = HashMap::new();
    for (link, end) in links.iter().filter(|(_, end)| !kept.contains(end)) {
        if let Ok(Some(name)) = new_link_name(tree, &places, *link, sorts[end]) {
            names.insert(*link, name);
        }
    }
    let files = candidates.iter().map(|file| (file.node, file.name.clone()));
    let all: HashMap<u32, Box<[u8]>> = names.clone().into_iter().chain(files).collect();
    for (link, _) in links.iter().filter(|(_, end)| !kept.contains(end)) {
        let Some(name) = places.step(*link).and_then(|next| all.get(&next)) else {
            continue;
        };
        if let SourceKind::Symlink(target) = &tree.node(*link).kind {
            // Its last part is the name of what it leads to.
            let dir = target
                .iter()
                .rposition(|byte| *byte == b'/')
                .map_or(0, |at| at + 1);
            plan.targets.insert(*link, [&target[..dir], name].concat().into());
        }
    }
    plan.names = names;
    plan.files = candidates;
    Ok(plan)
}

/// A link is called by a compressed name and cannot be renamed.
struct InTheWay;

/// Returns the name that a link gets when the file it leads to is unpacked, if it needs another.
fn new_link_name(
    tree: &SourceTree,
    places: &Places<'_>,
    link: u32,
    what: Compressed,
) -> Result<Option<Box<[u8]>>, InTheWay> {
    let Some((_, name)) = what.of_name(&tree.node(link).name) else {
        return Ok(None);
    };
    let path = places.path(link);
    let parent = places.parent(link);
    if Compressed::of_path(&path).is_some_and(|(sort, ..)| sort == what) {
        let rivals = |other: &&u32| {
            what.of_name(&tree.node(**other).name)
                .is_some_and(|(_, other)| other == name)
        };
        let alone = tree.children(parent).iter().filter(rivals).count() == 1;
        return if alone && places.child(parent, name).is_none() {
            Ok(Some(name.into()))
        } else {
            Err(InTheWay)
        };
    }
    let dir = places.path(parent);
    if ALTERNATIVES.iter().any(|other| other.as_bytes() == dir) {
        Ok(None)
    } else {
        Err(InTheWay)
    }
}

/// Attributes that sign a file's bytes, as they are.
const SIGNATURES: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// Returns why a file's bytes cannot be unpacked, if they cannot. Documents come from many hands, so they are read to
/// their end; a module that is damaged would be found by nobody until it is needed, so it is an error later on.
fn look_inside(tree: &SourceTree, file: &Candidate) -> Result<Option<LeftPacked>, CommitError> {
    let Some(disk) = tree.open_content(file.node)? else {
        return Ok(Some(LeftPacked::NotPacked));
    };
    let path = std::path::PathBuf::from(lossy(&file.path));
    let xattrs = tree.xattrs_of(file.node)?;
    if SIGNATURES.iter().any(|name| xattrs.get(name).is_some()) {
        return Ok(Some(LeftPacked::Signed));
    }
    let fail = |error| crate::fs::FsError::new("read", &path, error);
    let packed = if file.what == Compressed::Modules {
        let mut head = [0; 6];
        let len = crate::fs::read_up_to(&disk, &mut head).map_err(fail)?;
        begins_as(file.codec, &head[..len])
    } else {
        let size = disk.metadata().map_err(fail)?.len();
        Unpacker::new(file.codec, &disk, size)
            .and_then(|mut unpacker| io::copy(&mut unpacker, &mut io::sink()))
            .is_ok()
    };
    Ok((!packed).then_some(LeftPacked::NotPacked))
}

/// What is renamed beneath a version's directory: old paths and new ones, relative to it.
type Renames = HashMap<Vec<u8>, Vec<u8>>;

fn renamed_modules(tree: &SourceTree, plan: &Plan) -> BTreeMap<u32, Renames> {
    let mut renamed: BTreeMap<u32, Renames> = BTreeMap::new();
    let places = Places::new(tree);
    let files = plan.files.iter().map(|file| (file.node, &file.name));
    for (node, name) in files.chain(plan.names.iter().map(|(node, name)| (*node, name))) {
        let path = places.path(node);
        let Some(relative) = path
            .strip_prefix(MODULES.as_bytes())
            .and_then(|path| path.strip_prefix(b"/"))
        else {
            continue;
        };
        let Some(slash) = relative.iter().position(|byte| *byte == b'/') else {
            continue;
        };
        let version = tree
            .find(MODULES)
            .and_then(|modules| places.child(modules, &relative[..slash]));
        let Some(version) = version else { continue };
        let old = relative[slash + 1..].to_vec();
        let dir = old.len() - tree.node(node).name.len();
        let new = [&old[..dir], name].concat();
        renamed.entry(version).or_default().insert(old, new);
    }
    renamed
}

fn rewrite_indexes(tree: &mut SourceTree, version: u32, renames: &Renames) -> Result<(), CommitError> {
    let rename = |path: &[u8]| renames.get(path).map(Vec::as_slice);
    for name in TEXT.into_iter().chain([BINARY]) {
        let Some(node) = tree.child(version, name.as_bytes()) else {
            continue;
        };
        let Some(before) = tree.read(node, MAX_INDEX)? else {
            continue;
        };
        let after = if name == BINARY {
            module_index::rewrite_binary(&before, rename).map_err(|source| OsTreeError::ModuleIndex {
                path: lossy(&Places::new(tree).path(node)),
                source,
            })?
        } else {
            module_index::rewrite_text(&before, rename)
        };
        if after == before {
            continue;
        }
        // Those of a file are read with its bytes, and this one's are read here.
        tree.node_mut(node).metadata.xattrs = tree.xattrs_of(node)?;
        tree.node_mut(node).kind = SourceKind::File {
            size: after.len() as u64,
            content: Content::Bytes(after.into()),
        };
    }
    Ok(())
}
