//! Checking out into a directory that exists.
//!
//! [`update`] brings an earlier checkout to another tree: only what differs between the two is read, checked and made, so it costs
//! what lies between them. [`union`] lays a tree over whatever is there.
//!
//! Both look first and change nothing when something is in the way, or when the store lacks what is to come. Then each name comes to its
//! place by one link or one rename: it leads to what it was or to what it becomes, never to a part of it.
//! The directory as a whole passes through states between the two trees; an update that is interrupted there is taken up by the
//! same command. Whoever needs the whole to change at once makes a new checkout and renames it.

mod apply;
mod plan;
mod record;
mod state;
mod survey;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::format::{Entry, Metadata, Node};
use crate::fs::{Dir, FileLock};
use crate::progress::Progress;
use crate::repo::{Located, Repo, RepoError};

use super::link::Ladder;
use super::{CheckoutError, CheckoutOptions, CheckoutReport, LinkMode, check_is_outside};
use apply::Apply;
use plan::Others;
use record::Record;
use state::Look;
use survey::Survey;

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
        // Copies were asked for so that they could be written to.
        if options.link == LinkMode::Auto {
            options.link = record.link;
        }
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
    let ladder = ladder(repo, &dir, &options)?;
    let survey = Survey {
        look: Look {
            repo,
            ownership: options.ownership,
            hash: update.verify,
        },
        ladder: &ladder,
        cancel,
        resuming,
        all: update.verify,
        others: Others::default(),
    };
    let pool = crate::parallel::pool(options.threads);
    let plan = pool.install(|| survey.update(&dir, (&old, &new), metadata))?;
    nothing_else(survey.others, destination)?;
    let path = std::path::absolute(destination).unwrap_or_else(|_| destination.to_owned());
    let mut record = Record::new(path, old, &options);
    record.updating_to = Some(new);
    // One that cannot be written is missed when the update is interrupted; then the caller says what the directory was.
    let is_recorded = record.replace(repo, &dir).is_ok();
    crate::failpoint::hit("checkout.update-begun").map_err(RepoError::from)?;
    let apply = Apply {
        repo,
        dir: &dir,
        options: &options,
        ladder: &ladder,
        pool: &pool,
        progress,
    };
    let report = apply.carry_out(plan, cancel)?;
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
    check_is_outside(repo, &dir, destination)?;
    let _alone = lock(&dir)?;
    let (tree, metadata) = located_dir(repo, rev, options)?;
    let ladder = ladder(repo, &dir, options)?;
    let survey = Survey {
        look: Look {
            repo,
            ownership: options.ownership,
            hash: false,
        },
        ladder: &ladder,
        cancel,
        resuming: false,
        all: false,
        others: Others::default(),
    };
    let plan = survey.union(&dir, &tree, metadata, union)?;
    nothing_else(survey.others, destination)?;
    let pool = crate::parallel::pool(options.threads);
    let apply = Apply {
        repo,
        dir: &dir,
        options,
        ladder: &ladder,
        pool: &pool,
        progress,
    };
    apply.carry_out(plan, cancel)
}

/// How files come to their place in `dir`.
fn ladder<'a>(repo: &'a Repo, dir: &Dir, options: &CheckoutOptions) -> Result<Ladder<'a>, CheckoutError> {
    let room = repo.room_beside(dir)?;
    drop(room.take(0)?);
    Ok(Ladder::new(repo, options.link, options.ownership, room))
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

/// Fails where something is not as it should be.
fn nothing_else(others: Others, destination: &Path) -> Result<(), CheckoutError> {
    match others.into_inner() {
        (0, _) => Ok(()),
        (count, first) => Err(CheckoutError::NotOurs {
            path: destination.to_owned(),
            count,
            first,
        }),
    }
}
