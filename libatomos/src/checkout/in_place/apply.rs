//! Doing what was found to be necessary.
//!
//! What takes room is built first, in a directory of its own: directories, copies, symbolic links. Then every name comes to its
//! place by one step. What was built is renamed. An inode of the store is linked straight to a name that is new; where a file
//! has the name, it is linked under another one and renamed from there at once. Each thread has a directory with room for that one
//! link: it is found faster there than among the names of the checkout, and an interruption leaves nothing among them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;

use rayon::ThreadPool;

use crate::cancel::Cancel;
use crate::checkout::link::Ladder;
use crate::checkout::metadata::apply_to_dir;
use crate::checkout::{CheckoutError, CheckoutOptions, CheckoutReport, Ownership, temporary_beside, tree};
use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, Metadata, Node};
use crate::fs::{Dir, FsError, disinherit, remove_other_xattrs, set_time};
use crate::parallel::each;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{Repo, RepoError, TreeSource};

use super::InPlaceReport;
use super::plan::{Gone, Own, Plan, Put, Step, There};

/// A name for the directory of what is new.
const STAGED: &str = "update";

/// Names in one directory of what was built.
const BATCH: usize = 256;

/// What a link is called until it has the name that it is made for.
const LINK: &str = "link";

/// Names of one directory that a thread sees to before another takes some of them.
const TOGETHER: usize = 64;

/// Brings a directory to what was planned.
pub(super) struct Apply<'a> {
    pub(super) repo: &'a Repo,
    pub(super) dir: &'a Dir,
    pub(super) options: &'a CheckoutOptions,
    pub(super) ladder: &'a Ladder<'a>,
    pub(super) pool: &'a ThreadPool,
    pub(super) progress: &'a dyn Progress,
}

