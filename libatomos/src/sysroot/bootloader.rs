//! Between the truth and `/boot`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::boot::name::EntryName;
use crate::boot::{
    BootCsum, BootDir, BootError, BootOptions, DesiredEntry, ENTRIES, EntryFinding, EntryReport,
    ExtlinuxDefault, KernelArgs, KernelCheck, KernelFiles, LoaderForecast, NeededKernel, ReconcileOptions,
    ReconcilePlan, RemovableKernel, check_space, extlinux_conf, forecast, is_in_menu, kernel_space,
    plan_reconcile, verify_entries,
};
use crate::digest::{BlobId, DirTreeId};
use crate::format::{Commit, Entry, Node};
use crate::fs::Dir;
use crate::names::StaterootName;
use crate::progress::Progress;
use crate::repo::{Located, ObjectKind, RepoError};

use super::booted::ENTRY_KARG;
use super::cleanup::leads_to;
use super::decide::Decision;
use super::state::STATE;
use super::{DeploymentId, DeploymentState, State, Sysroot, SysrootError, SysrootLock, layout};

/// Where a tree has its kernel.
const MODULES: &str = "usr/lib/modules";

impl Sysroot {
    pub(super) fn boot_dir(&self) -> Result<BootDir, SysrootError> {
        let root = Dir::open_ambient(&self.path)?;
        debug_assert_eq!(layout::BOOT, "boot");
        let options = BootOptions {
            stateroots: Some(self.stateroots()?),
            ..BootOptions::default()
        };
        Ok(BootDir::open_in(&root, &self.atomos, options)?)
    }

    /// Takes the directory `/boot` for what a loader reads from now on, where it was a file system of its own before.
    pub fn take_boot_directory(&self) -> Result<(), SysrootError> {
        let _lock = self.lock()?;
        Ok(self
            .atomos
            .remove_file_optional(layout::BOOT_IS_MOUNTED)
            .map(drop)?)
    }

    /// Fails where `/boot` was a file system of its own when it was last written, and is a directory now: what a loader reads is not
    /// mounted. Entries written beneath it would boot nothing, and what the loader has would lead to trees that were removed.
    pub(super) fn check_boot_is_mounted(&self, boot: &BootDir) -> Result<(), SysrootError> {
        if boot.is_mount() || !self.atomos.exists(layout::BOOT_IS_MOUNTED)? {
            return Ok(());
        }
        Err(SysrootError::BootNotMounted {
            path: boot.dir().path().to_owned(),
        })
    }

    /// Remembers whether `/boot` is a file system of its own. Not synced: what a power cut takes is remembered by the next change.
    fn note_boot_is_mounted(&self, boot: &BootDir) -> Result<(), SysrootError> {
        match (boot.is_mount(), self.atomos.exists(layout::BOOT_IS_MOUNTED)?) {
            (true, false) => drop(self.atomos.create_file(layout::BOOT_IS_MOUNTED, 0o644)?),
            (false, true) => self.atomos.remove_file(layout::BOOT_IS_MOUNTED)?,
            _ => {}
        }
        Ok(())
    }

    /// Returns the truth, with a next number above any that stands in `/boot`: the boot partition may be older than the
    /// sysroot, or another sysroot's too.
    pub(super) fn state_to_reorder(&self) -> Result<State, SysrootError> {
        let mut state = self.state()?;
        self.check_state_is_there()?;
        let boot = self.boot_dir()?;
        self.check_boot_is_mounted(&boot)?;
        let highest = boot.highest_number()?;
        // A file name can say anything; half of the numbers are left for us.
        if highest < u64::MAX / 2 {
            state.next_entry = state.next_entry.max(highest + 1);
        }
        Ok(state)
    }

