//! The formats of a published site: pure functions between values and bytes, and where the files lie.
//!
//! A site is files that any web server can serve. What is named by a digest never changes; the records in `refs/` are
//! all that does. A client that has read a record, its release and one manifest knows every byte that it will ask
//! for, before it asks for the first: the tree ([`TreeTable`]), where each blob lies in packs ([`Place`]), which patches
//! there are ([`PatchFrame`]), and the image. `repo-format.md` has the bytes.
//!
//! Blobs are named by their place in the *blob order* of the tree ([`BlobList`]): different blobs that are not empty, in
//! the order in which a walk in path order meets them. Both sides compute it from the dirtrees, so no digest is
//! sent twice.

mod blobs;
mod json;
mod layout;
pub mod limits;
mod manifest;
mod segments;
mod tables;
#[cfg(test)]
mod tests;
mod tree_table;
mod varint;

use crate::compress::CompressError;
use crate::digest::{CommitId, Digest};
use crate::error::ErrorKind;
use crate::format::FormatError;
use crate::repo::RepoError;

pub use blobs::{BlobList, ListedBlob, for_each_file};
pub use json::{
    FORMAT, FileRef, HistoryEntry, RECORD_TYPE, RELEASE_TYPE, Record, RelativeManifest, Release, SiteInfo,
    Totals, Withdrawn,
};
pub use layout::{Artifact, INFO, KEYS, REFS, key_set_path, record_path};
pub use manifest::{Base, Manifest, ManifestHead};
pub use segments::{Frame, blob_frames, image_frames};
pub use tables::{Index, NOT_IN_TREE, PatchFrame, PatchTarget, Place};
pub use tree_table::TreeTable;

/// Bytes of a site are not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SiteError {
    /// A text cannot be read.
    #[error("cannot read {what}: {reason}")]
    Text {
        /// What was read.
        what: &'static str,
        /// The first thing wrong with it.
        reason: String,
    },
    /// It needs what this program does not have.
    #[error("{what} needs {name}, which this program does not know: a newer atomos may")]
    UnknownFeature {
        /// The record, or the site.
        what: &'static str,
        /// What it needs.
        name: String,
    },
    /// A table breaks the format's rules.
    #[error("cannot read the {table} of a manifest")]
    Table {
        /// Which.
        table: &'static str,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// A section does not decompress.
    #[error("cannot decompress the {table} of a manifest")]
    Section {
        /// Which.
        table: &'static str,
        /// Why.
        #[source]
        source: CompressError,
    },
    /// The tree is not the one that was signed.
    #[error("the manifest's {what} is {found}, and the signed one is {expected}")]
    OtherTree {
        /// Commit, or dirtree.
        what: &'static str,
        /// What leads to it.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// A tree that is to be published cannot be read.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl SiteError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownFeature { .. } => ErrorKind::Unsupported,
            Self::Repo(error) => error.kind(),
            _ => ErrorKind::Corrupt,
        }
    }

    pub(crate) fn table(table: &'static str) -> impl Fn(FormatError) -> Self {
        move |source| Self::Table { table, source }
    }
}

/// The fewest digits of a digest that name a commit where a version may stand, too. Versions are short, or are no hexadecimal
/// numbers: a `1`, or a date, must not be taken for the beginning of another release's digest.
const MIN_DIGITS: usize = 12;

/// Returns whether `selector` is the release's version, or the beginning of its commit's digest.
pub(crate) fn is_selected(selector: &str, commit: &CommitId, version: &str) -> bool {
    let is_digits = selector.len() >= MIN_DIGITS && selector.bytes().all(|byte| byte.is_ascii_hexdigit());
    version == selector || (is_digits && commit.to_string().starts_with(selector))
}
