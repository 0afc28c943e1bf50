//! A source tree in memory: names and metadata, no contents.
//!
//! Nodes lie in one vector and refer to each other by index, which is compact and lets a tree be rearranged cheaply.
//! A file's content is named by where it lies on disk, so moving its node does not touch it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::digest::BlobId;
use crate::format::{Metadata, Xattrs, limits};
use crate::fs::{Dir, FileKind, FsError, Stat, read_xattrs, read_xattrs_at};
use crate::repo::BlobFiles;
use crate::unpack::{Codec, Unpacker};

use super::CommitError;
use super::stat_cache::Stamp;

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the source: which of its directories, and the name there.
    Disk {
        /// Index into [`SourceTree::directories`].
        directory: u32,
        /// The name.
        name: Box<[u8]>,
    },
    /// What a compressed file of the source holds.
    Unpacked {
        /// Index into [`SourceTree::directories`].
        directory: u32,
        /// The file's name on disk.
        name: Box<[u8]>,
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

/// How to list a directory.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ScanOptions {
    /// Leave sockets out instead of failing.
    pub skip_special: bool,
    /// Leave out what is called so (path from the root, without a leading slash).
    pub exclude: Vec<PathBuf>,
}

/// A listed tree. Node 0 is the root.
#[derive(Debug)]
pub struct SourceTree {
    /// Where directories are: from this index on, beneath this one.
    roots: Vec<(u32, Dir)>,
    nodes: Vec<SourceNode>,
    /// Of every node that was listed; those that were made up come after them.
    listed: Vec<Listed>,
    directories: Vec<PathBuf>,
    skipped: Vec<PathBuf>,
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

/// The inode of a listed node, as it was then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub(super) stamp: Stamp,
    /// Whether the inode has other names.
    pub(super) is_linked: bool,
}

impl Listed {
    fn of(stat: &Stat) -> Self {
        Self {
            stamp: Stamp::of(stat),
            is_linked: stat.nlink > 1,
        }
    }
}

/// What one directory holds: nodes without children, and which of them are directories.
struct Listing {
    nodes: Vec<(SourceNode, Listed)>,
    /// Sockets and mounted directories, by path.
    skipped: Vec<PathBuf>,
}

impl SourceTree {
    /// Lists everything beneath `root`. Does not follow links; leaves out what is mounted in the tree.
    pub fn scan(root: Dir, options: &ScanOptions, cancel: &Cancel) -> Result<Self, CommitError> {
        let stat = root.stat_self()?;
        let xattrs = read_xattrs(&root, root.path())?;
        let root_node = SourceNode {
            name: Box::default(),
            metadata: Metadata {
                xattrs,
                ..metadata_of(&stat)
            },
            kind: SourceKind::Dir { children: Vec::new() },
        };
        let mut tree = Self::with_root(root_node);
        tree.listed.push(Listed::of(&stat));
        tree.roots.push((0, root.try_clone()?));
        // Level by level: the directories of a level are listed in parallel, and put together in their order.
        let mut level: Vec<(u32, PathBuf)> = vec![(0, PathBuf::new())];
        let mut depth = 0;
        while !level.is_empty() {
            if depth > limits::MAX_DEPTH {
                return Err(CommitError::TooDeep {
                    path: root.path().join(&level[0].1),
                });
            }
            let first = tree.directories.len() as u32;
            let listings: Vec<Listing> = level
                .par_iter()
                .enumerate()
                .map(|(index, (_, path))| {
                    cancel.check()?;
                    list(&root, path, first + index as u32, stat.dev, options)
                })
                .collect::<Result<_, CommitError>>()?;
            let mut next = Vec::new();
            for ((parent, path), listing) in level.into_iter().zip(listings) {
                let mut children = Vec::with_capacity(listing.nodes.len());
                for (node, listed) in listing.nodes {
                    let index = tree.nodes.len() as u32;
                    if matches!(node.kind, SourceKind::Dir { .. }) {
                        let child = path.join(OsStr::from_bytes(&node.name));
                        if !listing.skipped.contains(&child) {
                            next.push((index, child));
                        }
                    }
                    children.push(index);
                    tree.nodes.push(node);
                    tree.listed.push(listed);
                }
                tree.nodes[parent as usize].kind = SourceKind::Dir { children };
                tree.skipped.extend(listing.skipped);
                tree.directories.push(path);
            }
            level = next;
            depth += 1;
        }
        Ok(tree)
    }

