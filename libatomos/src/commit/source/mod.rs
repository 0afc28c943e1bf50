//! A source tree in memory: names and metadata, no contents.
//!
//! Nodes lie in one vector and refer to each other by index, which is compact and lets a tree be rearranged cheaply.
//! A file's content is named by where it lies on disk, so moving its node does not touch it.

mod content;
mod scan;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::digest::BlobId;
use crate::format::Metadata;
use crate::fs::Dir;
use crate::repo::BlobFiles;
use crate::unpack::Codec;

use super::CommitError;
use super::stat_cache::Stamp;

pub use scan::ScanOptions;
pub(in crate::commit) use scan::metadata_of;

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the source: which of its directories, and the name there.
    Disk {
        /// Index into [`SourceTree::directories`].
        directory: u32,
        /// The name; the node's own where `None`.
        name: Option<Box<[u8]>>,
    },
    /// What a compressed file of the source holds.
    Unpacked {
        /// Index into [`SourceTree::directories`].
        directory: u32,
        /// The file's name on disk; the node's own where `None`.
        name: Option<Box<[u8]>>,
        /// How it is compressed.
        codec: Codec,
    },
    /// A blob that the transaction has staged, or that the store has.
    Stored(BlobId),
    /// What such a blob holds, which is compressed.
    UnpackedBlob {
        /// The blob.
        blob: BlobId,
        /// How it is compressed.
        codec: Codec,
    },
    /// Bytes made up by a transformation.
    Bytes(Box<[u8]>),
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A regular file. Its extended attributes are read with its bytes.
    File {
        /// Bytes in the file on disk when it was listed, compressed ones where it is to be unpacked.
        size: u64,
        /// Where they come from.
        content: Content,
    },
    /// A directory.
    Dir {
        /// Its entries, in no order.
        children: Vec<u32>,
    },
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// An entry of a source tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceNode {
    /// Its name; empty for the root.
    pub name: Box<[u8]>,
    /// Its metadata. That of a file on disk is read again with its bytes, its extended attributes for the first time.
    pub metadata: Metadata,
    /// What it is.
    pub kind: SourceKind,
}

/// A listed tree. Node 0 is the root.
#[derive(Debug)]
pub struct SourceTree {
    /// Where directories are: from this index on, beneath this one.
    roots: Vec<(u32, Dir)>,
    nodes: Vec<SourceNode>,
    /// Of every node that was listed, its inode as it was then, and whether that has other names. Nodes that were made up come
    /// after them.
    stamps: Vec<Stamp>,
    linked: Vec<bool>,
    directories: Vec<PathBuf>,
    skipped: Vec<PathBuf>,
    /// Those of them that something is mounted on.
    mounted: Vec<PathBuf>,
    /// Those of these that are directories, of which empty ones are in the tree.
    mounted_directories: Vec<PathBuf>,
    /// Where blobs are that are named by their digest.
    blobs: Option<BlobFiles>,
    /// What becomes of the modes of files on disk, which are read again with their bytes.
    modes: HashMap<u32, ModeChange>,
}

/// What becomes of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeChange {
    /// These bits are added to it.
    Add(u32),
    /// It is replaced.
    Set(u32),
}

impl ModeChange {
    /// Returns what becomes of `mode`.
    #[must_use]
    pub const fn apply(self, mode: u32) -> u32 {
        match self {
            Self::Add(bits) => mode | bits,
            Self::Set(bits) => bits,
        }
    }
}

impl SourceTree {
    /// Makes a tree of nothing but its root, which must be a directory.
    pub(crate) fn with_root(root: SourceNode) -> Self {
        Self {
            roots: Vec::new(),
            nodes: vec![root],
            stamps: Vec::new(),
            linked: Vec::new(),
            directories: Vec::new(),
            skipped: Vec::new(),
            mounted: Vec::new(),
            mounted_directories: Vec::new(),
            blobs: None,
            modes: HashMap::new(),
        }
    }

    /// Says where blobs are that are named by their digest.
    pub(crate) fn set_blobs(&mut self, blobs: BlobFiles) {
        self.blobs = Some(blobs);
    }

    /// Takes over the directories on disk of another tree; returns by how much their indexes grow.
    pub(crate) fn take_directories(&mut self, other: &mut Self) -> u32 {
        let first = self.directories.len() as u32;
        self.directories.append(&mut other.directories);
        self.skipped.append(&mut other.skipped);
        self.mounted.append(&mut other.mounted);
        self.mounted_directories.append(&mut other.mounted_directories);
        let roots = other.roots.drain(..).map(|(at, root)| (first + at, root));
        self.roots.extend(roots);
        first
    }

