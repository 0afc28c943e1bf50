//! A tree that is put together of layers, each over those before it.
//!
//! Members come in any order, with or without their parents, several times, or with names that want to lead elsewhere. All of that
//! happens in memory: a path is taken apart and followed from node to node, so there is no outside that it could reach.
//! A directory over a directory keeps what is in it; anything else takes the place of what was there.

use std::collections::{HashMap, HashSet};

use crate::commit::{SourceKind, SourceNode, SourceTree};
use crate::format::{Metadata, limits};

/// Bytes that names, link targets, attributes and nodes of a tree may take in memory: millions of entries. What an archive holds
/// of files is limited by the disk; this is what it could fill memory with.
const MAX_WEIGHT: usize = 1 << 30;

/// What a node takes besides its texts.
const NODE_WEIGHT: usize = 256;

/// A directory's path from the root is shorter, or no call of the kernel would take it (`repo-format.md`).
const MAX_PATH: usize = 4096;

/// Links that are followed on the way to one member, as the kernel's own limit is.
const MAX_LINKS: usize = 40;

/// A file of this name says that another one is gone, or all of them.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How to take names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    /// A name is relative, and no part of it is a link.
    Strict,
    /// As tools for images take them: a slash at the start means the root of the tree, and links are followed within it.
    Rooted,
}

/// What to do about a directory that is missing on the way, or is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// Make a missing one; refuse another.
    MakeMissing,
    /// A missing one leads to nothing; refuse another.
    Refuse,
    /// Either leads to nothing.
    Nothing,
}

/// What a name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The root itself.
    Root,
    /// An entry of a directory.
    Entry { parent: u32, name: Box<[u8]> },
}

/// What a whiteout's name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout<'n> {
    /// This entry of the layers below is gone.
    Entry(&'n [u8]),
    /// Everything that the layers below have in this directory is gone.
    Directory,
    /// The name is reserved, and means nothing to a tree.
    Reserved,
}

/// Returns what a name says as a whiteout; `None` for one that is none.
pub(super) fn whiteout(name: &[u8]) -> Option<Whiteout<'_>> {
    let rest = name.strip_prefix(WHITEOUT)?;
    Some(if name == OPAQUE {
        Whiteout::Directory
    } else if rest.starts_with(WHITEOUT) {
        Whiteout::Reserved
    } else {
        Whiteout::Entry(rest)
    })
}

/// A tree to which layers are added.
#[derive(Debug)]
pub(super) struct Overlay {
    tree: SourceTree,
    /// The entries that there are.
    index: HashMap<(u32, Box<[u8]>), u32>,
    /// The layer that each node is of.
    layers: Vec<u32>,
    /// Bytes of each node's path from the root.
    lengths: Vec<usize>,
    layer: u32,
    /// Entries that are gone and still stand in their directory's list.
    gone: HashSet<u32>,
    /// Directories that hold nothing of the layers below any more.
    purged: HashSet<u32>,
    weight: usize,
}

impl Overlay {
    /// Begins with a root of nobody's making: root's, mode 0755, of 1970.
    pub(super) fn new() -> Self {
        let root = SourceNode {
            name: Box::default(),
            metadata: Metadata::with_mode(0o755),
            kind: SourceKind::Dir { children: Vec::new() },
        };
        Self {
            tree: SourceTree::with_root(root),
            index: HashMap::new(),
            layers: vec![0],
            lengths: vec![0],
            layer: 0,
            gone: HashSet::new(),
            purged: HashSet::new(),
            weight: 0,
        }
    }

    /// Begins a layer over what there is.
    pub(super) fn begin_layer(&mut self) {
        self.layer += 1;
        self.purged.clear();
    }

    pub(super) const fn tree(&mut self) -> &mut SourceTree {
        &mut self.tree
    }

    /// Gives the tree away.
    pub(super) fn finish(mut self) -> SourceTree {
        if !self.gone.is_empty() {
            for node in 0..self.tree.node_count() as u32 {
                self.tree
                    .retain_children(node, |child| !self.gone.contains(child));
            }
        }
        self.tree
    }

    /// Finds where `path` belongs. Directories on the way that are missing are made.
    pub(super) fn place(&mut self, path: &[u8], paths: Paths) -> Result<Place, String> {
        let mut parts = parts(path, paths)?;
        let Some(name) = parts.pop() else {
            return Ok(Place::Root);
        };
        check_name(&name)?;
        let parent = self.walk(&parts, paths, Obstacle::MakeMissing)?;
        Ok(Place::Entry {
            parent: parent.expect("what is missing was made"),
            name: name.into(),
        })
    }

