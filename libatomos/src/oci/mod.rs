//! OCI image layouts: a directory with `oci-layout`, `index.json`, and blobs that are named by their digests.
//!
//! A layout is hostile until it was read: each blob's size and digest are checked while it is read, and documents have
//! a limit. Blobs are opened by the digest in their descriptor, which is hexadecimal digits and nothing else, so no path in a
//! document is ever followed.
//! (<https://github.com/opencontainers/image-spec>; Docker's media types are taken as well.)

mod document;
mod layout;
mod time;
mod verified;
mod write;

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::fs::{FsError, LockError};

pub(crate) use document::{Config, History, Manifest, RootFs, Runtime};
pub use document::{Descriptor, Platform};
pub use layout::{Image, Layout};
pub(crate) use time::rfc3339;
pub use verified::OciDigest;
pub(crate) use verified::{Hashing, Verified};

/// Why a layout cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// A document is not what it must be.
    #[error("{} is not acceptable: {rule}", path.display())]
    Document {
        /// The document.
        path: PathBuf,
        /// What is wrong.
        rule: String,
    },
    /// A blob's bytes are not those that were announced.
    #[error("the blob {digest} is damaged: {rule}")]
    Blob {
        /// The digest that it should have.
        digest: String,
        /// What is wrong.
        rule: String,
    },
    /// There is no such image.
    #[error("there is no image {wanted} in {}", path.display())]
    NotFound {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// There are several images, and none was asked for.
    #[error("there are several images in {}: {}", path.display(), found.join(", "))]
    Ambiguous {
        /// The layout.
        path: PathBuf,
        /// What there is.
        found: Vec<String>,
    },
    /// A test stopped it.
    #[error(transparent)]
    Tripped(#[from] crate::failpoint::Tripped),
    /// Somebody else is writing into the layout.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl OciError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Document { .. } | Self::Ambiguous { .. } => ErrorKind::Invalid,
            Self::Blob { .. } => ErrorKind::Corrupt,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Tripped(_) => ErrorKind::Io,
            Self::Lock(error) => error.kind(),
            Self::Fs(error) => error.kind(),
        }
    }
}
