//! Walking a tree in the order in which an image has it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::digest::{DIGEST_LEN, DirTreeId};
use crate::format::{DirTree, Entry, Metadata, Node, limits};
use crate::repo::{RepoError, TreeSource, object_path};

use super::ComposefsError;
use super::erofs::{BLOCK, CHUNK, INODE, Kind, Xattrs, blocks, device};

/// Bytes of dirtrees that are kept from the first walk for the second.
const MAX_KEPT: usize = 48 << 20;

/// Dirtrees that are loaded at once.
const AT_ONCE: usize = 16;

/// What a walk meets.
pub(super) enum Step<'a> {
    /// An inode, by its number. What is in one directory has numbers that follow one another.
    Inode(usize, Described<'a>),
    /// What is in the directory of the first number begins with the second.
    Children(usize, usize),
}

/// An inode.
pub(super) struct Described<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) kind: Kind,
    /// Its extended attributes, as they stand behind it.
    pub(super) xattrs: &'a [u8],
    pub(super) content: Content<'a>,
    pub(super) parent: usize,
}

pub(super) enum Content<'a> {
    /// A file whose bytes are in the store: how many, and whether it says their fs-verity digest.
    Stored {
        size: u64,
        has_verity: bool,
    },
    /// A file, empty; a fifo.
    Nothing,
    Device(u32),
    Symlink(&'a [u8]),
    Dir(&'a Loaded),
}

impl Described<'_> {
    /// Bytes of everything but data.
    pub(super) fn head(&self) -> usize {
        let chunk = match self.content {
            Content::Stored { .. } => CHUNK,
            _ => 0,
        };
        INODE + self.xattrs.len() + chunk
    }

    pub(super) fn data_len(&self) -> usize {
        match &self.content {
            Content::Symlink(target) => target.len(),
            Content::Dir(dir) => (dir.ends.len() - 1) * BLOCK + dir.last,
            _ => 0,
        }
    }
}

pub(super) const fn kind(node: &Node) -> Kind {
    match node {
        Node::File { .. } => Kind::File,
        Node::Dir { .. } => Kind::Dir,
        Node::Symlink { .. } => Kind::Symlink,
        Node::Char { .. } => Kind::Char,
        Node::Block { .. } => Kind::Block,
        Node::Fifo => Kind::Fifo,
    }
}

/// The names in a directory, in order, with the number of each entry; `.` and `..` have none.
pub(super) fn names(tree: &DirTree) -> impl Iterator<Item = (&[u8], Option<usize>)> {
    let dots: [&[u8]; 2] = [b".", b".."];
    let before = dots.map(|dot| {
        let before = tree
            .entries()
            .partition_point(|entry| entry.name.as_slice() < dot);
        (before, dot)
    });
    (0..=tree.entries().len()).flat_map(move |index| {
        let dots = before
            .into_iter()
            .filter(move |(at, _)| *at == index)
            .map(|(_, dot)| (dot, None));
        let entry = tree.entries().get(index);
        dots.chain(entry.map(|entry| (entry.name.as_slice(), Some(index))))
    })
}

/// A dirtree, with what of an image needs no other: how a directory of it lies in blocks, and what stands behind its inodes. It is made on
/// all processors, and needed in both walks.
pub(super) struct Loaded {
    pub(super) tree: DirTree,
    /// How many entries are before the end of each block, `.` and `..` among them.
    pub(super) ends: Vec<usize>,
    /// Bytes of the last block.
    pub(super) last: usize,
    /// How many directories are in it.
    pub(super) dirs: u32,
    /// The extended attributes of its entries, one after the other, and where those of each end; or why it can have none.
    xattrs: Vec<u8>,
    xattr_ends: Vec<Result<usize, &'static str>>,
}

impl Loaded {
    fn new(tree: DirTree) -> Self {
        let (ends, last) = blocks(names(&tree).map(|(name, _)| name));
        let is_dir = |entry: &&Entry| matches!(entry.node, Node::Dir { .. });
        let dirs = tree.entries().iter().filter(is_dir).count() as u32;
        let (mut one, mut xattrs) = (Xattrs::default(), Vec::new());
        let xattr_ends = tree.entries().iter().map(|entry| {
            one.clear();
            attributes(&entry.metadata, &entry.node, &mut one)?;
            xattrs.extend_from_slice(one.bytes());
            Ok(xattrs.len())
        });
        let xattr_ends = xattr_ends.collect();
        Self {
            tree,
            ends,
            last,
            dirs,
            xattrs,
            xattr_ends,
        }
    }

