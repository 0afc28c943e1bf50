//! What became of a boot: recording it, counting it, judging it.
//!
//! Three moments of a boot come here. [`Sysroot::record_boot`], as soon as the local file systems are there: this boot
//! reached user space, and those before it that nobody has heard of did not. [`Sysroot::finish_checks`]: what the health
//! checks said. [`Sysroot::mark_good`]: it is good, and its entry loses its counter. Each can come twice and says the same.
//!
//! Written is first what became of boots, then the truth, then `/boot`. An interruption in between leaves a count that is
//! lower than what is remembered, which the next boot takes for one more try that ended early: never a try too many.

use serde::Serialize;

use crate::boot::{KernelArgs, KernelCheck};
use crate::digest::CommitId;
use crate::progress::{Event, Progress};

use super::booted::parse_boot_id;
use super::boots::{BootAttempt, BootLog, FailedCheck, FailedTrial, LastFailure, Stage};
use super::give_up::{Blame, give_up};
use super::{
    DEFAULT_TRIES, DeploymentId, DeploymentState, State, Sysroot, SysrootError, SysrootLock, layout,
};

/// What [`Sysroot::record_boot`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct RecordReport {
    /// What is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booted: Option<DeploymentId>,
    /// Whether it is on trial.
    pub on_trial: bool,
    /// Tries left after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<u32>,
    /// Whether the boot loader had not counted this boot, so that it was counted here. A boot that does not come as far is
    /// not counted then.
    pub counted_here: bool,
    /// What ran out of tries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedTrial>,
    /// Where everything is bad: the deployment that the machine stays on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_on: Option<DeploymentId>,
}

/// What became of the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct BootVerdict {
    /// What is running, where it is a deployment of this sysroot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booted: Option<DeploymentId>,
    /// Whether all that must pass did.
    pub passed: bool,
    /// Whether it is on trial.
    pub on_trial: bool,
    /// Whether the deployment is known to be good now.
    pub good: bool,
    /// Whether a reboot would help: the loader would try it again, or take another.
    pub reboot_helps: bool,
}

impl Sysroot {
    /// Returns what is remembered of boots.
    pub fn boot_log(&self) -> Result<BootLog, SysrootError> {
        BootLog::load(&self.atomos)
    }

    /// Records that this boot reached user space, infers what became of those before it, and gives up what ran out of
    /// tries. `now` is in seconds since 1970. Takes the lock. Doing it again in the same boot changes nothing.
    pub fn record_boot(&self, now: i64, progress: &dyn Progress) -> Result<RecordReport, SysrootError> {
        let lock = self.lock()?;
        let before = self.state_to_reorder()?;
        let mut state = before.clone();
        let log_before = BootLog::load_or_renew(&self.atomos)?;
        let mut log = log_before.clone();
        let booted = self.booted()?;
        let mut report = RecordReport {
            booted: booted.clone(),
            ..RecordReport::default()
        };
        let counts = self.tries_left()?;
        let mut out_of_tries = Vec::new();
        for deployment in &before.deployments {
            let id = &deployment.id;
            let Some(tries) = deployment.tries.filter(|tries| *tries > 0) else {
                log.end_trial(id);
                continue;
            };
            let running = booted.as_ref() == Some(id) && self.runs_newest_entry(deployment);
            let counted = counts.get(&deployment.entry).copied();
            let left = self.account(&mut log, deployment, tries, counted, running, now, &mut report)?;
            match left {
                Some(left) => state.spend(id, left),
                None => out_of_tries.push(id.clone()),
            }
        }
        // A trial of what is no deployment any more leads nowhere.
        log.trials.retain(|trial| before.get(&trial.deployment).is_some());
        let inherits = |next: &DeploymentState| {
            let kargs = self.kargs_to_inherit(next);
            kargs.map_or_else(|_| next.kargs.clone(), str::to_owned)
        };
        for id in out_of_tries {
            report.failed.push(give_up(
                &mut state,
                &mut log,
                &id,
                booted.clone(),
                now,
                Blame::Open(&inherits),
            ));
        }
        report.settled_on = state.settle(|id| log.stage(id));
        if let (None, Some(booted)) = (&report.settled_on, &booted) {
            let left = log
                .trials
                .iter()
                .find(|trial| trial.deployment == *booted)
                .map(|trial| trial.left);
            if let Some(left) = left {
                report.settled_on = state.end_game(booted, left, |id| log.stage(id));
            }
        }
        if let Some(booted) = &booted {
            log.note_run(booted);
            let state = state.get(booted);
            report.on_trial = state.is_some_and(DeploymentState::is_on_trial);
            report.tries_left = report
                .on_trial
                .then(|| log.trials.iter().find(|trial| trial.deployment == *booted))
                .flatten()
                .map(|trial| trial.left);
        }
        if log != log_before {
            self.save_boots(&log)?;
        }
        let judged = !report.failed.is_empty() || report.settled_on.is_some();
        if state != before {
            self.save_state(&state)?;
        }
        for failed in &report.failed {
            self.mark_trial(&state, &failed.deployment)?;
        }
        if let Some(id) = &report.settled_on {
            self.mark_trial(&state, id)?;
        }
        if judged || report.counted_here {
            // A loader that does not count has to be told that this was the last try, which nobody has judged yet.
            for trial in log.trials.iter().filter(|trial| trial.left == 0) {
                state.last_try(&trial.deployment);
            }
            self.reconcile_boot(&lock, &state, KernelCheck::NewOnly, progress)?;
        }
        Ok(report)
    }

