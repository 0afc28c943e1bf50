//! Whether the store has what was believed of files that nobody has read.
//!
//! To look for each object of a tree costs as much as all the rest of a commit that finds nothing changed. But the parent commit is
//! whole, and what its tree has, the store has. So the two trees are compared from the root down, which ends where they are one,
//! and only what differs is looked for. What the store lacks all the same is read after all.
//!
//! That a store has lost an object is for `fsck` to find, which forgets the cache then: so the next commit reads everything.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::digest::{CommitId, DirTreeId};
use crate::format::{Commit, DirTree, Entry, Node};
use crate::fs::Dir;
use crate::repo::{Repo, RepoError, Scratch, Transaction, TreeSource as _};

use super::CommitError;
use super::hash::Hasher;
use super::source::SourceKind;

/// Returns the root of the parent's tree, if the store has all of it.
pub(super) fn whole_tree_of(
    repo: &Repo,
    parent: Option<&(CommitId, Commit)>,
) -> Result<Option<DirTreeId>, RepoError> {
    let Some((id, commit)) = parent else {
        return Ok(None);
    };
    let is_partial = repo.partial_commits()?.contains_key(id);
    Ok((!is_partial).then_some(commit.root))
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
    let old = match &pair.old {
        Some(old) => Some(transaction.repo().load_dirtree(old)?),
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
