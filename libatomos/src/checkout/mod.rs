//! Objects, materialised as a directory.
//!
//! From a `bare` repository files are hardlinks of the store's inodes, found by exact metadata; otherwise they are
//! reflinks or copies. A tree is built under a temporary name beside its destination and renamed: a destination that
//! exists is complete.

mod in_place;
mod link;
mod metadata;
mod tree;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, Metadata, Node};
use crate::fs::{Dir, FileLock, FsError, is_within, set_mode};
use crate::progress::Progress;
use crate::repo::{Located, Repo, RepoError, TreeSource};

pub use in_place::{InPlaceReport, Union, UpdateOptions, union, update};
pub use tree::CheckoutReport;

/// How files come to their place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkMode {
    /// The cheapest that works: hardlink from a bare repository, else reflink, else copy.
    #[default]
    Auto,
    /// Hardlink, or fail. The files are the store's own: writing to one damages the store.
    Hardlink,
    /// Share blocks, or fail.
    Reflink,
    /// Copy; the file system may share blocks.
    Copy,
}

/// Whose the files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// Owner, mode, time and extended attributes as recorded. Takes root.
    #[default]
    Exact,
    /// The caller's: no owner, no setuid or setgid bit, no extended attribute, no device is taken over. Directories
    /// can be written by the caller.
    User,
}

/// How to check out.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CheckoutOptions {
    /// How files come to their place.
    pub link: LinkMode,
    /// Whose they are.
    pub ownership: Ownership,
    /// The part of the tree that is wanted; all of it where empty.
    pub subpath: Vec<u8>,
    /// Threads to work with; all processors where `None`.
    pub threads: Option<usize>,
    /// Fail before anything is made when there is no room for the directories of the tree. Files are taken for hardlinks,
    /// which need none.
    pub check_room: bool,
    /// Keep a record in the repository of what the directory is a checkout of, for a later [`update()`].
    pub remember: bool,
}

/// Why a checkout failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckoutError {
    /// There is something at the destination.
    #[error("cannot check out to {}: it exists", path.display())]
    DestinationExists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is the repository, or lies in it.
    #[error("cannot check out to {}: it is in the repository {}", path.display(), repo.display())]
    InRepository {
        /// The destination.
        path: PathBuf,
        /// The repository.
        repo: PathBuf,
    },
    /// The destination has no name of its own.
    #[error("cannot check out to {}: the path does not end in a name", path.display())]
    NoName {
        /// The destination.
        path: PathBuf,
    },
    /// A required way to link cannot be had.
    #[error("cannot {wanted} {} into place: {reason}", path.display())]
    LinkMode {
        /// The way, as a verb.
        wanted: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no room for the directories.
    #[error(
        "cannot make {directories} directories in {}: they need {needed} bytes and as many inodes, and there are \
         {available} bytes and {inodes} inodes", path.display()
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// How many there are to be.
        directories: u64,
        /// Bytes that they need, with something to spare.
        needed: u64,
        /// Bytes that can be written.
        available: u64,
        /// Inodes that can be made.
        inodes: u64,
    },
    /// Something was changed, or is in the way, where the checkout would write.
    #[error(
        "cannot check out into {}: {count} {}: {}", path.display(),
        if *count == 1 { "name is in the way, or was changed" } else { "names are in the way, or were changed" },
        named(first, *count)
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// How many names there are.
        count: u64,
        /// The first of them, from the directory.
        first: Vec<PathBuf>,
    },
    /// It is not known what the directory is a checkout of.
    #[error("cannot update {}: it is not recorded which tree it is a checkout of", path.display())]
    NotRecorded {
        /// The directory.
        path: PathBuf,
    },
    /// An update to another tree was interrupted.
    #[error("cannot update {}: an update of it to the tree {to} was interrupted", path.display())]
    Interrupted {
        /// The directory.
        path: PathBuf,
        /// To what.
        to: DirTreeId,
    },
    /// Another process updates the directory.
    #[error("cannot update {}: another process does so now", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// The first names, and that there are more.
fn named(first: &[PathBuf], count: u64) -> String {
    let names: Vec<String> = first.iter().map(|path| path.display().to_string()).collect();
    let more = match count > first.len() as u64 {
        true => ", and others",
        false => "",
    };
    names.join(", ") + more
}

