//! When a deployment is on trial, and what comes of it: pure functions on the truth.
//!
//! ```text
//!             new, and there is something to go back to
//!   (made) ─────────────────────────────────────────────▶ on trial, N tries left
//!      │                                                     │            │
//!      │ nothing to go back to                 checks passed │            │ no tries left
//!      ▼                                                     ▼            ▼
//!   unproven ──────────── checks passed ─────────────────▶ good          bad
//! ```
//!
//! - *Unproven* deployments have no counter: those of a tree that has no checks, of an older version of this program, and
//!   the first of a machine. A counter would take nobody back to anything, or would end in "bad" for want of somebody
//!   who says "good".
//! - New kernel arguments of a deployment are on trial as a new deployment is. Its entry with the old arguments stays
//!   beside the new one until the new one is good; when it is out of tries, the old arguments are the deployment's again. Where
//!   nothing is counted, the entry stays as well, for people.
//! - Where every other deployment is bad, a counter leads nowhere: the one that got furthest loses its own, the machine stays
//!   on it, and does not go round in circles. That is decided by one that runs, before its last try is over: a loader that
//!   has only entries out of tries takes any, perhaps one whose kernel panics, and then nobody would decide anything.
//!
//! Nothing here ends with no entry that a loader would take, or puts a bad one before one that is not.

use crate::names::StaterootName;

use super::boots::Stage;
use super::state::FallbackEntry;
use super::{DeploymentId, DeploymentState, State};

impl DeploymentState {
    /// Returns whether the loader counts its boots.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.tries.is_some_and(|tries| tries > 0)
    }

    /// Returns whether it ran out of tries.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.tries == Some(0)
    }
}

impl State {
    fn get_mut(&mut self, id: &DeploymentId) -> Option<&mut DeploymentState> {
        self.deployments
            .iter_mut()
            .find(|deployment| deployment.id == *id)
    }

    /// Returns the newest deployment of the stateroot that is known to be good, or was good before its arguments were
    /// changed, leaving `except` out.
    #[must_use]
    pub fn last_good(&self, stateroot: &StaterootName, except: &DeploymentId) -> Option<&DeploymentState> {
        self.deployments.iter().find(|deployment| {
            let proven = deployment.good || deployment.fallback.as_ref().is_some_and(|entry| entry.good);
            proven && deployment.id != *except && deployment.id.stateroot == *stateroot
        })
    }

    /// Puts the deployment, whose entry is new, on trial for so many tries, if there is something to go back to: its own
    /// entry with its old arguments, or another deployment that is not bad.
    pub(super) fn begin_trial(&mut self, id: &DeploymentId, tries: u32) {
        let other = self
            .deployments
            .iter()
            .any(|other| other.id != *id && !other.is_bad());
        if let Some(deployment) = self.get_mut(id) {
            deployment.good = false;
            let can_go_back = other || deployment.fallback.is_some();
            deployment.tries = (tries > 0 && can_go_back).then_some(tries);
        }
    }

    /// Makes the deployment the default as it was, under a new number.
    ///
    /// What was good stays good. What ran out of tries has them again: whoever chooses it wants it tried.
    pub(super) fn choose_again(&mut self, target: DeploymentState, tries: u32) {
        let id = target.id.clone();
        let counted = target.tries.is_some();
        self.put_first(target);
        if counted {
            self.begin_trial(&id, tries);
        }
    }

    /// Makes the deployment the default with other kernel arguments, under a new number. Its present entry stays until these are known
    /// to be good, also where nobody counts: then a person finds it in the loader's menu.
    pub(super) fn change_kargs(&mut self, mut target: DeploymentState, kargs: String, tries: u32) {
        let id = target.id.clone();
        let was_counted = target.tries.is_some();
        match target.fallback.take() {
            // Back to what was there before the trial: nothing is left to be tried.
            Some(before) if before.kargs == kargs => {
                target.good = before.good;
                target.tries = None;
                target.kargs = kargs;
                self.put_first(target);
                return;
            }
            Some(before) => target.fallback = Some(before),
            None if !was_counted => {
                target.fallback = Some(FallbackEntry {
                    entry: target.entry,
                    kargs: target.kargs.clone(),
                    good: target.good,
                });
            }
            None => {}
        }
        target.good = false;
        target.kargs = kargs;
        self.put_first(target);
        if tries > 0 || was_counted {
            self.begin_trial(&id, tries.max(1));
        }
    }

