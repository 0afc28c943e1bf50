//! What a sysroot holds, for people and programs.

use std::fmt;

use serde::Serialize;

use crate::composefs::ImageReport;
use crate::digest::CommitId;
use crate::etc_merge::Conflicts;
use crate::sign::KeyId;

use super::assess::no_panic;
use super::image::image_report;
use super::origin::Origin;
use super::root_kind::{RootKind, root_kind};
use super::seal::sealed_by;
use super::stage::FINALIZER;
use super::staged::{LastError, Staged};
use super::{
    BootLog, DeploymentId, DeploymentState, FailedTrial, LastFailure, Sysroot, SysrootError, Trial, layout,
};

/// What a deployment is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Shutdown finishes it, and the next boot takes it then.
    Staged,
    /// Running.
    Booted,
    /// What the next boot takes.
    Pending,
    /// What a rollback takes.
    Rollback,
    /// None of these.
    Other,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staged => "staged",
            Self::Booted => "booted",
            Self::Pending => "pending",
            Self::Rollback => "rollback",
            Self::Other => "other",
        })
    }
}

/// What is known of whether a deployment boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Assessment {
    /// Nothing: nobody has said that it is good, and nobody counts.
    Unproven,
    /// Its tries are counted.
    OnTrial,
    /// Its checks passed.
    Good,
    /// It ran out of tries.
    Bad,
}

/// One deployment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DeploymentStatus {
    /// Its position. What is staged is the first, then comes the default.
    pub index: usize,
    /// Its name, `<stateroot>/<commit>.<serial>`.
    pub id: DeploymentId,
    /// The stateroot.
    pub stateroot: String,
    /// The commit.
    pub commit: CommitId,
    /// Its role.
    pub role: Role,
    /// Whether it is running.
    pub booted: bool,
    /// Whether the next boot takes it as things are. If something is staged, a shutdown changes that.
    pub default: bool,
    /// The version of the operating system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What the boot menu shows.
    pub title: String,
    /// What it follows.
    #[serde(flatten)]
    pub origin: Origin,
    /// When its commit was made, in seconds since 1970; absent where the commit cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// Kernel arguments, without `atomos=`.
    pub kargs: String,
    /// Names the directory in `/boot` that has its kernel.
    pub bootcsum: String,
    /// The number of its boot entry; absent for what is staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// What its root is made of.
    pub root: RootKind,
    /// The image that is its root, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReport>,
    /// Whether it is running, and its image is the root.
    pub image_booted: bool,
    /// Who says to have sealed its image, where that is verified when it boots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sealed_by: Vec<KeyId>,
    /// Whether it is running, and was verified when it booted: by which key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<KeyId>,
    /// Kept by every clean-up.
    pub pinned: bool,
    /// What is known of whether it boots.
    pub assessment: Assessment,
    /// While it is on trial, how many more tries the boot loader makes; 0 in its last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<u32>,
    /// Conflicts of the merge of `/etc` that nobody has resolved; of what is staged, those that a trial found.
    pub etc_conflicts: u64,
    /// Whether it is whole: its directory and its marker are there, and the image that is its root. What is staged is not.
    pub complete: bool,
}

/// The state of a sysroot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Status {
    /// The deployments: what is staged, then the default, then the others.
    pub deployments: Vec<DeploymentStatus>,
    /// What is running, where it is one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booted: Option<DeploymentId>,
    /// What shutdown finishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<DeploymentId>,
    /// Why the last staged deployment that was to be finished was not. Kept until one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// Whether `/usr` can be written to until the next boot (`usr-overlay`).
    pub usr_overlay: bool,
    /// What the machine went back from, where what runs is what it went back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_from: Option<DeploymentId>,
    /// Versions that failed here, which `upgrade` does not install again, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<FailedTrial>,
    /// All that failed here, and how: rejected versions, and kernel arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedTrial>,
    /// What is on trial, and how its tries went so far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<Trial>,
    /// Checks that failed in the last boot of a deployment that is not on trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// What a person should know: an entry missing in `/boot`, a loader that is set to something else.
    pub warnings: Vec<String>,
}