impl From<crate::cancel::Cancelled> for CheckoutError {
    fn from(cancelled: crate::cancel::Cancelled) -> Self {
        Self::Repo(cancelled.into())
    }
}

impl CheckoutError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> crate::error::ErrorKind {
        use crate::error::ErrorKind;
        match self {
            Self::DestinationExists { .. } => ErrorKind::AlreadyExists,
            Self::NoName { .. } | Self::InRepository { .. } | Self::NotRecorded { .. } => ErrorKind::Invalid,
            Self::NotOurs { .. } | Self::Interrupted { .. } => ErrorKind::Conflict,
            Self::Busy { .. } => ErrorKind::Locked,
            Self::LinkMode { .. } => ErrorKind::Unsupported,
            Self::NoRoom { .. } => ErrorKind::NoSpace,
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
        }
    }
}

/// Fails where a tree would be among what the repository keeps: its names are the store's, and a tree may have the same ones.
fn check_is_outside(repo: &Repo, dir: &Dir, destination: &Path) -> Result<(), CheckoutError> {
    // Whoever may not look at a directory above may have a checkout all the same.
    match is_within(dir, repo.dir()).unwrap_or(false) {
        true => Err(CheckoutError::InRepository {
            path: destination.to_owned(),
            repo: repo.dir().path().to_owned(),
        }),
        false => Ok(()),
    }
}

/// Checks out what `rev` names to `destination`, which must not exist.
///
/// The visible step is the rename of the finished tree; a root that its owner may not write to gets its mode right after, where the owner is
/// not root. Nothing is synced: whoever needs the tree to survive a power
/// cut calls [`Dir::sync_fs`] on its parent. Takes the shared lock.
pub fn checkout(
    repo: &Repo,
    rev: &str,
    destination: &Path,
    options: &CheckoutOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckoutReport, CheckoutError> {
    let _lock = repo.lock_shared()?;
    let (root, metadata) = repo.resolve_tree(rev)?;
    let located = repo.locate(rev, root, metadata, &options.subpath)?;
    let name = destination.file_name().ok_or_else(|| CheckoutError::NoName {
        path: destination.to_owned(),
    })?;
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Dir::open_ambient(parent)?,
        _ => Dir::open_ambient(".")?,
    };
    let occupied = || CheckoutError::DestinationExists {
        path: destination.to_owned(),
    };
    if parent.exists(name)? {
        return Err(occupied());
    }
    check_is_outside(repo, &parent, destination)?;
    let (temporary, holding, _owner) = temporary_beside(&parent, name)?;
    let result = build(repo, &located, &holding, options, progress, cancel).and_then(|report| {
        let closed = holds_back(&located).map(|mode| Ok::<_, FsError>((holding.open_dir(BUILT)?, mode)));
        let closed = closed.transpose()?;
        match holding.rename_new(BUILT, &parent, name) {
            Err(error) if error.is_already_exists() => return Err(occupied()),
            other => other?,
        }
        if let Some((dir, mode)) = closed {
            set_mode(&dir, &dir.stat_self()?, mode, destination)?;
        }
        Ok(report)
    });
    // After a failure the tree is of no use to anybody; the first error is the one to tell.
    let removed = parent.remove_tree(&temporary);
    let report = result.map_err(|error| match error {
        CheckoutError::Repo(error) => repo.explain_missing(repo.resolve_commit(rev).ok(), error).into(),
        error => error,
    })?;
    removed?;
    if options.remember
        && let Some(dir) = parent.open_dir_optional(name).ok().flatten()
    {
        in_place::remember(repo, &located, &dir, options);
    }
    Ok(report)
}

/// Returns the root's mode where that has to wait for the rename: the kernel lets nobody but root move a directory that he may not write to,
/// since its `..` changes.
fn holds_back(located: &Located) -> Option<u32> {
    let mode = match located {
        Located::Root(_, Some(metadata)) => metadata.mode,
        Located::Entry(Entry {
            metadata,
            node: Node::Dir { .. },
            ..
        }) => metadata.mode,
        _ => return None,
    };
    (mode & 0o200 == 0 && !rustix::process::geteuid().is_root()).then_some(mode)
}

/// The tree's name in the temporary directory.
const BUILT: &str = "tree";

