//! Staging: the part of a deploy that does not depend on what happens until the reboot.
//!
//! On a machine that runs, people and programs go on editing `/etc` after an upgrade. So an upgrade stops half-way, and
//! shutdown does the rest with the `/etc` of then ([`super::finalize`]). What is done now is what takes time:
//!
//! 1. a root record keeps the objects; the tree is checked out, or an image of it made;
//! 2. `/etc` is merged for trial, thrown away again, and what would be in conflict is known now. Nothing of it is ever taken
//!    for what a person has done;
//! 3. the kernel is copied to `/boot`, read back, and down. No entry names it;
//! 4. `syncfs`; what is new is read back from the disk;
//! 5. the record `staged.json` is replaced: **the visible step**; down;
//! 6. what was staged before goes.
//!
//! The machine boots what it booted before, whenever it is interrupted, until shutdown has finished the deployment.

use crate::boot::{BootError, KernelCheck, KernelFiles, install_kernel};
use crate::cancel::Cancel;
use crate::fs::Dir;
use crate::progress::{Event, Progress};

use super::decide::Decision;
use super::staged::{Staged, Terms};
use super::{
    DeployOptions, DeployReport, DeploymentState, Finish, State, Sysroot, SysrootError, SysrootLock,
};

/// What finishes staged deployments at shutdown makes this file at boot. Without it nobody would, and the update of a
/// machine that nobody looks at would never come.
pub const FINALIZER: &str = "run/atomos/finalize-at-shutdown";

impl Staged {
    /// Takes over what a new decision on the same commit says of it.
    pub(super) fn adopt(&mut self, decision: &Decision, options: &DeployOptions) {
        self.deployment.kargs = decision.kargs.to_string();
        self.no_merge = options.no_merge;
        self.terms = Terms::new(options);
    }
}

impl Sysroot {
    /// Returns whether a deploy of this kind would be staged.
    pub(super) fn stages(&self, finish: Finish) -> Result<bool, SysrootError> {
        Ok(finish == Finish::AtShutdown && self.booted()?.is_some() && self.host.exists(FINALIZER)?)
    }

    /// Stages what was decided. `old` is what is staged now.
    #[expect(clippy::too_many_arguments, reason = "a deploy's, and what it has found")]
    pub(super) fn stage(
        &self,
        lock: &SysrootLock,
        state: &State,
        old: Option<Staged>,
        decision: &Decision,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let report = match self.try_to_stage(state, decision, options, progress, cancel) {
            // A /boot for two kernels has none for the running one's, the staged one's and the next.
            Err(error @ SysrootError::Boot(BootError::NoSpace { .. })) if old.is_some() => {
                let _ = self.abandon(lock, state, error);
                self.discard_staged(lock)?;
                self.tidy_up(lock, state, progress)?;
                self.reconcile_boot(lock, state, KernelCheck::NewOnly, progress)?;
                self.try_to_stage(state, decision, options, progress, cancel)
            }
            other => other,
        };
        let mut report = match report {
            Ok(report) => report,
            Err(error) => return Err(self.abandon(lock, state, error)),
        };
        self.tidy_up(lock, state, progress)?;
        if let Some(old) = old {
            report.discarded = Some(old.deployment.id);
            // It removes the old one's kernel. What is staged does not depend on that.
            if let Err(error) = self.reconcile_boot(lock, state, KernelCheck::NewOnly, progress) {
                crate::failpoint::hit("stage.not-tidied")?;
                let text = format!("/boot was not tidied up: {error}");
                progress.report(Event::Warning { text: &text });
            }
        }
        Ok(report)
    }

    fn try_to_stage(
        &self,
        state: &State,
        decision: &Decision,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let id = &decision.id;
        let try_merge = |root: &Dir, _: &Dir| {
            let merged = match &decision.merge_from {
                Some(from) => Some(self.merge_etc(from, root, progress, cancel)?),
                None => None,
            };
            crate::failpoint::hit("stage.tried")?;
            root.remove_tree("etc")?;
            Ok(merged)
        };
        let (laid_out, merged) = self.lay_out(decision, state, progress, cancel, try_merge)?;
        let (etc, conflicts) = match merged {
            Some((report, open)) => (Some(report), open.len() as u64),
            None => (None, 0),
        };
        let root = &laid_out.root;
        let boot = self.boot_dir()?;
        let kernel = KernelFiles::find(root)?;
        install_kernel(&boot, &id.stateroot, laid_out.bootcsum, &kernel, progress)?;
        // No power cut shows this sync: the kernel is compared with its digest again when the deployment is finished, and
        // flushed before an entry leads there. It leaves less to be written while the machine goes down.
        boot.dir().sync_fs()?;
        crate::failpoint::hit("stage.kernel")?;
        let read_back = self.read_back(decision, &laid_out, options.read_back, progress, cancel)?;
        // No power cut shows this sync: what was read back has been synced, and the names are links, which one journal keeps in
        // order with that of the record. It is for files that had to be copied, and that nobody wanted read back.
        laid_out.deployments.sync_fs()?;
        crate::failpoint::hit("stage.synced")?;
        let mut staged = Staged::new(DeploymentState {
            title: laid_out.title,
            bootcsum: laid_out.bootcsum.to_string(),
            ..self.placeholder(decision)
        });
        staged.adopt(decision, options);
        staged.boot_id = self.boot_id();
        staged.etc_conflicts = conflicts;
        staged.save(&self.atomos)?;
        Ok(DeployReport {
            deployment: id.clone(),
            staged: true,
            version: decision.commit.version.clone(),
            previous: state.default_deployment().map(|deployment| deployment.id.clone()),
            merge_from: decision.merge_from.clone(),
            etc,
            root: decision.root,
            checkout: Some(laid_out.checkout),
            image: laid_out.image,
            read_back,
            var: None,
            discarded: None,
            removed: Vec::new(),
        })
    }
}