    /// Changes a node's mode, also where it is a file whose mode is read again with its bytes.
    pub(crate) fn change_mode(&mut self, index: u32, change: ModeChange) {
        let node = &mut self.nodes[index as usize];
        node.metadata.mode = change.apply(node.metadata.mode);
        self.modes.insert(index, change);
    }

    /// Returns what becomes of the mode of the file on disk `index`.
    pub(super) fn mode_change(&self, index: u32) -> Option<ModeChange> {
        self.modes.get(&index).copied()
    }

    /// Opens a blob that is named by its digest.
    pub(super) fn blob_files(&self) -> &BlobFiles {
        self.blobs
            .as_ref()
            .expect("a tree that names blobs knows where they are")
    }

    /// Removes nodes from their directories.
    pub(crate) fn retain_children(&mut self, parent: u32, keep: impl FnMut(&u32) -> bool) {
        if let SourceKind::Dir { children } = &mut self.nodes[parent as usize].kind {
            children.retain(keep);
        }
    }

    /// Takes everything that was listed, to be freed where nobody waits for it.
    pub(super) fn take_listing(&mut self) -> impl Send + use<> {
        let nodes = std::mem::take(&mut self.nodes);
        (nodes, std::mem::take(&mut self.directories))
    }

    /// Returns the directories of the source, by the index that [`Content::Disk`] uses; paths from the root.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Returns what was left out: sockets, and what is mounted in the tree.
    #[must_use]
    pub fn skipped(&self) -> &[PathBuf] {
        &self.skipped
    }

    /// Returns whether a node was listed that has this inode, on whatever device.
    pub(crate) fn lists_inode(&self, inode: u64) -> bool {
        self.stamps.iter().any(|stamp| stamp.inode() == inode)
    }

    /// Returns the files and directories that something is mounted on, whose contents are not the tree's.
    pub(crate) fn mounted(&self) -> &[PathBuf] {
        &self.mounted
    }

    /// Returns the directories among them. Each is an empty one in the tree, for there must be one to mount on, with the metadata of what is
    /// mounted: its own cannot be seen.
    pub(crate) fn mounted_directories(&self) -> &[PathBuf] {
        &self.mounted_directories
    }

    /// Returns how many nodes there are, removed ones included.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns a node.
    #[must_use]
    pub fn node(&self, index: u32) -> &SourceNode {
        &self.nodes[index as usize]
    }

    /// Returns a node, to change it.
    pub fn node_mut(&mut self, index: u32) -> &mut SourceNode {
        &mut self.nodes[index as usize]
    }

    /// Gives a node another name. Where its content lies on disk stays what it is.
    pub fn rename(&mut self, index: u32, name: Box<[u8]>) {
        let node = &mut self.nodes[index as usize];
        let old = std::mem::replace(&mut node.name, name);
        if let SourceKind::File {
            content: Content::Disk { name, .. } | Content::Unpacked { name, .. },
            ..
        } = &mut node.kind
        {
            name.get_or_insert(old);
        }
    }

    /// Returns what a node is, for a node that may have another name.
    pub(crate) fn kind_for_another(&self, index: u32) -> SourceKind {
        let node = self.node(index);
        let mut kind = node.kind.clone();
        if let SourceKind::File {
            content: Content::Disk { name, .. } | Content::Unpacked { name, .. },
            ..
        } = &mut kind
        {
            name.get_or_insert_with(|| node.name.clone());
        }
        kind
    }

    /// Returns the inode of a file as it was listed, and whether it had other names; `None` for what is not committed as it lies
    /// on disk.
    pub(super) fn listed(&self, index: u32) -> Option<(&Stamp, bool)> {
        match &self.node(index).kind {
            SourceKind::File {
                content: Content::Disk { .. },
                ..
            } => Some((self.stamps.get(index as usize)?, self.linked[index as usize])),
            _ => None,
        }
    }

    /// Returns the entries of a directory; none for anything else.
    #[must_use]
    pub fn children(&self, index: u32) -> &[u32] {
        match &self.node(index).kind {
            SourceKind::Dir { children } => children,
            _ => &[],
        }
    }