/// Makes a directory for the unfinished tree. One that an interrupted run left is emptied; its lock says that its
/// owner is gone. In a directory where anybody may write, somebody else may have made one of that name, to swap what is
/// in it while the tree is built: only one that the caller alone can enter is taken.
fn temporary_beside(
    parent: &Dir,
    name: &std::ffi::OsStr,
) -> Result<(OsString, Dir, FileLock), CheckoutError> {
    for attempt in 0.. {
        let mut temporary = OsString::from(".atomos-checkout-");
        temporary.push(attempt.to_string());
        temporary.push("-");
        temporary.push(name);
        // The longest names have no room for the prefix.
        let temporary = if temporary.len() > crate::format::limits::MAX_NAME {
            OsString::from(format!(".atomos-checkout-{attempt}"))
        } else {
            temporary
        };
        let dir = parent.ensure_dir(&temporary, 0o700)?;
        let stat = dir.stat_self()?;
        if stat.uid != rustix::process::geteuid().as_raw() || stat.mode & 0o077 != 0 {
            continue;
        }
        if let Some(owner) = FileLock::try_acquire_dir(&dir)? {
            crate::fs::remove_tree_contents(&dir)?;
            return Ok((temporary, dir, owner));
        }
    }
    unreachable!("the numbers do not end")
}

fn build(
    repo: &Repo,
    located: &Located,
    holding: &Dir,
    options: &CheckoutOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckoutReport, CheckoutError> {
    let mut entry = match located {
        Located::Root(tree, metadata) => Entry {
            name: BUILT.into(),
            // A dirtree does not know its own directory's metadata.
            metadata: metadata.clone().unwrap_or_else(|| Metadata::with_mode(0o755)),
            node: Node::Dir { tree: *tree },
        },
        Located::Entry(entry) => Entry {
            name: BUILT.into(),
            ..entry.clone()
        },
    };
    if holds_back(located).is_some() {
        entry.metadata.mode |= 0o700;
    }
    let tree = DirTree::new(vec![entry]).map_err(|source| RepoError::Encode {
        what: "a directory".to_owned(),
        source,
    })?;
    tree::materialise(repo, repo, tree, holding, options, progress, cancel)
}

/// Checks out the entries of the dirtree `root` into the directory `target`, which exists and is empty, and gives
/// it `metadata`. The caller holds the repository's shared lock, or a root that keeps the tree.
pub fn checkout_into(
    repo: &Repo,
    root: &DirTreeId,
    metadata: &Metadata,
    target: &Dir,
    options: &CheckoutOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckoutReport, CheckoutError> {
    checkout_from(repo, repo, root, metadata, target, options, progress, cancel)
}

/// As [`checkout_into`], for a tree whose dirtrees are those of `source`; what they say of blobs is in `repo`.
#[expect(
    clippy::too_many_arguments,
    reason = "a checkout's, and where the dirtrees are"
)]
pub(crate) fn checkout_from(
    repo: &Repo,
    source: &dyn TreeSource,
    root: &DirTreeId,
    metadata: &Metadata,
    target: &Dir,
    options: &CheckoutOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckoutReport, CheckoutError> {
    let tree = source.dirtree(root)?;
    let report = tree::materialise(repo, source, tree, target, options, progress, cancel)?;
    metadata::apply_to_dir(target, metadata, options.ownership)?;
    Ok(report)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_directory_that_somebody_else_can_enter_is_not_built_in() {
        let scratch = tempfile::tempdir().unwrap();
        let parent = Dir::open_ambient(scratch.path()).unwrap();
        let waiting = scratch.path().join(".atomos-checkout-0-tree");
        std::fs::create_dir(&waiting).unwrap();
        std::fs::set_permissions(&waiting, PermissionsExt::from_mode(0o777)).unwrap();
        let (name, _, _) = temporary_beside(&parent, "tree".as_ref()).unwrap();
        assert_eq!(name, ".atomos-checkout-1-tree");

        std::fs::set_permissions(&waiting, PermissionsExt::from_mode(0o700)).unwrap();
        let (name, _, _) = temporary_beside(&parent, "tree".as_ref()).unwrap();
        assert_eq!(
            name, ".atomos-checkout-0-tree",
            "what an interrupted run left is taken over"
        );

        if rustix::process::geteuid().is_root() {
            chown(&waiting, Some(1000), None).unwrap();
            let (name, _, _) = temporary_beside(&parent, "tree".as_ref()).unwrap();
            assert_eq!(name, ".atomos-checkout-1-tree");
        }
    }
}
