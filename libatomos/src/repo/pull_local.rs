//! Copying commits from another repository on this machine.
//!
//! The source is not trusted: every object is hashed as it is stored, by the same path that a commit takes.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{CommitId, DirTreeId};
use crate::format::{DirTree, Node};
use crate::names::RefName;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::transaction::{Scratch, hash_into};
use super::{ObjectKind, RefUpdate, Repo, RepoError, Transaction, TransactionStats};

/// How to pull from a local repository.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LocalPullOptions {
    /// Threads to copy with; all processors where `None`.
    pub threads: Option<usize>,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LocalPullReport {
    /// Each ref and the commit that it names now.
    pub refs: Vec<(RefName, CommitId)>,
    /// What was written.
    #[serde(flatten)]
    pub stats: TransactionStats,
}

impl Repo {
    /// Copies the commits that `refs` name in `source`, with their trees, and sets the same refs here. Commits that
    /// are reached through parents are copied as far as the source has them.
    pub fn pull_local(
        &self,
        source: &Self,
        refs: &[RefName],
        options: &LocalPullOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<LocalPullReport, RepoError> {
        let _source_lock = source.lock_shared()?;
        let mut tips = Vec::new();
        for name in refs {
            let commit = source.ref_optional(name)?.ok_or_else(|| RepoError::RefNotFound {
                name: name.clone(),
                repo: source.dir().path().to_owned(),
            })?;
            tips.push((name.clone(), commit));
        }
        let transaction = self.begin()?;
        let mut pull = Pull {
            source,
            transaction: &transaction,
            plan: Plan::default(),
        };
        for (_, tip) in &tips {
            pull.plan_commit(tip, cancel)?;
        }
        pull.run(options, progress, cancel)?;
        for (name, commit) in &tips {
            transaction.set_ref(RefUpdate {
                name: name.clone(),
                expected: None,
                new: Some(*commit),
            });
        }
        Ok(LocalPullReport {
            stats: transaction.commit()?,
            refs: tips,
        })
    }
}

/// What has to be copied, in order: blobs, dirtrees, commits.
#[derive(Default)]
struct Plan {
    files: Vec<(DirTreeId, usize)>,
    bytes: u64,
    dirtrees: HashSet<DirTreeId>,
    commits: Vec<CommitId>,
}

struct Pull<'a> {
    source: &'a Repo,
    transaction: &'a Transaction<'a>,
    plan: Plan,
}

impl Pull<'_> {
    fn plan_commit(&mut self, tip: &CommitId, cancel: &Cancel) -> Result<(), RepoError> {
        let mut next = Some(*tip);
        while let Some(id) = next {
            let known = self.plan.commits.contains(&id);
            let absent = !self.source.has_object(ObjectKind::Commit, id.digest())?;
            if known || (absent && id != *tip) {
                break;
            }
            let commit = self.source.load_commit(&id)?;
            self.plan_tree(&commit.root, cancel)?;
            self.plan.commits.push(id);
            next = commit.parent;
        }
        Ok(())
    }

    fn plan_tree(&mut self, root: &DirTreeId, cancel: &Cancel) -> Result<(), RepoError> {
        let mut stack = vec![*root];
        while let Some(id) = stack.pop() {
            if !self.plan.dirtrees.insert(id) {
                continue;
            }
            cancel.check()?;
            for (index, entry) in self.source.load_dirtree(&id)?.entries().iter().enumerate() {
                match &entry.node {
                    Node::Dir { tree } => stack.push(*tree),
                    // An object's existence says nothing of what it refers to, so each file is looked up.
                    Node::File { blob, size, .. } if !self.has_file(blob, &entry.metadata)? => {
                        self.plan.files.push((id, index));
                        self.plan.bytes += size;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn has_file(
        &self,
        blob: &crate::digest::BlobId,
        metadata: &crate::format::Metadata,
    ) -> Result<bool, RepoError> {
        let target = self.transaction.repo();
        match target.mode() {
            super::RepoMode::BareUser => target.has_object(ObjectKind::Blob, blob.digest()),
            super::RepoMode::Bare => Ok(target.find_variant(blob, metadata)?.is_some()),
        }
    }

    fn run(
        &self,
        options: &LocalPullOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), RepoError> {
        use rayon::prelude::*;
        let phase = PhaseGuard::begin(progress, Phase::Pull, Some(self.plan.bytes), Unit::Bytes);
        let groups: Vec<_> = self
            .plan
            .files
            .chunk_by(|a, b| a.0 == b.0)
            .flat_map(|group| group.chunks(64))
            .collect();
        crate::parallel::pool(options.threads).install(|| {
            groups
                .par_iter()
                .try_for_each_init(Scratch::new, |scratch, group| {
                    let tree = self.source.load_dirtree(&group[0].0)?;
                    group
                        .iter()
                        .try_for_each(|(_, index)| self.copy_file(&tree, *index, scratch, &phase, cancel))
                })
        })?;
        for id in &self.plan.dirtrees {
            self.transaction.store_dirtree(&self.source.load_dirtree(id)?)?;
        }
        for id in &self.plan.commits {
            self.transaction.store_commit(&self.source.load_commit(id)?)?;
        }
        Ok(())
    }

    fn copy_file(
        &self,
        tree: &DirTree,
        index: usize,
        scratch: &mut Scratch,
        phase: &PhaseGuard<'_>,
        cancel: &Cancel,
    ) -> Result<(), RepoError> {
        cancel.check()?;
        let entry = &tree.entries()[index];
        let Node::File { blob, size, .. } = &entry.node else {
            return Ok(());
        };
        let file = self.source.open_blob(blob)?;
        let path = Path::new("objects").join(super::object_path(blob.digest()));
        let hashed = hash_into(&file, *size, &path, scratch)?;
        if hashed.blob != *blob || hashed.size != *size {
            return Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason: format!(
                    "its bytes in {} have the digest {}",
                    self.source.dir().path().display(),
                    hashed.blob
                ),
            });
        }
        self.transaction
            .store_hashed(&file, &path, &entry.metadata, &hashed, scratch)?;
        phase.advance(*size);
        Ok(())
    }
}
