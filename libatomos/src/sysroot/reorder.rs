//! Going back, pinning, removing, changing kernel arguments: everything that changes the truth and builds nothing.
//!
//! Each is one new boot entry: the deployment is written again under a new number, and the highest number wins.

use serde::Serialize;

use crate::boot::{KernelArgs, KernelCheck, ReconcilePlan};
use crate::progress::{Event, Progress};

use super::build::NO_ROOT;
use super::decide::change_kargs;
use super::select::Selected;
use super::staged::Staged;
use super::{
    DEFAULT_TRIES, DeploymentId, DeploymentState, KargsChange, State, Sysroot, SysrootError, SysrootLock,
};

/// What is the default after a change, and what was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SwitchReport {
    /// The default now.
    pub default: DeploymentId,
    /// The default before.
    pub previous: DeploymentId,
    /// Deployments of other versions that have run since the default last did, the last to run last. They shared `/var` and
    /// may have written to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ran_since: Vec<DeploymentId>,
    /// What was staged and was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<DeploymentId>,
    /// The kernel arguments that the default has again, where it was these that were gone back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kargs: Option<String>,
    /// Whether anything changed.
    pub changed: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UndeployReport {
    /// The deployment; absent where only a record that cannot be read was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
}

/// What a change of kernel arguments did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KargsReport {
    /// Whose arguments they are.
    pub deployment: DeploymentId,
    /// They, without `atomos=`.
    pub kargs: KernelArgs,
    /// Whether the deployment is staged: shutdown makes it the default, with these.
    pub staged: bool,
    /// What was staged and was given up.
    pub discarded: Option<DeploymentId>,
    /// Whether anything changed.
    pub changed: bool,
}

impl State {
    /// Returns what a rollback goes to: from an update that was not booted yet back to what is running, else to the
    /// newest deployment below the default, of the same stateroot where there is one.
    #[must_use]
    pub fn rollback_target(&self, booted: Option<&DeploymentId>) -> Option<&DeploymentState> {
        let default = self.default_deployment()?;
        // What runs may be none that the truth has, where the initramfs chose by itself.
        if let Some(booted) = booted.and_then(|booted| self.get(booted))
            && default.id != booted.id
        {
            return Some(booted).filter(|booted| !booted.is_bad());
        }
        // Nobody goes back to what is bad without saying so.
        let below = || {
            let others = self.deployments.iter().filter(|other| other.id != default.id);
            others.filter(|other| !other.is_bad())
        };
        below()
            .find(|other| other.id.stateroot == default.id.stateroot)
            .or_else(|| below().next())
    }
}

