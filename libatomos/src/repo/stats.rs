//! Counting: what is in a repository, and what deduplication saves.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::Node;
use crate::fs::{Dir, FileKind};
use crate::names::RefName;

use super::holders::{HolderStats, Holders, Share};
use super::layout::{DAMAGED, TMP};
use super::{ObjectKind, Repo, RepoError};

/// What one ref's tree holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RefStats {
    /// The ref.
    pub name: RefName,
    /// The commit it names.
    pub commit: CommitId,
    /// Regular files in the tree.
    pub files: u64,
    /// Bytes in them, each file counted.
    pub logical_bytes: u64,
    /// Blobs in the tree, equal files counted once.
    pub blobs: u64,
    /// Bytes in those blobs.
    pub unique_bytes: u64,
    /// Bytes in blobs that no other ref's tree has.
    pub exclusive_bytes: u64,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepoStats {
    /// Commits.
    pub commits: u64,
    /// Bytes in commits.
    pub commit_bytes: u64,
    /// Dirtrees.
    pub dirtrees: u64,
    /// Bytes in dirtrees.
    pub dirtree_bytes: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes in blobs.
    pub blob_bytes: u64,
    /// Inode variants beside the blobs' own.
    pub variants: u64,
    /// Bytes in them, as `ls` shows; a file system that shares blocks takes none.
    pub variant_bytes: u64,
    /// Space that all objects take on disk, as `du` shows.
    pub disk_bytes: u64,
    /// Bytes in the trees of all commits that refs lead to, parents among them, each file of each tree counted: what
    /// keeping every version as a plain directory would take.
    pub logical_bytes: u64,
    /// Bytes in files of the store that checkouts and deployments have, too.
    pub linked_bytes: u64,
    /// Each ref.
    pub refs: Vec<RefStats>,
    /// Each ref with its history, and each root: what only it needs.
    pub holders: Vec<HolderStats>,
    /// What several of them need.
    pub shared: Share,
    /// What nothing needs: a prune removes it.
    pub prunable: Share,
    /// What running and interrupted transactions have staged.
    pub staging_bytes: u64,
    /// Damaged files that were set aside.
    pub set_aside_bytes: u64,
}

impl RepoStats {
    /// Returns how many bytes of trees one byte of blobs stands for.
    #[must_use]
    pub fn deduplication(&self) -> f64 {
        let stored = self.blob_bytes + self.variant_bytes;
        if stored == 0 {
            1.0
        } else {
            self.logical_bytes as f64 / stored as f64
        }
    }
}

#[derive(Default)]
struct TreeCount {
    files: u64,
    logical: u64,
    blobs: HashMap<BlobId, u64>,
}

impl Repo {
    /// Counts objects, and the trees of all refs.
    pub fn stats(&self, cancel: &Cancel) -> Result<RepoStats, RepoError> {
        let mut stats = RepoStats {
            commits: 0,
            commit_bytes: 0,
            dirtrees: 0,
            dirtree_bytes: 0,
            blobs: 0,
            blob_bytes: 0,
            variants: 0,
            variant_bytes: 0,
            disk_bytes: 0,
            logical_bytes: 0,
            linked_bytes: 0,
            refs: Vec::new(),
            holders: Vec::new(),
            shared: Share::default(),
            prunable: Share::default(),
            staging_bytes: 0,
            set_aside_bytes: 0,
        };
        let mut holders = Holders::find(self, cancel)?;
        for kind in ObjectKind::ALL {
            self.visit_objects(kind, |dir, name, parsed| {
                cancel.check()?;
                let Some((digest, variant)) = parsed else {
                    return Ok(());
                };
                let stat = dir.stat(name)?;
                stats.disk_bytes += stat.allocated;
                if stat.nlink > 1 {
                    stats.linked_bytes += stat.size;
                }
                let (shared, prunable) = (&mut stats.shared, &mut stats.prunable);
                holders.count(kind, digest, variant.as_deref(), &stat, shared, prunable);
                match (kind, variant) {
                    (ObjectKind::Commit, _) => {
                        stats.commits += 1;
                        stats.commit_bytes += stat.size;
                    }
                    (ObjectKind::DirTree, _) => {
                        stats.dirtrees += 1;
                        stats.dirtree_bytes += stat.size;
                    }
                    (ObjectKind::Blob, None) => {
                        stats.blobs += 1;
                        stats.blob_bytes += stat.size;
                    }
                    (ObjectKind::Blob, Some(_)) => {
                        stats.variants += 1;
                        stats.variant_bytes += stat.size;
                    }
                }
                Ok(())
            })?;
        }
        stats.holders = std::mem::take(&mut holders.list);
        drop(holders);
        stats.staging_bytes = self.bytes_beneath(TMP)?;
        stats.set_aside_bytes = self.bytes_beneath(DAMAGED)?;
        let mut counts = Vec::new();
        let mut holders: HashMap<BlobId, u32> = HashMap::new();
        for (name, commit) in self.refs()? {
            let mut count = TreeCount::default();
            self.count_tree(&self.load_commit(&commit)?.root, &mut count, cancel)?;
            for blob in count.blobs.keys() {
                *holders.entry(*blob).or_default() += 1;
            }
            counts.push((name, commit, count));
        }
        stats.logical_bytes = self.history_bytes(cancel)?;
        for (name, commit, count) in counts {
            stats.refs.push(RefStats {
                name,
                commit,
                files: count.files,
                logical_bytes: count.logical,
                blobs: count.blobs.len() as u64,
                unique_bytes: count.blobs.values().sum(),
                exclusive_bytes: count
                    .blobs
                    .iter()
                    .filter(|(blob, _)| holders.get(blob) == Some(&1))
                    .map(|(_, size)| size)
                    .sum(),
            });
        }
        Ok(stats)
    }

