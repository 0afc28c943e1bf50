//! Going back, pinning, removing, changing kernel arguments: everything that changes the truth and builds nothing.
//!
//! Each is one new boot entry: the deployment is written again under a new number, and the highest number wins.

use serde::Serialize;

use crate::boot::{KernelArgs, KernelCheck, ReconcilePlan};
use crate::progress::Progress;

use super::{DeploymentId, DeploymentState, KargsChange, State, Sysroot, SysrootError, SysrootLock};

/// What is the default after a change, and what was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SwitchReport {
    /// The default now.
    pub default: DeploymentId,
    /// The default before.
    pub previous: DeploymentId,
    /// Whether anything changed.
    pub changed: bool,
}

impl State {
    /// Returns what a rollback goes to: from an update that was not booted yet back to what is running, else to the
    /// newest deployment below the default, of the same stateroot where there is one.
    #[must_use]
    pub fn rollback_target(&self, booted: Option<&DeploymentId>) -> Option<&DeploymentState> {
        let default = self.deployments.first()?;
        if let Some(booted) = booted
            && default.id != *booted
        {
            return self.get(booted);
        }
        let below = || self.deployments[1..].iter();
        below()
            .find(|other| other.id.stateroot == default.id.stateroot)
            .or_else(|| below().next())
    }
}

impl Sysroot {
    /// Makes the deployment that `to` names the default, or the one that a rollback goes to where nothing is named.
    ///
    /// The visible step is its new boot entry. Takes the lock.
    pub fn rollback(&self, to: Option<&str>, progress: &dyn Progress) -> Result<SwitchReport, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        let booted = self.booted()?;
        let target = match to {
            Some(selector) => state.select(selector, booted.as_ref())?,
            None => state
                .rollback_target(booted.as_ref())
                .ok_or(SysrootError::NothingToRollBackTo)?,
        }
        .clone();
        let previous = state.deployments[0].id.clone();
        let report = SwitchReport {
            default: target.id.clone(),
            changed: target.id != previous,
            previous,
        };
        if report.changed {
            self.check_complete(&target.id)?;
            state.put_first(target);
            self.switch_to(&lock, &state, progress)?;
        }
        Ok(report)
    }

    /// Keeps the deployment from every clean-up, or lets it go again. Returns whether that changed anything.
    pub fn set_pinned(&self, selector: &str, pinned: bool) -> Result<(DeploymentId, bool), SysrootError> {
        let _lock = self.lock()?;
        let mut state = self.state()?;
        let id = state.select(selector, self.booted()?.as_ref())?.id.clone();
        let mut changed = false;
        for deployment in state
            .deployments
            .iter_mut()
            .filter(|deployment| deployment.id == id)
        {
            changed = deployment.pinned != pinned;
            deployment.pinned = pinned;
        }
        if changed {
            state.save(&self.atomos)?;
        }
        Ok((id, changed))
    }

    /// Removes a deployment: from the truth, from `/boot`, and then its files. The one that is running stays.
    pub fn undeploy(&self, selector: &str, progress: &dyn Progress) -> Result<DeploymentId, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state()?;
        let booted = self.booted()?;
        let target = state.select(selector, booted.as_ref())?.clone();
        let in_use = |reason| SysrootError::InUse {
            id: target.id.clone(),
            reason,
        };
        if booted.as_ref() == Some(&target.id) {
            return Err(in_use("running"));
        }
        if target.pinned {
            return Err(in_use("pinned"));
        }
        if state.deployments.len() == 1 {
            return Err(in_use("the only deployment, and nothing would boot without it"));
        }
        state.deployments.retain(|deployment| deployment.id != target.id);
        self.switch_to(&lock, &state, progress)?;
        self.remove_orphans(&lock, &state)?;
        Ok(target.id)
    }

    /// Returns the kernel arguments of a deployment, without `atomos=`.
    pub fn kargs(&self, id: &DeploymentId) -> Result<KernelArgs, SysrootError> {
        let state = self.state()?;
        let found = state.get(id).ok_or_else(|| SysrootError::DeploymentNotFound {
            selector: id.to_string(),
        })?;
        Ok(found.kargs.parse()?)
    }

    /// Changes the kernel arguments of a deployment (the default where nothing is named), and makes it the default.
    /// Returns its arguments, and whether anything changed.
    pub fn edit_kargs(
        &self,
        selector: Option<&str>,
        changes: &[KargsChange],
        progress: &dyn Progress,
    ) -> Result<(DeploymentId, KernelArgs, bool), SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        let booted = self.booted()?;
        let mut target = state
            .select(selector.unwrap_or("default"), booted.as_ref())?
            .clone();
        let mut kargs: KernelArgs = target.kargs.parse()?;
        for change in changes {
            change.apply(&mut kargs)?;
        }
        let text = kargs.to_string();
        let changed = text != target.kargs;
        let id = target.id.clone();
        if changed {
            self.check_complete(&id)?;
            target.kargs = text;
            state.put_first(target);
            self.switch_to(&lock, &state, progress)?;
        }
        Ok((id, kargs, changed))
    }

    /// Writes what `/boot` should hold, from the truth: for a machine whose `/boot` was lost or left half done.
    /// Every kernel is read and compared. Returns what had to be done.
    pub fn recover_boot(&self, progress: &dyn Progress) -> Result<ReconcilePlan, SysrootError> {
        let lock = self.lock()?;
        let state = self.state()?;
        self.reconcile_boot(&lock, &state, KernelCheck::All, progress)
    }

    /// Makes `state` the truth and lets `/boot` follow. When `/boot` cannot follow, the old truth is put back, so that
    /// the machine is where it was.
    pub(super) fn switch_to(
        &self,
        lock: &SysrootLock,
        state: &State,
        progress: &dyn Progress,
    ) -> Result<(), SysrootError> {
        let before = self.state()?;
        state.save(&self.atomos)?;
        let Err(error) = self.reconcile_boot(lock, state, KernelCheck::NewOnly, progress) else {
            return Ok(());
        };
        if matches!(error, SysrootError::Failpoint(_)) {
            return Err(error);
        }
        // Numbers are never used twice, those of a failed switch included.
        let restored = State {
            next_entry: state.next_entry,
            ..before
        };
        restored.save(&self.atomos)?;
        // The first failure is the one to tell; `boot recover` repeats this.
        let _ = self.reconcile_boot(lock, &restored, KernelCheck::NewOnly, progress);
        Err(error)
    }
}
