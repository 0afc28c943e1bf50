//! Who needs what: which ref or root an object would go with.
//!
//! Each object has one holder alone, or several, or none. A walk from each ref, through its history, and from each root marks what it
//! meets; what two of them meet belongs to several. Every object is met three times at most: by the first, by the second, which
//! passes on that it is shared, and then nobody looks beneath it again.

use std::collections::HashMap;
use std::hash::Hash;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::Node;
use crate::fs::Stat;

use super::traverse::{parse_variant_bits, variant_bits};
use super::{ObjectKind, Repo, RepoError, RepoMode};

/// A share of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Share {
    /// Files of objects, inode variants among them.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Space on disk of those that have no other name: what would become free with them.
    pub freed_bytes: u64,
}

impl Share {
    pub(super) fn add(&mut self, stat: &Stat) {
        self.files += 1;
        self.bytes += stat.size;
        if stat.nlink == 1 {
            self.freed_bytes += stat.allocated;
        }
    }
}

/// What would go if a ref or a root went, and then a prune.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HolderStats {
    /// `ref NAME`, or the name of the root: a deployment, a record of conflicts.
    pub name: String,
    /// Commits that it leads to, those of others among them.
    pub commits: u64,
    /// What nobody else needs.
    #[serde(flatten)]
    pub alone: Share,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    One(u32),
    Several,
}

/// Everything that is needed, and by whom. Names alone are remembered.
#[derive(Default)]
pub(super) struct Holders {
    pub(super) list: Vec<HolderStats>,
    commits: HashMap<CommitId, Owner>,
    dirtrees: HashMap<DirTreeId, Owner>,
    blobs: HashMap<BlobId, Owner>,
    variants: HashMap<(BlobId, [u8; 16]), Owner>,
}

/// Marks one thing; returns whether to look at what it refers to.
fn mark<K: Eq + Hash>(map: &mut HashMap<K, Owner>, key: K, holder: u32) -> bool {
    match map.get_mut(&key) {
        None => {
            map.insert(key, Owner::One(holder));
            true
        }
        Some(Owner::One(first)) if *first == holder => false,
        Some(owner @ Owner::One(_)) => {
            *owner = Owner::Several;
            true
        }
        Some(Owner::Several) => false,
    }
}

impl Holders {
    pub(super) fn find(repo: &Repo, cancel: &Cancel) -> Result<Self, RepoError> {
        let mut holders = Self::default();
        for (name, tip) in repo.refs()? {
            let holder = holders.begin(format!("ref {name}"));
            let mut next = Some(tip);
            // A history that was met before is counted again, and not looked at.
            while let Some(id) = next {
                if id != tip && !repo.has_object(ObjectKind::Commit, id.digest())? {
                    break;
                }
                let commit = repo.load_commit(&id)?;
                holders.list[holder as usize].commits += 1;
                if mark(&mut holders.commits, id, holder) {
                    holders.mark_tree(repo, commit.root, holder, cancel)?;
                }
                next = commit.parent;
            }
        }
        for (name, record) in repo.list_roots()? {
            let holder = holders.begin(name.to_string());
            for id in &record.commits {
                let commit = repo.load_commit(id)?;
                holders.list[holder as usize].commits += 1;
                if mark(&mut holders.commits, *id, holder) {
                    holders.mark_tree(repo, commit.root, holder, cancel)?;
                }
            }
            for blob in &record.blobs {
                mark(&mut holders.blobs, *blob, holder);
            }
        }
        Ok(holders)
    }

    fn begin(&mut self, name: String) -> u32 {
        self.list.push(HolderStats {
            name,
            commits: 0,
            alone: Share::default(),
        });
        (self.list.len() - 1) as u32
    }

    fn mark_tree(
        &mut self,
        repo: &Repo,
        root: DirTreeId,
        holder: u32,
        cancel: &Cancel,
    ) -> Result<(), RepoError> {
        let mut stack = vec![root];
        while let Some(id) = stack.pop() {
            if !mark(&mut self.dirtrees, id, holder) {
                continue;
            }
            cancel.check()?;
            for entry in repo.load_dirtree(&id)?.entries() {
                match &entry.node {
                    Node::Dir { tree } => stack.push(*tree),
                    Node::File { blob, .. } => {
                        mark(&mut self.blobs, *blob, holder);
                        if repo.mode() == RepoMode::Bare {
                            mark(
                                &mut self.variants,
                                (*blob, variant_bits(&entry.metadata)?),
                                holder,
                            );
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Adds a file of the store to whom it belongs to: its only holder, `several`, or nobody.
    pub(super) fn count(
        &mut self,
        kind: ObjectKind,
        digest: Digest,
        variant: Option<&str>,
        stat: &Stat,
        several: &mut Share,
        nobody: &mut Share,
    ) {
        let owner = match (kind, variant) {
            (ObjectKind::Commit, _) => self.commits.get(&CommitId::new(digest)),
            (ObjectKind::DirTree, _) => self.dirtrees.get(&DirTreeId::new(digest)),
            (ObjectKind::Blob, None) => self.blobs.get(&BlobId::new(digest)),
            (ObjectKind::Blob, Some(variant)) => self
                .variants
                .get(&(BlobId::new(digest), parse_variant_bits(variant))),
        };
        match owner {
            Some(Owner::One(holder)) => self.list[*holder as usize].alone.add(stat),
            Some(Owner::Several) => several.add(stat),
            None => nobody.add(stat),
        }
    }
}
