//! Turning a directory into a commit.
//!
//! In three passes: [`SourceTree`] lists what there is, so that totals are known and the tree can be changed before
//! anything is read (`os_tree`); the files are hashed and the new ones stored, on all processors; the dirtrees are
//! built from the leaves up. A tree's digest depends on what is in it and on nothing else: no clock, locale, umask,
//! user or order of a directory takes part.

mod adopt;
mod builder;
mod dirtrees;
mod hash;
mod memory;
mod mtime;
mod os_tree;
mod seal;
mod source;
pub(crate) mod stat_cache;
mod store_inodes;

use std::path::PathBuf;

use crate::cancel::Cancelled;
use crate::composefs::ComposefsError;
use crate::digest::CommitId;
use crate::error::ErrorKind;
use crate::fs::FsError;
use crate::repo::RepoError;

pub use builder::{CommitOptions, CommitOutcome, CommitReport, Parent, commit};
pub(crate) use builder::{arrange_and_commit, scan};
pub use memory::{MemoryTrees, hash_directory};
pub use mtime::MtimePolicy;
pub(crate) use os_tree::USR_MERGED;
pub use os_tree::{
    DropReason, Dropped, Generated, KernelChoice, KernelReport, LeftPacked, Linked, Moved, OsTreeError,
    OsTreeOptions, OsTreeReport, OsTreeWarning, Unpack, Unpacked,
};
pub use seal::Sealers;
pub use source::{Content, ModeChange, ScanOptions, SourceKind, SourceNode, SourceTree};

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A socket, or something that no format can keep.
    #[error("cannot commit {}: it is a {kind}, which only a running program can make", path.display())]
    SpecialFile {
        /// Where it lies.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The source was written to while it was read.
    #[error("{} was changed while it was being committed", path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// A tree that is to be taken apart has something in it that is not its own.
    #[error("cannot adopt the files of {}: something is mounted on {}", root.display(), mounted.display())]
    MountedInside {
        /// The tree.
        root: PathBuf,
        /// Where, from its root.
        mounted: PathBuf,
    },
    /// The commit was made and is durable, and the source, whose files it has adopted, could not be removed whole.
    #[error("made the commit {commit}, but could not remove what is left of {}", root.display())]
    SourceLeft {
        /// The commit.
        commit: CommitId,
        /// The source.
        root: PathBuf,
        /// Why.
        source: Box<FsError>,
    },
    /// The source is what is left of a tree whose files a commit has adopted.
    #[error("cannot commit {}: it is what the commit {commit} has left of a tree", root.display())]
    Remainder {
        /// The source.
        root: PathBuf,
        /// The commit that has the whole tree.
        commit: CommitId,
    },
    /// There is nothing in a tree whose files were to be adopted: another commit may have them.
    #[error("cannot adopt the files of {}: it is empty", root.display())]
    NothingToAdopt {
        /// The tree.
        root: PathBuf,
    },
    /// The files to adopt are the repository's own, or have it among them.
    #[error(
        "cannot adopt the files of {}: the repository {} would go with them", root.display(), repo.display()
    )]
    RepositoryInside {
        /// The tree.
        root: PathBuf,
        /// The repository.
        repo: PathBuf,
    },
    /// The tree is nested deeper than any path that the kernel accepts.
    #[error("{} is nested more than 2048 directories deep", path.display())]
    TooDeep {
        /// The directory.
        path: PathBuf,
    },
    /// A compressed file that was to be unpacked is damaged, or claims to hold more than any such file does.
    #[error("cannot unpack {}", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The tree cannot be brought into a deployable shape.
    #[error("cannot make an operating system tree of the directory")]
    OsTree(#[from] OsTreeError),
    /// The image that the tree makes cannot be sealed.
    #[error("cannot seal the tree: {reason}")]
    NotSealable {
        /// What is missing or in the way.
        reason: String,
    },
    /// The image that the tree makes was not made, or not signed.
    #[error(transparent)]
    Composefs(#[from] ComposefsError),
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<Cancelled> for CommitError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Repo(cancelled.into())
    }
}

impl CommitError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SpecialFile { .. }
            | Self::NothingToAdopt { .. }
            | Self::RepositoryInside { .. }
            | Self::TooDeep { .. }
            | Self::Unpack { .. }
            | Self::NotSealable { .. }
            | Self::OsTree(_) => ErrorKind::Invalid,
            Self::SourceChanged { .. } | Self::MountedInside { .. } | Self::Remainder { .. } => {
                ErrorKind::Conflict
            }
            Self::SourceLeft { source, .. } => source.kind(),
            Self::Composefs(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
        }
    }
}
