//! Listing a directory and everything beneath it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::format::{Metadata, limits};
use crate::fs::{Dir, FileKind, Stat, read_xattrs, read_xattrs_at};

use super::super::CommitError;
use super::super::stat_cache::Stamp;
use super::{Content, SourceKind, SourceNode, SourceTree};

/// How to list a directory.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ScanOptions {
    /// Leave sockets out instead of failing.
    pub skip_special: bool,
    /// Leave out what is called so (path from the root, without a leading slash).
    pub exclude: Vec<PathBuf>,
}

/// Directories that are listed at once. What a list has takes memory twice until it is in the tree.
const AT_ONCE: usize = 512;

/// What one directory is, and what it holds: nodes without children, their inodes, and whether these have other names. What the
/// directories in it are is seen when they are listed themselves: each is opened once.
struct Listing {
    metadata: Metadata,
    stamp: Stamp,
    nodes: Vec<(SourceNode, Stamp, bool)>,
    /// Sockets, by path.
    skipped: Vec<PathBuf>,
    /// What is no directory, and is mounted over the tree's.
    mounted: Vec<PathBuf>,
    /// Whether it is mounted here: its contents are not the tree's.
    is_mounted: bool,
}

impl SourceTree {
    /// Lists everything beneath `root`. Does not follow links; leaves out what is mounted in the tree.
    pub fn scan(root: Dir, options: &ScanOptions, cancel: &Cancel) -> Result<Self, CommitError> {
        let stat = root.stat_self()?;
        let mut tree = Self::with_root(directory_node(Box::default()));
        tree.stamps.push(Stamp::of(&stat));
        tree.linked.push(false);
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
            let mut next = Vec::new();
            for some in level.chunks(AT_ONCE) {
                let first = tree.directories.len() as u32;
                let listings: Vec<Listing> = some
                    .par_iter()
                    .enumerate()
                    .map(|(index, (_, path))| {
                        cancel.check()?;
                        list(&root, path, first + index as u32, stat.dev, options)
                    })
                    .collect::<Result<_, CommitError>>()?;
                for ((parent, path), listing) in some.iter().zip(listings) {
                    tree.take(*parent, path, listing, &mut next);
                }
            }
            level = next;
            depth += 1;
        }
        Ok(tree)
    }

    /// Adds what the directory `parent` at `path` holds; its directories are to be listed next.
    fn take(&mut self, parent: u32, path: &Path, listing: Listing, next: &mut Vec<(u32, PathBuf)>) {
        let mut children = Vec::with_capacity(listing.nodes.len());
        for (node, stamp, is_linked) in listing.nodes {
            let index = self.nodes.len() as u32;
            if matches!(node.kind, SourceKind::Dir { .. }) {
                next.push((index, path.join(OsStr::from_bytes(&node.name))));
            }
            children.push(index);
            self.nodes.push(node);
            self.stamps.push(stamp);
            self.linked.push(is_linked);
        }
        let node = &mut self.nodes[parent as usize];
        node.kind = SourceKind::Dir { children };
        node.metadata = listing.metadata;
        self.stamps[parent as usize] = listing.stamp;
        self.skipped.extend(listing.skipped);
        self.skipped.extend(listing.mounted.iter().cloned());
        self.mounted.extend(listing.mounted);
        if listing.is_mounted {
            self.skipped.push(path.to_owned());
            self.mounted.push(path.to_owned());
            self.mounted_directories.push(path.to_owned());
        }
        self.directories.push(path.to_owned());
    }
}

impl Listing {
    fn push(&mut self, node: SourceNode, stat: &Stat) {
        let is_linked = stat.kind == FileKind::File && stat.nlink > 1;
        self.nodes.push((node, Stamp::of(stat), is_linked));
    }
}

fn directory_node(name: Box<[u8]>) -> SourceNode {
    SourceNode {
        name,
        metadata: Metadata::with_mode(0),
        kind: SourceKind::Dir { children: Vec::new() },
    }
}

