//! Doing what was planned.

use std::path::Path;

use crate::boot::KernelArgs;
use crate::cancel::Cancel;
use crate::failpoint;
use crate::fs::Dir;
use crate::progress::{Event, Progress};
use crate::repo::RepoMode;
use crate::sysroot::{DeployOptions, DeployReport, DeploymentId, KargsChange, Origin, Sysroot, SysrootError};

use super::{
    INSTALLING, InstallPlan, InstallReport, InstallSource, Loader, RunProgram, fstab, grub, refuse,
    systemd_boot,
};

impl InstallPlan {
    /// Installs. `run` starts the programs that the plan names, after everything else. What an interrupted run has done
    /// is not done again.
    pub fn carry_out(
        &self,
        source: &InstallSource<'_>,
        run: &RunProgram<'_>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<InstallReport, SysrootError> {
        let mode = if rustix::process::geteuid().is_root() {
            RepoMode::Bare
        } else {
            RepoMode::BareUser
        };
        let sysroot = Sysroot::init(&self.target, mode, &self.sysroot)?;
        failpoint::hit("install.sysroot")?;
        sysroot.atomos.write_atomic(INSTALLING, b"", 0o600)?;
        sysroot.atomos.sync_fs()?;
        failpoint::hit("install.begun")?;
        sysroot.init_stateroot(&self.stateroot)?;
        failpoint::hit("install.stateroot")?;
        let commit = source.bring(&sysroot, progress, cancel)?;
        failpoint::hit("install.brought")?;

        let root = Dir::open_ambient(&self.target)?;
        let mut loader_files = Vec::new();
        if self.loader == Loader::Grub {
            loader_files.extend(grub::prepare(self, &root)?);
            failpoint::hit("install.menu-asked-for")?;
        }
        let made = match self.resumes {
            true => made_before(&sysroot, self, commit)?,
            false => None,
        };
        let (deployment, deploy) = match made {
            Some(id) => {
                // The interruption may have come before /boot followed.
                sysroot.recover_boot(progress)?;
                (id, None)
            }
            None => {
                let report = self.deploy(&sysroot, progress, cancel)?;
                (report.deployment.clone(), Some(Box::new(report)))
            }
        };
        failpoint::hit("install.deployed")?;
        let tree = sysroot.deployment_dir(&deployment)?;
        for text in fstab::add(&tree, &self.fstab)? {
            progress.report(Event::Warning { text: &text });
        }
        tree.sync_fs()?;
        failpoint::hit("install.fstab")?;

        match self.loader {
            Loader::SystemdBoot => loader_files.extend({
                let tree_of_commit = sysroot.repo.load_commit(&deployment.commit)?.root;
                let check = |path: &Path, found| sysroot.check_recorded(tree_of_commit, path, found);
                systemd_boot::install(self, &root, &tree, &check)?
            }),
            Loader::Grub => loader_files.extend(grub::configure(&root)?),
            Loader::Auto | Loader::None => {}
        }
        failpoint::hit("install.loader")?;
        for program in &self.programs {
            run(program).map_err(|error| {
                refuse(
                    &self.target,
                    format!(
                        "everything but the boot loader is in place, and `{}` failed: {error}",
                        program.join(" ")
                    ),
                )
            })?;
            failpoint::hit("install.program")?;
        }
        // What the programs have written, wherever that is.
        root.open_dir("boot")?.sync_fs()?;
        if let Some(esp) = &self.esp {
            root.open_dir(esp)?.sync_fs()?;
        }
        failpoint::hit("install.synced")?;
        sysroot.atomos.remove_file_optional(INSTALLING)?;
        sysroot.atomos.sync_fs()?;
        failpoint::hit("install.done")?;
        Ok(InstallReport {
            plan: self.clone(),
            deployment,
            deploy,
            loader_files,
        })
    }

    fn deploy(
        &self,
        sysroot: &Sysroot,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let options = DeployOptions {
            stateroot: Some(self.stateroot.clone()),
            origin: Some(Origin {
                reference: Some(self.reference.clone()),
                ..Origin::default()
            }),
            // A machine that has this stateroot keeps its /etc and its kernel arguments.
            kargs: self
                .kargs
                .iter()
                .cloned()
                .map(KargsChange::AppendIfMissing)
                .collect(),
            ..DeployOptions::default()
        };
        sysroot.deploy(self.reference.as_str(), &options, progress, cancel)
    }
}

/// Returns the deployment that an interrupted run of the same installation has finished.
fn made_before(
    sysroot: &Sysroot,
    plan: &InstallPlan,
    commit: crate::digest::CommitId,
) -> Result<Option<DeploymentId>, SysrootError> {
    let state = sysroot.state()?;
    let newest = state
        .deployments
        .first()
        .filter(|deployment| deployment.id.stateroot == plan.stateroot && deployment.id.commit == commit);
    let Some(newest) = newest else {
        return Ok(None);
    };
    // It has those of the deployment before it, too.
    let own: KernelArgs = newest.kargs.parse()?;
    let mut all = own.clone();
    for karg in &plan.kargs {
        all.append_if_missing(karg)?;
    }
    Ok((all == own).then(|| newest.id.clone()))
}
