//! Copying commits from another repository on this machine.
//!
//! The source is not trusted: every object is hashed as it is stored. Where source and target are of one owner, one mode and
//! one file system, a file is not copied: it gets another name. Objects are never written to, by either repository, and
//! whoever could damage the one could damage the other. Of another owner's repository the blocks are shared where the file
//! system can, so that nobody else can change them here, and else copied.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::{DirTree, Metadata, Node};
use crate::fs::stat_file;
use crate::names::RefName;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::transaction::{Scratch, Shared, hash_into};
use super::traverse::name_unkept;
use super::{ObjectKind, RefUpdate, Repo, RepoError, Transaction, TransactionStats};

/// How to pull from a local repository.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LocalPullOptions {
    /// Threads to copy with; all processors where `None`.
    pub threads: Option<usize>,
    /// Have no inode in common with the source, as for a backup.
    pub no_hardlinks: bool,
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
    /// New files that are the source's inodes, by another name.
    pub hardlinked: u64,
    /// New files that share blocks with the source's.
    pub reflinked: u64,
    /// New files with blocks of their own.
    pub copied: u64,
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
            self.check_can_move(name)?;
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
            links: !options.no_hardlinks && self.may_link(source)?,
            owner: self.dir().stat_self()?.uid,
            shared: [const { AtomicU64::new(0) }; 3],
        };
        for (_, tip) in &tips {
            pull.plan_commit(tip, cancel)?;
        }
        if !pull.links {
            self.check_room(pull.plan.bytes)?;
        }
        pull.run(options, progress, cancel)
            .map_err(|error| pull.naming(error))?;
        let commits = std::mem::take(&mut pull.plan.commits);
        let [hardlinked, reflinked, copied] = pull.shared.map(AtomicU64::into_inner);
        for (name, commit) in &tips {
            transaction.set_ref(RefUpdate {
                name: name.clone(),
                expected: None,
                new: Some(*commit),
            });
        }
        let stats = transaction.commit()?;
        self.forget_partial(|commit| commits.contains(commit))?;
        Ok(LocalPullReport {
            refs: tips,
            stats,
            hardlinked,
            reflinked,
            copied,
        })
    }

    /// Returns whether files of `source` may be files of this repository. In the mode bare-user all files look alike; in
    /// the mode bare, each inode is compared with what the tree says.
    fn may_link(&self, source: &Self) -> Result<bool, RepoError> {
        let (ours, theirs) = (self.dir().stat_self()?, source.dir().stat_self()?);
        Ok(self.mode() == source.mode() && ours.uid == theirs.uid && theirs.mode & 0o022 == 0)
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
    links: bool,
    owner: u32,
    /// How files came here: hardlinked, reflinked, copied.
    shared: [AtomicU64; 3],
}

impl Pull<'_> {
    fn plan_commit(&mut self, tip: &CommitId, cancel: &Cancel) -> Result<(), RepoError> {
        let mut next = Some(*tip);
        let partial = self.source.partial_commits()?;
        while let Some(id) = next {
            let known = self.plan.commits.contains(&id);
            let absent =
                partial.contains_key(&id) || !self.source.has_object(ObjectKind::Commit, id.digest())?;
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
        let target = self.transaction.repo();
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
                    Node::File { blob, size, .. } if !target.has_blob(blob, *size, &entry.metadata)? => {
                        self.plan.files.push((id, index));
                        self.plan.bytes += size;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
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

    /// Says where a file lies that cannot be kept here.
    fn naming(&self, error: RepoError) -> RepoError {
        let commits = self.plan.commits.iter();
        let roots = commits.filter_map(|id| Some(self.source.load_commit(id).ok()?.root));
        roots.fold(error, |error, root| name_unkept(error, self.source, &root))
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
        let (file, link) = self.open(blob, &entry.metadata)?;
        let path = Path::new("objects").join(super::object_path(blob.digest()));
        let hashed = hash_into(&file, *size, &path, scratch)?;
        if hashed.blob != *blob || hashed.size != *size {
            let source = self.source.dir().path().display();
            let reason = if hashed.blob == *blob {
                format!(
                    "in {source} it has {} bytes, and its tree says {size}",
                    hashed.size
                )
            } else {
                format!("its bytes in {source} have the digest {}", hashed.blob)
            };
            return Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason,
            });
        }
        let link = link
            .as_deref()
            .map(|name| (self.source.kind_dir(ObjectKind::Blob), name));
        let shared = self
            .transaction
            .store_shared(&file, &path, &entry.metadata, &hashed, scratch, link)?;
        if let Some(shared) = shared {
            let index = match shared {
                Shared::Hardlinked => 0,
                Shared::Reflinked => 1,
                Shared::Copied => 2,
            };
            self.shared[index].fetch_add(1, Ordering::Relaxed);
        }
        phase.advance(*size);
        Ok(())
    }

    /// Opens a blob; with the name of its inode if that may get another name here, since it has the owner, mode and
    /// attributes that the file must have here.
    fn open(&self, blob: &BlobId, metadata: &Metadata) -> Result<(File, Option<String>), RepoError> {
        if self.links && self.source.mode() == super::RepoMode::Bare {
            // The base may be another variant; each is an inode of its own, and is hashed by itself.
            if let Some((name, stat)) = self.source.find_variant(blob, metadata)? {
                let file = self.source.kind_dir(ObjectKind::Blob).open_file(&name)?;
                return Ok((file, linkable(stat.size).then_some(name)));
            }
        }
        let file = self.source.open_blob(blob)?;
        if !self.links || self.source.mode() == super::RepoMode::Bare {
            return Ok((file, None));
        }
        let name = super::object_path(blob.digest());
        let stat = stat_file(&file, Path::new(&name))?;
        let alike = stat.uid == self.owner && stat.mode == 0o644;
        Ok((file, (alike && linkable(stat.size)).then_some(name)))
    }
}

/// Empty files are everywhere: one inode for all of them runs into the file system's limit of links.
const fn linkable(size: u64) -> bool {
    size > 0
}
