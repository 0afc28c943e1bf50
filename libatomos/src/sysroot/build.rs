//! The steps that make a deployment, whether it is finished at once or later.
//!
//! `lay_out` makes what does not depend on the running system: a root record, the tree or an image of it, the kernel's digest. `furnish`
//! makes what does: `/etc` and `/var`. `complete` says that all of it is there. A deploy does them one after the other;
//! staging does the first, and finishing the other two.

use std::ffi::OsStr;

use crate::boot::BootCsum;
use crate::cancel::Cancel;
use crate::checkout::{CheckoutOptions, CheckoutReport, LinkMode, Ownership, checkout_from};
use crate::composefs::ImageReport;
use crate::etc_merge::{self, AccountsLock, Conflicts, MergeInput, MergeReport, Policies};
use crate::fs::{Dir, copy_tree};
use crate::os_var::{SeedReport, seed_var};
use crate::progress::{Event, Progress};
use crate::repo::{RepoMode, RootRecord, TreeSource};

use super::decide::{Decision, USR_ETC};
use super::os_release::pretty_name;
use super::root_kind::root_kind;
use super::skeleton::DerivedTree;
use super::{DeploymentId, State, Sysroot, SysrootError, layout};

/// A tree that is checked out, or an image of it with its skeleton. Without a marker nothing boots it.
pub(super) struct LaidOut {
    pub root: Dir,
    /// The directory that it lies in.
    pub deployments: Dir,
    pub checkout: CheckoutReport,
    pub image: Option<ImageReport>,
    pub bootcsum: BootCsum,
    pub title: String,
}

/// What a deployment got beside its tree.
pub(super) struct Furnished {
    pub etc: Option<MergeReport>,
    pub var: SeedReport,
}

/// What to say of kernel arguments by which a kernel alone finds no root.
pub(super) const NO_ROOT: &str =
    "no kernel argument says where the root file system is: add one with --karg root=…";

/// The program in a tree that makes a deployment of it the root.
const PREPARE_ROOT: &str = "usr/lib/atomos/atomos-prepare-root";

/// What to say of a tree without it. Trees for building and trying out may lack it.
const NO_PREPARE_ROOT: &str = "the tree has no /usr/lib/atomos/atomos-prepare-root: unless its initramfs has it from elsewhere, the deployment \
     does not boot; `atomos lint` says what a tree needs";

impl Sysroot {
    /// Keeps the commit's objects, checks the tree out, writes the origin, and learns the kernel's digest. `next` is what needs the
    /// tree's files and no image, which is being made meanwhile; it is given the root, and the directory that it lies in.
    pub(super) fn lay_out<T>(
        &self,
        decision: &Decision,
        state: &State,
        progress: &dyn Progress,
        cancel: &Cancel,
        next: impl FnOnce(&Dir, &Dir) -> Result<T, SysrootError>,
    ) -> Result<(LaidOut, T), SysrootError> {
        let id = &decision.id;
        self.check_room_in_boot(decision, state)?;
        self.repo.check_room(0)?;
        let record = RootRecord {
            commits: [id.commit].into(),
            ..RootRecord::default()
        };
        {
            // A pruner that had read the roots before this one was there would remove what it keeps; one that came
            // between the look at the commit and this lock has.
            let _repo_lock = self.repo.lock_shared()?;
            self.repo.load_commit(&id.commit)?;
            self.repo.set_root(&layout::root_name(id), &record)?;
        }
        crate::failpoint::hit("deploy.rooted")?;
        let deployments = self.deployments_dir(&id.stateroot)?;
        deployments.create_dir(id.dir_name(), 0o700)?;
        let root = deployments.open_dir(id.dir_name())?;
        let options = CheckoutOptions {
            check_room: true,
            ..self.checkout_options()
        };
        if !decision.root.has_files() {
            // First: whatever is in the directory, it is not to be taken for a root file system.
            deployments.create_file(layout::skeleton(id), 0o644)?;
            crate::failpoint::hit("deploy.skeleton")?;
        }
        let work = || {
            let checkout = self.check_out(decision, &root, &options, progress, cancel)?;
            let bootcsum = self.prepare_kernel(decision, &root, state)?;
            decision.origin.save(&deployments, id)?;
            Ok((checkout, bootcsum, next(&root, &deployments)?))
        };
        let (image, (checkout, bootcsum, done)) =
            self.with_image(decision, &deployments, progress, cancel, work)?;
        if let (Some(seal), Some(image)) = (&decision.seal, &image) {
            self.seal_image(decision, seal, image, &deployments, progress, cancel)?;
        }
        if decision.kargs.get("root").is_none() {
            progress.report(Event::Warning { text: NO_ROOT });
        }
        // Where a link leads elsewhere, nothing is known.
        if matches!(root.exists(PREPARE_ROOT), Ok(false)) {
            progress.report(Event::Warning {
                text: NO_PREPARE_ROOT,
            });
        }
        // What the menu shows is no reason not to boot.
        let title = pretty_name(&root).unwrap_or_else(|error| {
            let text = format!("the name of the system is not known: {error}");
            progress.report(Event::Warning { text: &text });
            None
        });
        let title = title.unwrap_or_else(|| "atomos".to_owned());
        let laid_out = LaidOut {
            root,
            deployments,
            checkout,
            image,
            bootcsum,
            title,
        };
        Ok((laid_out, done))
    }

