//! Where things lie in a repository. `repo-format.md`, "Layout", is the authority.

use std::fmt;

use serde::Serialize;

use crate::digest::{Digest, push_hex};

/// The configuration.
pub(super) const CONFIG: &str = "config";
/// Every ref and the commit it names, in one file.
pub(super) const REFS: &str = "refs";
/// Every alias and the ref it points at, in one file.
pub(super) const ALIASES: &str = "aliases";
/// Held while `refs` or `aliases` is replaced.
pub(super) const REFS_LOCK: &str = "refs.lock";
/// Shared to read and add, exclusive to prune.
pub(super) const LOCK: &str = "lock";
/// What keeps objects besides refs: deployments, mounts.
pub(super) const ROOTS: &str = "roots";
/// Damaged files that no source had a good copy of.
pub(super) const DAMAGED: &str = "damaged";
/// Staging directories of running and interrupted transactions.
pub(super) const TMP: &str = "tmp";

/// The kinds of object. Each has its own place, so a blob that happens to hold a dirtree's bytes is never taken for
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    /// A regular file's bytes.
    Blob,
    /// A directory's entries.
    DirTree,
    /// A snapshot.
    Commit,
}

impl ObjectKind {
    /// Every kind, in the order in which they are published.
    pub const ALL: [Self; 3] = [Self::Blob, Self::DirTree, Self::Commit];

    pub(crate) const fn dir(self) -> &'static str {
        match self {
            Self::Blob => "objects",
            Self::DirTree => "dirtrees",
            Self::Commit => "commits",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blob => "blob",
            Self::DirTree => "dirtree",
            Self::Commit => "commit",
        })
    }
}

/// Returns where an object lies beneath its kind's directory: `ab/cdef…`.
pub(crate) fn object_path(digest: &Digest) -> String {
    // There is one for every file of every checkout.
    let (shard, rest) = digest.as_bytes().split_at(1);
    let mut path = Vec::with_capacity(2 * digest.as_bytes().len() + 1);
    push_hex(&mut path, shard);
    path.push(b'/');
    push_hex(&mut path, rest);
    String::from_utf8(path).expect("digits are ASCII")
}

/// Returns where an inode variant of a blob lies: `ab/cdef….<32 hexadecimal digits>`.
pub(crate) fn variant_path(digest: &Digest, variant: &str) -> String {
    let mut path = object_path(digest);
    path.push('.');
    path.push_str(variant);
    path
}

/// Reads a file name in a shard back; `None` for what no writer of ours has made.
pub(crate) fn parse_object_name(shard: &str, name: &str) -> Option<(Digest, Option<String>)> {
    let (rest, variant) = match name.split_once('.') {
        Some((rest, variant)) => (rest, Some(variant)),
        None => (name, None),
    };
    let digest = format!("{shard}{rest}").parse().ok()?;
    match variant {
        Some(variant) if variant.len() != 32 || !variant.bytes().all(|b| b.is_ascii_hexdigit()) => None,
        variant => Some((digest, variant.map(str::to_owned))),
    }
}