    /// Accounts for the tries that the loader has counted since the last time. Returns how many are left; none where the
    /// last one is over, too.
    #[allow(clippy::too_many_arguments)] // One caller; together they are the state of one trial.
    fn account(
        &self,
        log: &mut BootLog,
        deployment: &DeploymentState,
        tries: u32,
        counted: Option<u32>,
        running: bool,
        now: i64,
        report: &mut RecordReport,
    ) -> Result<Option<u32>, SysrootError> {
        let id = &deployment.id;
        let boot_id = self.running.boot_id.clone();
        let mut heard_of = self.read_trial_mark(id)?;
        let trial = log.trial(id, deployment.entry, tries);
        let recorded = |attempt: &BootAttempt| boot_id.is_some() && attempt.boot_id == boot_id;
        if running && trial.attempts.iter().any(recorded) {
            return Ok(Some(trial.left));
        }
        if running && trial.left == 0 {
            return Ok(None);
        }
        let left = counted.unwrap_or(trial.left).min(trial.left);
        let mut spent = trial.left - left;
        trial.left = left;
        if running && spent == 0 {
            // An entry that is not found, or has lost its counter to `systemd-bless-boot`, is not counted here either.
            if counted.is_some() {
                trial.left -= 1;
                report.counted_here = true;
            }
        } else if running {
            spent -= 1;
        }
        heard_of.retain(|found| {
            let known = trial
                .attempts
                .iter()
                .any(|attempt| attempt.boot_id.as_ref() == Some(found));
            !known && Some(found) != boot_id.as_ref()
        });
        // What cannot be told apart is given its order: boots that got further are taken for the later ones.
        let silent = spent.saturating_sub(u32::try_from(heard_of.len()).unwrap_or(u32::MAX));
        let died_in_kernel = (0..silent).map(|_| (None, Stage::Kernel));
        let died_later = heard_of
            .into_iter()
            .map(|boot_id| (Some(boot_id), Stage::PrepareRoot));
        for (boot_id, stage) in died_in_kernel.chain(died_later).take(spent as usize) {
            trial.attempts.push(BootAttempt {
                boot_id,
                time: None,
                stage,
                failed: Vec::new(),
            });
        }
        if running {
            trial.attempts.push(BootAttempt {
                boot_id,
                time: Some(now),
                stage: Stage::UserSpace,
                failed: Vec::new(),
            });
        }
        Ok((trial.left > 0 || running).then_some(trial.left))
    }

    /// Records what the checks of this boot said, and marks the deployment good where they passed and that is asked for.
    pub fn finish_checks(
        &self,
        failed: &[FailedCheck],
        mark: bool,
        now: i64,
        progress: &dyn Progress,
    ) -> Result<BootVerdict, SysrootError> {
        // Where no early unit did, and to have a trial to write to.
        self.record_boot(now, progress)?;
        if failed.is_empty() && mark {
            self.mark_good(progress)?;
        }
        self.conclude(now, failed.is_empty(), |attempt| {
            attempt.stage = Stage::Checks;
            attempt.failed = failed.to_vec();
        })
    }