impl Apply<'_> {
    /// Returns what was made. Once a name has changed it is not cancelled.
    pub(super) fn carry_out(&self, mut plan: Plan, cancel: &Cancel) -> Result<InPlaceReport, CheckoutError> {
        // Whoever may not write into the directory finds out here, before anything has changed.
        let (temporary, holding, _owner) = temporary_beside(self.dir, OsStr::new(STAGED))?;
        let done = self
            .prepare(&holding, &mut plan, cancel)
            .and_then(|(made, slots)| {
                self.move_in(
                    &plan,
                    &Moving {
                        holding: &holding,
                        slots,
                    },
                )
                .map(|()| made)
            });
        let removed = self.dir.remove_tree(&temporary);
        let mut made = done?;
        removed?;
        // The directory of what was new came and went in it.
        let root = plan.steps.iter().find(|step| step.path.as_os_str().is_empty());
        if let Some(own) = root.and_then(|step| step.own.as_ref()) {
            self.set_own(self.dir, own)?;
        }
        self.ladder.count(&mut made);
        Ok(InPlaceReport {
            added: plan.added,
            changed: plan.changed,
            removed: plan.removed,
            made,
        })
    }

    /// Makes everything that cannot be had by a link, and the directories for links.
    fn prepare(
        &self,
        holding: &Dir,
        plan: &mut Plan,
        cancel: &Cancel,
    ) -> Result<(CheckoutReport, Vec<Dir>), CheckoutError> {
        if self.options.ownership == Ownership::Exact {
            disinherit(holding)?;
        }
        let mut slots = Vec::new();
        if let Some(inode) = plan.puts().find_map(|put| put.inode.as_ref()) {
            for number in 0..self.pool.current_num_threads() {
                slots.push(holding.ensure_dir(format!("{LINK}-{number}"), 0o700)?);
            }
            // If this one cannot be linked there is no need to find that out half way.
            if self.ladder.try_link(&inode.path, &slots[0], LINK.as_ref())? {
                slots[0].remove_file(LINK)?;
            }
        }
        let mut built = Vec::new();
        for put in plan.steps.iter_mut().flat_map(|step| &mut step.put) {
            if put.inode.is_none() || !self.ladder.links() {
                put.built = Some(built.len());
                built.push(&put.entry);
            }
        }
        match built.is_empty() {
            true => Ok((CheckoutReport::default(), slots)),
            false => Ok((self.build(holding, &built, cancel)?, slots)),
        }
    }

    /// Makes `entries`, under their numbers in directories of [`BATCH`], on all processors: a thread has a directory to itself.
    fn build(
        &self,
        holding: &Dir,
        entries: &[&Entry],
        cancel: &Cancel,
    ) -> Result<CheckoutReport, CheckoutError> {
        let encode = |source| RepoError::Encode {
            what: "a directory".to_owned(),
            source,
        };
        let mut staging = Staging {
            repo: self.repo,
            batches: HashMap::new(),
        };
        let mut batches = Vec::new();
        for (number, batch) in entries.chunks(BATCH).enumerate() {
            let numbered = batch.iter().enumerate().map(|(index, entry)| Entry {
                name: (number * BATCH + index).to_string().into_bytes(),
                ..(*entry).clone()
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
        let (repo, options) = (self.repo, self.options);
        let mut made = tree::materialise(repo, &staging, root, holding, options, self.progress, cancel)?;
        // Those are nobody's.
        made.directories -= count;
        Ok(made)
    }

    /// All directories at once, but for those whose own mode shuts out who comes to them or to what is below: they get it in the end, the
    /// deepest first.
    fn move_in(&self, plan: &Plan, moving: &Moving<'_>) -> Result<(), CheckoutError> {
        let phase = PhaseGuard::begin(
            self.progress,
            Phase::Checkout,
            Some(plan.puts().count() as u64),
            Unit::Items,
        );
        each(self.pool, &plan.steps, |step| {
            self.take_step(step, moving, &phase)
        })?;
        let mut shut: Vec<&Step> = plan.steps.iter().filter(|step| self.shuts(step)).collect();
        shut.sort_by_key(|step| std::cmp::Reverse(step.path.components().count()));
        for step in shut {
            if let Some(own) = &step.own {
                self.set_own(&self.dir.open_dir(&step.path)?, own)?;
            }
        }
        Ok(())
    }

    /// Whether the directory of the step comes to be one that its owner may not change. The checkout's own is seen to last of all.
    fn shuts(&self, step: &Step) -> bool {
        let is_shut = |own: &Own| own.metadata.mode & 0o700 != 0o700;
        self.options.ownership == Ownership::Exact
            && !step.path.as_os_str().is_empty()
            && step.own.as_ref().is_some_and(is_shut)
    }

    fn take_step(
        &self,
        step: &Step,
        moving: &Moving<'_>,
        phase: &PhaseGuard<'_>,
    ) -> Result<(), CheckoutError> {
        let is_root = step.path.as_os_str().is_empty();
        let dir = match is_root {
            true => self.dir.try_clone()?,
            false => self.dir.open_dir(&step.path)?,
        };
        for gone in &step.remove {
            remove(&dir, gone, self.pool)?;
        }
        for (name, time) in &step.retime {
            dir.set_mtime(name, *time)?;
            crate::failpoint::hit("checkout.update-retimed").map_err(RepoError::from)?;
        }
        let batches: Vec<&[Put]> = step.put.chunks(TOGETHER).collect();
        each(self.pool, &batches, |batch| {
            for put in *batch {
                self.put(&dir, put, moving)?;
                crate::failpoint::hit("checkout.update-moved").map_err(RepoError::from)?;
            }
            phase.advance(batch.len() as u64);
            Ok::<_, CheckoutError>(())
        })?;
        match &step.own {
            Some(own) if !is_root && !self.shuts(step) => Ok(self.set_own(&dir, own)?),
            _ => Ok(()),
        }
    }

    fn put(&self, dir: &Dir, put: &Put, moving: &Moving<'_>) -> Result<(), CheckoutError> {
        let name = put.name();
        let is_free = match &put.there {
            There::Nothing => true,
            There::InTheWay(gone) => {
                remove(dir, gone, self.pool)?;
                true
            }
            There::File => false,
        };
        if let Some(number) = put.built {
            let built = format!("{}/{number}", number / BATCH);
            // What is not made here is not there either.
            if put.is_device()
                && self.options.ownership == Ownership::User
                && !moving.holding.exists(&built)?
            {
                if matches!(put.there, There::File) {
                    dir.remove_file_optional(name)?;
                }
                return Ok(());
            }
            return Ok(rename(moving.holding, built.as_ref(), dir, name, is_free)?);
        }
        let (Some(inode), Node::File { blob, size, .. }) = (&put.inode, &put.entry.node) else {
            return Ok(());
        };
        if is_free && self.ladder.link(&inode.path, dir, name.as_ref())? {
            return Ok(());
        }
        // Until the rename the thread does nothing else.
        let slot = &moving.slots[self.pool.current_thread_index().unwrap_or(0)];
        let link: &Path = LINK.as_ref();
        let make = || -> Result<(), CheckoutError> {
            if is_free || !self.ladder.link(&inode.path, slot, link)? {
                self.ladder.copy(slot, link, blob, *size, &put.entry.metadata)?;
            }
            Ok(rename(slot, link, dir, name, is_free)?)
        };
        make().inspect_err(|_| {
            // Another one that is on its way would fail for another reason, and which of them is told is a matter of luck.
            let _ = slot.remove_file_optional(link);
        })
    }

    fn set_own(&self, dir: &Dir, own: &Own) -> Result<(), FsError> {
        if own.time_alone {
            return set_time(dir, &own.metadata, dir.path());
        }
        if self.options.ownership == Ownership::Exact {
            remove_other_xattrs(dir, &own.metadata.xattrs)?;
        }
        apply_to_dir(dir, &own.metadata, self.options.ownership)
    }
}

/// Where names come from.
struct Moving<'a> {
    /// What was built.
    holding: &'a Dir,
    /// A directory for each thread, for a link on its way to its place.
    slots: Vec<Dir>,
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

/// Gives what is `from` its name. Nobody's file is replaced where nothing was there.
fn rename(holding: &Dir, from: &Path, dir: &Dir, name: &OsStr, is_free: bool) -> Result<(), FsError> {
    match is_free {
        true => holding.rename_new(from, dir, name),
        false => holding.rename(from, dir, name),
    }
}

/// Removes a name with what was seen in it, and nothing that came since. The directories in a directory are emptied on all threads: a kernel's modules are
/// thousands of files. Nothing where something is mounted is touched.
fn remove(dir: &Dir, gone: &Gone, pool: &ThreadPool) -> Result<(), FsError> {
    let Some(below) = &gone.below else {
        return dir.remove_file_optional(&gone.name).map(drop);
    };
    let inner = match dir.open_dir_unless_mount(gone.name.as_ref()) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    // A subvolume is no mount.
    if let Some(inner) = inner
        && inner.stat_self()?.dev == dir.stat_self()?.dev
    {
        let (dirs, files): (Vec<&Gone>, Vec<&Gone>) = below.iter().partition(|gone| gone.below.is_some());
        for file in files {
            inner.remove_file_optional(&file.name)?;
        }
        each(pool, &dirs, |dir| remove(&inner, dir, pool))?;
    }
    dir.remove_dir(&gone.name)
}
