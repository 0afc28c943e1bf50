//! Reading a directory tree into entries.
//!
//! A snapshot holds digests, never contents: some 300 bytes for each entry. It may be of a running system's `/etc`.
//! What vanishes between being listed and being opened is looked at again when everything else has been read:
//! editors and package managers replace a file by removing one and renaming another. Sockets are skipped, and so are
//! what another file system is mounted on, and what somebody may have made to keep the machine from being upgraded. The account tools' lock is not even opened: closing any descriptor of it
//! would release the lock that this process may hold.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::format::Metadata;
use crate::fs::{Dir, FileKind, FsError, Stat, hash_file, read_xattrs, read_xattrs_at};

use super::entry::{EtcEntry, EtcNode};
use super::error::EtcMergeError;
use super::keyed::LOCK_FILE;
use super::path::EtcPath;

/// Directories below one another. The merge holds three open for each level, of the 1024 descriptors that a process
/// has by default.
pub(super) const MAX_DEPTH: usize = 128;

/// Bytes from which on a file is looked at for being a hole.
const LARGE: u64 = 256 << 20;

/// An entry and, for a directory, what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    pub entry: EtcEntry,
    pub children: BTreeMap<Vec<u8>, Tree>,
}

/// Why something in `/etc` takes no part in the merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SkipReason {
    /// A socket belongs to the process that listens on it.
    Socket,
    /// Another file system is mounted there; what is beneath it is taken as unchanged.
    Mount,
    /// The kernel does not say what it is.
    Unknown,
    /// It lies below too many directories.
    TooDeep,
    /// It is large, and nearly all of it is a hole: whoever may write one file in `/etc` could have it read for hours.
    Hole,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "it is a socket",
            Self::Mount => "something is mounted there",
            Self::Unknown => "the kernel does not say what it is",
            Self::TooDeep => "it lies below too many directories",
            Self::Hole => "nearly all of it is a hole",
        })
    }
}

/// Something in `/etc` that takes no part in the merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Where.
    pub path: EtcPath,
    /// Why.
    pub reason: SkipReason,
}

/// A tree and what was left out of it.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub tree: Tree,
    pub skipped: Vec<Skipped>,
}

struct Reader<'a> {
    root: &'a Dir,
    /// The device of the directory that is being read.
    dev: u64,
    skips_holes: bool,
    cancel: &'a Cancel,
    skipped: Vec<Skipped>,
    vanished: Vec<EtcPath>,
}

/// How often, and how long after one another, a file that vanished is looked for.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(10);

/// Reads defaults, of which nothing may be left out: they are the new version's, and nobody makes holes in them to keep it away.
pub(super) fn read_whole(root: &Dir, cancel: &Cancel) -> Result<Tree, EtcMergeError> {
    let snapshot = read_all(root, false, cancel)?;
    let mut skipped = snapshot.skipped.into_iter();
    match skipped.find(|skipped| skipped.reason == SkipReason::TooDeep) {
        None => Ok(snapshot.tree),
        Some(Skipped { path, reason }) => Err(EtcMergeError::NoDefault { path, reason }),
    }
}

/// Reads `root` with all beneath it.
pub(super) fn read(root: &Dir, cancel: &Cancel) -> Result<Snapshot, EtcMergeError> {
    read_all(root, true, cancel)
}

fn read_all(root: &Dir, skips_holes: bool, cancel: &Cancel) -> Result<Snapshot, EtcMergeError> {
    let stat = root.stat_self()?;
    let mut reader = Reader {
        root,
        dev: stat.dev,
        skips_holes,
        cancel,
        skipped: Vec::new(),
        vanished: Vec::new(),
    };
    let mut tree = Tree {
        entry: dir_entry(root, &stat)?,
        children: BTreeMap::new(),
    };
    reader.read_children(root, &EtcPath::root(), 1, &mut tree)?;
    reader.look_again(&mut tree)?;
    Ok(Snapshot {
        tree,
        skipped: reader.skipped,
    })
}