impl Sysroot {
    /// Returns the state of the sysroot. Takes no lock.
    pub fn status(&self) -> Result<Status, SysrootError> {
        let state = self.state()?;
        let booted = self.booted()?;
        let mut warnings = self.boot_warnings(&state)?;
        let staged = match self.staged(&state) {
            Err(error @ SysrootError::DamagedState { .. }) => {
                warnings.push(format!("{error}; `atomos undeploy staged` removes it"));
                None
            }
            other => other?,
        };
        let rollback = state
            .rollback_target(booted.as_ref())
            .map(|deployment| deployment.id.clone());
        let default = state.default_deployment().map(|deployment| deployment.id.clone());
        // Anybody may ask for the status; not everybody may read /boot.
        let counts = self.tries_left().unwrap_or_default();
        let (log, damage) = match self.boot_log() {
            Ok(log) => (log, None),
            Err(error) => (
                BootLog::default(),
                Some(format!("what became of boots is not known: {error}")),
            ),
        };
        let mut deployments = Vec::new();
        if let Some(staged) = &staged {
            let mut status = self.deployment_status(&staged.deployment, Role::Staged)?;
            status.entry = None;
            status.etc_conflicts = staged.etc_conflicts;
            deployments.push(status);
            warnings.extend(self.staged_warning(staged)?);
        }
        for deployment in &state.deployments {
            let id = &deployment.id;
            let role = match () {
                _ if booted.as_ref() == Some(id) => Role::Booted,
                _ if default.as_ref() == Some(id) => Role::Pending,
                _ if rollback.as_ref() == Some(id) => Role::Rollback,
                _ => Role::Other,
            };
            let mut status = self.deployment_status(deployment, role)?;
            status.index = deployments.len();
            status.default = default.as_ref() == Some(id);
            if deployment.is_on_trial() {
                status.tries_left = counts.get(&deployment.entry).copied().or(deployment.tries);
            }
            if !status.complete {
                warnings.push(format!(
                    "{id} is not whole: its directory, its image or its marker is missing"
                ));
            }
            deployments.push(status);
        }
        for deployment in state.deployments.iter().filter(|found| found.is_on_trial()) {
            if let Some(text) = no_panic(deployment)? {
                warnings.push(format!("{}: {text}", deployment.id));
            }
        }
        warnings.extend(damage);
        let went_back = |failed: &&FailedTrial| booted.is_some() && failed.went_back_to == booted;
        Ok(Status {
            deployments,
            rolled_back_from: log
                .failed
                .last()
                .filter(went_back)
                .map(|failed| failed.deployment.clone()),
            rejected: log
                .failed
                .iter()
                .filter(|failed| failed.kargs.is_none())
                .cloned()
                .collect(),
            failures: log.failed,
            trials: log.trials,
            last_failure: log.last_failure,
            booted,
            staged: staged.map(|staged| staged.deployment.id),
            last_error: LastError::load(&self.atomos),
            usr_overlay: self.overlaid_usr()?.is_some(),
            warnings,
        })
    }

    fn deployment_status(
        &self,
        deployment: &DeploymentState,
        role: Role,
    ) -> Result<DeploymentStatus, SysrootError> {
        let id = &deployment.id;
        let dir = self.deployments_dir(&id.stateroot)?;
        let conflicts = if dir.exists(layout::conflicts(id))? {
            Conflicts::load(&dir, layout::conflicts(id))?.len() as u64
        } else {
            0
        };
        let root = root_kind(&dir, id)?;
        // One that cannot be read is told of where it is needed.
        let image = image_report(&dir, id).unwrap_or_default();
        let complete = dir.exists(layout::marker(id))?
            && dir.exists(id.dir_name())?
            && (root.has_files() || dir.exists(layout::image(id))?);
        Ok(DeploymentStatus {
            index: 0,
            id: id.clone(),
            stateroot: id.stateroot.to_string(),
            commit: id.commit,
            role,
            booted: role == Role::Booted,
            default: false,
            version: deployment.version.clone(),
            title: deployment.title.clone(),
            origin: Origin::load(&dir, id)?,
            time: self.repo.load_commit(&id.commit).ok().map(|commit| commit.time),
            kargs: deployment.kargs.clone(),
            bootcsum: deployment.bootcsum.clone(),
            entry: Some(deployment.entry),
            root,
            image,
            image_booted: role == Role::Booted && self.running.image,
            sealed_by: match root {
                RootKind::VerifiedImage => sealed_by(&dir, id),
                _ => Vec::new(),
            },
            verified_by: self.running.verified_by.filter(|_| role == Role::Booted),
            pinned: deployment.pinned,
            assessment: assessment(deployment),
            tries_left: None,
            etc_conflicts: conflicts,
            complete,
        })
    }

    /// Returns what a person should know of what is staged, if it will not just be finished.
    fn staged_warning(&self, staged: &Staged) -> Result<Option<String>, SysrootError> {
        let id = &staged.deployment.id;
        let short = id.short();
        let dir = self.deployments_dir(&id.stateroot)?;
        let now = self.boot_id();
        let warning = if !dir.exists(id.dir_name())? {
            Some(format!("{id} is staged, and its tree is missing: stage it again"))
        } else if staged.is_given_up() {
            Some(format!(
                "{short} is staged, and shutdown has tried {} times to finish it: `atomos finalize` tries again",
                staged.tries
            ))
        } else if now.is_some() && staged.boot_id.is_some() && staged.boot_id != now {
            Some(format!(
                "{short} was staged before this boot and was not finished: the next shutdown or `atomos finalize` \
                 finishes it, with the /etc of then"
            ))
        } else if self.booted()?.is_some() && !self.host.exists(FINALIZER)? {
            Some(format!(
                "{short} is staged, and nothing finishes it at shutdown here: run `atomos finalize`"
            ))
        } else {
            None
        };
        Ok(warning)
    }
}

fn assessment(deployment: &DeploymentState) -> Assessment {
    match deployment {
        _ if deployment.is_bad() => Assessment::Bad,
        _ if deployment.is_on_trial() => Assessment::OnTrial,
        _ if deployment.good => Assessment::Good,
        _ => Assessment::Unproven,
    }
}
