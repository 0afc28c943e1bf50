//! What became of boots: `/atomos/boots.json`.
//!
//! The truth says which deployments are on trial; this says how each try went. A boot that reached user space writes here
//! that it did, and later what its checks said. One that did not is inferred by the next: the loader's count went down, and
//! nobody wrote. Between the two, `atomos-prepare-root` leaves the boot's id in `<deployment>.trial`.
//!
//! The file is replaced in one step, durably, and never grows beyond its bounds: tries of a trial, versions that failed,
//! and the bytes of a check's output. It is no part of what boots: one that cannot be read is put aside and begun anew
//! by the next boot, and `status` says so until then.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::CommitId;
use crate::fs::Dir;
use crate::health::CheckResult;

use super::{DeploymentId, SysrootError};

/// The file's name in `/atomos`.
pub(super) const BOOTS: &str = "boots.json";
/// Where one that could not be read is put.
pub(super) const DAMAGED_BOOTS: &str = "boots.json.damaged";
/// The version of the file that this library writes and reads.
const VERSION: u32 = 1;
/// Bytes in the file.
const MAX_BOOTS: usize = 4 * 1024 * 1024;
/// Tries of one trial that are remembered: the newest.
const MAX_ATTEMPTS: usize = 8;
/// Versions that failed here which are remembered: the newest.
const MAX_FAILED: usize = 64;
/// Failed checks of one boot that are remembered.
const MAX_CHECKS: usize = 16;
/// Bytes of a check's output that are remembered: its end.
const MAX_OUTPUT: usize = 2048;
/// Deployments whose last run is remembered.
const MAX_RAN: usize = 32;

/// How far a boot got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Stage {
    /// The loader took it, and nothing more was heard: it ended in the kernel, or in the initramfs before the
    /// deployment was found.
    Kernel,
    /// The deployment was found, and user space was not reached.
    PrepareRoot,
    /// User space was reached, and the checks did not end.
    UserSpace,
    /// The checks ended.
    Checks,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::PrepareRoot => "prepare-root",
            Self::UserSpace => "user space",
            Self::Checks => "checks",
        })
    }
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedCheck {
    /// Its name.
    pub check: String,
    /// How it ended: an exit code, a signal, or a timeout.
    pub ended: String,
    /// The end of what it printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl From<&CheckResult> for FailedCheck {
    fn from(result: &CheckResult) -> Self {
        Self {
            check: result.check.clone(),
            ended: result.end.to_string(),
            output: result.output.clone(),
        }
    }
}

/// One try of a deployment on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootAttempt {
    /// Names the boot, as `journalctl -b` takes it; absent where nothing was heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// When it reached user space, by the machine's clock, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// How far it got.
    pub stage: Stage,
    /// Which checks failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedCheck>,
}

/// A deployment on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// Which.
    pub deployment: DeploymentId,
    /// The number of its entry.
    pub entry: u64,
    /// Tries left, as far as the attempts below account for.
    pub left: u32,
    /// Its tries so far, the newest last.
    pub attempts: Vec<BootAttempt>,
}

/// What failed here: a version, or kernel arguments of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedTrial {
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The kernel arguments that were given up, where it was these that failed and not the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kargs: Option<String>,
    /// When that was found, by the machine's clock, in seconds since 1970.
    pub time: i64,
    /// What was booted when it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub went_back_to: Option<DeploymentId>,
    /// How its tries went.
    pub attempts: Vec<BootAttempt>,
}

impl FailedTrial {
    /// Returns how far its best try got.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.attempts.iter().map(|attempt| attempt.stage).max()
    }

    /// Returns the last of its failed checks, with the boot that it failed in.
    #[must_use]
    pub fn last_check(&self) -> Option<(&FailedCheck, Option<&str>)> {
        let attempt = self
            .attempts
            .iter()
            .rev()
            .find(|attempt| !attempt.failed.is_empty())?;
        Some((attempt.failed.first()?, attempt.boot_id.as_deref()))
    }
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootLog {
    version: u32,
    /// What is on trial.
    #[serde(default)]
    pub trials: Vec<Trial>,
    /// What failed, the newest last.
    #[serde(default)]
    pub failed: Vec<FailedTrial>,
    /// Checks that failed in the last boot of a deployment that was not on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Which deployments reached user space, the last to do so last.
    #[serde(default)]
    pub ran: Vec<DeploymentId>,
}

/// Checks that failed where there was nothing to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LastFailure {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The boot.
    #[serde(flatten)]
    pub attempt: BootAttempt,
}

impl Default for BootLog {
    fn default() -> Self {
        Self {
            version: VERSION,
            trials: Vec::new(),
            failed: Vec::new(),
            last_failure: None,
            ran: Vec::new(),
        }
    }
}

impl BootLog {
    /// Reads the file; a sysroot that never booted has none.
    pub(super) fn load(atomos: &Dir) -> Result<Self, SysrootError> {
        let Some(bytes) = atomos.read_optional(BOOTS, MAX_BOOTS)? else {
            return Ok(Self::default());
        };
        let damaged = |reason: String| SysrootError::DamagedState {
            path: atomos.path().join(BOOTS),
            reason,
        };
        let log: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if log.version != VERSION {
            return Err(damaged(format!(
                "it is of version {}, and this program knows {VERSION}",
                log.version
            )));
        }
        Ok(log.bounded())
    }