    /// Makes a tree of nothing but its root, which must be a directory.
    pub(crate) fn with_root(root: SourceNode) -> Self {
        Self {
            roots: Vec::new(),
            nodes: vec![root],
            listed: Vec::new(),
            directories: Vec::new(),
            skipped: Vec::new(),
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

    /// Returns the inode of a file as it was listed; `None` for what is not committed as it lies on disk.
    pub(super) fn listed(&self, index: u32) -> Option<&Listed> {
        match &self.node(index).kind {
            SourceKind::File {
                content: Content::Disk { .. },
                ..
            } => self.listed.get(index as usize),
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

    /// Returns the bytes of a file node; more than `limit` of them are an error.
    pub fn read(&self, index: u32, limit: usize) -> Result<Option<Vec<u8>>, CommitError> {
        let SourceKind::File { content, .. } = &self.node(index).kind else {
            return Ok(None);
        };
        let limited = |file: File| -> Result<Vec<u8>, CommitError> {
            let mut bytes = Vec::new();
            let fail = |error| {
                FsError::new(
                    "read",
                    String::from_utf8_lossy(&self.node(index).name).as_ref(),
                    error,
                )
            };
            file.take(limit as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(fail)?;
            if bytes.len() > limit {
                return Err(fail(io::Error::other(format!("it holds more than {limit} bytes"))).into());
            }
            Ok(bytes)
        };
        let unpacked = |file: File, codec, path: PathBuf| {
            unpack(&file, codec, limit).map_err(|source| CommitError::Unpack { path, source })
        };
        Ok(Some(match content {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::Disk { directory, name } => {
                let (root, path) = self.place(*directory, name);
                root.read(path, limit)?
            }
            Content::Unpacked {
                directory,
                name,
                codec,
            } => {
                let (root, path) = self.place(*directory, name);
                unpacked(root.open_file(&path)?, *codec, path)?
            }
            Content::Stored(blob) => limited(self.blob_files().open(blob)?)?,
            Content::UnpackedBlob { blob, codec } => {
                let path = PathBuf::from(OsStr::from_bytes(&self.node(index).name));
                unpacked(self.blob_files().open(blob)?, *codec, path)?
            }
        }))
    }

    /// Opens the file on disk that a node's content comes from; `None` for what comes from nowhere.
    pub(crate) fn open_content(&self, index: u32) -> Result<Option<File>, CommitError> {
        let SourceKind::File { content, .. } = &self.node(index).kind else {
            return Ok(None);
        };
        Ok(match content {
            Content::Disk { directory, name } | Content::Unpacked { directory, name, .. } => {
                let (root, path) = self.place(*directory, name);
                Some(root.open_file(path)?)
            }
            Content::Stored(blob) | Content::UnpackedBlob { blob, .. } => Some(self.blob_files().open(blob)?),
            Content::Bytes(_) => None,
        })
    }

    /// Returns a file's extended attributes: those of the file on disk where its content is one, else the node's.
    pub(crate) fn xattrs_of(&self, index: u32) -> Result<Xattrs, CommitError> {
        let node = self.node(index);
        let SourceKind::File {
            content: Content::Disk { .. } | Content::Unpacked { .. },
            ..
        } = &node.kind
        else {
            return Ok(node.metadata.xattrs.clone());
        };
        Ok(match self.open_content(index)? {
            Some(file) => read_xattrs(&file, Path::new(OsStr::from_bytes(&node.name)))?,
            None => Xattrs::new(),
        })
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

    /// Returns whether any file has other names, on the device `dev`.
    pub(super) fn has_links_on(&self, dev: u64) -> Result<bool, CommitError> {
        // What is mounted in the tree is not listed, so all of it is on one device.
        let Some(root) = self.only_root() else {
            return Ok(false);
        };
        Ok(root.stat_self()?.dev == dev && self.listed.iter().any(|listed| listed.is_linked))
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

    fn place(&self, directory: u32, name: &[u8]) -> (&Dir, PathBuf) {
        let (root, path) = self.root_of(directory);
        (root, path.join(OsStr::from_bytes(name)))
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

fn unpack(file: &File, codec: Codec, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let unpacker = Unpacker::new(codec, file, file.metadata()?.len())?;
    unpacker.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!("it holds more than {limit} bytes")));
    }
    Ok(bytes)
}

fn list(
    root: &Dir,
    path: &Path,
    directory: u32,
    device: u64,
    options: &ScanOptions,
) -> Result<Listing, CommitError> {
    let dir = if path.as_os_str().is_empty() {
        root.try_clone()?
    } else {
        root.open_dir(path)?
    };
    let mut listing = Listing {
        nodes: Vec::new(),
        skipped: Vec::new(),
    };
    for entry in dir.entries()? {
        let name = &entry.name;
        let full = path.join(name);
        if options.exclude.contains(&full) {
            continue;
        }
        let stat = dir.stat(name)?;
        let mut metadata = metadata_of(&stat);
        let kind = match stat.kind {
            FileKind::File => SourceKind::File {
                size: stat.size,
                content: Content::Disk {
                    directory,
                    name: name.as_bytes().into(),
                },
            },
            FileKind::Dir => {
                let unmounted = dir
                    .open_dir_unless_mount(Path::new(name))?
                    .filter(|_| stat.dev == device);
                let is_foreign = unmounted.is_none();
                let child = match unmounted {
                    Some(child) => child,
                    None => dir.open_dir(name)?,
                };
                metadata.xattrs = read_xattrs(&child, child.path())?;
                if is_foreign {
                    // Something is mounted here: /proc in a chroot, or another directory. Its contents are not the tree's.
                    listing.skipped.push(full);
                    let node = SourceNode {
                        name: name.as_bytes().into(),
                        metadata,
                        kind: SourceKind::Dir { children: Vec::new() },
                    };
                    listing.nodes.push((node, Listed::of(&stat)));
                    continue;
                }
                SourceKind::Dir { children: Vec::new() }
            }
            FileKind::Symlink => {
                metadata.mode = 0o777;
                SourceKind::Symlink(dir.read_link(name)?.into())
            }
            FileKind::Char => SourceKind::Char(stat.rdev.0, stat.rdev.1),
            FileKind::Block => SourceKind::Block(stat.rdev.0, stat.rdev.1),
            FileKind::Fifo => SourceKind::Fifo,
            FileKind::Socket | FileKind::Unknown if options.skip_special => {
                listing.skipped.push(full);
                continue;
            }
            FileKind::Socket | FileKind::Unknown => {
                return Err(CommitError::SpecialFile {
                    path: dir.path().join(name),
                    kind: stat.kind.name(),
                });
            }
        };
        if !matches!(kind, SourceKind::File { .. } | SourceKind::Dir { .. }) {
            metadata.xattrs = read_xattrs_at(&dir, name)?;
        }
        let node = SourceNode {
            name: name.as_bytes().into(),
            metadata,
            kind,
        };
        listing.nodes.push((node, Listed::of(&stat)));
    }
    Ok(listing)
}

pub(super) fn metadata_of(stat: &Stat) -> Metadata {
    Metadata {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        ..Metadata::with_mode(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_into_a_tree_is_not_of_it() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let mounted = dir.ensure_dir_all("tree/mounted", 0o755).unwrap();
        let other = dir.ensure_dir("other", 0o755).unwrap();
        other.write_atomic("secret", b"not of the tree", 0o644).unwrap();
        let mount = |command: &str, paths: &[&Path]| {
            let status = std::process::Command::new(command).args(paths).status();
            status.is_ok_and(|status| status.success())
        };
        if !mount("mount", &[Path::new("--bind"), other.path(), mounted.path()]) {
            eprintln!("skipped: cannot bind a directory");
            return;
        }
        let tree = SourceTree::scan(
            dir.open_dir("tree").unwrap(),
            &ScanOptions::default(),
            &Cancel::new(),
        );
        assert!(mount("umount", &[mounted.path()]));
        let tree = tree.unwrap();
        assert_eq!(tree.skipped(), [Path::new("mounted")]);
        let node = tree.find("mounted").unwrap();
        assert!(tree.children(node).is_empty());
    }
}