    /// Fails where the truth is gone, and entries lead to deployments that are there, or are those of another system. It is written before
    /// the first of them, so whoever took this for a new machine would take away all that one of the two boots.
    pub(super) fn check_state_is_there(&self) -> Result<(), SysrootError> {
        if self.atomos.exists(STATE)? {
            return Ok(());
        }
        let offered = self.offered_by_boot()?;
        for stateroot in self.stateroots()? {
            let deployments = self.deployments_dir(&stateroot)?;
            for entry in deployments.entries()? {
                let id = DeploymentId::from_dir_name(&stateroot, &entry.name.to_string_lossy());
                // One that was never finished is what an interrupted first deployment left.
                let Some(id) = id.filter(|id| offered.iter().any(|name| leads_to(name, id))) else {
                    continue;
                };
                if deployments.exists(layout::marker(&id))? {
                    return Err(SysrootError::DamagedState {
                        path: self.atomos.path().join(STATE),
                        reason: "it is missing, and there are deployments that are booted".to_owned(),
                    });
                }
            }
        }
        check_is_nobody_s(&self.boot_dir()?, &self.stateroots()?)
    }

    /// Returns the bytes that root can still write to `/boot`, what a staged deployment gives back when another takes its
    /// place among them; `None` where there is no `/boot` yet.
    pub(super) fn boot_available(&self, state: &State) -> Result<Option<u64>, SysrootError> {
        let Ok(boot) = self.boot_dir() else {
            return Ok(None);
        };
        let mut available = boot.dir().available_space()?;
        if let Some(staged) = self.usable_staged(state)? {
            let (stateroot, bootcsum) = self.kernel_of(&staged.deployment)?;
            let shares = |other: &DeploymentState| -> Result<bool, SysrootError> {
                Ok(self.kernel_of(other)? == (stateroot.clone(), bootcsum))
            };
            let mut shared = false;
            for other in &state.deployments {
                shared |= shares(other)?;
            }
            if !shared {
                available = available.saturating_add(kernel_space(&boot, &stateroot, bootcsum)?);
            }
        }
        // It is measured again when the kernel is copied, with this margin and in whole blocks of a few files.
        const BLOCKS: u64 = 64 * 1024;
        Ok(Some(available.saturating_sub(crate::boot::MARGIN + BLOCKS)))
    }

