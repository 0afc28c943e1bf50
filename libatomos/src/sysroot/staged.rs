//! The record of a staged deployment, and of what went wrong when one was to be finished.
//!
//! `/atomos/staged.json` names the deployment that shutdown finishes. It is replaced in one step, durably, when
//! everything that it needs is on disk; until then, and from its removal on, nothing is staged. It survives a hard reset:
//! what was not finished is there at the next boot, and is finished by the shutdown after that.
//!
//! A staged deployment is in neither `deployments.json` nor a boot entry, and has no marker: nothing boots it, rolls back
//! to it or merges from it. When the truth names it, it is not staged any more, whatever the record says.

use serde::{Deserialize, Serialize};

use crate::error::with_causes;
use crate::fs::Dir;

use super::{DeployOptions, DeploymentId, DeploymentState, State, Sysroot, SysrootError, SysrootLock};

/// The record's name in `/atomos`.
pub(super) const STAGED: &str = "staged.json";
/// The name in `/atomos` of the file that says why the last finishing failed.
const LAST_ERROR: &str = "last-error.json";
/// The version of the record that this library writes and reads.
const VERSION: u32 = 1;
/// Bytes in either file.
const MAX_FILE: usize = 1024 * 1024;

/// How often shutdown tries to finish one staged deployment. What fails three times fails for a reason that shutting
/// down once more does not end.
pub(super) const MAX_TRIES: u32 = 3;

/// On which terms a new deployment becomes the default, at once or at shutdown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Terms {
    /// How many deployments are kept then; what the policy says, where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// How often the boot loader is to try it; as always, where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
}

impl Terms {
    pub fn new(options: &DeployOptions) -> Self {
        Self {
            keep: options.keep,
            tries: options.tries,
        }
    }
}

/// A staged deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Staged {
    version: u32,
    /// What the truth is to say of it. Its number is given when it is finished.
    pub deployment: DeploymentState,
    /// `/etc` is made of the defaults alone.
    #[serde(default)]
    pub no_merge: bool,
    /// On which terms it becomes the default.
    #[serde(default)]
    pub terms: Terms,
    /// The boot that it was staged in, as the kernel names it.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Conflicts that the trial merge of `/etc` found.
    #[serde(default)]
    pub etc_conflicts: u64,
    /// How often shutdown has begun to finish it.
    #[serde(default)]
    pub tries: u32,
}

impl Staged {
    pub fn new(deployment: DeploymentState) -> Self {
        Self {
            version: VERSION,
            deployment,
            no_merge: false,
            terms: Terms::default(),
            boot_id: None,
            etc_conflicts: 0,
            tries: 0,
        }
    }

    /// Whether shutdown does not try to finish it any more.
    pub fn is_given_up(&self) -> bool {
        self.tries >= MAX_TRIES
    }

    /// Reads the record as it stands.
    pub fn load(atomos: &Dir) -> Result<Option<Self>, SysrootError> {
        let Some(bytes) = atomos.read_optional(STAGED, MAX_FILE)? else {
            return Ok(None);
        };
        let damaged = |reason: String| SysrootError::DamagedState {
            path: atomos.path().join(STAGED),
            reason,
        };
        let staged: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if staged.version != VERSION {
            let found = staged.version;
            return Err(damaged(format!(
                "it is of version {found}, and this program knows {VERSION}"
            )));
        }
        Ok(Some(staged))
    }

    /// Replaces the record: the visible step of staging. Durable on return.
    pub fn save(&self, atomos: &Dir) -> Result<(), SysrootError> {
        let bytes = serde_json::to_vec_pretty(self).expect("names and numbers are text");
        crate::failpoint::hit("staged.write")?;
        atomos.write_atomic(STAGED, &bytes, 0o644)?;
        crate::failpoint::hit("staged.written")?;
        atomos.sync_fs()?;
        crate::failpoint::hit("staged.durable")?;
        Ok(())
    }
}

/// Why a staged deployment was not finished. Kept until one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LastError {
    /// What was being done: `finalize`.
    pub operation: String,
    /// To which deployment.
    pub deployment: DeploymentId,
    /// The version of its operating system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// When, in seconds since 1970, by the machine's clock.
    pub time: i64,
    /// What went wrong, with its causes.
    pub reason: String,
}

impl LastError {
    pub(super) fn new(staged: &Staged, error: &SysrootError) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            operation: "finalize".to_owned(),
            deployment: staged.deployment.id.clone(),
            version: staged.deployment.version.clone(),
            time: now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0)),
            reason: with_causes(error),
        }
    }

    /// Reads it. It is for people: one that cannot be read is none.
    pub(super) fn load(atomos: &Dir) -> Option<Self> {
        let bytes = atomos.read_optional(LAST_ERROR, MAX_FILE).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Durable on return.
    pub(super) fn save(&self, atomos: &Dir) -> Result<(), SysrootError> {
        let bytes = serde_json::to_vec_pretty(self).expect("names and numbers are text");
        atomos.write_atomic(LAST_ERROR, &bytes, 0o644)?;
        Ok(atomos.sync_fs()?)
    }

    /// Forgets it. Durable with the caller's next sync: it is told once more at worst.
    pub(super) fn clear(atomos: &Dir) -> Result<(), SysrootError> {
        atomos.remove_file_optional(LAST_ERROR)?;
        Ok(())
    }
}

impl Sysroot {
    /// Returns what is staged. A record that cannot be used is an error.
    pub(super) fn staged(&self, state: &State) -> Result<Option<Staged>, SysrootError> {
        let staged = Staged::load(&self.atomos)?;
        Ok(staged.filter(|staged| state.get(&staged.deployment.id).is_none()))
    }

    /// Returns what is staged, for what goes on without. A record that cannot be used names nothing that could be finished,
    /// and must not keep a machine from being upgraded; `status` tells of it, and the next one replaces it.
    pub(super) fn usable_staged(&self, state: &State) -> Result<Option<Staged>, SysrootError> {
        match self.staged(state) {
            Err(SysrootError::DamagedState { .. }) => Ok(None),
            other => other,
        }
    }

    /// The same, where its tree is there. One that has lost it cannot be finished, so it is nothing to be up to date with.
    pub(super) fn staged_with_tree(&self, state: &State) -> Result<Option<Staged>, SysrootError> {
        let Some(staged) = self.usable_staged(state)? else {
            return Ok(None);
        };
        let id = &staged.deployment.id;
        let is_there = self.deployments_dir(&id.stateroot)?.exists(id.dir_name())?;
        Ok(is_there.then_some(staged))
    }

    /// Ends being staged, whatever the record says. Durable on return. What was staged is an orphan from then on.
    pub(super) fn discard_staged(&self, _lock: &SysrootLock) -> Result<(), SysrootError> {
        if self.atomos.exists(STAGED)? {
            crate::failpoint::hit("staged.discard")?;
            self.atomos.remove_file_optional(STAGED)?;
            crate::failpoint::hit("staged.discarded")?;
            self.atomos.sync_fs()?;
            crate::failpoint::hit("staged.discard-durable")?;
        }
        Ok(())
    }

    /// Returns the kernel's name for this boot, where it has one.
    pub(super) fn boot_id(&self) -> Option<String> {
        let bytes = self.host.read_optional("proc/sys/kernel/random/boot_id", 64);
        let text = String::from_utf8(bytes.ok().flatten()?).ok()?;
        Some(text.trim().to_owned())
    }
}
