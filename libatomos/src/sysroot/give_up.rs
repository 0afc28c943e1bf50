//! What ran out of tries, or what a person gives up: a version, or kernel arguments of one.

use crate::digest::CommitId;
use crate::progress::Progress;

use super::boots::{BootLog, FailedTrial};
use super::{DeploymentId, DeploymentState, State, Sysroot, SysrootError};

impl Sysroot {
    /// Gives the deployment up: it is the last that a loader takes, and its version is rejected. Where its kernel
    /// arguments are on trial, it is these that are given up.
    ///
    /// # Errors
    /// When nothing else could be booted.
    pub fn mark_bad(
        &self,
        selector: &str,
        now: i64,
        progress: &dyn Progress,
    ) -> Result<FailedTrial, SysrootError> {
        let lock = self.lock()?;
        let before = self.state_to_reorder()?;
        let booted = self.booted()?;
        let staged = self.usable_staged(&before)?;
        let id = before
            .select(selector, staged.as_ref(), booted.as_ref())?
            .finished("give up")?
            .id;
        let has_own = before
            .get(&id)
            .is_some_and(|found| found.fallback.is_some() && found.is_on_trial());
        if !has_own
            && !before
                .deployments
                .iter()
                .any(|other| other.id != id && !other.is_bad())
        {
            return Err(SysrootError::InUse {
                id,
                action: "give up",
                reason: "the only deployment that is not bad, and nothing else would boot",
            });
        }
        let mut state = before.clone();
        let mut log = BootLog::load_or_renew(&self.atomos)?;
        let failed = give_up(&mut state, &mut log, &id, booted, now, Blame::Version);
        self.save_boots(&log)?;
        self.apply_verdict(&lock, &before, &state, true, progress)?;
        self.mark_trial(&state, &id)?;
        Ok(failed)
    }

    /// Forgets that versions failed here: those whose commit begins with `prefix`, or all. Returns their commits.
    pub fn forget_failed(&self, prefix: Option<&str>) -> Result<Vec<CommitId>, SysrootError> {
        let _lock = self.lock()?;
        let mut log = BootLog::load_or_renew(&self.atomos)?;
        let mut forgotten = Vec::new();
        log.failed.retain(|failed| {
            let commit = failed.deployment.commit;
            let named = prefix.is_none_or(|prefix| {
                failed.version == prefix || (prefix.len() >= 4 && commit.to_string().starts_with(prefix))
            });
            if named && !forgotten.contains(&commit) {
                forgotten.push(commit);
            }
            !named
        });
        if !forgotten.is_empty() {
            self.save_boots(&log)?;
        }
        Ok(forgotten)
    }
}

/// What a failure is the fault of.
#[derive(Clone, Copy)]
pub(super) enum Blame<'a> {
    /// The version's: a person said so.
    Version,
    /// That is to be found out, given the kernel arguments that an upgrade from a deployment starts from.
    Open(&'a dyn Fn(&DeploymentState) -> String),
}

/// Gives the deployment up in the truth, and remembers how its tries went.
pub(super) fn give_up(
    state: &mut State,
    log: &mut BootLog,
    id: &DeploymentId,
    booted: Option<DeploymentId>,
    now: i64,
    blame: Blame<'_>,
) -> FailedTrial {
    let (version, kargs) = state
        .get(id)
        .map(|found| (found.version.clone(), found.kargs.clone()))
        .unwrap_or_default();
    // A version with other arguments than those that an upgrade starts from may be good: it is rejected when it fails a second time. An
    // interruption may have recorded this failure already.
    let is_another = |failed: &FailedTrial| failed.deployment.commit == id.commit && failed.deployment != *id;
    let failed_before = log.failed.iter().any(is_another);
    let given_up = state.mark_bad(id).or_else(|| match blame {
        Blame::Open(inherits) if !failed_before && has_other_kargs(state, id, &kargs, inherits) => {
            Some(kargs)
        }
        _ => None,
    });
    let failed = FailedTrial {
        deployment: id.clone(),
        version,
        kargs: given_up,
        time: now,
        went_back_to: booted.filter(|booted| booted != id),
        attempts: log.end_trial(id),
    };
    log.add_failed(failed.clone());
    failed
}

/// Returns whether a version that failed had other kernel arguments than it would get from an upgrade now, or than are known to boot.
fn has_other_kargs(
    state: &State,
    failed: &DeploymentId,
    kargs: &str,
    inherits: &dyn Fn(&DeploymentState) -> String,
) -> bool {
    let next = state.newest(&failed.stateroot);
    next.is_some_and(|next| {
        let are_doubtful = next.fallback.is_some() && next.is_on_trial();
        next.id != *failed && !next.is_bad() && (are_doubtful || inherits(next) != kargs)
    })
}
