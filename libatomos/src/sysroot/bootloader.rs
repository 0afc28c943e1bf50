//! Between the truth and `/boot`.

use crate::boot::{
    BootCsum, BootDir, BootError, BootOptions, DesiredEntry, KernelCheck, KernelFiles, NeededKernel,
    ReconcileOptions, ReconcilePlan, RemovableKernel, check_space, plan_reconcile,
};
use crate::fs::Dir;
use crate::progress::Progress;

use super::{DeploymentId, DeploymentState, State, Sysroot, SysrootError, SysrootLock, layout};

impl Sysroot {
    fn boot_dir(&self) -> Result<BootDir, SysrootError> {
        let root = Dir::open_ambient(&self.path)?;
        debug_assert_eq!(layout::BOOT, "boot");
        Ok(BootDir::open_in(&root, BootOptions::default())?)
    }

    fn desired(&self, state: &State) -> Result<Vec<DesiredEntry>, SysrootError> {
        state
            .deployments
            .iter()
            .map(|deployment| self.desired_entry(deployment))
            .collect()
    }

    fn desired_entry(&self, deployment: &DeploymentState) -> Result<DesiredEntry, SysrootError> {
        let id = &deployment.id;
        Ok(DesiredEntry {
            n: deployment.entry,
            stateroot: id.stateroot.clone(),
            commit: id.commit,
            serial: id.serial,
            title: deployment.title.clone(),
            version: Some(deployment.version.clone()).filter(|version| !version.is_empty()),
            kargs: deployment.kargs.parse()?,
            bootcsum: self.parse_bootcsum(deployment)?,
            tries: None,
        })
    }

    fn parse_bootcsum(&self, deployment: &DeploymentState) -> Result<BootCsum, SysrootError> {
        deployment
            .bootcsum
            .parse()
            .map_err(|error| SysrootError::DamagedState {
                path: self.atomos.path().join(super::state::STATE),
                reason: format!("{}: {error}", deployment.id),
            })
    }

    /// Makes `/boot` what the truth says it should be. Proof of the lock keeps two of these apart.
    pub(super) fn reconcile_boot(
        &self,
        _lock: &SysrootLock,
        state: &State,
        check: KernelCheck,
        progress: &dyn Progress,
    ) -> Result<ReconcilePlan, SysrootError> {
        let boot = self.boot_dir()?;
        let options = ReconcileOptions {
            kernel_check: check,
            ..ReconcileOptions::default()
        };
        let plan = plan_reconcile(&boot, &self.desired(state)?, &options)?;
        plan.apply(&boot, &|entry| self.open_tree(entry), progress)?;
        Ok(plan)
    }

    fn open_tree(&self, entry: &DesiredEntry) -> Result<Dir, BootError> {
        let path = layout::deployments(&entry.stateroot).join(format!("{}.{}", entry.commit, entry.serial));
        Ok(self.atomos.open_dir(path)?)
    }

    /// Returns the digest of the tree's kernel, once it is known that there is room for it in `/boot`.
    pub(super) fn prepare_kernel(
        &self,
        id: &DeploymentId,
        root: &Dir,
        state: &State,
    ) -> Result<BootCsum, SysrootError> {
        let files = KernelFiles::find(root)?;
        let bootcsum = files.digest()?;
        let booted = self.booted()?;
        let mut removable = Vec::new();
        for deployment in &state.deployments {
            if booted.as_ref() != Some(&deployment.id) {
                removable.push(RemovableKernel {
                    deployment: deployment.id.to_string(),
                    stateroot: deployment.id.stateroot.clone(),
                    bootcsum: self.parse_bootcsum(deployment)?,
                });
            }
        }
        let needed = NeededKernel {
            stateroot: id.stateroot.clone(),
            bootcsum: Some(bootcsum),
            sizes: files.sizes().collect(),
        };
        check_space(&self.boot_dir()?, &[needed], &removable)?;
        Ok(bootcsum)
    }

    fn boot_plan(&self, state: &State) -> Result<ReconcilePlan, SysrootError> {
        Ok(plan_reconcile(
            &self.boot_dir()?,
            &self.desired(state)?,
            &ReconcileOptions::default(),
        )?)
    }

    /// Returns what in `/boot` nobody needs.
    pub(super) fn boot_leftovers(&self, state: &State) -> Result<Vec<String>, SysrootError> {
        let plan = self.boot_plan(state)?;
        let entries = plan
            .remove_entries
            .iter()
            .map(|name| format!("loader/entries/{name}"));
        let kernels = plan.remove_kernels.iter().map(|name| format!("atomos/{name}"));
        let leftovers = plan
            .remove_leftovers
            .iter()
            .map(|path| path.display().to_string());
        Ok(entries.chain(kernels).chain(leftovers).collect())
    }

    /// Returns what a person should know of `/boot`.
    pub(super) fn boot_warnings(&self, state: &State) -> Result<Vec<String>, SysrootError> {
        let plan = match self.boot_plan(state) {
            Ok(plan) => plan,
            // Anybody may ask for the status; not everybody may read /boot.
            Err(error) => return Ok(vec![format!("/boot could not be checked: {error}")]),
        };
        let mut warnings = Vec::new();
        if !plan.install.is_empty() || !plan.write.is_empty() || !plan.remove_entries.is_empty() {
            warnings.push("/boot is not what the deployments need: run `atomos boot recover`".to_owned());
        }
        Ok(warnings)
    }
}