    /// Returns what the entry of that number is in an image. Of a directory, `dir` is what is in it.
    fn describe<'a>(
        &'a self,
        number: usize,
        dir: Option<&'a Self>,
        parent: usize,
    ) -> Result<Described<'a>, &'static str> {
        let entry = &self.tree.entries()[number];
        let end = self.xattr_ends[number]?;
        // Nothing is described behind one that was refused.
        let start = number
            .checked_sub(1)
            .map_or(Ok(0), |before| self.xattr_ends[before])?;
        Ok(Described {
            metadata: &entry.metadata,
            kind: kind(&entry.node),
            xattrs: &self.xattrs[start..end],
            content: content(&entry.node, dir)?,
            parent,
        })
    }
}

/// Walks a tree: each directory's entries, then what is in the first directory of them, and so on.
pub(super) struct Walk<'a> {
    source: &'a dyn TreeSource,
    cancel: &'a Cancel,
    kept: HashMap<DirTreeId, Arc<Loaded>>,
    kept_bytes: usize,
}

/// A name, and the directory that it is in.
struct Place {
    parent: Option<Rc<Self>>,
    name: Vec<u8>,
    depth: usize,
}

impl Place {
    fn path(&self) -> PathBuf {
        let mut names = vec![self.name.as_slice()];
        let mut next = self.parent.as_ref();
        while let Some(place) = next {
            names.push(&place.name);
            next = place.parent.as_ref();
        }
        names.iter().rev().map(|name| OsStr::from_bytes(name)).collect()
    }
}

/// About how many bytes a dirtree takes in memory.
fn bytes_of(tree: &DirTree) -> usize {
    let of = |entry: &Entry| {
        let xattrs = entry.metadata.xattrs.iter();
        let xattrs: usize = xattrs.map(|(name, value)| 48 + name.len() + value.len()).sum();
        let target = match &entry.node {
            Node::Symlink { target } => target.len(),
            _ => 0,
        };
        size_of::<Entry>() + entry.name.len() + xattrs + target
    };
    tree.entries().iter().map(of).sum()
}

impl<'a> Walk<'a> {
    pub(super) fn new(source: &'a dyn TreeSource, cancel: &'a Cancel) -> Self {
        Self {
            source,
            cancel,
            kept: HashMap::new(),
            kept_bytes: 0,
        }
    }

