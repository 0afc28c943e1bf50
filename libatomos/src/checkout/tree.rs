//! Building a tree, directories in parallel.
//!
//! A task makes everything that one directory holds, its subdirectories empty, and then sets the directory's own
//! metadata; the subdirectories are tasks of their own. So a directory's time is final before its grandchildren are
//! made, and no task waits for another.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::Scope;
use rayon::prelude::*;
use rustix::fs::{FileType, Mode};
use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::failpoint::fault::call;
use crate::format::{DirTree, Entry, Metadata, Node};
use crate::fs::{Dir, FsError, disinherit};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{Repo, RepoError, TreeSource, merge_equal};

use super::link::Ladder;
use super::metadata::{apply_to_dir, apply_to_name};
use super::{CheckoutError, CheckoutOptions, Ownership};

/// What a checkout made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckoutReport {
    /// Directories, the root not counted.
    pub directories: u64,
    /// Files linked to the store.
    pub hardlinked: u64,
    /// Files that share blocks with the store.
    pub reflinked: u64,
    /// Files copied, empty ones among them.
    pub copied: u64,
    /// Bytes copied.
    pub bytes_copied: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices and fifos.
    pub special_files: u64,
    /// Devices left out, because the caller may not make them or did not ask for true ownership.
    pub skipped: u64,
}

struct Job<'a> {
    plan: &'a Plan<'a>,
    ladder: Ladder<'a>,
    ownership: Ownership,
    cancel: &'a Cancel,
    phase: PhaseGuard<'a>,
    directories: AtomicU64,
    symlinks: AtomicU64,
    special: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<CheckoutError>>,
}

