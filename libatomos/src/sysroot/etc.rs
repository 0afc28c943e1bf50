//! `/etc` of a deployment: what was changed here, and what a merge could not decide.

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::BlobId;
use crate::etc_merge::{Conflicts, MergeReport};
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

impl Sysroot {
    /// Returns the deployment that `selector` names; what is running, or the default, where nothing is named.
    pub fn select_deployment(&self, selector: Option<&str>) -> Result<DeploymentId, SysrootError> {
        let (state, booted) = (self.state()?, self.booted()?);
        let selector = selector.unwrap_or(if booted.is_some() { "booted" } else { "default" });
        Ok(state.select(selector, booted.as_ref())?.id.clone())
    }

    /// Returns what the merge of the deployment's `/etc` left to be resolved.
    pub fn etc_conflicts(&self, id: &DeploymentId) -> Result<EtcStatus, SysrootError> {
        let dir = self.deployments_dir(&id.stateroot)?;
        Ok(EtcStatus {
            deployment: id.clone(),
            conflicts: Conflicts::load(&dir, layout::conflicts(id))?,
        })
    }

    /// Replaces the list of what is left to be resolved, and lets go of the contents that it no longer needs.
    pub fn set_etc_conflicts(&self, id: &DeploymentId, conflicts: &Conflicts) -> Result<(), SysrootError> {
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
