//! The verb itself: options in, a commit and a report out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::ThreadPool;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{CommitId, DirTreeId};
use crate::format::{Commit, Entry, MetadataValue, Node};
use crate::fs::{Dir, is_within};
use crate::names::RefName;
use crate::progress::{Event, Phase, PhaseGuard, Progress, Unit};
use crate::repo::{RefUpdate, Repo, Transaction, TransactionStats, Verity};
use crate::verity::VerityDigest;

use super::adopt;
use super::dirtrees::{self, ParentTrees, Stored};
use super::hash::{Hasher, Hints, Recording, Sink};
use super::os_tree;
use super::seal::{self, Sealers};
use super::stat_cache::StatCache;
use super::store_inodes::StoreInodes;
use super::{CommitError, MtimePolicy, OsTreeOptions, OsTreeReport, ScanOptions, SourceTree};

/// Which commit the new one follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Parent {
    /// The one that the ref names, if there is one.
    #[default]
    Ref,
    /// None.
    None,
    /// This one.
    Commit(CommitId),
}

/// How to commit.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CommitOptions {
    /// The ref to move to the new commit.
    pub reference: Option<RefName>,
    /// Which commit it follows.
    pub parent: Parent,
    /// One line for people.
    pub subject: String,
    /// More lines for people.
    pub body: String,
    /// The version of the operating system in the tree.
    pub version: String,
    /// For programs.
    pub metadata: BTreeMap<String, MetadataValue>,
    /// When the commit is made, in seconds since 1970; now where `None`.
    pub time: Option<i64>,
    /// The latest modification time to record (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// Which modification times to record.
    pub mtime: MtimePolicy,
    /// The owner to record for everything.
    pub owner: Option<(u32, u32)>,
    /// What to list.
    pub scan: ScanOptions,
    /// Bring the tree into a deployable shape first; as it is where `None`.
    pub os: Option<OsTreeOptions>,
    /// Make the source's files the store's own instead of copying them, where they lie on its file system; then remove the
    /// source. For a tree that is thrown away anyhow, and that nobody works in.
    pub adopt: bool,
    /// Read every file, also one that has not changed since it was last committed as far as its inode tells.
    pub no_cache: bool,
    /// Record the fs-verity digest of each file that is not empty, and of the image that a deployment's root would be, where the tree can be
    /// deployed.
    pub verity: bool,
    /// Who seals that image, which takes the digests. Nobody does where there are none.
    pub sealers: Sealers,
    /// Make no commit when the tree is the parent's.
    pub skip_if_unchanged: bool,
    /// Threads to work with; all processors where `None`.
    pub threads: Option<usize>,
}

impl CommitOptions {
    /// A seal says nothing where files may be anything.
    fn records_verity(&self) -> bool {
        self.verity || !self.sealers.is_empty()
    }
}

/// Whether there is a new commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitOutcome {
    /// There is.
    Created,
    /// The tree is the parent's, and the parent is what is reported.
    Unchanged,
}

/// What a commit did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CommitReport {
    /// The commit.
    pub commit: CommitId,
    /// Its root dirtree: the identity of the tree.
    pub root: DirTreeId,
    /// Whether it is new.
    pub outcome: CommitOutcome,
    /// Regular files in the tree.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// What was written.
    pub stats: TransactionStats,
    /// Sockets, and files and directories that something is mounted on, which were left out.
    #[serde(serialize_with = "crate::fs::path_text::all")]
    pub skipped: Vec<PathBuf>,
    /// Those of them that are directories. For each there is an empty one, with the owner, mode and time of what is mounted.
    #[serde(
        serialize_with = "crate::fs::path_text::all",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub mounted_directories: Vec<PathBuf>,
    /// The fs-verity digest of the image that the tree makes, where it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_verity: Option<VerityDigest>,
    /// What was changed to make the tree deployable, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<OsTreeReport>,
}

