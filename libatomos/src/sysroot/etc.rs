//! `/etc` of a deployment: what was changed here, and what a merge could not decide.

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::BlobId;
use crate::etc_merge::{self, Conflicts, EtcDiff, EtcPath, MergeReport, Resolution};
use crate::fs::Dir;
use crate::repo::{ObjectKind, RootRecord};

use super::{DeploymentId, Sysroot, SysrootError, layout};

/// A deployment's `/etc`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EtcStatus {
    /// Whose.
    pub deployment: DeploymentId,
    /// What the merge left to be resolved.
    pub conflicts: Conflicts,
}

/// What putting a default back does, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct EtcReset {
    /// Whether there is a default; else what was there is removed.
    pub has_default: bool,
    /// What was made or changed here beneath the directory, and is gone; sorted.
    pub lost: Vec<EtcPath>,
}

impl Sysroot {
    /// Returns the deployment that `selector` names; what is running, or the default, where nothing is named.
    pub fn select_deployment(&self, selector: Option<&str>) -> Result<DeploymentId, SysrootError> {
        let (state, booted) = (self.state()?, self.booted()?);
        let selector = selector.unwrap_or(if booted.is_some() { "booted" } else { "default" });
        let staged = self.usable_staged(&state)?;
        let selected = state.select(selector, staged.as_ref(), booted.as_ref())?;
        Ok(selected.finished("look into")?.id)
    }

    /// Returns what the merge of the deployment's `/etc` left to be resolved.
    pub fn etc_conflicts(&self, id: &DeploymentId) -> Result<EtcStatus, SysrootError> {
        let dir = self.deployments_dir(&id.stateroot)?;
        Ok(EtcStatus {
            deployment: id.clone(),
            conflicts: Conflicts::load(&dir, layout::conflicts(id))?,
        })
    }

    /// Returns what was changed in `/etc` since it was made of the defaults.
    pub fn etc_diff(&self, id: &DeploymentId, cancel: &Cancel) -> Result<EtcDiff, SysrootError> {
        let root = self.deployment_dir(id)?;
        Ok(etc_merge::diff(
            &root.open_dir("usr/etc")?,
            &root.open_dir("etc")?,
            cancel,
        )?)
    }

    /// Ends the conflict at `path`; returns how many are left. Takes the lock.
    pub fn etc_resolve(
        &self,
        id: &DeploymentId,
        path: &EtcPath,
        resolution: Resolution,
        cancel: &Cancel,
    ) -> Result<u64, SysrootError> {
        let _lock = self.lock()?;
        let root = self.deployment_dir(id)?;
        let (etc, default) = (root.open_dir("etc")?, root.open_dir("usr/etc")?);
        let mut conflicts = self.etc_conflicts(id)?.conflicts;
        etc_merge::resolve(&mut conflicts, path, resolution, &etc, &default, cancel)?;
        etc.sync_fs()?;
        self.set_etc_conflicts(id, &conflicts)?;
        Ok(conflicts.len() as u64)
    }

    /// Returns whether there is something at `path` in the deployment's `/etc` or among its defaults.
    pub fn has_in_etc(&self, id: &DeploymentId, path: &EtcPath) -> Result<bool, SysrootError> {
        let root = self.deployment_dir(id)?;
        for dir in ["etc", "usr/etc"] {
            // What a link or a file is in the way of is not there.
            if let Some(dir) = root.open_dir_optional(dir)?
                && dir.exists(path.as_path()).unwrap_or(false)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the default back at `path`, or removes what has none; returns whether there is one. A directory in which there is something that
    /// was made or changed here is refused. Takes the lock.
    pub fn etc_reset(
        &self,
        id: &DeploymentId,
        path: &EtcPath,
        cancel: &Cancel,
    ) -> Result<bool, SysrootError> {
        let _lock = self.lock()?;
        let root = self.deployment_dir(id)?;
        let (etc, default) = (root.open_dir("etc")?, root.open_dir("usr/etc")?);
        let has_default = etc_merge::reset(path, &etc, &default, cancel)?;
        etc.sync_fs()?;
        Ok(has_default)
    }

    /// As [`etc_reset`](Self::etc_reset), with all that was made or changed here beneath a directory. Takes the lock.
    pub fn etc_reset_all(
        &self,
        id: &DeploymentId,
        path: &EtcPath,
        cancel: &Cancel,
    ) -> Result<EtcReset, SysrootError> {
        let _lock = self.lock()?;
        let root = self.deployment_dir(id)?;
        let (etc, default) = (root.open_dir("etc")?, root.open_dir("usr/etc")?);
        let (has_default, lost) = etc_merge::reset_all(path, &etc, &default, cancel)?;
        etc.sync_fs()?;
        Ok(EtcReset { has_default, lost })
    }

    /// Returns what [`etc_reset_all`](Self::etc_reset_all) would do, and does nothing.
    pub fn plan_etc_reset(
        &self,
        id: &DeploymentId,
        path: &EtcPath,
        cancel: &Cancel,
    ) -> Result<EtcReset, SysrootError> {
        let root = self.deployment_dir(id)?;
        let (etc, default) = (root.open_dir("etc")?, root.open_dir("usr/etc")?);
        Ok(EtcReset {
            lost: etc_merge::lost_by_reset(path, &etc, &default, cancel)?,
            has_default: default.exists(path.as_path()).unwrap_or(false),
        })
    }

    /// Replaces the list of what is left to be resolved, and lets go of the contents that it no longer needs.
    fn set_etc_conflicts(&self, id: &DeploymentId, conflicts: &Conflicts) -> Result<(), SysrootError> {
        let dir = self.deployments_dir(&id.stateroot)?;
        if conflicts.is_empty() {
            dir.remove_file_optional(layout::conflicts(id))?;
        } else {
            conflicts.save(&dir, layout::conflicts(id))?;
        }
        dir.sync_fs()?;
        self.keep_conflicts(id, conflicts)
    }

    /// Joins the new conflicts with those of earlier merges that nobody has resolved.
    pub(super) fn collect_conflicts(
        &self,
        from: &DeploymentId,
        etc: &Dir,
        report: &MergeReport,
        cancel: &Cancel,
    ) -> Result<Conflicts, SysrootError> {
        let mut conflicts = report.conflicts.clone();
        conflicts.carry_over(&self.etc_conflicts(from)?.conflicts, etc, cancel)?;
        Ok(conflicts)
    }

    /// Keeps what the conflicts name from being pruned, as far as the store has it: a default that was edited in
    /// place never was in it.
    pub(super) fn keep_conflicts(
        &self,
        id: &DeploymentId,
        conflicts: &Conflicts,
    ) -> Result<(), SysrootError> {
        let mut blobs: std::collections::BTreeSet<BlobId> = std::collections::BTreeSet::new();
        for blob in conflicts.blobs() {
            if self.repo.has_object(ObjectKind::Blob, blob.digest())? {
                blobs.insert(blob);
            }
        }
        let record = RootRecord {
            commits: [id.commit].into(),
            blobs,
        };
        Ok(self.repo.set_root(&layout::root_name(id), &record)?)
    }
}