    /// Finds the node at `path`; `None` where there is none.
    pub(super) fn find(&mut self, path: &[u8], paths: Paths) -> Result<Option<u32>, String> {
        let mut parts = parts(path, paths)?;
        let Some(name) = parts.pop() else {
            return Ok(Some(0));
        };
        let Some(parent) = self.walk(&parts, paths, Obstacle::Refuse)? else {
            return Ok(None);
        };
        Ok(self.child(parent, &name))
    }

    /// Finds the directory that an addition with the path `path` of its parent would be put into; `None` where there is none. Real layers
    /// have whiteouts beneath what has become a file, of the directory that was there.
    pub(super) fn find_dir(&mut self, path: &[u8], paths: Paths) -> Result<Option<u32>, String> {
        let parts = parts(path, paths)?;
        self.walk(&parts, paths, Obstacle::Nothing)
    }

    pub(super) fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.index.get(&(parent, name.into())).copied()
    }

    /// Follows the parts of a path from the root, through directories.
    fn walk(&mut self, parts: &[Vec<u8>], paths: Paths, obstacle: Obstacle) -> Result<Option<u32>, String> {
        let mut way = vec![0];
        let mut left: Vec<Vec<u8>> = parts.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(part) = left.pop() {
            let here = *way.last().expect("the root stays");
            match part.as_slice() {
                // Only a link's target has such parts here.
                b"." | b"" => continue,
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                    continue;
                }
                _ => check_name(&part)?,
            }
            let Some(child) = self.child(here, &part) else {
                if obstacle != Obstacle::MakeMissing {
                    return Ok(None);
                }
                if way.len() > limits::MAX_DEPTH {
                    return Err("its path has more than 2048 directories".to_owned());
                }
                way.push(self.insert(here, &part, Metadata::with_mode(0o755), dir())?);
                continue;
            };
            match &self.tree.node(child).kind {
                SourceKind::Dir { .. } => way.push(child),
                SourceKind::Symlink(target) if paths == Paths::Rooted => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("its path leads through more than 40 links".to_owned());
                    }
                    if target.first() == Some(&b'/') {
                        way.truncate(1);
                    }
                    left.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                other if obstacle == Obstacle::Nothing && !matches!(other, SourceKind::Symlink(_)) => {
                    return Ok(None);
                }
                other => {
                    let what = match other {
                        SourceKind::Symlink(_) => "a symbolic link",
                        _ => "no directory",
                    };
                    return Err(format!(
                        "its path leads through {}, which is {what}",
                        part.escape_ascii()
                    ));
                }
            }
        }
        Ok(way.last().copied())
    }

    /// Puts a node where `place` says: a directory over a directory gives it its metadata, anything else replaces.
    pub(super) fn put(&mut self, place: Place, metadata: Metadata, kind: SourceKind) -> Result<u32, String> {
        let is_dir = matches!(kind, SourceKind::Dir { .. });
        let (parent, name) = match place {
            Place::Root if is_dir => {
                self.grow(&metadata, &kind, 0)?;
                self.tree.node_mut(0).metadata = metadata;
                return Ok(0);
            }
            Place::Root => return Err("it is to be the root, and is no directory".to_owned()),
            Place::Entry { parent, name } => (parent, name),
        };
        let Some(there) = self.child(parent, &name) else {
            return self.insert(parent, &name, metadata, kind);
        };
        let replaces_dir = matches!(self.tree.node(there).kind, SourceKind::Dir { .. });
        if replaces_dir && !is_dir {
            // What is in it must not come back with the next directory of the name.
            self.gone.insert(there);
            self.index.remove(&(parent, name.clone()));
            return self.insert(parent, &name, metadata, kind);
        }
        Self::check_length(self.lengths[there as usize], &kind)?;
        self.grow(&metadata, &kind, 0)?;
        self.layers[there as usize] = self.layer;
        let node = self.tree.node_mut(there);
        node.metadata = metadata;
        if !replaces_dir {
            node.kind = kind;
        }
        Ok(there)
    }

    /// Removes the entry `name` of the layers below.
    pub(super) fn remove_lower(&mut self, parent: u32, name: &[u8]) -> Result<(), String> {
        check_name(name)?;
        if let Some(node) = self.child(parent, name) {
            self.purge(node);
            self.drop_if_lower(parent, node);
        }
        Ok(())
    }

    /// Removes everything that the layers below have in the directory `dir`.
    pub(super) fn purge(&mut self, dir: u32) {
        if !self.purged.insert(dir) {
            return;
        }
        let children = self.tree.children(dir).to_vec();
        for child in children {
            if !self.gone.contains(&child) {
                self.purge(child);
                self.drop_if_lower(dir, child);
            }
        }
    }

    /// Removes a node of the layers below that has nothing of this one in it.
    fn drop_if_lower(&mut self, parent: u32, node: u32) {
        if self.layers[node as usize] == self.layer {
            return;
        }
        let holds_more = self
            .tree
            .children(node)
            .iter()
            .any(|child| !self.gone.contains(child));
        if holds_more {
            // This layer has put something into it, and so has made it again.
            self.tree.node_mut(node).metadata = Metadata::with_mode(0o755);
            self.layers[node as usize] = self.layer;
            return;
        }
        let name = self.tree.node(node).name.clone();
        self.gone.insert(node);
        self.index.remove(&(parent, name));
    }

    fn insert(
        &mut self,
        parent: u32,
        name: &[u8],
        metadata: Metadata,
        kind: SourceKind,
    ) -> Result<u32, String> {
        let above = self.lengths[parent as usize];
        let length = above + usize::from(above > 0) + name.len();
        Self::check_length(length, &kind)?;
        self.grow(&metadata, &kind, NODE_WEIGHT + 2 * name.len())?;
        self.lengths.push(length);
        let node = SourceNode {
            name: name.into(),
            metadata,
            kind,
        };
        let index = self.tree.insert(parent, node);
        self.layers.push(self.layer);
        self.index.insert((parent, name.into()), index);
        Ok(index)
    }

    /// Refuses what nobody could commit as a directory, and no checkout of which could be updated.
    fn check_length(length: usize, kind: &SourceKind) -> Result<(), String> {
        match kind {
            SourceKind::Dir { .. } if length >= MAX_PATH => {
                Err("it is, or lies in, a directory whose path has 4096 bytes or more".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Counts what is going to be in memory. What is replaced is not given back: whoever replaces for ever ends, too.
    fn grow(&mut self, metadata: &Metadata, kind: &SourceKind, more: usize) -> Result<(), String> {
        let attributes: usize = metadata
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 48)
            .sum();
        let target = match kind {
            SourceKind::Symlink(target) => target.len(),
            _ => 0,
        };
        self.weight += attributes + target + more;
        if self.weight > MAX_WEIGHT {
            return Err("there are more names and attributes than fit into 1 GiB".to_owned());
        }
        Ok(())
    }

    /// Lays a listed tree over what there is.
    pub(super) fn merge(&mut self, mut other: SourceTree) -> Result<(), String> {
        use crate::commit::Content;
        let first = self.tree.take_directories(&mut other);
        let root = other.node(0).metadata.clone();
        self.put(Place::Root, root, dir())?;
        let mut stack = vec![(0, 0)];
        while let Some((from, to)) = stack.pop() {
            for child in other.children(from).to_vec() {
                let node = other.node_mut(child);
                let name = node.name.clone();
                let metadata = std::mem::replace(&mut node.metadata, Metadata::with_mode(0));
                let kind = match &mut node.kind {
                    SourceKind::Dir { .. } => dir(),
                    kind => std::mem::replace(kind, SourceKind::Fifo),
                };
                let kind = match kind {
                    SourceKind::File {
                        size,
                        content: Content::Disk { directory, name },
                    } => SourceKind::File {
                        size,
                        content: Content::Disk {
                            directory: directory + first,
                            name,
                        },
                    },
                    kind => kind,
                };
                let is_dir = matches!(kind, SourceKind::Dir { .. });
                let index = self.put(Place::Entry { parent: to, name }, metadata, kind)?;
                if is_dir {
                    stack.push((child, index));
                }
            }
        }
        Ok(())
    }
}

/// Returns a directory without entries.
pub(super) const fn dir() -> SourceKind {
    SourceKind::Dir { children: Vec::new() }
}

/// Takes a path apart.
fn parts(path: &[u8], paths: Paths) -> Result<Vec<Vec<u8>>, String> {
    if paths == Paths::Strict && path.first() == Some(&b'/') {
        return Err("its path is absolute".to_owned());
    }
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path has the part \"..\"".to_owned()),
            _ => parts.push(part.to_vec()),
        }
    }
    if parts.len() > limits::MAX_DEPTH {
        return Err("its path has more than 2048 directories".to_owned());
    }
    Ok(parts)
}

fn check_name(name: &[u8]) -> Result<(), String> {
    if name.len() > limits::MAX_NAME {
        return Err("a part of its path is longer than 255 bytes".to_owned());
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.contains(&b'/') {
        return Err("its path has a part that can name nothing".to_owned());
    }
    Ok(())
}
