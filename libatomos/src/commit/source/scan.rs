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

/// What one directory holds: nodes without children, their inodes, and whether these have other names.
struct Listing {
    nodes: Vec<(SourceNode, Stamp, bool)>,
    /// Sockets and mounted directories, by path.
    skipped: Vec<PathBuf>,
    /// Those that are mounted.
    mounted: Vec<PathBuf>,
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
                let child = path.join(OsStr::from_bytes(&node.name));
                if !listing.skipped.contains(&child) {
                    next.push((index, child));
                }
            }
            children.push(index);
            self.nodes.push(node);
            self.stamps.push(stamp);
            self.linked.push(is_linked);
        }
        self.nodes[parent as usize].kind = SourceKind::Dir { children };
        self.skipped.extend(listing.skipped);
        self.mounted.extend(listing.mounted);
        self.directories.push(path.to_owned());
    }
}

impl Listing {
    fn push(&mut self, node: SourceNode, stat: &Stat) {
        // A directory has a link for each directory in it, and is no file of the store.
        let is_linked = stat.kind == FileKind::File && stat.nlink > 1;
        self.nodes.push((node, Stamp::of(stat), is_linked));
    }
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
        mounted: Vec::new(),
    };
    for entry in dir.entries()? {
        let name = &entry.name;
        let full = || path.join(name);
        if !options.exclude.is_empty() && options.exclude.contains(&full()) {
            continue;
        }
        let stat = dir.stat(name)?;
        let mut metadata = metadata_of(&stat);
        let kind = match stat.kind {
            FileKind::File => SourceKind::File {
                size: stat.size,
                content: Content::Disk {
                    directory,
                    name: None,
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
                    listing.skipped.push(full());
                    listing.mounted.push(full());
                    let node = SourceNode {
                        name: name.as_bytes().into(),
                        metadata,
                        kind: SourceKind::Dir { children: Vec::new() },
                    };
                    listing.push(node, &stat);
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
