//! Checking out into a directory that exists.
//!
//! [`update`] brings an earlier checkout to another tree: only what differs between the two is read, checked and made, so it costs
//! what lies between them. [`union`] lays a tree over whatever is there.
//!
//! Both look first and change nothing when something is in the way. What is new is then built in a directory of its own, and
//! comes to its place by one rename for each name: a name leads to what it was or to what it becomes, never to a part of it.
//! The directory as a whole passes through states between the two trees; an update that is interrupted there is taken up by the
//! same command. Whoever needs the whole to change at once makes a new checkout and renames it.

mod record;
mod state;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rayon::ThreadPool;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, Metadata, Node};
use crate::fs::{Dir, FileKind, FileLock, FsError};
use crate::parallel::each;
use crate::progress::Progress;
use crate::repo::{Located, Repo, RepoError, TreeSource};

use super::metadata::apply_to_dir;
use super::{CheckoutError, CheckoutOptions, CheckoutReport, Ownership, temporary_beside, tree};
use record::Record;
use state::Look;
use survey::{Found, Plan, Step, Survey};

/// What becomes of what is there already, where a tree is laid over it. Directories are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Union {
    /// The tree's files take the place of those that are there, and its directories' metadata that of theirs.
    Replace,
    /// What is there stays.
    Add,
    /// What is there must be what the tree has.
    Identical,
}

/// How to update a checkout.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UpdateOptions {
    /// What the directory is a checkout of; what is recorded of it where `None`.
    pub from: Option<String>,
    /// Look at everything in the directory and read every file, not only what has to change.
    pub verify: bool,
}

/// What was done to a directory that existed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct InPlaceReport {
    /// Names that are new.
    pub added: u64,
    /// Names that lead to something else, and directories with other metadata.
    pub changed: u64,
    /// Names that are gone.
    pub removed: u64,
    /// What was made.
    pub made: CheckoutReport,
}

/// A name for the directory of what is new.
const STAGED: &str = "update";

/// Names in one directory of what is new.
const BATCH: usize = 256;

