//! Reading OSTree's repositories: modes `archive`, `bare`, `bare-user` and `bare-user-only`.
//!
//! Metadata is in GVariant's serialisation, of which `gvariant` reads as much as these objects need, and nothing that is not in
//! its normal form. Every object is checked against the SHA-256 that names it, a file's together with its owner, mode and attributes, before
//! anything is made of it. What else a repository has (summaries, deltas, parents of repositories) is not read.

#![allow(
    clippy::big_endian_bytes,
    reason = "OSTree's numbers have the highest byte first, on every machine"
)]

mod gvariant;
#[cfg(feature = "testing")]
pub(crate) mod hostile;
mod object;
mod repo;

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::fs::FsError;

pub use object::Checksum;
pub(crate) use object::{OstreeCommit, OstreeDirMeta, OstreeDirTree, OstreeFile};
pub use repo::OstreeRepo;

/// Why an OSTree repository cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OstreeError {
    /// It is no repository, or of a kind that is not known.
    #[error("cannot read {} as an OSTree repository: {rule}", path.display())]
    Repository {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        rule: String,
    },
    /// There is no such ref.
    #[error("there is no ref {name} in {}", path.display())]
    RefNotFound {
        /// What was asked for.
        name: String,
        /// Where.
        path: PathBuf,
    },
    /// An object is not there.
    #[error("the OSTree object {object} is missing")]
    Missing {
        /// Its checksum and its kind.
        object: String,
    },
    /// An object is damaged.
    #[error("the OSTree object {object} is damaged: {rule}")]
    Damaged {
        /// Its checksum and its kind.
        object: String,
        /// What is wrong.
        rule: String,
    },
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl OstreeError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Repository { .. } => ErrorKind::Invalid,
            Self::RefNotFound { .. } => ErrorKind::NotFound,
            Self::Missing { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Fs(error) => error.kind(),
        }
    }
}