    pub(super) fn run(
        &mut self,
        root: DirTreeId,
        metadata: &Metadata,
        each: &mut dyn FnMut(Step<'_>) -> Result<(), ComposefsError>,
    ) -> Result<(), ComposefsError> {
        let node = Node::Dir { tree: root };
        let tree = self.load(&root)?;
        let mut xattrs = Xattrs::default();
        let described = attributes(metadata, &node, &mut xattrs).and_then(|()| {
            Ok(Described {
                metadata,
                kind: Kind::Dir,
                xattrs: xattrs.bytes(),
                content: content(&node, Some(&tree))?,
                parent: 0,
            })
        });
        each(Step::Inode(
            0,
            described.map_err(|reason| not_in_images(Path::new("/"), reason))?,
        ))?;
        drop(tree);
        let mut next = 1;
        let top = Rc::new(Place {
            parent: None,
            name: b"/".to_vec(),
            depth: 0,
        });
        let mut stack = vec![(0, root, top)];
        while let Some((of, id, place)) = stack.pop() {
            self.cancel.check()?;
            if place.depth > limits::MAX_DEPTH {
                return Err(not_in_images(
                    &place.path(),
                    "it is nested more than 2048 directories deep",
                ));
            }
            each(Step::Children(of, next))?;
            let dir = self.load(&id)?;
            self.load_ahead(&dir.tree)?;
            let begin = stack.len();
            for (number, entry) in dir.tree.entries().iter().enumerate() {
                let tree = match &entry.node {
                    Node::Dir { tree } => Some(self.load(tree)?),
                    _ => None,
                };
                let here = || Place {
                    parent: Some(Rc::clone(&place)),
                    name: entry.name.clone(),
                    depth: place.depth + 1,
                };
                let described = dir
                    .describe(number, tree.as_deref(), of)
                    .map_err(|reason| not_in_images(&here().path(), reason))?;
                each(Step::Inode(next, described))?;
                if let Node::Dir { tree } = entry.node {
                    stack.push((next, tree, Rc::new(here())));
                }
                next += 1;
            }
            stack[begin..].reverse();
        }
        Ok(())
    }

    fn load(&mut self, id: &DirTreeId) -> Result<Arc<Loaded>, RepoError> {
        if let Some(tree) = self.kept.get(id) {
            return Ok(Arc::clone(tree));
        }
        let tree = Arc::new(Loaded::new(self.source.dirtree(id)?));
        self.keep(*id, &tree);
        Ok(tree)
    }

    fn keep(&mut self, id: DirTreeId, tree: &Arc<Loaded>) {
        let bytes = bytes_of(&tree.tree) + tree.xattrs.len();
        if self.kept_bytes + bytes <= MAX_KEPT {
            self.kept_bytes += bytes;
            self.kept.insert(id, Arc::clone(tree));
        }
    }

    /// Loads what is in a directory on all processors, as long as there is room to keep it.
    fn load_ahead(&mut self, dir: &DirTree) -> Result<(), RepoError> {
        let mut missing: Vec<DirTreeId> = dir
            .entries()
            .iter()
            .filter_map(|entry| match entry.node {
                Node::Dir { tree } if !self.kept.contains_key(&tree) => Some(tree),
                _ => None,
            })
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.len() < 2 {
            return Ok(());
        }
        for some in missing.chunks(AT_ONCE) {
            if self.kept_bytes >= MAX_KEPT / 2 {
                return Ok(());
            }
            let source = self.source;
            let load = |id: &DirTreeId| source.dirtree(id).map(|tree| (*id, Arc::new(Loaded::new(tree))));
            let trees: Vec<_> = some.par_iter().map(load).collect::<Result<_, _>>()?;
            for (id, tree) in trees {
                self.keep(id, &tree);
            }
        }
        Ok(())
    }
}

fn not_in_images(path: &Path, reason: &'static str) -> ComposefsError {
    ComposefsError::NotInImages {
        path: path.to_owned(),
        reason,
    }
}

/// What overlays keep for themselves.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Says that a file's bytes are elsewhere; and their fs-verity digest, as `struct ovl_metacopy` of `fs/overlayfs/overlayfs.h`: version 0, the
/// length, no flags, the algorithm.
fn metacopy(verity: Option<&[u8; DIGEST_LEN]>) -> Vec<u8> {
    const HEADER: u8 = 4;
    verity.map_or_else(Vec::new, |verity| {
        let header = [0, HEADER + DIGEST_LEN as u8, 0, crate::verity::SHA256];
        [&header[..], verity].concat()
    })
}

/// Encodes the extended attributes that an inode of an image has: the tree's, and for a file where its bytes are.
fn attributes(metadata: &Metadata, node: &Node, xattrs: &mut Xattrs) -> Result<(), &'static str> {
    for (name, value) in metadata.xattrs.iter() {
        // An overlay takes the one level of it away again that is added here.
        let escaped;
        let name = match name.strip_prefix(OVERLAY) {
            None => name,
            Some(rest) => {
                escaped = [OVERLAY, b"overlay.", rest].concat();
                escaped.as_slice()
            }
        };
        if !xattrs.push(name, value) {
            return Err("it has an extended attribute that EROFS does not have, or one that is too long");
        }
    }
    if let Node::File {
        size: 1..,
        blob,
        verity,
    } = node
    {
        let place = format!("/{}", object_path(blob.digest()));
        let pushed = xattrs.push(b"trusted.overlay.metacopy", &metacopy(verity.as_ref()))
            && xattrs.push(b"trusted.overlay.redirect", place.as_bytes());
        if !pushed {
            return Err("its extended attributes are too long");
        }
    }
    Ok(())
}

fn content<'a>(node: &'a Node, dir: Option<&'a Loaded>) -> Result<Content<'a>, &'static str> {
    Ok(match node {
        Node::File { size: 0, .. } | Node::Fifo => Content::Nothing,
        Node::File { size, verity, .. } => Content::Stored {
            size: *size,
            has_verity: verity.is_some(),
        },
        Node::Symlink { target } => Content::Symlink(target),
        Node::Char { major: 0, minor: 0 } => {
            return Err("an overlay takes the device 0:0 for a file that was removed");
        }
        Node::Char { major, minor } | Node::Block { major, minor } => {
            Content::Device(device(*major, *minor).ok_or("its device's number is too large")?)
        }
        Node::Dir { .. } => Content::Dir(dir.ok_or("it is a directory without entries")?),
    })
}