/// Brings `destination`, a checkout of `repo`, to what `rev` names.
///
/// `options` are those of the checkout: the part of the tree and whose the files are come from its record where there is one. Takes the
/// shared lock. Nothing is synced.
///
/// # Errors
/// [`CheckoutError::NotOurs`] names what somebody has changed where the two trees differ; nothing was done then.
/// [`CheckoutError::NotRecorded`] if it is not known what the directory is a checkout of. [`CheckoutError::Interrupted`] if an
/// update to something else has begun.
pub fn update(
    repo: &Repo,
    rev: &str,
    destination: &Path,
    options: &CheckoutOptions,
    update: &UpdateOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<InPlaceReport, CheckoutError> {
    let _lock = repo.lock_shared()?;
    let dir = Dir::open_ambient(destination)?;
    let _alone = lock(&dir)?;
    let record = Record::load(repo, &dir)?;
    let mut options = options.clone();
    if let Some(record) = &record {
        options.ownership = record.ownership();
        if options.subpath.is_empty() {
            options.subpath.clone_from(&record.subpath);
        }
    }
    let (new, metadata) = located_dir(repo, rev, &options)?;
    let not_recorded = || CheckoutError::NotRecorded {
        path: destination.to_owned(),
    };
    let (old, resuming) = match &update.from {
        Some(from) => (located_dir(repo, from, &options)?.0, false),
        None => record
            .ok_or_else(not_recorded)?
            .begin(&new)
            .map_err(|to| CheckoutError::Interrupted {
                path: destination.to_owned(),
                to,
            })?,
    };
    let survey = Survey {
        look: Look {
            repo,
            ownership: options.ownership,
            hash: update.verify,
        },
        cancel,
        resuming,
        all: update.verify,
    };
    let pool = crate::parallel::pool(options.threads);
    let plan = finish(
        pool.install(|| survey.update(&dir, (&old, &new), metadata))?,
        destination,
    )?;
    let path = std::path::absolute(destination).unwrap_or_else(|_| destination.to_owned());
    let mut record = Record::new(path, old, &options);
    record.updating_to = Some(new);
    // One that cannot be written is missed when the update is interrupted; then the caller says what the directory was.
    let is_recorded = record.replace(repo, &dir).is_ok();
    crate::failpoint::hit("checkout.update-begun").map_err(RepoError::from)?;
    let report = apply(repo, &dir, plan, &options, &pool, progress, cancel)?;
    crate::failpoint::hit("checkout.updated").map_err(RepoError::from)?;
    if is_recorded {
        record.tree = new;
        record.updating_to = None;
        record.add(repo, &dir)?;
    }
    Ok(report)
}

/// Lays what `rev` names over `destination`, a directory.
///
/// Takes the shared lock. Nothing is synced.
///
/// # Errors
/// [`CheckoutError::NotOurs`] names what is in the way: with [`Union::Identical`] whatever is not the same, and always a directory
/// where the tree has none or the other way round. Nothing was done then.
pub fn union(
    repo: &Repo,
    rev: &str,
    destination: &Path,
    options: &CheckoutOptions,
    union: Union,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<InPlaceReport, CheckoutError> {
    let _lock = repo.lock_shared()?;
    let dir = Dir::open_ambient(destination)?;
    let _alone = lock(&dir)?;
    let (tree, metadata) = located_dir(repo, rev, options)?;
    let survey = Survey {
        look: Look {
            repo,
            ownership: options.ownership,
            hash: false,
        },
        cancel,
        resuming: false,
        all: false,
    };
    let plan = finish(survey.union(&dir, &tree, metadata, union)?, destination)?;
    let pool = crate::parallel::pool(options.threads);
    apply(repo, &dir, plan, options, &pool, progress, cancel)
}

/// Remembers of which tree `destination` has just been made, for a later [`update`]. That is a hint: a repository that cannot be
/// written to does without.
pub(super) fn remember(repo: &Repo, located: &Located, destination: &Dir, options: &CheckoutOptions) {
    let tree = match located {
        Located::Root(tree, _) => *tree,
        Located::Entry(Entry {
            node: Node::Dir { tree },
            ..
        }) => *tree,
        Located::Entry(_) => return,
    };
    let path = destination.path();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let _ = Record::new(path, tree, options).create(repo, destination);
}

/// Two updates of one directory would undo each other.
fn lock(dir: &Dir) -> Result<FileLock, CheckoutError> {
    FileLock::try_acquire_dir(dir)?.ok_or_else(|| CheckoutError::Busy {
        path: dir.path().to_owned(),
    })
}

fn located_dir(
    repo: &Repo,
    rev: &str,
    options: &CheckoutOptions,
) -> Result<(DirTreeId, Option<Metadata>), CheckoutError> {
    let (root, metadata) = repo.resolve_tree(rev)?;
    match repo.locate(rev, root, metadata, &options.subpath)? {
        Located::Root(tree, metadata) => Ok((tree, metadata)),
        Located::Entry(Entry {
            node: Node::Dir { tree },
            metadata,
            ..
        }) => Ok((tree, Some(metadata))),
        Located::Entry(_) => Err(RepoError::PathInTree {
            rev: rev.to_owned(),
            path: String::from_utf8_lossy(&options.subpath).into_owned(),
            reason: "it is no directory",
        }
        .into()),
    }
}

fn finish(found: Found, destination: &Path) -> Result<Plan, CheckoutError> {
    match found.other_count {
        0 => Ok(found.plan),
        count => Err(CheckoutError::NotOurs {
            path: destination.to_owned(),
            count,
            first: found.others,
        }),
    }
}

fn apply(
    repo: &Repo,
    dir: &Dir,
    plan: Plan,
    options: &CheckoutOptions,
    pool: &ThreadPool,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<InPlaceReport, CheckoutError> {
    let mut report = InPlaceReport {
        added: plan.added,
        changed: plan.changed,
        removed: plan.removed,
        made: CheckoutReport::default(),
    };
    // Whoever may not write into the directory finds out here, before anything has changed.
    let (temporary, holding, _owner) = temporary_beside(dir, OsStr::new(STAGED))?;
    let done = build(repo, &holding, &plan, options, progress, cancel).and_then(|made| {
        report.made = made;
        move_in(dir, &holding, &plan, options.ownership, pool)
    });
    let removed = dir.remove_tree(&temporary);
    done?;
    removed?;
    // The directory of what was new came and went in it.
    if let Some(metadata) = plan
        .steps
        .iter()
        .find(|step| step.path.as_os_str().is_empty())
        .and_then(|step| step.metadata.as_ref())
    {
        apply_to_dir(dir, metadata, options.ownership)?;
    }
    Ok(report)
}

/// What is new, in directories of [`BATCH`] names that are called by their numbers; what is below is the repository's.
struct Staging<'a> {
    repo: &'a Repo,
    batches: HashMap<DirTreeId, DirTree>,
}

impl TreeSource for Staging<'_> {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        match self.batches.get(id) {
            Some(batch) => Ok(batch.clone()),
            None => self.repo.dirtree(id),
        }
    }
}