/// Opens a directory of the tree. Returns whether something is mounted there: /proc in a chroot, or another directory.
fn open(root: &Dir, path: &Path, device: u64) -> Result<(Dir, Stat, bool), CommitError> {
    if path.as_os_str().is_empty() {
        let dir = root.open_dir(".")?;
        let stat = dir.stat_self()?;
        return Ok((dir, stat, false));
    }
    let (dir, is_mount) = match root.open_dir_unless_mount(path)? {
        Some(dir) => (dir, false),
        None => (root.open_dir(path)?, true),
    };
    let stat = dir.stat_self()?;
    // A subvolume is no mount, and has inodes of its own.
    let is_mounted = is_mount || stat.dev != device;
    Ok((dir, stat, is_mounted))
}

fn list(
    root: &Dir,
    path: &Path,
    directory: u32,
    device: u64,
    options: &ScanOptions,
) -> Result<Listing, CommitError> {
    let (mut dir, stat, is_mounted) = open(root, path, device)?;
    let mut listing = Listing {
        metadata: Metadata {
            xattrs: read_xattrs(&dir, dir.path())?,
            ..metadata_of(&stat)
        },
        stamp: Stamp::of(&stat),
        nodes: Vec::new(),
        skipped: Vec::new(),
        mounted: Vec::new(),
        is_mounted,
    };
    if is_mounted {
        return Ok(listing);
    }
    for entry in dir.entries_once()? {
        let name = &entry.name;
        let full = || path.join(name);
        if !options.exclude.is_empty() && options.exclude.contains(&full()) {
            continue;
        }
        // The directory's word for it is enough: whatever else it has become meanwhile cannot be listed.
        if entry.kind == FileKind::Dir {
            let node = directory_node(name.as_bytes().into());
            listing.nodes.push((node, listing.stamp, false));
            continue;
        }
        let (stat, is_mounted) = dir.stat_and_mount(name)?;
        if is_mounted && stat.kind != FileKind::Dir {
            listing.mounted.push(full());
            continue;
        }
        let mut metadata = metadata_of(&stat);
        let kind = match stat.kind {
            FileKind::File => SourceKind::File {
                size: stat.size,
                content: Content::Disk {
                    directory,
                    name: None,
                },
            },
            FileKind::Dir => SourceKind::Dir { children: Vec::new() },
            FileKind::Symlink => {
                metadata.mode = 0o777;
                SourceKind::Symlink(dir.read_link(name)?.into())
            }
            FileKind::Char => SourceKind::Char(stat.rdev.0, stat.rdev.1),
            FileKind::Block => SourceKind::Block(stat.rdev.0, stat.rdev.1),
            FileKind::Fifo => SourceKind::Fifo,
            FileKind::Socket | FileKind::Unknown if options.skip_special => {
                listing.skipped.push(full());
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
        listing.push(node, &stat);
    }
    Ok(listing)
}

pub(in crate::commit) fn metadata_of(stat: &Stat) -> Metadata {
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
        let below = dir.ensure_dir("tree/below", 0o755).unwrap();
        below.write_atomic("hosts", b"hidden", 0o644).unwrap();
        below.write_atomic("own", b"of the tree", 0o644).unwrap();
        let secret = other.path().join("secret");
        let hosts = below.path().join("hosts");
        let mount = |command: &str, paths: &[&Path]| {
            let status = std::process::Command::new(command).args(paths).status();
            status.is_ok_and(|status| status.success())
        };
        let bind = Path::new("--bind");
        if !mount("mount", &[bind, other.path(), mounted.path()]) {
            eprintln!("skipped: cannot bind a directory");
            return;
        }
        let is_file_bound = mount("mount", &[bind, &secret, &hosts]);
        let tree = SourceTree::scan(
            dir.open_dir("tree").unwrap(),
            &ScanOptions::default(),
            &Cancel::new(),
        );
        assert!(mount("umount", &[mounted.path()]));
        assert!(is_file_bound && mount("umount", &[&hosts]));
        let tree = tree.unwrap();
        let [file, directory] = ["below/hosts", "mounted"].map(Path::new);
        assert_eq!(tree.skipped(), [file, directory]);
        assert_eq!(tree.mounted(), [file, directory]);
        assert_eq!(tree.mounted_directories(), [directory]);
        let node = tree.find("mounted").unwrap();
        assert!(tree.children(node).is_empty());
        assert!(tree.find("below/hosts").is_none());
        assert!(tree.find("below/own").is_some());
    }
}
