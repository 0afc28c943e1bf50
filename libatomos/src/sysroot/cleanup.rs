//! Removing what no deployment needs.

use serde::Serialize;

use crate::boot::KernelCheck;
use crate::cancel::Cancel;
use crate::fs::FileKind;
use crate::progress::Progress;
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
    /// What was removed from `/boot`.
    pub boot: Vec<String>,
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
        let mut report = CleanupReport {
            dry_run: options.dry_run,
            ..CleanupReport::default()
        };
        if options.dry_run {
            report.orphans = self
                .find_orphans(&state)?
                .into_iter()
                .map(|orphan| orphan.path())
                .collect();
            report.boot = self.boot_leftovers(&state)?;
        } else {
            report.boot = self.boot_leftovers(&state)?;
            self.reconcile_boot(&lock, &state, KernelCheck::NewOnly, progress)?;
            report.orphans = self.remove_orphans(&lock, &state)?;
        }
        report.objects = self.repo.prune(
            &PruneOptions {
                dry_run: options.dry_run,
            },
            progress,
            cancel,
        )?;
        Ok(report)
    }

    /// Removes the directories and files of deployments that the truth does not have, and what they kept. The marker
    /// goes first, so that a half-removed deployment is never taken for a whole one.
    pub(super) fn remove_orphans(
        &self,
        _lock: &SysrootLock,
        state: &State,
    ) -> Result<Vec<String>, SysrootError> {
        let orphans = self.find_orphans(state)?;
        for orphan in &orphans {
            let dir = self.deployments_dir(&orphan.stateroot)?;
            if orphan.name.ends_with(".complete") {
                dir.remove_file_optional(&orphan.name)?;
            }
        }
        if !orphans.is_empty() {
            self.atomos.sync_fs()?;
        }
        for orphan in &orphans {
            self.deployments_dir(&orphan.stateroot)?
                .remove_tree(&orphan.name)?;
        }
        // Objects are let go only once nothing links to them any more from a directory that may be booted.
        for (name, _) in self.repo.list_roots()? {
            let text = name.to_string();
            let kept = state
                .deployments
                .iter()
                .any(|deployment| layout::root_name(&deployment.id) == name);
            if text.starts_with(layout::ROOT_PREFIX) && !kept {
                self.repo.remove_root(&name)?;
            }
        }
        self.atomos.remove_tree(layout::PREVIEW)?;
        Ok(orphans.into_iter().map(|orphan| orphan.path()).collect())
    }

    /// Names nothing that is running: whatever the truth says, a booted root is not removed.
    fn find_orphans(&self, state: &State) -> Result<Vec<Orphan>, SysrootError> {
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
                let kept = DeploymentId::from_dir_name(&stateroot, &owner)
                    .is_none_or(|id| state.get(&id).is_some() && !name.starts_with('.'));
                if !kept && running.as_ref() != Some(&owner) {
                    orphans.push(Orphan {
                        stateroot: stateroot.clone(),
                        name,
                    });
                }
            }
        }
        Ok(orphans)
    }
}

struct Orphan {
    stateroot: crate::names::StaterootName,
    name: String,
}

impl Orphan {
    fn path(&self) -> String {
        format!("{}/deploy/{}", self.stateroot, self.name)
    }
}