/// Makes everything that is new, on all processors: a thread has a directory to itself.
fn build(
    repo: &Repo,
    holding: &Dir,
    plan: &Plan,
    options: &CheckoutOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckoutReport, CheckoutError> {
    let encode = |source| RepoError::Encode {
        what: "a directory".to_owned(),
        source,
    };
    let mut staging = Staging {
        repo,
        batches: HashMap::new(),
    };
    let mut batches = Vec::new();
    for (number, batch) in plan.staged.chunks(BATCH).enumerate() {
        let numbered = batch.iter().enumerate().map(|(index, entry)| Entry {
            name: (number * BATCH + index).to_string().into_bytes(),
            ..entry.clone()
        });
        let batch = DirTree::new(numbered.collect()).map_err(encode)?;
        let (tree, _) = batch.encode().map_err(encode)?;
        staging.batches.insert(tree, batch);
        batches.push(Entry {
            name: number.to_string().into_bytes(),
            metadata: Metadata::with_mode(0o700),
            node: Node::Dir { tree },
        });
    }
    let count = batches.len() as u64;
    let root = DirTree::new(batches).map_err(encode)?;
    let mut made = tree::materialise(repo, &staging, root, holding, options, progress, cancel)?;
    // Those are nobody's.
    made.directories -= count;
    Ok(made)
}

/// The deepest directories first, since what becomes of a directory's own mode may shut out those below; of one depth all at once.
fn move_in(
    dir: &Dir,
    holding: &Dir,
    plan: &Plan,
    ownership: Ownership,
    pool: &ThreadPool,
) -> Result<(), CheckoutError> {
    let depth = |step: &Step| step.path.components().count();
    let mut steps: Vec<&Step> = plan.steps.iter().collect();
    steps.sort_by_key(|step| std::cmp::Reverse(depth(step)));
    for level in steps.chunk_by(|a, b| depth(a) == depth(b)) {
        each(pool, level, |step| take_step(dir, holding, step, ownership, pool))?;
    }
    Ok(())
}

fn take_step(
    dir: &Dir,
    holding: &Dir,
    step: &Step,
    ownership: Ownership,
    pool: &ThreadPool,
) -> Result<(), CheckoutError> {
    let opened = match step.path.as_os_str().is_empty() {
        true => dir.try_clone()?,
        false => dir.open_dir(&step.path)?,
    };
    each(pool, &step.remove, |name| remove(&opened, name, pool))?;
    for put in &step.put {
        let name = put.name.as_os_str();
        let staged = PathBuf::from(format!("{}/{}", put.staged / BATCH, put.staged));
        // An ordinary user gets no devices.
        if ownership == Ownership::User && !holding.exists(&staged)? {
            continue;
        }
        if put.in_the_way {
            remove(&opened, name, pool)?;
        }
        holding.rename(&staged, &opened, name)?;
        crate::failpoint::hit("checkout.update-moved").map_err(RepoError::from)?;
    }
    if let Some(metadata) = &step.metadata {
        if ownership == Ownership::Exact {
            crate::fs::remove_other_xattrs(&opened, &metadata.xattrs)?;
        }
        apply_to_dir(&opened, metadata, ownership)?;
    }
    Ok(())
}

/// Removes a name, and of a directory what is in it on all threads: a kernel's modules are thousands of files.
fn remove(dir: &Dir, name: &OsStr, pool: &ThreadPool) -> Result<(), FsError> {
    dir.remove_tree_by(name, |inner| {
        each(pool, &inner.entries()?, |entry| match entry.kind {
            FileKind::Dir | FileKind::Unknown => remove(inner, &entry.name, pool),
            _ => inner.remove_file_optional(&entry.name).map(drop),
        })
    })
}