    /// Writes to the record of this boot, and says what is to be made of it.
    pub(super) fn conclude(
        &self,
        now: i64,
        passed: bool,
        change: impl FnOnce(&mut BootAttempt),
    ) -> Result<BootVerdict, SysrootError> {
        let _lock = self.lock()?;
        let state = self.state()?;
        let booted = self.booted()?;
        let found = booted.as_ref().and_then(|id| state.get(id));
        let on_trial = found.is_some_and(|found| found.is_on_trial() && self.runs_newest_entry(found));
        let mut verdict = BootVerdict {
            booted: booted.clone(),
            passed,
            on_trial,
            good: found.is_some_and(|found| match (self.runs_newest_entry(found), &found.fallback) {
                (false, Some(entry)) => self.running.entry.is_none_or(|n| n == entry.entry) && entry.good,
                // The entry that runs was replaced by one that is on trial.
                (false, None) if found.is_on_trial() => false,
                _ => found.good,
            }),
            reboot_helps: false,
        };
        let Some(deployment) = found else {
            return Ok(verdict);
        };
        let log_before = BootLog::load_or_renew(&self.atomos)?;
        let mut log = log_before.clone();
        let boot_id = self.running.boot_id.clone();
        let mut attempt = BootAttempt {
            boot_id: boot_id.clone(),
            time: Some(now),
            stage: Stage::UserSpace,
            failed: Vec::new(),
        };
        if on_trial {
            let tries = deployment.tries.unwrap_or_default();
            let trial = log.trial(&deployment.id, deployment.entry, tries);
            match trial.attempts.last_mut() {
                Some(last) if last.boot_id == boot_id => change(last),
                _ => {
                    change(&mut attempt);
                    trial.attempts.push(attempt);
                }
            }
            let other = |other: &DeploymentState| other.id != deployment.id && !other.is_bad();
            let can_go_back = deployment.fallback.is_some() || state.deployments.iter().any(other);
            verdict.reboot_helps = !passed && (trial.left > 0 || can_go_back);
        } else {
            change(&mut attempt);
            // It was on trial itself when this boot began, and what runs is no better for having got another entry since.
            verdict.reboot_helps = !passed && deployment.is_on_trial() && deployment.fallback.is_none();
            log.last_failure = (!passed).then(|| LastFailure {
                deployment: deployment.id.clone(),
                attempt,
            });
        }
        if log != log_before {
            self.save_boots(&log)?;
        }
        Ok(verdict)
    }

    /// Marks what is running as good: its entry loses its counter, and what was kept beside it goes. Returns the
    /// deployment, and whether that was news. A deployment that was rejected is so no more.
    ///
    /// # Errors
    /// When what is running is no deployment of this sysroot.
    pub fn mark_good(&self, progress: &dyn Progress) -> Result<(DeploymentId, bool), SysrootError> {
        let lock = self.lock()?;
        let before = self.state_to_reorder()?;
        let booted = self.booted()?.filter(|id| before.get(id).is_some());
        let Some(id) = booted else {
            return Err(SysrootError::DeploymentNotFound {
                selector: "booted".to_owned(),
            });
        };
        let mut state = before.clone();
        let newest = state.get(&id).is_some_and(|found| self.runs_newest_entry(found));
        // The entry with the old arguments runs, beside one that is on trial: it has no counter to lose.
        let news = newest && state.mark_good(&id);
        if news {
            let mut log = BootLog::load_or_renew(&self.atomos)?;
            let log_before = log.clone();
            state.unsettle(&id, |other| {
                log.failed.iter().any(|failed| failed.deployment == *other)
            });
            self.apply_verdict(&lock, &before, &state, true, progress)?;
            self.mark_trial(&state, &id)?;
            log.end_trial(&id);
            log.failed
                .retain(|failed| failed.deployment.commit != id.commit || failed.kargs.is_some());
            log.last_failure = None;
            if log != log_before {
                self.save_boots(&log)?;
            }
        }
        Ok((id, news))
    }

    /// Returns whether the newest of the deployment's entries runs: not the one that is kept beside it, nor one that it had when
    /// this boot began, whose kernel arguments were changed since. What an entry that says nothing of itself was, is not known.
    pub(super) fn runs_newest_entry(&self, deployment: &DeploymentState) -> bool {
        match self.running.entry {
            Some(entry) => entry == deployment.entry,
            None => deployment.fallback.is_none(),
        }
    }

    pub(super) fn apply_verdict(
        &self,
        lock: &SysrootLock,
        before: &State,
        state: &State,
        boot_too: bool,
        progress: &dyn Progress,
    ) -> Result<(), SysrootError> {
        if state != before {
            self.save_state(state)?;
        }
        if boot_too {
            self.reconcile_boot(lock, state, KernelCheck::NewOnly, progress)?;
        }
        Ok(())
    }

    /// Puts the deployment's new entry on trial, where its tree has checks to end it with and there is something to go
    /// back to. `atomos-prepare-root` finds the mark, and writes to it.
    pub(super) fn begin_trial(
        &self,
        state: &mut State,
        id: &DeploymentId,
        tries: Option<u32>,
        progress: &dyn Progress,
    ) -> Result<(), SysrootError> {
        state.begin_trial(id, self.tries_for(id, tries)?);
        self.mark_trial(state, id)?;
        self.warn_of_trial(state, id, progress)
    }

