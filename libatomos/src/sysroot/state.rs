//! The truth: which deployments there are, in which order, with which kernel arguments.
//!
//! It lies in `/atomos/deployments.json` and is replaced in one step, durably, before anything in `/boot` changes. What
//! is in `/boot` is derived from it and can be written again at any time.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::Dir;
use crate::names::StaterootName;

use super::{DeploymentId, SysrootError};

/// The file's name in `/atomos`.
pub(super) const STATE: &str = "deployments.json";

/// The version of the file that this library writes and reads.
const VERSION: u32 = 1;

/// Bytes in the file: some ten thousand deployments.
const MAX_STATE: usize = 8 * 1024 * 1024;

/// One deployment, as the truth has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DeploymentState {
    /// Which.
    pub id: DeploymentId,
    /// The number of its boot entry. The highest is the default; a number is used once.
    pub entry: u64,
    /// Kernel arguments, without `atomos=`.
    pub kargs: String,
    /// Names the directory in `/boot` that has its kernel.
    pub bootcsum: String,
    /// What the boot menu shows.
    pub title: String,
    /// The version of the operating system; empty where the commit has none.
    pub version: String,
    /// Kept by every clean-up.
    #[serde(default)]
    pub pinned: bool,
    /// Whether it is known to be good: its checks passed, with these kernel arguments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub good: bool,
    /// How often the loader may still try it, as far as is known; 0 where it is bad, none where it is not on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
    /// Its entry with the arguments before, while these are on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackEntry>,
}

/// A deployment's entry with other kernel arguments, which stays until the new ones are known to be good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FallbackEntry {
    /// The number of the entry.
    pub entry: u64,
    /// Its kernel arguments, without `atomos=`.
    pub kargs: String,
    /// Whether the deployment is known to be good with them.
    #[serde(default)]
    pub good: bool,
}

/// The truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct State {
    pub(super) version: u32,
    /// The number that the next boot entry gets.
    pub next_entry: u64,
    /// Every deployment, the default first.
    pub deployments: Vec<DeploymentState>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            next_entry: 1,
            deployments: Vec::new(),
        }
    }
}

impl State {
    /// Reads the truth; a sysroot that never had a deployment has none.
    pub(super) fn load(atomos: &Dir) -> Result<Self, SysrootError> {
        let Some(bytes) = atomos.read_optional(STATE, MAX_STATE)? else {
            return Ok(Self::default());
        };
        let path: PathBuf = atomos.path().join(STATE);
        let damaged = |reason: String| SysrootError::DamagedState {
            path: path.clone(),
            reason,
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if state.version != VERSION {
            return Err(SysrootError::NewerState {
                path,
                version: state.version,
            });
        }
        state.check(&path)?;
        Ok(state)
    }

    /// Fails for a list that means nothing; `path` is for messages.
    pub(super) fn check(&self, path: &Path) -> Result<(), SysrootError> {
        let damaged = |reason: String| SysrootError::DamagedState {
            path: path.to_owned(),
            reason,
        };
        let (mut ids, mut entries) = (HashSet::new(), HashSet::new());
        for deployment in &self.deployments {
            let fallback = deployment.fallback.as_ref().map(|fallback| fallback.entry);
            let twice = !entries.insert(deployment.entry) || fallback.is_some_and(|n| !entries.insert(n));
            if !ids.insert(&deployment.id) || twice {
                return Err(damaged(format!("{} stands twice", deployment.id)));
            }
            if deployment.entry >= self.next_entry || fallback.is_some_and(|n| n >= deployment.entry) {
                return Err(damaged("an entry's number is not below the next one".to_owned()));
            }
        }
        if !self.deployments.is_sorted_by(|a, b| a.entry > b.entry) {
            return Err(damaged(
                "the deployments are not in the order of their entries".to_owned(),
            ));
        }
        Ok(())
    }

    /// Replaces the truth. Durable on return.
    pub(super) fn save(&self, atomos: &Dir) -> Result<(), SysrootError> {
        let bytes = serde_json::to_vec_pretty(self).expect("names and numbers are text");
        crate::failpoint::hit("sysroot.state.write")?;
        atomos.write_atomic(STATE, &bytes, 0o644)?;
        crate::failpoint::hit("sysroot.state.written")?;
        atomos.sync_fs()?;
        crate::failpoint::hit("sysroot.state.durable")?;
        Ok(())
    }

    /// Makes `deployment` the default, under a new number.
    pub(super) fn put_first(&mut self, mut deployment: DeploymentState) {
        self.deployments.retain(|other| other.id != deployment.id);
        deployment.entry = self.next_entry;
        self.next_entry += 1;
        self.deployments.insert(0, deployment);
    }

    /// Returns what the next boot takes: the first deployment that is not bad.
    #[must_use]
    pub fn default_deployment(&self) -> Option<&DeploymentState> {
        let sound = self.deployments.iter().find(|deployment| !deployment.is_bad());
        sound.or_else(|| self.deployments.first())
    }

    /// Returns the first deployment of the stateroot that is not bad: of these, what would run next.
    #[must_use]
    pub fn newest(&self, stateroot: &StaterootName) -> Option<&DeploymentState> {
        let of_it = || {
            self.deployments
                .iter()
                .filter(|deployment| deployment.id.stateroot == *stateroot)
        };
        of_it()
            .find(|deployment| !deployment.is_bad())
            .or_else(|| of_it().next())
    }

    /// Returns the deployment called `id`.
    #[must_use]
    pub fn get(&self, id: &DeploymentId) -> Option<&DeploymentState> {
        self.deployments.iter().find(|deployment| deployment.id == *id)
    }
}