    /// Returns whether `/boot` has an entry of the deployment that a loader can boot.
    pub(super) fn is_offered(&self, id: &DeploymentId) -> Result<bool, SysrootError> {
        let boot = self.boot_dir()?;
        for found in boot.list_entries()? {
            if let Some(name) = found.name.as_ref().filter(|name| leads_to(name, id))
                && found.entry.as_ref().is_ok_and(|entry| entry.is_bootable())
                && is_in_menu(&boot, name)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns how many tries the loader has left for each entry that has a counter, by its number.
    pub(super) fn tries_left(&self) -> Result<BTreeMap<u64, u32>, SysrootError> {
        Ok(self.boot_dir()?.tries_left()?)
    }

    /// Returns the names of the entries in `/boot`, those that nothing boots from among them.
    pub(super) fn offered_by_boot(&self) -> Result<Vec<EntryName>, SysrootError> {
        let found = self.boot_dir()?.list_entries()?;
        Ok(found
            .iter()
            .filter_map(|found| found.file_name.parse().ok())
            .collect())
    }

    fn desired(&self, state: &State) -> Result<Vec<DesiredEntry>, SysrootError> {
        let mut desired = Vec::new();
        for deployment in &state.deployments {
            desired.push(self.desired_entry(deployment)?);
            if let Some(fallback) = &deployment.fallback {
                desired.push(self.desired_entry(&DeploymentState {
                    entry: fallback.entry,
                    kargs: fallback.kargs.clone(),
                    tries: None,
                    fallback: None,
                    ..deployment.clone()
                })?);
            }
        }
        Ok(desired)
    }

    pub(super) fn desired_entry(&self, deployment: &DeploymentState) -> Result<DesiredEntry, SysrootError> {
        let id = &deployment.id;
        let mut kargs: KernelArgs = deployment.kargs.parse()?;
        // A deployment may have two entries, or get another one while this runs, so each says which one it is. Whether it has been found
        // good makes no difference: then it is renamed and not written again.
        kargs.delete_all(ENTRY_KARG);
        kargs.append(&format!("{ENTRY_KARG}={}", deployment.entry))?;
        Ok(DesiredEntry {
            n: deployment.entry,
            stateroot: id.stateroot.clone(),
            commit: id.commit,
            serial: id.serial,
            title: deployment.title.clone(),
            version: Some(deployment.version.clone()).filter(|version| !version.is_empty()),
            kargs,
            bootcsum: self.parse_bootcsum(deployment)?,
            tries: deployment.tries,
        })
    }

    fn kernel_of(&self, deployment: &DeploymentState) -> Result<(StaterootName, BootCsum), SysrootError> {
        Ok((deployment.id.stateroot.clone(), self.parse_bootcsum(deployment)?))
    }

    /// How `/boot` is made to follow: the kernel of what is staged stays, though no entry names it yet.
    fn reconcile_options(&self, state: &State, check: KernelCheck) -> Result<ReconcileOptions, SysrootError> {
        let staged = self.usable_staged(state)?;
        // A digest that cannot be read is no name of a directory.
        let kernel = staged.and_then(|staged| self.kernel_of(&staged.deployment).ok());
        Ok(ReconcileOptions {
            kernel_check: check,
            keep_kernels: kernel.into_iter().collect(),
            ..ReconcileOptions::default()
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
        let options = self.reconcile_options(state, check)?;
        let plan = plan_reconcile(&boot, &self.desired(state)?, &options)?;
        let apply = || Ok(plan.apply(&boot, &|entry| self.open_tree(entry), progress)?);
        match boot.is_mount() {
            true => apply()?,
            // The room that is kept is that of this file system.
            false => self.with_reserve(apply)?,
        };
        // The change is done: a full disk, which takes no note of this, must not have it taken back.
        let _ = self.note_boot_is_mounted(&boot);
        Ok(plan)
    }

    fn open_tree(&self, entry: &DesiredEntry) -> Result<Dir, BootError> {
        let path = layout::deployments(&entry.stateroot).join(format!("{}.{}", entry.commit, entry.serial));
        Ok(self.atomos.open_dir(path)?)
    }

    /// Returns the digest of the tree's kernel, once it is known that it is what the commit records, and that there is room for it in
    /// `/boot`.
    ///
    /// A deployment's files are links to the store, and nothing reads them again before they are booted. What a loader reads is
    /// copied from them: a kernel that the disk has damaged would be copied, and whatever compares it later would find
    /// it to be what was copied.
    pub(super) fn prepare_kernel(
        &self,
        decision: &Decision,
        root: &Dir,
        state: &State,
    ) -> Result<BootCsum, SysrootError> {
        let files = KernelFiles::find(root)?;
        let (bootcsum, found) = files.digests()?;
        for (file, found) in files.files().iter().zip(found) {
            let path = Path::new(MODULES)
                .join(files.version().unwrap_or_default())
                .join(&file.source);
            self.check_recorded(decision.commit.root, &path, found)?;
        }
        let needed = NeededKernel {
            stateroot: decision.id.stateroot.clone(),
            bootcsum: Some(bootcsum),
            sizes: files.sizes().collect(),
        };
        check_space(&self.boot_dir()?, &[needed], &self.removable_kernels(state)?)?;
        Ok(bootcsum)
    }

    /// Fails where a file of a deployment's tree is not what the commit's tree `root` records at `path`.
    pub(super) fn check_recorded(
        &self,
        root: DirTreeId,
        path: &Path,
        found: BlobId,
    ) -> Result<(), SysrootError> {
        let located = self.repo.locate("", root, None, path.as_os_str().as_bytes())?;
        match located {
            Located::Entry(Entry {
                node: Node::File { blob, .. },
                ..
            }) if blob != found => Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason: format!("as {} it has the digest {found}", path.display()),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Fails when there is no room for the commit's kernel in `/boot`, before anything is written. A kernel that may be there
    /// already is looked at when its tree is there: its digest needs its bytes.
    pub(super) fn check_room_in_boot(&self, decision: &Decision, state: &State) -> Result<(), SysrootError> {
        let Some(files) = self.kernel_entries(&decision.commit)? else {
            return Ok(());
        };
        for other in &state.deployments {
            let commit = self.repo.load_commit(&other.id.commit);
            let same = match commit {
                Ok(commit) => self.kernel_entries(&commit).ok().flatten(),
                Err(_) => None,
            };
            if other.id.stateroot == decision.id.stateroot && same.is_none_or(|same| same == files) {
                return Ok(());
            }
        }
        let needed = NeededKernel {
            stateroot: decision.id.stateroot.clone(),
            bootcsum: None,
            sizes: files.iter().map(|(size, _)| *size).collect(),
        };
        check_space(&self.boot_dir()?, &[needed], &self.removable_kernels(state)?)?;
        Ok(())
    }

    /// Returns size and digest of what of the commit goes to `/boot` in any case: kernel and initramfs.
    fn kernel_entries(&self, commit: &Commit) -> Result<Option<Vec<(u64, BlobId)>>, SysrootError> {
        let find = |path: &str| match self.repo.locate("", commit.root, None, path.as_bytes()) {
            Ok(Located::Entry(entry)) => Some(entry.node),
            _ => None,
        };
        let Some(Node::Dir { tree }) = find(MODULES) else {
            return Ok(None);
        };
        for version in self.repo.load_dirtree(&tree)?.entries() {
            let version = String::from_utf8_lossy(&version.name);
            let names = ["vmlinuz", "initramfs.img", "initramfs"];
            let nodes = names.map(|name| find(&format!("{MODULES}/{version}/{name}")));
            let files: Vec<_> = nodes
                .into_iter()
                .flatten()
                .filter_map(|node| match node {
                    Node::File { size, blob, .. } => Some((size, blob)),
                    _ => None,
                })
                .collect();
            if !files.is_empty() {
                return Ok(Some(files));
            }
        }
        Ok(None)
    }

    fn removable_kernels(&self, state: &State) -> Result<Vec<RemovableKernel>, SysrootError> {
        let booted = self.booted()?;
        let mut removable = Vec::new();
        for deployment in &state.deployments {
            if booted.as_ref() != Some(&deployment.id) {
                let (stateroot, bootcsum) = self.kernel_of(deployment)?;
                removable.push(RemovableKernel {
                    deployment: deployment.id.to_string(),
                    stateroot,
                    bootcsum,
                });
            }
        }
        Ok(removable)
    }

    fn boot_plan(&self, state: &State) -> Result<ReconcilePlan, SysrootError> {
        Ok(plan_reconcile(
            &self.boot_dir()?,
            &self.desired(state)?,
            &self.reconcile_options(state, KernelCheck::NewOnly)?,
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

    /// Returns what a U-Boot that reads `extlinux.conf` is to find.
    pub fn extlinux_conf(&self, default: ExtlinuxDefault) -> Result<String, SysrootError> {
        Ok(extlinux_conf(&self.boot_dir()?, default)?)
    }

    /// Returns what the loader will find, and whether it can boot it: every kernel is read and compared.
    pub fn boot_status(&self) -> Result<BootStatus, SysrootError> {
        let boot = self.boot_dir()?;
        let is_unmounted = self.check_boot_is_mounted(&boot).is_err();
        // What the deployments need is not known where their list is damaged, and the entries can be looked at all the same.
        let plan = self.state().and_then(|state| self.boot_plan(&state));
        Ok(BootStatus {
            is_unmounted,
            is_behind: !is_unmounted && plan.is_ok_and(|plan| plan.is_behind()),
            forecast: forecast(&boot, self.efivars()?.as_ref())?,
            entries: self.with_deployments(verify_entries(&boot)?)?,
            tries_left: boot.tries_left()?,
        })
    }

    /// Says of the entries of which nothing else is wrong whether what they boot is there.
    fn with_deployments(&self, mut entries: Vec<EntryReport>) -> Result<Vec<EntryReport>, SysrootError> {
        let mut finished = BTreeSet::new();
        for stateroot in self.stateroots()? {
            let deployments = self.deployments_dir(&stateroot)?;
            for entry in deployments.entries()? {
                let name = entry.name.to_string_lossy();
                let id = name.strip_suffix(layout::MARKER);
                let id = id.and_then(|id| DeploymentId::from_dir_name(&stateroot, id));
                if let Some(id) = id
                    && deployments.exists(id.dir_name())?
                {
                    finished.insert(id);
                }
            }
        }
        for entry in entries.iter_mut().filter(|entry| entry.finding.is_none()) {
            let is_there = finished.iter().any(|id| leads_to(&entry.name, id));
            entry.finding = (!is_there).then_some(EntryFinding::DeploymentMissing);
        }
        Ok(entries)
    }

    /// The firmware's variables are those of the machine that runs, so another machine's disk has none.
    fn efivars(&self) -> Result<Option<Dir>, SysrootError> {
        if self.path != Path::new("/") {
            return Ok(None);
        }
        Ok(Dir::open_ambient("/sys/firmware/efi/efivars").ok())
    }

    /// Returns what a person should know of `/boot`.
    pub(super) fn boot_warnings(&self, state: &State) -> Result<Vec<String>, SysrootError> {
        let look = || -> Result<(ReconcilePlan, LoaderForecast), SysrootError> {
            let boot = self.boot_dir()?;
            self.check_boot_is_mounted(&boot)?;
            Ok((self.boot_plan(state)?, forecast(&boot, self.efivars()?.as_ref())?))
        };
        let (plan, forecast) = match look() {
            Ok(found) => found,
            Err(error @ SysrootError::BootNotMounted { .. }) => {
                return Ok(vec![format!("{error} Nothing can be changed until it is")]);
            }
            // Anybody may ask for the status; not everybody may read /boot.
            Err(error) => return Ok(vec![format!("/boot could not be checked: {error}")]),
        };
        let mut warnings = Vec::new();
        if plan.is_behind() {
            warnings.push("/boot is not what the deployments need: run `atomos boot recover`".to_owned());
        }
        for pin in forecast.contrary_pins() {
            let takes = pin.takes.as_deref().unwrap_or_default();
            warnings.push(format!(
                "the boot loader is set to another entry: {} says {takes}",
                pin.source
            ));
        }
        for first in forecast.contrary_first() {
            let what = match first.file_name.parse::<EntryName>() {
                Ok(_) => "an entry that has failed: it does not count, see docs/boot.md",
                Err(_) => "which is not of atomos",
            };
            warnings.push(format!("{} will take {}, {what}", first.loader, first.file_name));
        }
        Ok(warnings)
    }
}

/// What the loader will find in `/boot`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BootStatus {
    /// What it will take.
    pub forecast: LoaderForecast,
    /// Our entries, and what is wrong with each.
    pub entries: Vec<EntryReport>,
    /// Whether the deployments need something else in `/boot` than is there.
    pub is_behind: bool,
    /// Whether `/boot` was a file system of its own and is not mounted: then this says nothing of what a loader reads.
    pub is_unmounted: bool,
    /// How many tries those on trial have left, by the entry's number.
    pub tries_left: BTreeMap<u64, u32>,
}

/// Fails where there are entries of one of `stateroots`, of which the sysroot has written none yet: one partition may be `/boot` for
/// several systems.
pub(super) fn check_is_nobody_s(boot: &BootDir, stateroots: &[StaterootName]) -> Result<(), SysrootError> {
    let mut others = Vec::new();
    for found in boot.list_entries()? {
        let name: Result<EntryName, _> = found.file_name.parse();
        if let Some(name) = name.ok().filter(|name| stateroots.contains(&name.stateroot)) {
            others.push((
                boot.dir().path().join(ENTRIES).join(found.file_name),
                name.stateroot,
            ));
        }
    }
    let Some((_, stateroot)) = others.first().cloned() else {
        return Ok(());
    };
    others.retain(|(_, other)| *other == stateroot);
    Err(SysrootError::OthersEntry {
        paths: others.into_iter().map(|(path, _)| path).collect(),
        stateroot,
    })
}