    /// Leaves word for `atomos-prepare-root` beside the deployment: that it is on trial, so that it writes down that it came
    /// so far; or that it is bad, so that it is not chosen for want of another. Before the truth says the first and after it
    /// says the second: neither decides anything.
    pub(super) fn mark_trial(&self, state: &State, id: &DeploymentId) -> Result<(), SysrootError> {
        let Some(deployment) = state.get(id) else {
            return Ok(());
        };
        let dir = self.deployments_dir(&id.stateroot)?;
        let marks = [
            (layout::trial(id), deployment.is_on_trial()),
            (layout::bad(id), deployment.is_bad()),
        ];
        for (name, wanted) in marks {
            match wanted {
                true => self.with_reserve(|| Ok(dir.write_atomic(&name, b"", 0o644)?))?,
                false => drop(dir.remove_file_optional(&name)?),
            }
        }
        Ok(())
    }

    /// Returns how often the deployment is to be tried: not at all where its tree does not know of checks, since nobody
    /// would ever say that it is good.
    pub(super) fn tries_for(&self, id: &DeploymentId, tries: Option<u32>) -> Result<u32, SysrootError> {
        let checked = self.deployment_dir(id)?.exists(HEALTH_DIR)?;
        Ok(if checked {
            tries.unwrap_or(DEFAULT_TRIES)
        } else {
            0
        })
    }

    /// Returns the ids of boots in which `atomos-prepare-root` found the deployment.
    fn read_trial_mark(&self, id: &DeploymentId) -> Result<Vec<String>, SysrootError> {
        const MAX_MARK: usize = 64 * 1024;
        let deployments = self.deployments_dir(&id.stateroot)?;
        let bytes = deployments.read_optional(layout::trial(id), MAX_MARK)?;
        let bytes = bytes.unwrap_or_default();
        let mut found: Vec<String> = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(parse_boot_id)
            .collect();
        found.dedup();
        Ok(found)
    }
}

/// Where a tree has its checks; that it is there says that the tree runs them, and marks its boots good.
pub(super) const HEALTH_DIR: &str = "usr/lib/atomos/health.d";

impl Sysroot {
    /// Returns the deployments of the same stateroot and other commits that have run since `id` last did: each has had
    /// the same `/var`, writable. What is not known, because nothing recorded it, is not told.
    pub(super) fn ran_since(
        &self,
        target: &DeploymentState,
        booted: Option<&DeploymentState>,
    ) -> Vec<DeploymentId> {
        let id = &target.id;
        let mut ran = BootLog::load(&self.atomos).unwrap_or_default().ran;
        match ran.iter().rposition(|other| other == id) {
            Some(position) => drop(ran.drain(..=position)),
            None => ran.clear(),
        }
        // It runs, whatever was recorded: and it was booted after the other one was made, if the entry that it was booted from is newer.
        let from = |booted: &DeploymentState| self.running.entry.unwrap_or(booted.entry);
        if let Some(booted) = booted.filter(|booted| from(booted) > target.entry)
            && !ran.contains(&booted.id)
        {
            ran.push(booted.id.clone());
        }
        ran.into_iter()
            .filter(|other| other.stateroot == id.stateroot && other.commit != id.commit)
            .collect()
    }

    /// Says that the commit failed here before, to whoever deploys it all the same.
    pub(super) fn warn_of_rejection(&self, commit: &CommitId, progress: &dyn Progress) {
        let log = BootLog::load(&self.atomos).unwrap_or_default();
        if let Some(failed) = log.rejection(commit) {
            let tries = failed.attempts.len();
            let text = format!("this version failed here before: it was given up after {tries} tries");
            progress.report(Event::Warning { text: &text });
        }
    }

    /// Says what would keep a failing boot from being counted.
    fn warn_of_trial(
        &self,
        state: &State,
        id: &DeploymentId,
        progress: &dyn Progress,
    ) -> Result<(), SysrootError> {
        if let Some(deployment) = state.get(id).filter(|found| found.is_on_trial())
            && let Some(text) = no_panic(deployment)?
        {
            progress.report(Event::Warning { text });
        }
        Ok(())
    }
}

/// Returns what to say of a deployment whose kernel stops when it panics.
pub(super) fn no_panic(deployment: &DeploymentState) -> Result<Option<&'static str>, SysrootError> {
    let kargs: KernelArgs = deployment.kargs.parse()?;
    let reboots = kargs
        .get("panic")
        .and_then(|seconds| seconds.parse::<i32>().ok())
        .is_some_and(|seconds| seconds != 0);
    Ok((!reboots).then_some(
        "a kernel that panics will stop, and not be tried again: add a kernel argument such as panic=10",
    ))
}
