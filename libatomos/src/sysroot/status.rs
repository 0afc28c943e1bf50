//! What a sysroot holds, for people and programs.

use std::fmt;

use serde::Serialize;

use crate::digest::CommitId;
use crate::etc_merge::Conflicts;

use super::origin::Origin;
use super::{DeploymentId, Sysroot, SysrootError, layout};

/// What a deployment is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
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
            Self::Booted => "booted",
            Self::Pending => "pending",
            Self::Rollback => "rollback",
            Self::Other => "other",
        })
    }
}

/// One deployment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DeploymentStatus {
    /// Its position; 0 is the default.
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
    /// Whether the next boot takes it.
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
    /// The number of its boot entry.
    pub entry: u64,
    /// Kept by every clean-up.
    pub pinned: bool,
    /// Conflicts of the merge of `/etc` that nobody has resolved.
    pub etc_conflicts: u64,
    /// Whether it is whole: its directory and its marker are there.
    pub complete: bool,
}

/// The state of a sysroot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Status {
    /// The deployments, the default first.
    pub deployments: Vec<DeploymentStatus>,
    /// What is running, where it is one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booted: Option<DeploymentId>,
    /// What a person should know: an entry missing in `/boot`, a loader that is set to something else.
    pub warnings: Vec<String>,
}

impl Sysroot {
    /// Returns the state of the sysroot. Takes no lock.
    pub fn status(&self) -> Result<Status, SysrootError> {
        let state = self.state()?;
        let booted = self.booted()?;
        let rollback = state
            .rollback_target(booted.as_ref())
            .map(|deployment| deployment.id.clone());
        let mut deployments = Vec::new();
        for (index, deployment) in state.deployments.iter().enumerate() {
            let id = &deployment.id;
            let dir = self.deployments_dir(&id.stateroot)?;
            let role = match index {
                _ if booted.as_ref() == Some(id) => Role::Booted,
                0 => Role::Pending,
                _ if rollback.as_ref() == Some(id) => Role::Rollback,
                _ => Role::Other,
            };
            let conflicts = if dir.exists(layout::conflicts(id))? {
                Conflicts::load(&dir, layout::conflicts(id))?.len() as u64
            } else {
                0
            };
            deployments.push(DeploymentStatus {
                index,
                id: id.clone(),
                stateroot: id.stateroot.to_string(),
                commit: id.commit,
                role,
                booted: booted.as_ref() == Some(id),
                default: index == 0,
                version: deployment.version.clone(),
                title: deployment.title.clone(),
                origin: Origin::load(&dir, id)?,
                time: self.repo.load_commit(&id.commit).ok().map(|commit| commit.time),
                kargs: deployment.kargs.clone(),
                bootcsum: deployment.bootcsum.clone(),
                entry: deployment.entry,
                pinned: deployment.pinned,
                etc_conflicts: conflicts,
                complete: dir.exists(layout::marker(id))? && dir.exists(id.dir_name())?,
            });
        }
        let mut warnings = self.boot_warnings(&state)?;
        for deployment in deployments.iter().filter(|deployment| !deployment.complete) {
            warnings.push(format!(
                "{} is not whole: its directory or its marker is missing",
                deployment.id
            ));
        }
        Ok(Status {
            deployments,
            booted,
            warnings,
        })
    }
}
