//! Where things lie in a repository. `repo-format.md`, "Layout", is the authority.

use std::fmt;

use serde::Serialize;

use crate::digest::{Digest, parse_hex, push_hex};

use super::RepoMode;

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
/// Whoever may open the lock may hold it for ever. Nobody but its owner can use a repository of mode bare; one of mode bare-user may be read by
/// everybody, and whoever pulls from it or checks out takes the lock for that.
pub(super) const fn lock_permissions(mode: RepoMode) -> u32 {
    match mode {
        RepoMode::Bare => 0o600,
        RepoMode::BareUser => 0o644,
    }
}
/// What keeps objects besides refs: deployments, mounts.
pub(super) const ROOTS: &str = "roots";
/// What saves work, and may be deleted at any time.
pub(crate) const CACHE: &str = "cache";
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
    let (digest, variant) = parse_object_bits(shard.as_bytes(), name.as_bytes())?;
    Some((digest, variant.map(|_| name[OWN_NAME + 1..].to_owned())))
}

/// Digits of an object's own file in its shard.
const OWN_NAME: usize = 62;

/// The same, with the bits that a variant's name spells, for whoever reads many.
pub(crate) fn parse_object_bits(shard: &[u8], name: &[u8]) -> Option<(Digest, Option<[u8; 16]>)> {
    let (rest, variant) = name.split_at_checked(OWN_NAME)?;
    let digest = Digest::from_bytes(parse_hex([shard, rest])?);
    match variant.split_first() {
        None => Some((digest, None)),
        Some((b'.', variant)) => {
            let mut bits: [u8; 16] = parse_hex([variant])?;
            bits.reverse();
            Some((digest, Some(bits)))
        }
        Some(_) => None,
    }
}

/// Writes the name of an object's file in its shard, or that of a variant, by its bits.
pub(crate) fn write_object_name(name: &mut Vec<u8>, digest: &Digest, variant: Option<[u8; 16]>) {
    name.clear();
    push_hex(name, &digest.as_bytes()[1..]);
    if let Some(mut bits) = variant {
        name.push(b'.');
        bits.reverse();
        push_hex(name, &bits);
    }
}