    /// The checks of the deployment passed, with the arguments that it has. Returns whether that is news.
    pub(super) fn mark_good(&mut self, id: &DeploymentId) -> bool {
        let Some(deployment) = self.get_mut(id) else {
            return false;
        };
        let news = !deployment.good || deployment.tries.is_some() || deployment.fallback.is_some();
        deployment.good = true;
        deployment.tries = None;
        deployment.fallback = None;
        news
    }

    /// Takes back that the machine stays on something newer which ran out of tries: what is known to be good is better.
    pub(super) fn unsettle(&mut self, good: &DeploymentId, failed: impl Fn(&DeploymentId) -> bool) {
        let Some(entry) = self.get(good).map(|deployment| deployment.entry) else {
            return;
        };
        for deployment in &mut self.deployments {
            let unproven = !deployment.good && deployment.tries.is_none();
            if deployment.entry > entry && unproven && failed(&deployment.id) {
                deployment.tries = Some(0);
            }
        }
    }

    /// So many tries are left, and none of them is lost by that. See [`State::mark_bad`] for the last one.
    pub(super) fn spend(&mut self, id: &DeploymentId, left: u32) {
        if let Some(deployment) = self.get_mut(id)
            && let Some(tries) = deployment.tries
        {
            deployment.tries = Some(tries.min(left.max(1)));
        }
    }

    /// Says for `/boot` alone that no tries are left after the one that is going on.
    pub(super) fn last_try(&mut self, id: &DeploymentId) {
        if let Some(deployment) = self.get_mut(id).filter(|deployment| deployment.is_on_trial()) {
            deployment.tries = Some(0);
        }
    }

    /// The deployment ran out of tries. Where it was its arguments that were tried, it has the old ones again, and is not
    /// bad; returns the arguments that were given up. What is given up as a whole keeps no other entry.
    pub(super) fn mark_bad(&mut self, id: &DeploymentId) -> Option<String> {
        let deployment = self.get_mut(id)?;
        let was_tried = deployment.is_on_trial();
        let Some(fallback) = deployment.fallback.take().filter(|_| was_tried) else {
            deployment.good = false;
            deployment.tries = Some(0);
            return None;
        };
        let given_up = std::mem::replace(&mut deployment.kargs, fallback.kargs);
        deployment.entry = fallback.entry;
        deployment.good = fallback.good;
        deployment.tries = None;
        self.deployments
            .sort_by_key(|deployment| std::cmp::Reverse(deployment.entry));
        Some(given_up)
    }

    /// Where `running`, which has so many tries left after this one, is the last that is not bad: decides what the machine stays
    /// on, and returns it. It is `running`, unless another got further and the last try of this one has come.
    pub(super) fn end_game(
        &mut self,
        running: &DeploymentId,
        left: u32,
        got: impl Fn(&DeploymentId) -> Option<Stage>,
    ) -> Option<DeploymentId> {
        let others = || self.deployments.iter().filter(|other| other.id != *running);
        if !others().all(DeploymentState::is_bad) {
            return None;
        }
        let best = others().map(|other| got(&other.id)).max().flatten();
        let deployment = self.get_mut(running)?;
        if !deployment.is_on_trial() || deployment.fallback.is_some() {
            return None;
        }
        if got(running) >= best {
            deployment.tries = None;
            return Some(running.clone());
        }
        if left > 0 {
            return None;
        }
        deployment.tries = Some(0);
        self.settle(got)
    }

    /// Where every deployment is bad, takes the counter off the one that got furthest, and returns it: the loader then
    /// stays on that one.
    pub(super) fn settle(&mut self, got: impl Fn(&DeploymentId) -> Option<Stage>) -> Option<DeploymentId> {
        if !self.deployments.iter().all(DeploymentState::is_bad) {
            return None;
        }
        let id = furthest(
            self.deployments
                .iter()
                .map(|deployment| (deployment.id.clone(), deployment.entry, got(&deployment.id))),
        )?;
        self.get_mut(&id)?.tries = None;
        Some(id)
    }
}

/// Of several that are all bad, the one to stay on: what got furthest; of equals the oldest, which had longer to prove
/// itself. One that nothing is known of got nowhere.
pub(super) fn furthest<T>(candidates: impl IntoIterator<Item = (T, u64, Option<Stage>)>) -> Option<T> {
    candidates
        .into_iter()
        .max_by_key(|(_, entry, stage)| (*stage, std::cmp::Reverse(*entry)))
        .map(|(candidate, ..)| candidate)
}

#[cfg(test)]
#[path = "trial_tests.rs"]
mod tests;