    /// Adds up the files beneath a directory of the repository. A transaction may be changing it.
    fn bytes_beneath(&self, name: &str) -> Result<u64, RepoError> {
        let mut bytes = 0;
        let mut stack: Vec<Dir> = self.dir().open_dir_optional(name)?.into_iter().collect();
        while let Some(dir) = stack.pop() {
            for entry in dir.entries()? {
                let Some(stat) = dir.stat_optional(&entry.name)? else {
                    continue;
                };
                if stat.kind != FileKind::Dir {
                    bytes += stat.size;
                } else if let Some(child) = dir.open_dir_optional(&entry.name)? {
                    stack.push(child);
                }
            }
        }
        Ok(bytes)
    }

    /// Adds up the trees of all commits that refs lead to. A subtree that many of them share is read once.
    fn history_bytes(&self, cancel: &Cancel) -> Result<u64, RepoError> {
        let mut sizes: HashMap<DirTreeId, u64> = HashMap::new();
        let mut seen: HashSet<CommitId> = HashSet::new();
        let mut total: u64 = 0;
        for tip in self.refs()?.into_values() {
            let mut next = Some(tip);
            while let Some(id) = next.filter(|id| seen.insert(*id)) {
                // A parent may have been pruned, or never pulled; what a ref names must be there.
                if id != tip && !self.has_object(ObjectKind::Commit, id.digest())? {
                    break;
                }
                let commit = self.load_commit(&id)?;
                total = total.saturating_add(self.tree_bytes(&commit.root, &mut sizes, cancel)?);
                next = commit.parent;
            }
        }
        Ok(total)
    }

    /// An explicit stack: the depth of a tree is the tree's owner's choice.
    fn tree_bytes(
        &self,
        root: &DirTreeId,
        sizes: &mut HashMap<DirTreeId, u64>,
        cancel: &Cancel,
    ) -> Result<u64, RepoError> {
        struct Level {
            id: DirTreeId,
            bytes: u64,
            /// Subtrees that are still to be added, one for each time that they stand here.
            subtrees: Vec<DirTreeId>,
        }
        let open = |id: DirTreeId| -> Result<Level, RepoError> {
            cancel.check()?;
            let mut level = Level {
                id,
                bytes: 0,
                subtrees: Vec::new(),
            };
            for entry in self.load_dirtree(&id)?.entries() {
                match &entry.node {
                    Node::Dir { tree } => level.subtrees.push(*tree),
                    Node::File { size, .. } => level.bytes = level.bytes.saturating_add(*size),
                    _ => {}
                }
            }
            Ok(level)
        };
        let mut stack = Vec::new();
        if !sizes.contains_key(root) {
            stack.push(open(*root)?);
        }
        while let Some(level) = stack.last_mut() {
            match level.subtrees.last() {
                Some(subtree) => match sizes.get(subtree) {
                    Some(size) => {
                        // Equal subtrees let a small file describe more bytes than a number holds.
                        level.bytes = level.bytes.saturating_add(*size);
                        level.subtrees.pop();
                    }
                    None => {
                        let subtree = *subtree;
                        super::check_depth(stack.len(), "/")?;
                        stack.push(open(subtree)?);
                    }
                },
                None => {
                    sizes.insert(level.id, level.bytes);
                    stack.pop();
                }
            }
        }
        Ok(sizes.get(root).copied().unwrap_or_default())
    }

    fn count_tree(&self, root: &DirTreeId, count: &mut TreeCount, cancel: &Cancel) -> Result<(), RepoError> {
        let mut stack = vec![*root];
        while let Some(tree) = stack.pop() {
            cancel.check()?;
            for entry in self.load_dirtree(&tree)?.entries() {
                match &entry.node {
                    Node::Dir { tree } => stack.push(*tree),
                    Node::File { blob, size, .. } => {
                        count.files += 1;
                        count.logical += size;
                        count.blobs.insert(*blob, *size);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