    /// Returns the entry `name` of the directory `parent`.
    #[must_use]
    pub fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.children(parent)
            .iter()
            .copied()
            .find(|child| *self.node(*child).name == *name)
    }

    /// Returns the node at `path` from the root. Links are not followed.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<u32> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(0, |parent, part| self.child(parent, part.as_bytes()))
    }

    /// Returns where a file lies, for messages: on disk, or else in the tree, which is looked through for it.
    pub(super) fn path_of(&self, index: u32) -> PathBuf {
        let node = self.node(index);
        if let SourceKind::File {
            content: Content::Disk { directory, name } | Content::Unpacked { directory, name, .. },
            ..
        } = &node.kind
        {
            let (root, path) = self.place(*directory, name.as_deref(), &node.name);
            return root.path().join(path);
        }
        let mut stack = vec![(0, PathBuf::new())];
        while let Some((parent, path)) = stack.pop() {
            for child in self.children(parent) {
                let path = path.join(OsStr::from_bytes(&self.node(*child).name));
                if *child == index {
                    return path;
                }
                stack.push((*child, path));
            }
        }
        PathBuf::from(OsStr::from_bytes(&node.name))
    }

    /// Adds a node to a directory. The name must not be taken.
    pub fn insert(&mut self, parent: u32, node: SourceNode) -> u32 {
        let index = self.nodes.len() as u32;
        self.nodes.push(node);
        self.attach(parent, index);
        index
    }

    /// Makes `child` an entry of the directory `parent`.
    pub fn attach(&mut self, parent: u32, child: u32) {
        if let SourceKind::Dir { children } = &mut self.nodes[parent as usize].kind {
            children.push(child);
        }
    }

    /// Takes the entry `name` out of the directory `parent` and returns it; it can be attached elsewhere.
    pub fn detach(&mut self, parent: u32, name: &[u8]) -> Option<u32> {
        let index = self.child(parent, name)?;
        if let SourceKind::Dir { children } = &mut self.nodes[parent as usize].kind {
            children.retain(|child| *child != index);
        }
        Some(index)
    }

    /// Returns the directory at `path`, made with mode 0755 where it is missing; `None` where something else is.
    pub fn ensure_dir(&mut self, path: &str) -> Option<u32> {
        let mut at = 0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at = match self.child(at, part.as_bytes()) {
                Some(child) => child,
                None => self.insert(
                    at,
                    SourceNode {
                        name: part.as_bytes().into(),
                        metadata: Metadata::with_mode(0o755),
                        kind: SourceKind::Dir { children: Vec::new() },
                    },
                ),
            };
        }
        matches!(self.node(at).kind, SourceKind::Dir { .. }).then_some(at)
    }

    /// Returns the files that can be reached from the root, and the bytes in them.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let (mut files, mut bytes) = (0, 0);
        self.visit(|node| {
            if let SourceKind::File { size, .. } = &node.kind {
                files += 1;
                bytes += size;
            }
        });
        (files, bytes)
    }

    /// Calls `visit` with every node that can be reached from the root.
    pub fn visit(&self, mut visit: impl FnMut(&SourceNode)) {
        let mut stack = vec![0];
        while let Some(index) = stack.pop() {
            let node = self.node(index);
            visit(node);
            if let SourceKind::Dir { children } = &node.kind {
                stack.extend(children);
            }
        }
    }

    /// Returns whether it is on the device `dev`.
    pub(super) fn is_on(&self, dev: u64) -> Result<bool, CommitError> {
        // What is mounted in the tree is not listed, so all of it is on one device.
        match self.only_root() {
            Some(root) => Ok(root.stat_self()?.dev == dev),
            None => Ok(false),
        }
    }

    /// Returns the inodes of the files that have other names, as they were listed.
    pub(super) fn linked(&self) -> impl Iterator<Item = &Stamp> {
        let listed = self.stamps.iter().zip(&self.linked);
        listed.filter_map(|(stamp, is_linked)| is_linked.then_some(stamp))
    }

    /// Returns the directories that were listed, which are removed when they were adopted.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Dir> {
        self.roots.iter().map(|(_, root)| root)
    }

    /// Returns the directory that was listed, where it is one.
    pub(super) fn only_root(&self) -> Option<&Dir> {
        match self.roots.as_slice() {
            [(_, root)] => Some(root),
            _ => None,
        }
    }

    /// Returns where the first of them is, for messages.
    pub(super) fn root_path(&self) -> PathBuf {
        self.roots()
            .next()
            .map_or_else(PathBuf::new, |root| root.path().to_owned())
    }

    /// Returns beneath what a directory of the source lies, and its path there.
    fn root_of(&self, directory: u32) -> (&Dir, &Path) {
        let after = self.roots.partition_point(|(first, _)| *first <= directory);
        (&self.roots[after - 1].1, &self.directories[directory as usize])
    }

    /// Returns where a file of the source lies whose node has the name `own`.
    fn place(&self, directory: u32, name: Option<&[u8]>, own: &[u8]) -> (&Dir, PathBuf) {
        let (root, path) = self.root_of(directory);
        (root, path.join(OsStr::from_bytes(name.unwrap_or(own))))
    }

    pub(super) fn open_directory(&self, directory: u32) -> Result<Dir, CommitError> {
        let (root, path) = self.root_of(directory);
        Ok(if path.as_os_str().is_empty() {
            root.try_clone()?
        } else {
            root.open_dir(path)?
        })
    }
}
