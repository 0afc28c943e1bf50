//! Finishing a staged deployment: what shutdown does, and `atomos finalize` at any time.
//!
//! 1. The marker goes, where an interrupted run has left one: nothing may boot what is being changed.
//! 2. `/etc` is merged again, from what runs now; conflicts are written beside the tree; `/var` gets what it lacks.
//! 3. From here on it is a deploy: `syncfs`, marker, `syncfs`; the truth; `/boot`, where the kernel is already, gets the one
//!    new entry: **the switch**.
//! 4. The record `staged.json` goes.
//!
//! Interrupted before the switch, the machine boots what it booted before, the record is still there, and all of it is done
//! again. Interrupted after it, the truth names the deployment, and the next run takes the record away.
//!
//! A failure leaves the machine as it was and says why, in a file of its own that `status` shows. Shutdown tries
//! [`MAX_TRIES`](super::staged::MAX_TRIES) times, however each of them ended, and then leaves the deployment to a person: no
//! machine goes round in circles.

use crate::boot::KernelCheck;
use crate::cancel::Cancel;
use crate::error::ErrorKind;
use crate::progress::Progress;

use super::image::image_report;
use super::root_kind::root_kind;
use super::staged::{LastError, Staged};
use super::{DeployReport, DeploymentId, State, Sysroot, SysrootError, SysrootLock, layout};

/// How to finish what is staged.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct FinalizeOptions {
    /// The system is shutting down: what only tidies up is left to the next run, and what has failed too often is not
    /// tried again.
    pub at_shutdown: bool,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
#[non_exhaustive]
pub enum FinalizeOutcome {
    /// Nothing is staged.
    NothingStaged,
    /// An interrupted run had made the deployment the default; what was left to do was done.
    AlreadyDone {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// Shutdown has tried often enough.
    GivenUp {
        /// The deployment.
        deployment: DeploymentId,
    },
    /// It was finished.
    Finished(Box<DeployReport>),
}

impl Sysroot {
    /// Finishes what is staged: merges `/etc` as it is now, and makes the deployment the default. Takes the lock.
    ///
    /// # Errors
    /// The machine is as it was then, and [`Status::last_error`](super::Status::last_error) says why.
    pub fn finalize(
        &self,
        options: &FinalizeOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<FinalizeOutcome, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        let Some(mut staged) = Staged::load(&self.atomos)? else {
            return Ok(FinalizeOutcome::NothingStaged);
        };
        let id = staged.deployment.id.clone();
        if state.get(&id).is_some() {
            let is_only = state.deployments.len() == 1;
            if self.booted()?.as_ref() == Some(&id) || self.is_offered(&id)? || is_only {
                self.reconcile_boot(&lock, &state, KernelCheck::NewOnly, progress)?;
                self.discard_staged(&lock)?;
                return Ok(FinalizeOutcome::AlreadyDone { deployment: id });
            }
            // The truth came to name it, and /boot never heard of that. What was edited since is not in its /etc, so it is
            // made again; and the truth must not name what has no marker.
            state.deployments.retain(|deployment| deployment.id != id);
            self.save_state(&state)?;
        }
        if options.at_shutdown {
            if staged.is_given_up() {
                return Ok(FinalizeOutcome::GivenUp { deployment: id });
            }
            // Before anything else: a try that hangs, or takes the machine with it, counts as well.
            staged.tries += 1;
            match staged.save(&self.atomos) {
                // A try that was cut off may have filled the disk.
                Err(error) if error.kind() == ErrorKind::NoSpace && self.take_back(&id)? => {
                    staged.save(&self.atomos)?;
                }
                saved => saved?,
            }
        }
        let finished = self.finish(&lock, state, &staged, !options.at_shutdown, progress, cancel);
        match finished {
            Ok(report) => Ok(FinalizeOutcome::Finished(Box::new(report))),
            Err(error) => {
                if crate::failpoint::hit("finalize.failed").is_ok() {
                    // The failure itself is what the caller is told; a disk that is full may take no record of it.
                    let _ = self.take_back(&id);
                    // What came after the switch did not fail to finish.
                    if !self.state().is_ok_and(|state| state.get(&id).is_some()) {
                        let _ = LastError::new(&staged, &error).save(&self.atomos);
                    }
                }
                Err(error)
            }
        }
    }

    /// Removes the `/etc` of a staged deployment that was not finished: it takes room that the machine may need, and the next try
    /// makes it anew. Returns whether there was one. What was finished, or what a loader offers, keeps it.
    fn take_back(&self, id: &DeploymentId) -> Result<bool, SysrootError> {
        let deployments = self.deployments_dir(&id.stateroot)?;
        let is_needed = deployments.exists(layout::marker(id))? || self.is_offered(id)?;
        let root = deployments.open_dir_optional(id.dir_name())?;
        match root.filter(|_| !is_needed) {
            Some(root) if root.exists("etc")? => {
                root.remove_tree("etc")?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Does what is left of a staged deployment, and makes it the default. `tidy_up` removes what retention lets go of at
    /// once; else the next run does.
    pub(super) fn finish(
        &self,
        lock: &SysrootLock,
        mut state: State,
        staged: &Staged,
        tidy_up: bool,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let id = &staged.deployment.id;
        let deployments = self.deployments_dir(&id.stateroot)?;
        let root = deployments.open_dir_optional(id.dir_name())?;
        let root = root.ok_or_else(|| SysrootError::DamagedState {
            path: deployments.path().join(id.dir_name()),
            reason: "it is staged, and its tree is missing".to_owned(),
        })?;
        if !root_kind(&deployments, id)?.has_files() && !deployments.exists(layout::image(id))? {
            return Err(SysrootError::DamagedState {
                path: deployments.path().join(layout::image(id)),
                reason: "it is the root of what is staged, and it is missing".to_owned(),
            });
        }
        if deployments.remove_file_optional(layout::marker(id))? {
            deployments.sync_fs()?;
        }
        crate::failpoint::hit("finish.begin")?;
        let merge_from = match staged.no_merge {
            true => None,
            false => self.merge_source(&state, &id.stateroot)?,
        };
        let furnished = self.furnish(id, merge_from.as_ref(), &root, &deployments, progress, cancel)?;
        self.complete(id, &deployments)?;
        let previous = state.default_deployment().map(|deployment| deployment.id.clone());
        let removed = self.succeed(&mut state, staged.deployment.clone(), &staged.terms, progress)?;
        self.switch_to(lock, &state, progress)?;
        crate::failpoint::hit("finish.switched")?;
        LastError::clear(&self.atomos)?;
        self.discard_staged(lock)?;
        if tidy_up {
            self.tidy_up(lock, &state, progress)?;
        }
        Ok(DeployReport {
            deployment: id.clone(),
            staged: false,
            version: staged.deployment.version.clone(),
            previous,
            merge_from,
            etc: furnished.etc,
            root: root_kind(&deployments, id)?,
            checkout: None,
            // It was compared when it was staged.
            image: image_report(&deployments, id).unwrap_or_default(),
            read_back: None,
            var: Some(furnished.var),
            discarded: None,
            removed,
        })
    }
}
