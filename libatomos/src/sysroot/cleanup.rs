//! Removing what no deployment needs.

use std::path::Path;

use serde::Serialize;

use crate::boot::KernelCheck;
use crate::boot::name::EntryName;
use crate::cancel::Cancel;
use crate::error::with_causes;
use crate::fs::{Dir, FileKind, FsError};
use crate::progress::{Event, Progress};
use crate::repo::{PruneOptions, PruneReport};

use super::{DeploymentId, State, Sysroot, SysrootError, SysrootLock, layout};

/// What to clean up.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CleanupOptions {
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What was cleaned up, or would be.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CleanupReport {
    /// Whether only a report was asked for.
    pub dry_run: bool,
    /// What an interrupted run left, by path in `/atomos/deploy`.
    pub orphans: Vec<String>,
    /// Bytes in that which nothing else has: directories, `/etc`, copies.
    pub orphan_bytes: u64,
    /// What was removed from `/boot`.
    pub boot: Vec<String>,
    /// Bytes in that.
    pub boot_bytes: u64,
    /// What was removed from the repository.
    pub objects: PruneReport,
}

impl Sysroot {
    /// Removes directories that no deployment owns, what `/boot` does not need, and objects that nothing leads to.
    pub fn cleanup(
        &self,
        options: &CleanupOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<CleanupReport, SysrootError> {
        let lock = self.lock()?;
        let state = self.state()?;
        self.check_state_is_there()?;
        let boot = self.boot_dir()?;
        self.check_boot_is_mounted(&boot)?;
        let mut report = CleanupReport {
            dry_run: options.dry_run,
            ..CleanupReport::default()
        };
        report.boot = self.boot_leftovers(&state)?;
        for path in &report.boot {
            report.boot_bytes += space_of(boot.dir(), Path::new(path))?;
        }
        for orphan in self.find_orphans(&state)? {
            let dir = self.deployments_dir(&orphan.owner.stateroot)?;
            report.orphan_bytes += space_of(&dir, Path::new(&orphan.name))?;
            report.orphans.push(orphan.path());
        }
        if !options.dry_run {
            self.reconcile_boot(&lock, &state, KernelCheck::NewOnly, progress)?;
        }
        // One tree that cannot be removed keeps its own objects.
        let removed = match options.dry_run {
            true => Ok(std::mem::take(&mut report.orphans)),
            false => self.remove_orphans(&lock, &state),
        };
        report.objects = self.repo.prune(
            &PruneOptions {
                dry_run: options.dry_run,
                ..PruneOptions::default()
            },
            progress,
            cancel,
        )?;
        self.keep_reserve();
        report.orphans = removed?;
        Ok(report)
    }

    /// Removes the directories and files of deployments that the truth does not have, and what they kept. The marker
    /// goes first, so that a half-removed deployment is never taken for a whole one.
    ///
    /// Where an interruption left `/boot` behind the truth, what an entry leads to stays until the entry is gone: it may
    /// be what the next boot takes.
    pub(super) fn remove_orphans(
        &self,
        _lock: &SysrootLock,
        state: &State,
    ) -> Result<Vec<String>, SysrootError> {
        let staged = self.usable_staged(state)?.map(|staged| staged.deployment.id);
        let offered = self.offered_by_boot()?;
        let running = self.booted()?;
        let mut orphans = self.find_orphans(state)?;
        // What was never finished nothing leads to.
        let is_needed = |orphan: &Orphan| {
            !orphan.name.starts_with('.') && offered.iter().any(|name| leads_to(name, &orphan.owner))
        };
        orphans.retain(|orphan| !is_needed(orphan));
        for orphan in &orphans {
            let dir = self.deployments_dir(&orphan.owner.stateroot)?;
            if orphan.name.ends_with(layout::MARKER) {
                dir.remove_file_optional(&orphan.name)?;
            }
        }
        if !orphans.is_empty() {
            // No power cut shows this sync: journals keep the order of removals. It is for file systems without one.
            self.atomos.sync_fs()?;
        }
        // One that cannot be removed keeps its objects, and no other one.
        let (mut left, mut failure) = (Vec::new(), None);
        for orphan in &orphans {
            let dir = self.deployments_dir(&orphan.owner.stateroot)?;
            if let Err(error) = dir.remove_tree_with_subvolumes(&orphan.name) {
                left.push(&orphan.owner);
                failure.get_or_insert(error);
            }
        }
        // Objects are let go only once nothing links to them any more from a directory that may be booted; those of an image that is
        // running are its files.
        for (name, _) in self.repo.list_roots()? {
            let kept = layout::root_owner(&name).is_some_and(|id| {
                let in_use = [&staged, &running].into_iter().flatten().any(|used| *used == id);
                let owned = state.get(&id).is_some() || in_use || left.contains(&&id);
                owned || offered.iter().any(|entry| leads_to(entry, &id))
            });
            if name.to_string().starts_with(layout::ROOT_PREFIX) && !kept {
                self.repo.remove_root(&name)?;
            }
        }
        self.atomos.remove_tree(layout::PREVIEW)?;
        match failure {
            None => Ok(orphans.iter().map(Orphan::path).collect()),
            Some(error) => Err(error.into()),
        }
    }

    /// Removes what the operation that is under way, or was done, has no use for. It fails for nobody because of that: what is left takes
    /// room, and the next operation tries again.
    pub(super) fn tidy_up(
        &self,
        lock: &SysrootLock,
        state: &State,
        progress: &dyn Progress,
    ) -> Result<(), SysrootError> {
        if let Err(error) = self.remove_orphans(lock, state) {
            crate::failpoint::hit("cleanup.not-tidied")?;
            let text = format!(
                "what no deployment needs any more was not removed: {}",
                with_causes(&error)
            );
            progress.report(Event::Warning { text: &text });
        }
        self.keep_reserve();
        Ok(())
    }

    /// Names nothing that is running: whatever the truth says, a booted root is not removed.
    fn find_orphans(&self, state: &State) -> Result<Vec<Orphan>, SysrootError> {
        let staged = self.usable_staged(state)?.map(|staged| staged.deployment.id);
        let mut orphans = Vec::new();
        for stateroot in self.stateroots()? {
            let dir = self.deployments_dir(&stateroot)?;
            let entries = dir.entries()?;
            let mut running = None;
            for entry in &entries {
                let name = entry.name.to_string_lossy();
                if DeploymentId::from_dir_name(&stateroot, &name).is_some()
                    && dir.stat(&entry.name)?.kind == FileKind::Dir
                    && self.running.is(&dir.open_dir(&entry.name)?)?
                {
                    running = Some(name.into_owned());
                }
            }
            for entry in entries {
                let name = entry.name.to_string_lossy().into_owned();
                // `.name.new` is what an interrupted replacement of a file leaves.
                let stem = name.trim_start_matches('.');
                let owner = stem.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
                let Some(id) = DeploymentId::from_dir_name(&stateroot, &owner) else {
                    continue;
                };
                let owned = state.get(&id).is_some() || staged.as_ref() == Some(&id);
                let kept = owned && !name.starts_with('.');
                if !kept && running.as_ref() != Some(&owner) {
                    orphans.push(Orphan { owner: id, name });
                }
            }
        }
        Ok(orphans)
    }
}

/// Returns whether the boot entry of this name is the deployment's.
pub(super) fn leads_to(entry: &EntryName, id: &DeploymentId) -> bool {
    entry.stateroot == id.stateroot && entry.serial == id.serial && entry.commit == id.commit.short()
}

/// Returns the bytes that removing `name` frees: those of files that have no other name, and of directories.
fn space_of(dir: &Dir, name: &Path) -> Result<u64, FsError> {
    let Some(stat) = dir.stat_optional(name)? else {
        return Ok(0);
    };
    if stat.kind != FileKind::Dir {
        return Ok(if stat.nlink == 1 { stat.allocated } else { 0 });
    }
    let inner = dir.open_dir(name)?;
    let mut bytes = stat.allocated;
    for entry in inner.entries()? {
        bytes += space_of(&inner, Path::new(&entry.name))?;
    }
    Ok(bytes)
}

struct Orphan {
    owner: DeploymentId,
    name: String,
}

impl Orphan {
    fn path(&self) -> String {
        format!("{}/deploy/{}", self.owner.stateroot, self.name)
    }
}
