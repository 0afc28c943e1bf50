//! Where things lie in a published site. All paths are relative to its root.

use crate::digest::Digest;
use crate::names::RefName;

/// Says that this is a site, and whose.
pub const INFO: &str = "atomos.json";

/// Directory of key sets.
pub const KEYS: &str = "keys";

/// Directory of records, the only files that ever change.
pub const REFS: &str = "refs";

/// What is named by the digest of its bytes, and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Artifact {
    /// What a version consists of.
    Release,
    /// Every dirtree, and where each blob lies.
    Manifest,
    /// Blobs, one frame each.
    Pack,
    /// Blobs, as differences from other blobs.
    Patch,
    /// Blobs in large frames.
    Image,
}

impl Artifact {
    /// Every kind, in the order in which they must be uploaded: what is named comes before what names it.
    pub const ALL: [Self; 5] = [
        Self::Pack,
        Self::Patch,
        Self::Image,
        Self::Manifest,
        Self::Release,
    ];

    /// Returns the directory that holds the kind.
    #[must_use]
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Release => "releases",
            Self::Manifest => "manifests",
            Self::Pack => "packs",
            Self::Patch => "patches",
            Self::Image => "images",
        }
    }

    /// Returns the path of the one called `digest`.
    #[must_use]
    pub fn path(self, digest: &Digest) -> String {
        format!("{}/{digest}", self.dir())
    }
}

/// Returns the path of a ref's record.
#[must_use]
pub fn record_path(name: &RefName) -> String {
    format!("{REFS}/{name}")
}

/// Returns the path of key set `number`.
#[must_use]
pub fn key_set_path(number: u64) -> String {
    format!("{KEYS}/{number}")
}