impl Sysroot {
    /// Makes the deployment that `to` names the default, or the one that a rollback goes to where nothing is named. Where that has been booted
    /// with the kernel arguments before the present ones, or is the only one, it has those again. What is
    /// staged is given up: it would take the place of either.
    ///
    /// The visible step is its new boot entry. Takes the lock.
    pub fn rollback(&self, to: Option<&str>, progress: &dyn Progress) -> Result<SwitchReport, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        let booted = self.booted()?;
        let staged = self.usable_staged(&state)?;
        let default = state
            .default_deployment()
            .ok_or(SysrootError::NothingToRollBackTo)?;
        let target = match to {
            Some(selector) => state
                .select(selector, staged.as_ref(), booted.as_ref())?
                .finished("go back to")?,
            None => match (&staged, &booted) {
                // An update that was not booted yet, like one that is the default.
                (Some(_), Some(booted)) => state.get(booted).unwrap_or(default).clone(),
                (Some(_), None) => default.clone(),
                (None, _) if self.goes_back_to_own_kargs(&state, default)? => {
                    return self.take_back_kargs(&lock, state, progress);
                }
                (None, _) => state
                    .rollback_target(booted.as_ref())
                    .ok_or(SysrootError::NothingToRollBackTo)?
                    .clone(),
            },
        };
        let previous = default.id.clone();
        let mut report = SwitchReport {
            default: target.id.clone(),
            changed: target.id != previous,
            discarded: staged.map(|staged| staged.deployment.id),
            ran_since: self.ran_since(&target, booted.as_ref().and_then(|id| state.get(id))),
            kargs: None,
            previous,
        };
        if report.changed {
            self.check_bootable(&target.id)?;
        }
        self.discard_staged(&lock)?;
        // It holds for the boot that goes on, and an image that is being made has none.
        if booted.is_some() && (report.changed || report.discarded.is_some()) {
            let given_up = report.discarded.iter().chain([&report.previous]).chain(&booted);
            if let Err(error) = self.remember_choice(&report.default, given_up.map(|id| id.commit)) {
                let text = format!("an upgrade before the next boot may undo this: {error}");
                progress.report(Event::Warning { text: &text });
            }
        }
        if report.changed {
            let id = target.id.clone();
            state.choose_again(target, DEFAULT_TRIES);
            self.mark_trial(&state, &id)?;
            self.switch_to(&lock, &state, progress)?;
        }
        if report.discarded.is_some() {
            self.remove_staged_leftovers(&lock, &state, progress)?;
            report.changed = true;
        }
        Ok(report)
    }

    /// Returns whether a rollback takes back a change of the default's kernel arguments: where a person has booted it with those before, and
    /// where there is nothing else.
    fn goes_back_to_own_kargs(&self, state: &State, default: &DeploymentState) -> Result<bool, SysrootError> {
        let is_alone = state.deployments.len() == 1 && default.fallback.is_some();
        Ok(is_alone || self.runs_fallback_of(default)?)
    }

    /// Gives the default the kernel arguments that it had before they were changed.
    fn take_back_kargs(
        &self,
        lock: &SysrootLock,
        mut state: State,
        progress: &dyn Progress,
    ) -> Result<SwitchReport, SysrootError> {
        let default = state.default_deployment().cloned();
        let before = default.and_then(|default| Some((default.fallback.clone()?.kargs, default)));
        let (kargs, default) = before.ok_or(SysrootError::NothingToRollBackTo)?;
        let id = default.id.clone();
        self.check_bootable(&id)?;
        state.change_kargs(default, kargs.clone(), 0);
        self.mark_trial(&state, &id)?;
        self.switch_to(lock, &state, progress)?;
        Ok(SwitchReport {
            default: id.clone(),
            previous: id,
            ran_since: Vec::new(),
            discarded: None,
            kargs: Some(kargs),
            changed: true,
        })
    }

    /// Removes what a deployment that is staged no more has left: its tree, its objects' root, its kernel in `/boot`.
    fn remove_staged_leftovers(
        &self,
        lock: &SysrootLock,
        state: &State,
        progress: &dyn Progress,
    ) -> Result<(), SysrootError> {
        self.tidy_up(lock, state, progress)?;
        self.reconcile_boot(lock, state, KernelCheck::NewOnly, progress)?;
        Ok(())
    }

    /// Keeps the deployment from every clean-up, or lets it go again. Returns whether that changed anything.
    pub fn set_pinned(&self, selector: &str, pinned: bool) -> Result<(DeploymentId, bool), SysrootError> {
        let _lock = self.lock()?;
        let mut state = self.state()?;
        let staged = self.usable_staged(&state)?;
        let selected = state.select(selector, staged.as_ref(), self.booted()?.as_ref())?;
        let id = selected.finished(if pinned { "pin" } else { "unpin" })?.id;
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
            self.save_state(&state)?;
        }
        Ok((id, changed))
    }

    /// Removes a deployment: from the truth, from `/boot`, and then its files. The one that is running stays. `staged` is
    /// what is staged, even where its record cannot be read.
    pub fn undeploy(&self, selector: &str, progress: &dyn Progress) -> Result<UndeployReport, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state()?;
        let booted = self.booted()?;
        let staged = match self.staged(&state) {
            Err(SysrootError::DamagedState { .. }) if selector == "staged" => {
                self.discard_staged(&lock)?;
                self.remove_staged_leftovers(&lock, &state, progress)?;
                return Ok(UndeployReport { deployment: None });
            }
            Err(SysrootError::DamagedState { .. }) => None,
            other => other?,
        };
        let target = match state.select(selector, staged.as_ref(), booted.as_ref())? {
            Selected::Deployment(target) => target,
            Selected::Staged(staged) => {
                self.discard_staged(&lock)?;
                self.remove_staged_leftovers(&lock, &state, progress)?;
                return Ok(UndeployReport {
                    deployment: Some(staged.deployment.id),
                });
            }
        };
        let in_use = |reason| SysrootError::InUse {
            id: target.id.clone(),
            action: "remove",
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
        let others_are_bad = state
            .deployments
            .iter()
            .all(|other| other.id == target.id || other.is_bad());
        if others_are_bad && !target.is_bad() {
            return Err(in_use("the only deployment that is not bad"));
        }
        // A record that an interrupted run left of it would name what is not there any more.
        if Staged::load(&self.atomos)
            .is_ok_and(|record| record.is_some_and(|record| record.deployment.id == target.id))
        {
            self.discard_staged(&lock)?;
        }
        state.deployments.retain(|deployment| deployment.id != target.id);
        self.switch_to(&lock, &state, progress)?;
        self.tidy_up(&lock, &state, progress)?;
        Ok(UndeployReport {
            deployment: Some(target.id),
        })
    }

    /// Finds whose kernel arguments are meant: where nothing is named, those of what the next boot takes if the system is
    /// shut down before, which is what is staged, or else the default.
    fn select_for_kargs(&self, state: &State, selector: Option<&str>) -> Result<Selected, SysrootError> {
        let staged = self.usable_staged(state)?;
        let otherwise = if staged.is_some() { "staged" } else { "default" };
        state.select(
            selector.unwrap_or(otherwise),
            staged.as_ref(),
            self.booted()?.as_ref(),
        )
    }

    /// Returns the kernel arguments of a deployment: of what the next boot takes, where nothing is named.
    pub fn kargs(&self, selector: Option<&str>) -> Result<KargsReport, SysrootError> {
        let selected = self.select_for_kargs(&self.state()?, selector)?;
        let (deployment, staged) = match &selected {
            Selected::Staged(staged) => (&staged.deployment, true),
            Selected::Deployment(deployment) => (deployment, false),
        };
        Ok(KargsReport {
            deployment: deployment.id.clone(),
            kargs: deployment.kargs.parse()?,
            staged,
            discarded: None,
            changed: false,
        })
    }

    /// Changes the kernel arguments of a deployment: of what the next boot takes, where nothing is named. It becomes the
    /// default, and what else is staged is given up; what is staged itself stays so, and gets them when it is finished.
    pub fn edit_kargs(
        &self,
        selector: Option<&str>,
        changes: &[KargsChange],
        progress: &dyn Progress,
    ) -> Result<KargsReport, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        let selected = self.select_for_kargs(&state, selector)?;
        let id = selected.id().clone();
        let change = |before: &str| -> Result<KernelArgs, SysrootError> {
            let mut kargs: KernelArgs = before.parse()?;
            change_kargs(&mut kargs, changes, &id)?;
            Ok(kargs)
        };
        let mut report = KargsReport {
            deployment: selected.id().clone(),
            kargs: KernelArgs::new(),
            staged: false,
            discarded: None,
            changed: false,
        };
        match selected {
            Selected::Staged(mut staged) => {
                report.staged = true;
                report.kargs = change(&staged.deployment.kargs)?;
                let text = report.kargs.to_string();
                report.changed = text != staged.deployment.kargs;
                if report.changed {
                    self.check_kargs_fit(&staged.deployment.id, &report.kargs)?;
                    staged.deployment.kargs = text;
                    // Too long a line would fail at each shutdown, where nobody is told.
                    self.desired_entry(&staged.deployment)?.options()?;
                    // What was given up may have been so for the old ones.
                    staged.tries = 0;
                    staged.save(&self.atomos)?;
                }
            }
            Selected::Deployment(target) => {
                report.kargs = change(&target.kargs)?;
                let text = report.kargs.to_string();
                report.changed = text != target.kargs;
                if report.changed {
                    self.check_bootable(&target.id)?;
                    self.check_kargs_fit(&target.id, &report.kargs)?;
                    let staged = self.usable_staged(&state)?;
                    report.discarded = staged.map(|staged| staged.deployment.id);
                    self.discard_staged(&lock)?;
                    let id = target.id.clone();
                    let tries = self.tries_for(&id, None)?;
                    state.change_kargs(target, text, tries);
                    self.mark_trial(&state, &id)?;
                    self.switch_to(&lock, &state, progress)?;
                    if report.discarded.is_some() {
                        self.tidy_up(&lock, &state, progress)?;
                    }
                }
            }
        }
        if report.changed && report.kargs.get("root").is_none() {
            progress.report(Event::Warning { text: NO_ROOT });
        }
        Ok(report)
    }

    /// Writes what `/boot` should hold, from the truth: for a machine whose `/boot` was lost or left half done.
    /// Every kernel is read and compared. Returns what had to be done.
    ///
    /// # Errors
    /// [`SysrootError::BootNotMounted`] where `/boot` was a file system of its own: see [`Self::take_boot_directory`].
    pub fn recover_boot(&self, progress: &dyn Progress) -> Result<ReconcilePlan, SysrootError> {
        let lock = self.lock()?;
        self.check_boot_is_mounted(&self.boot_dir()?)?;
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
        self.save_state(state)?;
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
        self.save_state(&restored)?;
        // The first failure is the one to tell; `boot recover` repeats this.
        let _ = self.reconcile_boot(lock, &restored, KernelCheck::NewOnly, progress);
        Err(error)
    }
}
