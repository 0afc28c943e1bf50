//! Counting: what is in a repository, and what deduplication saves.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::Node;
use crate::fs::{Dir, FileKind, Stat};
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

/// What a tree holds, each file of it counted.
#[derive(Debug, Clone, Copy, Default)]
struct TreeTotals {
    files: u64,
    bytes: u64,
}

/// Visits everything beneath a directory but directories. A transaction may be changing it.
pub(super) fn visit_files(dir: Dir, mut visit: impl FnMut(&Stat)) -> Result<(), RepoError> {
    let mut stack = vec![dir];
    while let Some(dir) = stack.pop() {
        for entry in dir.entries()? {
            let Some(stat) = dir.stat_optional(&entry.name)? else {
                continue;
            };
            if stat.kind != FileKind::Dir {
                visit(&stat);
            } else if let Some(child) = dir.open_dir_optional(&entry.name)? {
                stack.push(child);
            }
        }
    }
    Ok(())
}

/// The blobs of the refs' trees, counted one ref after another. Each is kept once, however many refs have it.
#[derive(Default)]
struct RefBlobs {
    refs: Vec<RefStats>,
    blobs: HashMap<BlobId, Counted>,
}

struct Counted {
    size: u64,
    /// The ref that alone has it, by its place in the list, or [`SEVERAL`].
    owner: u32,
    /// The ref that had it last.
    last: u32,
}

const SEVERAL: u32 = u32::MAX;

impl RefBlobs {
    /// Counts a blob of the last ref's tree.
    fn add(&mut self, blob: BlobId, size: u64) {
        let last = (self.refs.len() - 1) as u32;
        match self.blobs.entry(blob) {
            Entry::Vacant(place) => {
                place.insert(Counted {
                    size,
                    owner: last,
                    last,
                });
                let ours = &mut self.refs[last as usize].exclusive_bytes;
                *ours = ours.saturating_add(size);
            }
            Entry::Occupied(place) => {
                let counted = place.into_mut();
                if counted.last == last {
                    return;
                }
                counted.last = last;
                let owner = std::mem::replace(&mut counted.owner, SEVERAL);
                if owner != SEVERAL {
                    let theirs = &mut self.refs[owner as usize].exclusive_bytes;
                    *theirs = theirs.saturating_sub(counted.size);
                }
            }
        }
        let ours = &mut self.refs[last as usize];
        ours.blobs += 1;
        ours.unique_bytes = ours.unique_bytes.saturating_add(size);
    }
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
        let mut totals = HashMap::new();
        let mut counted = RefBlobs::default();
        for (name, commit) in self.refs()? {
            let root = self.load_commit(&commit)?.root;
            let tree = self.tree_totals(&root, &mut totals, cancel)?;
            counted.refs.push(RefStats {
                name,
                commit,
                files: tree.files,
                logical_bytes: tree.bytes,
                blobs: 0,
                unique_bytes: 0,
                exclusive_bytes: 0,
            });
            self.count_blobs(root, &mut counted, cancel)?;
        }
        stats.refs = counted.refs;
        drop(counted.blobs);
        stats.logical_bytes = self.history_bytes(totals, cancel)?;
        Ok(stats)
    }

    /// Adds up the files beneath a directory of the repository.
    fn bytes_beneath(&self, name: &str) -> Result<u64, RepoError> {
        let mut bytes = 0;
        if let Some(dir) = self.dir().open_dir_optional(name)? {
            visit_files(dir, |stat| bytes += stat.size)?;
        }
        Ok(bytes)
    }

    /// Adds up the trees of all commits that refs lead to. A subtree that many of them share is read once.
    fn history_bytes(
        &self,
        mut totals: HashMap<DirTreeId, TreeTotals>,
        cancel: &Cancel,
    ) -> Result<u64, RepoError> {
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
                total = total.saturating_add(self.tree_totals(&commit.root, &mut totals, cancel)?.bytes);
                next = commit.parent;
            }
        }
        Ok(total)
    }

    /// An explicit stack: the depth of a tree is the tree's owner's choice.
    fn tree_totals(
        &self,
        root: &DirTreeId,
        totals: &mut HashMap<DirTreeId, TreeTotals>,
        cancel: &Cancel,
    ) -> Result<TreeTotals, RepoError> {
        struct Level {
            id: DirTreeId,
            totals: TreeTotals,
            /// Subtrees that are still to be added, one for each time that they stand here.
            subtrees: Vec<DirTreeId>,
        }
        let open = |id: DirTreeId| -> Result<Level, RepoError> {
            cancel.check()?;
            let mut level = Level {
                id,
                totals: TreeTotals::default(),
                subtrees: Vec::new(),
            };
            for entry in self.load_dirtree(&id)?.entries() {
                match &entry.node {
                    Node::Dir { tree } => level.subtrees.push(*tree),
                    Node::File { size, .. } => level.totals.add(TreeTotals {
                        files: 1,
                        bytes: *size,
                    }),
                    _ => {}
                }
            }
            Ok(level)
        };
        let mut stack = Vec::new();
        if !totals.contains_key(root) {
            stack.push(open(*root)?);
        }
        while let Some(level) = stack.last_mut() {
            match level.subtrees.last() {
                Some(subtree) => match totals.get(subtree) {
                    Some(beneath) => {
                        level.totals.add(*beneath);
                        level.subtrees.pop();
                    }
                    None => {
                        let subtree = *subtree;
                        super::check_depth(stack.len(), "/")?;
                        stack.push(open(subtree)?);
                    }
                },
                None => {
                    totals.insert(level.id, level.totals);
                    stack.pop();
                }
            }
        }
        Ok(totals.get(root).copied().unwrap_or_default())
    }

    /// Counts the blobs of the last ref's tree. A subtree that it has many times is read once.
    fn count_blobs(&self, root: DirTreeId, counted: &mut RefBlobs, cancel: &Cancel) -> Result<(), RepoError> {
        let (mut stack, mut met) = (vec![root], HashSet::new());
        while let Some(tree) = stack.pop() {
            if !met.insert(tree) {
                continue;
            }
            cancel.check()?;
            for entry in self.load_dirtree(&tree)?.entries() {
                match &entry.node {
                    Node::Dir { tree } => stack.push(*tree),
                    Node::File { blob, size, .. } => counted.add(*blob, *size),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl TreeTotals {
    /// Equal subtrees let a small file describe more than a number holds.
    const fn add(&mut self, more: Self) {
        self.files = self.files.saturating_add(more.files);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}
