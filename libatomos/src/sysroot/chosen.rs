//! What a person went back to and has not booted yet: `/atomos/chosen.json`.
//!
//! It holds for the boot in which it was chosen, and for as long as it is what the next one takes. A file of its own, and a hint: the version
//! that is gone back to may have an older program, which must be able to read the truth.

use serde::{Deserialize, Serialize};

use crate::digest::CommitId;

use super::{DeploymentId, DeploymentState, Sysroot, SysrootError};

/// The file's name in `/atomos`.
const CHOSEN: &str = "chosen.json";

/// Bytes in it.
const MAX: usize = 64 * 1024;

/// A rollback that was not booted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Chosen {
    /// What the next boot takes.
    pub deployment: DeploymentId,
    /// What it was chosen over: what was the default, was staged, or runs.
    pub over: Vec<CommitId>,
    /// The boot in which that was done.
    boot_id: Option<String>,
}

impl Sysroot {
    /// Remembers that `deployment` was chosen over others.
    pub(super) fn remember_choice(
        &self,
        deployment: &DeploymentId,
        over: impl IntoIterator<Item = CommitId>,
    ) -> Result<(), SysrootError> {
        let mut over: Vec<_> = over
            .into_iter()
            .filter(|commit| *commit != deployment.commit)
            .collect();
        over.sort_unstable();
        over.dedup();
        let chosen = Chosen {
            deployment: deployment.clone(),
            over,
            boot_id: self.running.boot_id.clone(),
        };
        let bytes = serde_json::to_vec(&chosen).expect("names are text");
        // No power cut shows this sync: the choice holds for the boot in which it was made, and what is left of the file says nothing to
        // another. A machine that has no name for a boot may see it again, and takes what is torn for none.
        self.with_reserve(|| Ok(self.atomos.write_atomic(CHOSEN, &bytes, 0o644)?))
    }

    /// Returns what a person went back to since this boot began, where that is what the `next` one takes. A file that cannot be read
    /// says nothing.
    pub(super) fn chosen(&self, next: Option<&DeploymentState>) -> Option<Chosen> {
        let bytes = self.atomos.read_optional(CHOSEN, MAX).ok()??;
        let chosen: Chosen = serde_json::from_slice(&bytes).ok()?;
        // Where no boot has a name, this may be the next one.
        let is_this_boot = chosen.boot_id.is_some() && chosen.boot_id == self.running.boot_id;
        let is_next = next.is_some_and(|next| next.id == chosen.deployment);
        (is_this_boot && is_next).then_some(chosen)
    }
}