/// Makes the entries of `tree` in `target`, with all beneath them: dirtrees are those of `source`, blobs those of `repo`.
pub(super) fn materialise(
    repo: &Repo,
    source: &dyn TreeSource,
    tree: DirTree,
    target: &Dir,
    options: &CheckoutOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<CheckoutReport, CheckoutError> {
    let pool = crate::parallel::pool(options.threads);
    let plan = pool.install(|| Plan::make(source, &tree, cancel))?;
    if options.check_room {
        check_room(target, plan.directories)?;
    }
    let room = repo.room_beside(target)?;
    drop(room.take(0)?);
    if options.ownership == Ownership::Exact {
        disinherit(target)?;
    }
    let job = Job {
        plan: &plan,
        ladder: Ladder::new(repo, options.link, options.ownership, room),
        ownership: options.ownership,
        cancel,
        phase: PhaseGuard::begin(progress, Phase::Checkout, Some(plan.total), Unit::Items),
        directories: AtomicU64::new(0),
        symlinks: AtomicU64::new(0),
        special: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    let target = Arc::new(target.try_clone()?);
    let tree = Arc::new(tree);
    pool.scope(|scope| {
        let result = job.fill(scope, &target, &tree, 0);
        job.note(result);
    });
    if let Some(error) = job.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut report = CheckoutReport {
        directories: job.directories.into_inner(),
        symlinks: job.symlinks.into_inner(),
        special_files: job.special.into_inner(),
        skipped: job.skipped.into_inner(),
        ..CheckoutReport::default()
    };
    job.ladder.count(&mut report);
    Ok(report)
}

/// The dirtrees of a checkout, read before anything is made: a missing one is found in time, and a bar has an exact end.
struct Plan<'a> {
    source: &'a dyn TreeSource,
    total: u64,
    /// Directories, the root not counted.
    directories: u64,
    trees: HashMap<DirTreeId, Arc<DirTree>>,
}

/// Entries that are kept in memory between counting and making, some 60 MB; the dirtrees beyond are read again.
const MAX_KEPT: usize = 300_000;

/// Equal subtrees let a few kilobytes describe more directories than any disk holds.
const MAX_DIRECTORIES: u64 = 50_000_000;

impl<'a> Plan<'a> {
    fn make(source: &'a dyn TreeSource, root: &DirTree, cancel: &Cancel) -> Result<Self, CheckoutError> {
        let mut plan = Self {
            source,
            total: root.entries().len() as u64,
            directories: 0,
            trees: HashMap::new(),
        };
        let mut kept = 0;
        let mut level: Vec<(DirTreeId, u64)> = subtrees(root).map(|child| (child, 1)).collect();
        let mut depth = 0;
        while !level.is_empty() {
            cancel.check()?;
            depth += 1;
            crate::repo::check_depth(depth, "/")?;
            // Equal subtrees are read once and counted as often as they stand.
            merge_equal(&mut level);
            let directories = level
                .iter()
                .fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
            if directories > MAX_DIRECTORIES {
                return Err(too_many());
            }
            plan.directories = plan.directories.saturating_add(directories);
            let loaded: Vec<Arc<DirTree>> = level
                .par_iter()
                .map(|(id, _)| plan.load(id))
                .collect::<Result<_, _>>()?;
            let mut next = Vec::new();
            for ((id, count), tree) in level.iter().zip(loaded) {
                let entries = tree.entries().len() as u64;
                plan.total = plan.total.saturating_add(entries.saturating_mul(*count));
                next.extend(subtrees(&tree).map(|child| (child, *count)));
                kept += tree.entries().len();
                if kept <= MAX_KEPT {
                    plan.trees.insert(*id, tree);
                }
            }
            level = next;
        }
        Ok(plan)
    }

    fn load(&self, id: &DirTreeId) -> Result<Arc<DirTree>, RepoError> {
        match self.trees.get(id) {
            Some(tree) => Ok(Arc::clone(tree)),
            None => Ok(Arc::new(self.source.dirtree(id)?)),
        }
    }
}

/// Bytes that stay free beside the directories: for what is copied, and for what a file system takes as it fills.
const SPARE: u64 = 8 * 1024 * 1024;

fn check_room(target: &Dir, directories: u64) -> Result<(), CheckoutError> {
    let stat = rustix::fs::fstatvfs(target)
        .map_err(|errno| FsError::new("measure the space of", target.path(), errno))?;
    let root = rustix::process::geteuid().is_root();
    let (blocks, inodes) = match root {
        true => (stat.f_bfree, stat.f_ffree),
        false => (stat.f_bavail, stat.f_favail),
    };
    let block = stat.f_frsize.max(1);
    let needed = directories.saturating_mul(block).saturating_add(SPARE);
    let available = blocks.saturating_mul(block);
    // A file system that makes inodes as it goes says that it has none.
    let enough_inodes = stat.f_files == 0 || inodes >= directories;
    match needed <= available && enough_inodes {
        true => Ok(()),
        false => Err(CheckoutError::NoRoom {
            path: target.path().to_owned(),
            directories,
            needed,
            available,
            inodes,
        }),
    }
}

fn subtrees(tree: &DirTree) -> impl Iterator<Item = DirTreeId> {
    tree.entries().iter().filter_map(|entry| match entry.node {
        Node::Dir { tree } => Some(tree),
        _ => None,
    })
}

fn too_many() -> CheckoutError {
    RepoError::PathInTree {
        rev: "the tree".to_owned(),
        path: "/".to_owned(),
        reason: "it has more than 50,000,000 directories on one level",
    }
    .into()
}

impl<'a> Job<'a> {
    fn note(&self, result: Result<(), CheckoutError>) {
        if let Err(error) = result {
            self.failed.store(true, Ordering::Relaxed);
            self.error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error);
        }
    }

    fn fill<'s>(
        &'s self,
        scope: &Scope<'s>,
        dir: &Arc<Dir>,
        tree: &Arc<DirTree>,
        depth: usize,
    ) -> Result<(), CheckoutError> {
        crate::repo::check_depth(depth, &dir.path().to_string_lossy())?;
        let mut subdirectories = Vec::new();
        for (index, entry) in tree.entries().iter().enumerate() {
            self.cancel.check()?;
            let name = OsStr::from_bytes(&entry.name);
            match &entry.node {
                Node::File { size, blob, .. } => {
                    self.ladder
                        .place(dir, Path::new(name), blob, *size, &entry.metadata)?;
                }
                Node::Dir { tree } => {
                    // Nobody but the owner may write to it before it is done. Whatever else the umask leaves is not set twice.
                    dir.create_dir(name, (entry.metadata.mode & 0o755) | 0o700)?;
                    self.directories.fetch_add(1, Ordering::Relaxed);
                    subdirectories.push((*tree, index));
                }
                Node::Symlink { target } => {
                    dir.symlink(target, name)?;
                    apply_to_name(dir, name, &entry.metadata, self.ownership)?;
                    self.symlinks.fetch_add(1, Ordering::Relaxed);
                }
                Node::Char { major, minor } => {
                    self.special(
                        dir,
                        name,
                        FileType::CharacterDevice,
                        (*major, *minor),
                        &entry.metadata,
                    )?;
                }
                Node::Block { major, minor } => {
                    self.special(
                        dir,
                        name,
                        FileType::BlockDevice,
                        (*major, *minor),
                        &entry.metadata,
                    )?;
                }
                Node::Fifo => self.special(dir, name, FileType::Fifo, (0, 0), &entry.metadata)?,
            }
        }
        self.phase.advance(tree.entries().len() as u64);
        for (subtree, index) in subdirectories {
            let (parent, tree) = (Arc::clone(dir), Arc::clone(tree));
            scope.spawn(move |scope| {
                if !self.failed.load(Ordering::Relaxed) {
                    let entry = &tree.entries()[index];
                    self.note(self.subdirectory(scope, &parent, &subtree, entry, depth + 1));
                }
            });
        }
        Ok(())
    }

    fn subdirectory<'s>(
        &'s self,
        scope: &Scope<'s>,
        parent: &Dir,
        tree: &DirTreeId,
        entry: &Entry,
        depth: usize,
    ) -> Result<(), CheckoutError> {
        let dir = Arc::new(parent.open_dir(OsStr::from_bytes(&entry.name))?);
        self.fill(scope, &dir, &self.plan.load(tree)?, depth)?;
        apply_to_dir(&dir, &entry.metadata, self.ownership)?;
        Ok(())
    }

    fn special(
        &self,
        dir: &Dir,
        name: &OsStr,
        kind: FileType,
        device: (u32, u32),
        metadata: &Metadata,
    ) -> Result<(), CheckoutError> {
        if self.ownership == Ownership::User && kind != FileType::Fifo {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let mode = match self.ownership {
            Ownership::Exact => Mode::from_raw_mode(metadata.mode),
            Ownership::User => Mode::from_raw_mode(metadata.mode & 0o777),
        };
        let fail = |errno| FsError::new("make the special file", dir.path().join(name), errno);
        call("mknod", || {
            rustix::fs::mknodat(dir, name, kind, mode, rustix::fs::makedev(device.0, device.1))
        })
        .map_err(fail)?;
        apply_to_name(dir, name, metadata, self.ownership)?;
        // After the owner, which clears bits, and because the umask took some.
        call("chmod", || {
            rustix::fs::chmodat(dir, name, mode, rustix::fs::AtFlags::empty())
        })
        .map_err(fail)?;
        self.special.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
