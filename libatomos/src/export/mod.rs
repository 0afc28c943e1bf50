//! A commit's tree as bytes for others: a tar archive, or an image in an OCI layout.
//!
//! One tree is one archive, byte for byte, wherever and whenever it is made: entries in the order of their names, no clock, no
//! names of users, and numbers in ustar's fields wherever they fit. `commit --tar` of it is the same root digest again. A file's bytes
//! are hashed on their way, so what is damaged in the store does not pass for whole elsewhere.

mod image;
mod tar;

use std::io;

use serde::Serialize;

use crate::cancel::Cancelled;
use crate::digest::{CommitId, DirTreeId};
use crate::error::ErrorKind;
use crate::fs::FsError;
use crate::oci::OciError;
use crate::repo::RepoError;

pub use image::{ImageOptions, ImageReport, export_image};
pub use tar::export_tar;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ExportCompression {
    /// Not at all.
    #[default]
    None,
    /// As `gzip` does, which everything reads.
    Gzip,
    /// As `zstd` does, which is faster and smaller.
    Zstd,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ExportReport {
    /// The commit.
    pub commit: CommitId,
    /// Its root dirtree.
    pub root: DirTreeId,
    /// Entries of every kind, without the root.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// Why a commit was not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// What it is written to failed.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// An entry cannot be in an archive.
    #[error("cannot put {path} into an archive")]
    Entry {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A name would remove something where the image is unpacked.
    #[error("cannot put {path} into an image, where a name that begins with .wh. removes another")]
    Whiteout {
        /// The path.
        path: String,
    },
    /// The layout failed.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<Cancelled> for ExportError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Repo(cancelled.into())
    }
}

impl ExportError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Write(error) | Self::Entry { source: error, .. } => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                io::ErrorKind::Other => ErrorKind::Unsupported,
                _ => ErrorKind::Io,
            },
            Self::Whiteout { .. } => ErrorKind::Unsupported,
            Self::Oci(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
        }
    }
}