/// Reads what is at `path` beneath `root`, with all that is in it; `None` for nothing.
pub(super) fn read_at(root: &Dir, path: &EtcPath, cancel: &Cancel) -> Result<Option<Tree>, EtcMergeError> {
    let Some((parent, name)) = path.split_last() else {
        return Ok(Some(read(root, cancel)?.tree));
    };
    let mut reader = Reader {
        root,
        dev: root.stat_self()?.dev,
        skips_holes: true,
        cancel,
        skipped: Vec::new(),
        vanished: Vec::new(),
    };
    match open_beneath(root, &parent)? {
        Some(dir) => reader.read_entry(&dir, path, name, parent.names().count() + 1),
        None => Ok(None),
    }
}

/// Opens the directory at `path` beneath `root`, or returns `None` where there is none.
pub(super) fn open_beneath(root: &Dir, path: &EtcPath) -> Result<Option<Dir>, FsError> {
    match root.open_dir(path.as_path()) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.is_not_found() || is_other_kind(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Something on the way, or the last name, is no directory, or is a link.
pub(super) fn is_other_kind(error: &FsError) -> bool {
    let errno = error.source.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOTDIR | Errno::LOOP))
}

impl Reader<'_> {
    fn read_children(
        &mut self,
        dir: &Dir,
        path: &EtcPath,
        depth: usize,
        tree: &mut Tree,
    ) -> Result<(), EtcMergeError> {
        if depth > MAX_DEPTH {
            self.skip(path, SkipReason::TooDeep);
            return Ok(());
        }
        for listed in dir.entries()? {
            let name = listed.name.as_bytes();
            if path.is_root() && name == LOCK_FILE.as_bytes() {
                continue;
            }
            let child_path = path.join(name);
            match self.read_entry(dir, &child_path, name, depth)? {
                Some(child) => {
                    tree.children.insert(name.to_vec(), child);
                }
                None if self.skipped.last().is_some_and(|last| last.path == child_path) => {}
                None => self.vanished.push(child_path),
            }
        }
        Ok(())
    }

    /// Reads `name` in `dir`; `None` when it is not there, or is skipped.
    fn read_entry(
        &mut self,
        dir: &Dir,
        path: &EtcPath,
        name: &[u8],
        depth: usize,
    ) -> Result<Option<Tree>, EtcMergeError> {
        self.cancel.check()?;
        let os_name = OsStr::from_bytes(name);
        // What a name stands for may change between looking and opening; a few times in a row means something else.
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(stat) = dir.stat_optional(os_name)? else {
                return Ok(None);
            };
            let read = match stat.kind {
                FileKind::Dir => self.read_dir(dir, path, os_name, depth),
                FileKind::File if self.skips_holes && stat.size > LARGE && stat.allocated < stat.size / 2 => {
                    self.skip(path, SkipReason::Hole);
                    return Ok(None);
                }
                FileKind::File => read_file(dir, os_name).map_err(EtcMergeError::from),
                FileKind::Socket | FileKind::Unknown => {
                    self.skip(
                        path,
                        match stat.kind {
                            FileKind::Socket => SkipReason::Socket,
                            _ => SkipReason::Unknown,
                        },
                    );
                    return Ok(None);
                }
                _ => read_special(dir, os_name, &stat).map_err(EtcMergeError::from),
            };
            match read {
                Ok(Some(tree)) => return Ok(Some(tree)),
                Ok(None) if tries < 8 => {}
                Err(EtcMergeError::Fs(error))
                    if tries < 8 && (error.is_not_found() || is_other_kind(&error)) => {}
                Ok(None) => {
                    return Err(FsError::new("read", dir.path().join(os_name), Errno::BUSY).into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn read_dir(
        &mut self,
        dir: &Dir,
        path: &EtcPath,
        name: &OsStr,
        depth: usize,
    ) -> Result<Option<Tree>, EtcMergeError> {
        let child = dir.open_dir(name)?;
        let stat = child.stat_self()?;
        let mut tree = Tree {
            entry: dir_entry(&child, &stat)?,
            children: BTreeMap::new(),
        };
        // A subvolume has a device of its own, and is no mount.
        if stat.dev == self.dev || dir.open_dir_unless_mount(name.as_ref())?.is_some() {
            let outer = std::mem::replace(&mut self.dev, stat.dev);
            let read = self.read_children(&child, path, depth + 1, &mut tree);
            self.dev = outer;
            read?;
        } else {
            self.skip(path, SkipReason::Mount);
        }
        Ok(Some(tree))
    }

    fn skip(&mut self, path: &EtcPath, reason: SkipReason) {
        self.skipped.push(Skipped {
            path: path.clone(),
            reason,
        });
    }

    fn look_again(&mut self, tree: &mut Tree) -> Result<(), EtcMergeError> {
        let mut looks = 0;
        while !self.vanished.is_empty() && looks < LOOKS {
            if looks > 0 {
                std::thread::sleep(PAUSE);
            }
            looks += 1;
            for path in std::mem::take(&mut self.vanished) {
                let Some((parent, name)) = path.split_last() else {
                    continue;
                };
                let Some(dir) = open_beneath(self.root, &parent)? else {
                    continue;
                };
                match self.read_entry(&dir, &path, name, parent.names().count() + 1)? {
                    Some(child) => {
                        if let Some(parent) = tree.get_mut(&parent) {
                            parent.children.insert(name.to_vec(), child);
                        }
                    }
                    None => self.vanished.push(path),
                }
            }
        }
        Ok(())
    }
}

impl Tree {
    /// Returns what is at `path`.
    pub fn get(&self, path: &EtcPath) -> Option<&Self> {
        path.names().try_fold(self, |tree, name| tree.children.get(name))
    }

    fn get_mut(&mut self, path: &EtcPath) -> Option<&mut Self> {
        path.names()
            .try_fold(self, |tree, name| tree.children.get_mut(name))
    }

    /// Takes what a mounted file system hides, and a file that was not read, as it is in `base`.
    pub fn see_through(&mut self, skipped: &[Skipped], base: &Self) {
        for Skipped { path, reason } in skipped {
            let Some(base) = base.get(path) else { continue };
            match reason {
                SkipReason::Mount => {
                    if let Some(mine) = self.get_mut(path) {
                        mine.clone_from(base);
                    }
                }
                SkipReason::Hole => {
                    if let Some((parent, name)) = path.split_last()
                        && let Some(parent) = self.get_mut(&parent)
                    {
                        parent.children.insert(name.to_vec(), base.clone());
                    }
                }
                SkipReason::Socket | SkipReason::Unknown | SkipReason::TooDeep => {}
            }
        }
    }
}

pub(super) fn metadata(stat: &Stat, xattrs: crate::format::Xattrs) -> Metadata {
    Metadata {
        // Linux has no other mode for a link; some file systems show another.
        mode: if stat.kind == FileKind::Symlink {
            0o777
        } else {
            stat.mode
        },
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        xattrs,
    }
}

pub(super) fn dir_entry(dir: &Dir, stat: &Stat) -> Result<EtcEntry, FsError> {
    Ok(EtcEntry {
        node: EtcNode::Dir,
        metadata: metadata(stat, read_xattrs(dir, dir.path())?),
    })
}

/// Reads a regular file; `None` when it is none any more.
fn read_file(dir: &Dir, name: &OsStr) -> Result<Option<Tree>, FsError> {
    let file = dir.open_file(name)?;
    let stat =
        Stat::from(rustix::fs::fstat(file.as_fd()).map_err(FsError::at("look at", dir.path(), name))?);
    if stat.kind != FileKind::File {
        return Ok(None);
    }
    let (blob, size) = hash_file(&file).map_err(FsError::at("read", dir.path(), name))?;
    Ok(Some(leaf(
        EtcNode::File { size, blob },
        metadata(&stat, read_xattrs(&file, &dir.path().join(name))?),
    )))
}

fn read_special(dir: &Dir, name: &OsStr, stat: &Stat) -> Result<Option<Tree>, FsError> {
    let (major, minor) = stat.rdev;
    let node = match stat.kind {
        FileKind::Symlink => EtcNode::Symlink {
            target: dir.read_link(name)?,
        },
        FileKind::Char => EtcNode::Char { major, minor },
        FileKind::Block => EtcNode::Block { major, minor },
        FileKind::Fifo => EtcNode::Fifo,
        _ => return Ok(None),
    };
    Ok(Some(leaf(node, metadata(stat, read_xattrs_at(dir, name)?))))
}

fn leaf(node: EtcNode, metadata: Metadata) -> Tree {
    Tree {
        entry: EtcEntry { node, metadata },
        children: BTreeMap::new(),
    }
}