/// Commits the directory `source`.
///
/// Takes the shared lock. The visible step is the replacement of `refs`; without a ref, the commit's name.
pub fn commit(
    repo: &Repo,
    source: Dir,
    options: &CommitOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CommitReport, CommitError> {
    let pool = crate::parallel::pool(options.threads);
    let tree = scan(&pool, source, options, progress, cancel)?;
    arrange_and_commit(&pool, repo, None, tree, options, progress, cancel)
}

/// Lists the directory `source`.
pub(crate) fn scan(
    pool: &ThreadPool,
    source: Dir,
    options: &CommitOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<SourceTree, CommitError> {
    let _phase = PhaseGuard::begin(progress, Phase::Scan, None, Unit::Items);
    pool.install(|| SourceTree::scan(source, &options.scan, cancel))
}

/// Brings a listed tree into a deployable shape where that is asked for, and commits it; in `transaction` where one has begun.
pub(crate) fn arrange_and_commit<'r>(
    pool: &ThreadPool,
    repo: &'r Repo,
    transaction: Option<Transaction<'r>>,
    mut tree: SourceTree,
    options: &CommitOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CommitReport, CommitError> {
    let os = match &options.os {
        Some(os) => Some(pool.install(|| os_tree::arrange(&mut tree, os, options.owner, cancel))?),
        None => None,
    };
    if let Some(name) = &options.reference {
        repo.check_can_move(name)?;
    }
    if options.adopt {
        adopt::check_is_free(&tree, repo)?;
        adopt::check_is_whole(&tree)?;
    } else {
        warn_of_repository(&tree, repo, progress);
    }
    let transaction = match transaction {
        Some(transaction) => transaction,
        None => repo.begin()?,
    };
    let mut report = commit_tree(pool, repo, transaction, &mut tree, options, progress, cancel)?;
    report.os = os;
    if options.adopt {
        // Only now: until the commit is durable the source is the one place where the files are. Names are left that lead to
        // the store's own inodes, so they go whatever became of the commit's tree.
        crate::failpoint::hit("commit.adopted").map_err(crate::repo::RepoError::from)?;
        let _phase = PhaseGuard::begin(progress, Phase::Sweep, None, Unit::Items);
        adopt::remove(pool, &tree, report.commit)?;
    }
    Ok(report)
}

/// Says that the repository is about to be kept in itself: whoever commits the directory it lies in rarely wants that.
fn warn_of_repository(tree: &SourceTree, repo: &Repo, progress: &dyn Progress) {
    // What cannot be looked at is no reason not to commit.
    let is_listed = repo
        .dir()
        .stat_self()
        .is_ok_and(|stat| tree.lists_inode(stat.ino));
    let mut roots = tree.roots().filter(|_| is_listed);
    if let Some(root) = roots.find(|root| is_within(repo.dir(), root).unwrap_or(false)) {
        let text = format!(
            "the repository {} lies in {}, and is committed with it",
            repo.dir().path().display(),
            root.path().display()
        );
        progress.report(Event::Warning { text: &text });
    }
}

/// Commits a listed tree. The work is done on `pool`; what makes it durable is done on the calling thread, where a
/// test can stop it ([`crate::failpoint`]).
fn commit_tree(
    pool: &ThreadPool,
    repo: &Repo,
    transaction: Transaction<'_>,
    tree: &mut SourceTree,
    options: &CommitOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CommitReport, CommitError> {
    let current = match &options.reference {
        Some(name) => repo.ref_optional(name)?,
        None => None,
    };
    let parent = match options.parent {
        Parent::Ref => current,
        Parent::None => None,
        Parent::Commit(id) => Some(id),
    };
    let parent_commit = match parent {
        Some(id) => Some((id, repo.load_commit(&id)?)),
        None => None,
    };
    let (file_count, listed) = tree.totals();
    let recording = Recording {
        mtime: options.mtime,
        epoch: options.epoch,
        owner: options.owner,
    };
    let cache = match options.no_cache {
        true => None,
        false => tree
            .only_root()
            .map(|root| StatCache::load(repo, root))
            .transpose()?,
    };
    let inodes = match options.no_cache {
        true => None,
        false => pool.install(|| StoreInodes::load(repo, tree, cache.as_ref()))?,
    };
    let hasher = Hasher {
        tree,
        sink: Sink::Store(&transaction),
        recording,
        hints: Hints {
            cache: cache.as_ref(),
            inodes: inodes.as_ref(),
        },
        adopt: options.adopt,
        verity: match options.records_verity() {
            true => Verity::Wanted,
            false => Verity::No,
        },
        cancel,
    };
    let parents = match &parent_commit {
        Some((_, commit)) if options.mtime == MtimePolicy::Parent => {
            dirtrees::parent_trees(tree, repo, &commit.root)?
        }
        _ => ParentTrees::new(),
    };
    let phase = PhaseGuard::begin(progress, Phase::Store, Some(listed), Unit::Bytes);
    let Stored { root, bytes } = pool.install(|| dirtrees::store(&hasher, &parents, &phase))?;
    drop(phase);
    let before = parent_commit.as_ref().map(|(_, commit)| Entry {
        name: Vec::new(),
        metadata: commit.root_metadata.clone(),
        node: Node::Dir { tree: commit.root },
    });
    let root_metadata = hasher.root_metadata(root, before.as_ref());
    // What is adopted is removed as it was listed.
    let listing = (!options.adopt).then(|| tree.take_listing());
    let image = match options.records_verity() {
        true => seal::image_of(
            repo,
            &transaction,
            root,
            &root_metadata,
            options,
            progress,
            cancel,
        )?,
        false => None,
    };
    let report = |commit, outcome, stats| CommitReport {
        commit,
        root,
        outcome,
        files: file_count,
        bytes,
        stats,
        skipped: tree.skipped().to_vec(),
        mounted_directories: tree.mounted_directories().to_vec(),
        image_verity: image,
        os: None,
    };
    if options.skip_if_unchanged
        && let Some((id, commit)) = &parent_commit
        && commit.root == root
        && commit.root_metadata == root_metadata
        && options.sealers.have_all_sealed(commit)
    {
        // A ref that is new names it all the same.
        let new_ref = options.reference.as_ref().filter(|_| current.is_none());
        if let Some(name) = new_ref {
            transaction.set_ref(RefUpdate {
                name: name.clone(),
                expected: Some(None),
                new: Some(*id),
            });
        }
        // Or something was lost, and is stored anew.
        let stats = match transaction.is_empty() && new_ref.is_none() {
            true => TransactionStats::default(),
            false => transaction.commit()?,
        };
        save(cache, progress);
        return Ok(report(*id, CommitOutcome::Unchanged, stats));
    }
    let mut metadata = options.metadata.clone();
    if let Some(image) = image {
        seal::add(image, root, options, &mut metadata)?;
    }
    let id = transaction.store_commit(&Commit {
        root,
        root_metadata,
        parent,
        time: options.time.unwrap_or_else(now),
        subject: options.subject.clone(),
        body: options.body.clone(),
        version: options.version.clone(),
        metadata,
    })?;
    if let Some(name) = &options.reference {
        transaction.set_ref(RefUpdate {
            name: name.clone(),
            expected: Some(current),
            new: Some(id),
        });
    }
    let _phase = PhaseGuard::begin(progress, Phase::Sync, None, Unit::Items);
    // The disk is waited for: time enough to free what some ten thousand names took.
    let stats = pool.in_place_scope(|scope| {
        scope.spawn(|_| drop(listing));
        transaction.commit()
    })?;
    save(cache, progress);
    Ok(report(id, CommitOutcome::Created, stats))
}

/// The commit is made; a hint that cannot be written costs time, and nothing else.
fn save(cache: Option<StatCache>, progress: &dyn Progress) {
    if let Some(Err(error)) = cache.map(StatCache::save) {
        let text = format!("what was read is not remembered for the next commit: {error}");
        progress.report(Event::Warning { text: &text });
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs() as i64)
}
