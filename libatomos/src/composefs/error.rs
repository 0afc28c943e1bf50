//! What can go wrong with images.

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::fs::FsError;
use crate::repo::RepoError;
use crate::sign::SignError;

/// Why an image was not made or not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposefsError {
    /// Something in the tree cannot be in an image.
    #[error("cannot put {} into an image: {reason}", path.display())]
    NotInImages {
        /// Where it is in the tree.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// The tree has more entries, or more attributes, than an image holds.
    #[error("cannot make an image: it would have more than 4 million entries, or more than 16 GiB")]
    TooLarge,
    /// There is something where the image is to be.
    #[error("cannot make the image {}: it exists", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// The image has no name of its own.
    #[error("cannot make the image {}: the path does not end in a name", path.display())]
    NoName {
        /// The place.
        path: PathBuf,
    },
    /// What was to be mounted is no image, or only the beginning of one.
    #[error("cannot mount {}: it is no composefs image", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
    },
    /// The kernel cannot do it.
    #[error("cannot mount an image on {}: {missing}", path.display())]
    Kernel {
        /// Where it was to be mounted.
        path: PathBuf,
        /// What the kernel does not have.
        missing: &'static str,
    },
    /// The files of an image cannot be verified as they are read.
    #[error("cannot have the files of the image verified: {reason}")]
    NotVerifiable {
        /// What is missing.
        reason: String,
    },
    /// An image is mounted there.
    #[error("cannot mount an image on {}: there is one", path.display())]
    Mounted {
        /// The place.
        path: PathBuf,
    },
    /// The repository would be under what is mounted.
    #[error("cannot mount an image on {}: the repository that it is of lies there", path.display())]
    CoversRepository {
        /// The place.
        path: PathBuf,
    },
    /// No image is mounted there.
    #[error("cannot unmount {}: no image is mounted there", path.display())]
    NotMounted {
        /// The place.
        path: PathBuf,
    },
    /// The seal of a commit is damaged, or another commit's.
    #[error("the seal of the commit is not acceptable: {reason}")]
    Seal {
        /// What is wrong with it.
        reason: String,
    },
    /// The seal of a commit is no envelope, or could not be signed.
    #[error("the image is not sealed")]
    Sign(#[from] SignError),
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<crate::cancel::Cancelled> for ComposefsError {
    fn from(cancelled: crate::cancel::Cancelled) -> Self {
        Self::Repo(cancelled.into())
    }
}

impl ComposefsError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInImages { .. } | Self::TooLarge | Self::Kernel { .. } | Self::NotVerifiable { .. } => {
                ErrorKind::Unsupported
            }
            Self::Exists { .. } | Self::Mounted { .. } => ErrorKind::AlreadyExists,
            Self::NoName { .. } | Self::NotAnImage { .. } | Self::CoversRepository { .. } => {
                ErrorKind::Invalid
            }
            Self::NotMounted { .. } => ErrorKind::NotFound,
            Self::Seal { .. } => ErrorKind::Untrusted,
            Self::Sign(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
        }
    }
}
