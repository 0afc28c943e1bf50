//! Blobs as differences from other blobs.
//!
//! A patch is for one blob and one base, whatever trees they are in, so a machine on any version uses every patch whose base
//! it has. There are two kinds. A *window* is a zstd frame whose prefix is a part of the base: fast to make, and for
//! blobs of any size. A *stream* is bsdiff's (<https://www.daemonology.net/bsdiff/>): it finds code that moved, where every
//! address in it changed; many of them are compressed together as a *group*.
//!
//! A base is not verified: the result is, by its digest, and a wrong base makes a wrong result.

mod base;
mod bsdiff;
mod maker;
mod window;

pub use base::BaseFinder;
pub use bsdiff::{MAX_BSDIFF, apply_stream, make_stream};
pub use maker::{Job, MadeFrame, MadeTarget, MakerOptions, Making, make};
pub use window::{BASE_WINDOW, WINDOW, Window, apply_window, make_window, window, windows};

use crate::compress::CompressError;
use crate::fs::FsError;

/// A patch cannot be made or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The bytes are no patch for this base.
    #[error("this is no patch for its base: {0}")]
    Damaged(&'static str),
    /// A frame cannot be read or written.
    #[error(transparent)]
    Compress(#[from] CompressError),
    /// A file cannot be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A blob cannot be opened.
    #[error(transparent)]
    Repo(#[from] crate::repo::RepoError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] crate::cancel::Cancelled),
}