    /// Reads the file, or puts aside one that cannot be read and begins anew: a boot must be recorded.
    pub(super) fn load_or_renew(atomos: &Dir) -> Result<Self, SysrootError> {
        match Self::load(atomos) {
            Ok(log) => Ok(log),
            Err(_) => {
                atomos.rename(BOOTS, atomos, DAMAGED_BOOTS)?;
                Ok(Self::default())
            }
        }
    }

    /// Replaces the file. Durable on return.
    pub(super) fn save(&self, atomos: &Dir) -> Result<(), SysrootError> {
        let bytes = serde_json::to_vec_pretty(&self.clone().bounded()).expect("names and numbers are text");
        crate::failpoint::hit("sysroot.boots.write")?;
        atomos.write_atomic(BOOTS, &bytes, 0o644)?;
        crate::failpoint::hit("sysroot.boots.written")?;
        atomos.sync_fs()?;
        crate::failpoint::hit("sysroot.boots.durable")?;
        Ok(())
    }

    fn bounded(mut self) -> Self {
        fn keep_newest<T>(list: &mut Vec<T>, limit: usize) {
            list.drain(..list.len().saturating_sub(limit));
        }
        let bound = |attempts: &mut Vec<BootAttempt>| {
            keep_newest(attempts, MAX_ATTEMPTS);
            for failed in attempts.iter_mut().map(|attempt| &mut attempt.failed) {
                failed.truncate(MAX_CHECKS);
                for check in failed.iter_mut() {
                    check.output = tail(&check.output, MAX_OUTPUT).to_owned();
                }
            }
        };
        keep_newest(&mut self.trials, MAX_FAILED);
        keep_newest(&mut self.failed, MAX_FAILED);
        keep_newest(&mut self.ran, MAX_RAN);
        self.trials
            .iter_mut()
            .for_each(|trial| bound(&mut trial.attempts));
        self.failed
            .iter_mut()
            .for_each(|failed| bound(&mut failed.attempts));
        if let Some(last) = &mut self.last_failure {
            let mut attempts = vec![last.attempt.clone()];
            bound(&mut attempts);
            last.attempt = attempts.remove(0);
        }
        self
    }

    /// Returns the trial of this entry of the deployment, with `left` tries where it has just begun.
    pub(super) fn trial(&mut self, deployment: &DeploymentId, entry: u64, left: u32) -> &mut Trial {
        self.trials
            .retain(|trial| trial.deployment != *deployment || trial.entry == entry);
        let position = self
            .trials
            .iter()
            .position(|trial| trial.deployment == *deployment)
            .unwrap_or_else(|| {
                self.trials.push(Trial {
                    deployment: deployment.clone(),
                    entry,
                    left,
                    attempts: Vec::new(),
                });
                self.trials.len() - 1
            });
        &mut self.trials[position]
    }

    /// Ends the deployment's trial, and returns how its tries went.
    pub(super) fn end_trial(&mut self, deployment: &DeploymentId) -> Vec<BootAttempt> {
        let Some(position) = self
            .trials
            .iter()
            .position(|trial| trial.deployment == *deployment)
        else {
            return Vec::new();
        };
        self.trials.remove(position).attempts
    }

    /// Remembers what failed. Said twice, after an interruption, it is one thing.
    pub(super) fn add_failed(&mut self, failed: FailedTrial) {
        let same = |other: &FailedTrial| other.deployment == failed.deployment && other.kargs == failed.kargs;
        let failed = match self.failed.iter().position(same) {
            Some(position) => {
                let before = self.failed.remove(position);
                let attempts = match failed.attempts.is_empty() {
                    true => before.attempts,
                    false => failed.attempts,
                };
                FailedTrial { attempts, ..failed }
            }
            None => failed,
        };
        self.failed.push(failed);
    }

    pub(super) fn note_run(&mut self, deployment: &DeploymentId) {
        self.ran.retain(|other| other != deployment);
        self.ran.push(deployment.clone());
    }

    /// Returns why the commit is rejected: it ran out of tries here, and nobody has forgotten it since.
    #[must_use]
    pub fn rejection(&self, commit: &CommitId) -> Option<&FailedTrial> {
        self.failed
            .iter()
            .rev()
            .find(|failed| failed.deployment.commit == *commit && failed.kargs.is_none())
    }

    /// Returns how far the deployment's boots got, as far as is known.
    #[must_use]
    pub fn stage(&self, deployment: &DeploymentId) -> Option<Stage> {
        let trials = self.trials.iter().filter(|trial| trial.deployment == *deployment);
        let failed = self
            .failed
            .iter()
            .filter(|failed| failed.deployment == *deployment);
        trials
            .flat_map(|trial| &trial.attempts)
            .chain(failed.flat_map(|failed| &failed.attempts))
            .map(|attempt| attempt.stage)
            .max()
    }
}

/// Returns the end of a text, of so many bytes at most.
pub(super) fn tail(text: &str, limit: usize) -> &str {
    let start = text.len().saturating_sub(limit);
    let start = (start..=text.len())
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(text.len());
    &text[start..]
}
