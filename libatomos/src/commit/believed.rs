//! Whether the store has what was believed of files that nobody has read.
//!
//! To look at each object of a tree costs as much as all the rest of a commit that finds nothing changed. But a ref leads to the parent, so
//! that all of its tree is in the store: with the right size and as the right inode. So the store is listed once, which shows what has
//! been lost, the two trees are compared from the root down, which ends where they are one, and only what differs is looked at. What
//! the store lacks is read after all.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::digest::{BlobId, CommitId, DirTreeId, parse_hex};
use crate::error::ErrorKind;
use crate::format::{Commit, DirTree, Entry, Node};
use crate::fs::Dir;
use crate::repo::{ObjectKind, Repo, RepoError, Scratch, Transaction, TreeSource as _};

use super::CommitError;
use super::hash::Hasher;
use super::source::SourceKind;

/// The names of the store's blobs.
///
/// Eight bytes of each, which no two have in common by chance. Who makes two that have gains that a blob which was lost is not missed.
pub(super) struct StoreNames {
    /// By the first byte, sorted.
    shards: Vec<Vec<u64>>,
}

/// Bytes of a digest that are kept, after the one that names the shard.
const KEPT: usize = 8;

/// Names that are listed in the time that it takes to look at one object.
const NAMES_PER_LOOK: u64 = 8;

impl StoreNames {
    /// Lists the store, on all threads; `None` where it is so large that to look at `files` objects is done sooner.
    pub(super) fn load(repo: &Repo, files: u64) -> Result<Option<Self>, RepoError> {
        let blobs = repo.kind_dir(ObjectKind::Blob);
        let list = |shard: u8| -> Result<Vec<u64>, RepoError> {
            let mut names = Vec::new();
            if let Some(dir) = blobs.open_dir_optional(format!("{shard:02x}"))? {
                dir.visit_entries(|name, _, _| names.extend(key_of_name(name)))?;
            }
            names.sort_unstable();
            Ok(names)
        };
        // One shard is as large as another.
        let estimate = list(u8::MAX)?.len() as u64 * (u64::from(u8::MAX) + 1);
        if estimate > files.saturating_mul(NAMES_PER_LOOK) {
            return Ok(None);
        }
        let shards = (0..=u8::MAX).into_par_iter().map(list);
        Ok(Some(Self {
            shards: shards.collect::<Result<_, _>>()?,
        }))
    }

    /// Returns whether there is a blob of this name.
    pub(super) fn has(&self, blob: &BlobId) -> bool {
        let (shard, rest) = blob.digest().as_bytes().split_at(1);
        let key = rest.first_chunk().map(|kept| u64::from_le_bytes(*kept));
        key.is_some_and(|key| self.shards[usize::from(shard[0])].binary_search(&key).is_ok())
    }
}

/// The name of an object in its shard: neither of a variant, nor of anything else.
fn key_of_name(name: &OsStr) -> Option<u64> {
    let name = name.as_bytes();
    if name.len() != 2 * (crate::digest::DIGEST_LEN - 1) {
        return None;
    }
    parse_hex::<KEPT, 1>([&name[..2 * KEPT]]).map(u64::from_le_bytes)
}

/// Returns the root of the parent's tree, if the store has all of it: a ref leads to it, and it is not here in part.
pub(super) fn whole_tree_of(
    repo: &Repo,
    parent: Option<&(CommitId, Commit)>,
) -> Result<Option<DirTreeId>, RepoError> {
    let Some((id, commit)) = parent else {
        return Ok(None);
    };
    let is_named = repo.refs()?.values().any(|named| named == id);
    // A list that cannot be read is told of by whatever needs it.
    let is_whole = repo.partial_commits().is_ok_and(|list| !list.contains_key(id));
    Ok((is_named && is_whole).then_some(commit.root))
}

/// A directory of the source, its dirtree, and the parent's in its place.
struct Pair {
    dir: u32,
    new: DirTreeId,
    old: Option<DirTreeId>,
}

/// Sees to it that the store, or the transaction, has the files of the tree `root`, of which some were believed. `parent` is a tree of
/// which the store has all.
pub(super) fn store_what_lacks(
    hasher: &Hasher<'_>,
    transaction: &Transaction<'_>,
    root: DirTreeId,
    parent: DirTreeId,
) -> Result<(), CommitError> {
    let top = Pair {
        dir: 0,
        new: root,
        old: Some(parent),
    };
    let mut level = vec![top];
    // Level by level: a tree may be deeper than a thread's stack.
    while !level.is_empty() {
        let below: Vec<Vec<Pair>> = level
            .into_par_iter()
            .filter(|pair| pair.old != Some(pair.new))
            .map(|pair| compare(hasher, transaction, &pair))
            .collect::<Result<_, _>>()?;
        level = below.into_iter().flatten().collect();
    }
    Ok(())
}

/// Looks at the files of one directory; returns the directories in it.
fn compare(
    hasher: &Hasher<'_>,
    transaction: &Transaction<'_>,
    pair: &Pair,
) -> Result<Vec<Pair>, CommitError> {
    let tree = hasher.tree;
    let new = transaction.dirtree(&pair.new)?;
    let old = match pair.old.map(|old| transaction.repo().load_dirtree(&old)) {
        Some(Ok(old)) => Some(old),
        // Then it says nothing of what is in the store.
        Some(Err(error)) if error.kind() == ErrorKind::Corrupt => None,
        Some(Err(error)) => return Err(error.into()),
        None => None,
    };
    let before = |name: &[u8]| old.as_ref().and_then(|old: &DirTree| old.get(name));
    let nodes: HashMap<&[u8], u32> = tree
        .children(pair.dir)
        .iter()
        .map(|child| (&*tree.node(*child).name, *child))
        .collect();
    let mut open: Option<(u32, Dir)> = None;
    let mut scratch = None;
    let mut below = Vec::new();
    for entry in new.entries() {
        hasher.cancel.check()?;
        let child = nodes[&*entry.name];
        let old = before(&entry.name);
        match (&tree.node(child).kind, &entry.node) {
            (SourceKind::Dir { .. }, Node::Dir { tree }) => below.push(Pair {
                dir: child,
                new: *tree,
                old: match old.map(|old| &old.node) {
                    Some(Node::Dir { tree }) => Some(*tree),
                    _ => None,
                },
            }),
            (SourceKind::File { .. }, Node::File { .. })
                if old != Some(entry) && hasher.lacks(child, entry)? =>
            {
                let scratch = scratch.get_or_insert_with(|| Scratch::with(hasher.verity));
                read(hasher, child, entry, &mut open, scratch)?;
            }
            _ => {}
        }
    }
    Ok(below)
}

/// Reads a file that was believed to be what `entry` says.
fn read(
    hasher: &Hasher<'_>,
    node: u32,
    entry: &Entry,
    open: &mut Option<(u32, Dir)>,
    scratch: &mut Scratch,
) -> Result<(), CommitError> {
    // As it is recorded already: where times are a parent's, this one has them.
    let (metadata, kind) = hasher.read(node, Some(entry), open, scratch)?;
    if (&metadata, &kind) == (&entry.metadata, &entry.node) {
        return Ok(());
    }
    let dir = open
        .as_ref()
        .map_or_else(PathBuf::new, |(_, dir)| dir.path().to_owned());
    Err(CommitError::SourceChanged {
        path: dir.join(OsStr::from_bytes(&entry.name)),
    })
}