    /// Checks the tree out, or what of it is beside an image.
    fn check_out(
        &self,
        decision: &Decision,
        root: &Dir,
        options: &CheckoutOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<CheckoutReport, SysrootError> {
        let skeleton = match decision.root.has_files() {
            true => None,
            false => Some(DerivedTree::skeleton(&self.repo, decision.commit.root)?),
        };
        let (source, tree): (&dyn TreeSource, _) = match &skeleton {
            Some(skeleton) => (skeleton, &skeleton.root),
            None => (&self.repo, &decision.commit.root),
        };
        let metadata = &decision.commit.root_metadata;
        let checkout = checkout_from(
            &self.repo, source, tree, metadata, root, options, progress, cancel,
        )?;
        crate::failpoint::hit("deploy.checked-out")?;
        Ok(checkout)
    }

    /// Makes `/etc` from the defaults and from what `merge_from` has, and fills `/var`.
    pub(super) fn furnish(
        &self,
        id: &DeploymentId,
        merge_from: Option<&DeploymentId>,
        root: &Dir,
        deployments: &Dir,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Furnished, SysrootError> {
        let etc = match merge_from {
            Some(from) => {
                let (report, conflicts) = self.merge_etc(from, root, progress, cancel)?;
                if conflicts.is_empty() {
                    // An interrupted run may have found some.
                    deployments.remove_file_optional(layout::conflicts(id))?;
                } else {
                    self.keep_conflicts(id, &conflicts)?;
                    conflicts.save(deployments, layout::conflicts(id))?;
                }
                Some(report)
            }
            None => {
                root.remove_tree("etc")?;
                let etc = OsStr::new("etc");
                copy_tree(&root.open_dir("usr")?, etc, root, etc)?;
                None
            }
        };
        crate::failpoint::hit("deploy.etc")?;
        let var_dir = self.atomos.open_dir(layout::var(&id.stateroot))?;
        let var = seed_var(root, &var_dir)?;
        // What systemd compares with /usr to see that it must update caches: here it must.
        var_dir.remove_file_optional(".updated")?;
        Ok(Furnished { etc, var })
    }

    /// Writes the marker. Everything of the deployment is down before the marker says so, and the marker before the truth
    /// names it.
    pub(super) fn complete(&self, id: &DeploymentId, deployments: &Dir) -> Result<(), SysrootError> {
        // No power cut shows this sync: nothing leads to the deployment before the next one, which has the same effect on it. It is for
        // whatever believes a marker alone.
        deployments.sync_fs()?;
        crate::failpoint::hit("deploy.synced")?;
        deployments.write_atomic(layout::marker(id), b"", 0o644)?;
        // No power cut shows this sync: the truth is synced before it has its name, on the same file system, and a journal that
        // has the later name has the earlier one. It is for file systems that keep no such order.
        deployments.sync_fs()?;
        crate::failpoint::hit("deploy.complete")?;
        Ok(())
    }

    pub(super) fn checkout_options(&self) -> CheckoutOptions {
        // Without root's rights a sysroot is for building images and trying things out; it cannot boot like that.
        let ownership = match self.repo.mode() {
            RepoMode::Bare => Ownership::Exact,
            RepoMode::BareUser if rustix::process::geteuid().is_root() => Ownership::Exact,
            RepoMode::BareUser => Ownership::User,
        };
        CheckoutOptions {
            link: LinkMode::Auto,
            ownership,
            ..CheckoutOptions::default()
        }
    }

    /// Merges into `root`'s `etc`, whatever is in it, and returns with the report what is left to be resolved.
    pub(super) fn merge_etc(
        &self,
        from: &DeploymentId,
        root: &Dir,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(MergeReport, Conflicts), SysrootError> {
        self.check_complete(from)?;
        let old = self.deployment_dir(from)?;
        let (base, mine, theirs) = (
            old.open_dir(USR_ETC)?,
            old.open_dir("etc")?,
            root.open_dir(USR_ETC)?,
        );
        // On the system that is running, `passwd` and `useradd` wait until their files have been read.
        let _accounts = match self.booted()?.as_ref() == Some(from) {
            true => Some(AccountsLock::acquire(&mine, self.lock_timeout, cancel)?),
            false => None,
        };
        let policies = Policies::load(root, Some(&mine))?;
        let input = MergeInput {
            base: &base,
            mine: &mine,
            theirs: &theirs,
            policies: &policies,
        };
        let plan = etc_merge::plan(&input, cancel)?;
        let etc = root.ensure_dir("etc", 0o755)?;
        let report = etc_merge::apply(&plan, &input, &etc, progress, cancel)?;
        let conflicts = self.collect_conflicts(from, &mine, &report, cancel)?;
        Ok((report, conflicts))
    }

    /// Fails for a deployment that was never finished, or is half removed.
    pub(super) fn check_complete(&self, id: &DeploymentId) -> Result<(), SysrootError> {
        let dir = self.deployments_dir(&id.stateroot)?;
        if dir.exists(layout::marker(id))? && dir.exists(id.dir_name())? {
            return Ok(());
        }
        Err(SysrootError::DamagedState {
            path: dir.path().join(id.dir_name()),
            reason: "the deployment is not complete".to_owned(),
        })
    }

    /// As [`check_complete`](Self::check_complete), and fails for a deployment whose root is an image that is not there.
    pub(super) fn check_bootable(&self, id: &DeploymentId) -> Result<(), SysrootError> {
        self.check_complete(id)?;
        let dir = self.deployments_dir(&id.stateroot)?;
        if root_kind(&dir, id)?.has_files() || dir.exists(layout::image(id))? {
            return Ok(());
        }
        Err(SysrootError::DamagedState {
            path: dir.path().join(layout::image(id)),
            reason: "it is the root of the deployment, and it is missing".to_owned(),
        })
    }
}
