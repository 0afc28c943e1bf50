//! Making `/boot` say what `/atomos` says.
//!
//! [`plan_reconcile`] compares and touches nothing; [`ReconcilePlan::apply`] does. The order is the whole point, and
//! every state on the way boots:
//!
//! 1. kernel files that are missing, compared and repaired where they are there;
//! 2. `syncfs`;
//! 3. new entries, oldest first, then GRUB's menu where there is one: **the switch**;
//! 4. `syncfs`, and freeze and thaw, so that a loader which does not replay the journal sees it too;
//! 5. entries that are no longer wanted; `syncfs`;
//! 6. kernel files that no entry names, and what an interrupted run left; `syncfs`.
//!
//! GRUB's counts are made room for before 3 and dropped after 5 (`super::grub_env`).
//!
//! A deployment, an upgrade, a rollback, a change of kernel arguments, an undeploy, marking a boot as good and
//! `boot recover` are all this one operation with another list.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::failpoint;
use crate::fs::Dir;
use crate::names::StaterootName;
use crate::progress::Progress;

use super::boot_dir::{FoundEntry, TEMPORARY_PREFIX};
use super::bootcsum::{BootCsum, KernelFiles, kernel_dir_name, parse_kernel_dir_name};
use super::flush::{FlushMethod, flush};
use super::install::{install_kernel, is_whole, remove_kernel};
use super::menu::{SCRIPTS, StagedMenu, drop_old_counts, menu_outdated, stage_menu};
use super::switch::{DesiredEntry, StagedEntry, boots_the_same};
use super::{BootDir, BootError};

/// How closely kernel files that are there already are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KernelCheck {
    /// Files that a good entry names already are taken for whole; those of a new entry are read and compared.
    #[default]
    NewOnly,
    /// All are read and compared, as `boot recover` does.
    All,
}

/// How to plan.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ReconcileOptions {
    /// How closely to look.
    pub kernel_check: KernelCheck,
    /// Plans the removal of all our entries where the list is empty, instead of refusing.
    pub allow_leaving_nothing_to_boot: bool,
    /// Kernel files that stay though no entry names them: an entry is to come.
    pub keep_kernels: Vec<(StaterootName, BootCsum)>,
}

/// An entry to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedEntry {
    /// Under which file name.
    pub file_name: String,
    /// What it is to say.
    pub desired: DesiredEntry,
}

/// What would be done to `/boot`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReconcilePlan {
    /// Kernel files to install or repair, each with a deployment that has them.
    pub install: Vec<DesiredEntry>,
    /// Entries to write, the newest last.
    pub write: Vec<PlannedEntry>,
    /// Whether GRUB's menu, where there is one, does not show the entries that are there.
    pub menu_outdated: bool,
    /// File names of our entries to remove.
    pub remove_entries: Vec<String>,
    /// Names of directories below `/boot/atomos` to remove.
    pub remove_kernels: Vec<String>,
    /// Paths below `/boot` of what an interrupted run left.
    pub remove_leftovers: Vec<PathBuf>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconcileOutcome {
    /// Whether GRUB's menu was written.
    pub menu_written: bool,
    /// How the switch was made to last.
    pub flushed: FlushMethod,
}

/// Compares `/boot` with the list of what it is to offer. The caller holds the sysroot's lock until the plan is applied.
///
/// # Errors
/// [`BootError::NothingToBoot`] when the list is empty and there are entries: a list that could not be read must not
/// take a machine's last entry away.
pub fn plan_reconcile(
    boot: &BootDir,
    desired: &[DesiredEntry],
    options: &ReconcileOptions,
) -> Result<ReconcilePlan, BootError> {
    let mut desired: Vec<&DesiredEntry> = desired.iter().collect();
    desired.sort_by_key(|desired| desired.n);
    if let Some(pair) = desired.windows(2).find(|pair| pair[0].n == pair[1].n) {
        return Err(BootError::DuplicateNumber { n: pair[0].n });
    }
    let found = boot.list_entries()?;
    let ours = found.iter().filter(|found| found.name.is_some()).count();
    if desired.is_empty() && ours > 0 && !options.allow_leaving_nothing_to_boot {
        return Err(BootError::NothingToBoot {
            path: boot.dir().path().to_owned(),
            entries: ours,
        });
    }

    let left = boot.tries_left_of(&found)?;
    let mut plan = ReconcilePlan::default();
    let mut kept = BTreeSet::new();
    let mut checked = BTreeSet::new();
    for desired in &desired {
        let present = find_present(desired, &found)?;
        let up_to_date = match (present, boot.kernel_dir(&desired.stateroot, desired.bootcsum)?) {
            (Some(present), Some(kernel)) => is_up_to_date(boot, desired, present, kernel)?,
            _ => false,
        };
        let file_name = match present {
            Some(present) if keeps_its_name(desired, present, left.get(&desired.n).copied()) => {
                present.file_name.clone()
            }
            _ => desired.file_name()?.to_string(),
        };
        let is_new_name = present.is_none_or(|present| present.file_name != file_name);
        // A new entry must not name kernel files that were not read, whoever else names them.
        let look_closely = options.kernel_check == KernelCheck::All || !up_to_date;
        let kernel = (&desired.stateroot, desired.bootcsum);
        if !checked.contains(&(kernel, look_closely))
            && !checked.contains(&(kernel, true))
            && needs_kernel(boot, kernel.0, kernel.1, look_closely)?
        {
            plan.install.push((*desired).clone());
        }
        checked.insert((kernel, look_closely));
        if !up_to_date || is_new_name {
            plan.write.push(PlannedEntry {
                file_name: file_name.clone(),
                desired: (*desired).clone(),
            });
        }
        kept.insert(file_name);
    }
    plan.remove_entries = found
        .iter()
        .filter(|found| found.name.is_some() && !kept.contains(&found.file_name))
        .map(|found| found.file_name.clone())
        .collect();
    plan.menu_outdated = menu_outdated(boot, &found, &plan.remove_entries)?;
    plan.remove_kernels = unused_kernels(boot, &desired, &found, &options.keep_kernels)?;
    plan.remove_leftovers = leftovers(boot)?;
    Ok(plan)
}

/// The loader's count stays, until the deployment is known to be good: it is lowered here where nobody else has, and
/// never raised. Who has taken a counter off has said that the entry is good, and is overruled only by its being bad.
fn keeps_its_name(desired: &DesiredEntry, present: &FoundEntry, left: Option<u32>) -> bool {
    match (desired.tries, present.tries()) {
        (Some(wanted), Some(named)) => left.unwrap_or(named.left) <= wanted,
        (Some(wanted), None) => wanted > 0,
        (None, named) => named.is_none(),
    }
}

/// Of several names of one entry (a rename that a power cut left half done): one that boots, then one without a counter,
/// then the one that was tried most.
fn find_present<'a>(
    desired: &DesiredEntry,
    found: &'a [FoundEntry],
) -> Result<Option<&'a FoundEntry>, BootError> {
    let name = desired.file_name()?;
    Ok(found
        .iter()
        .filter(|found| {
            found
                .name
                .as_ref()
                .is_some_and(|found| found.is_same_entry(&name))
        })
        .min_by_key(|found| {
            let unfinished = !found.entry.as_ref().is_ok_and(|entry| entry.is_bootable());
            let tries = found.tries();
            (unfinished, tries.is_some(), tries.map(|tries| tries.left))
        }))
}

fn is_up_to_date(
    boot: &BootDir,
    desired: &DesiredEntry,
    present: &FoundEntry,
    kernel: Dir,
) -> Result<bool, BootError> {
    let files = match KernelFiles::open(kernel) {
        Ok(files) => files,
        Err(BootError::NoKernel { .. } | BootError::NotAFile { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let wanted = desired.to_entry(boot, &files)?;
    Ok(present
        .entry
        .as_ref()
        .is_ok_and(|entry| boots_the_same(entry, &wanted)))
}

fn needs_kernel(
    boot: &BootDir,
    stateroot: &StaterootName,
    csum: BootCsum,
    look_closely: bool,
) -> Result<bool, BootError> {
    match boot.kernel_dir(stateroot, csum)? {
        None => Ok(true),
        Some(dir) if look_closely => Ok(!is_whole(&dir, csum)?),
        Some(_) => Ok(false),
    }
}

/// Kernel directories of ours that nothing names: not the list, and not a path in an entry of anybody else. FAT does not
/// tell upper case from lower case, so neither is done here.
fn unused_kernels(
    boot: &BootDir,
    desired: &[&DesiredEntry],
    found: &[FoundEntry],
    keep: &[(StaterootName, BootCsum)],
) -> Result<Vec<String>, BootError> {
    let Some(kernels) = boot.kernels()? else {
        return Ok(Vec::new());
    };
    let mut used: BTreeSet<String> = found
        .iter()
        .filter(|found| found.name.is_none())
        .filter_map(|found| found.entry.as_ref().ok())
        .flat_map(|entry| entry.lines())
        .flat_map(|(_, value)| value.split(['/', ' ']))
        .map(str::to_ascii_lowercase)
        .collect();
    let kept = keep.iter().map(|(stateroot, bootcsum)| (stateroot, *bootcsum));
    let named = desired
        .iter()
        .map(|desired| (&desired.stateroot, desired.bootcsum));
    used.extend(kept.chain(named).map(|(stateroot, bootcsum)| {
        kernel_dir_name(stateroot, bootcsum)
            .to_string_lossy()
            .to_ascii_lowercase()
    }));
    let unused = |name: &str| {
        parse_kernel_dir_name(name).is_some_and(|(stateroot, _)| boot.has_stateroot(&stateroot))
            && !used.contains(&name.to_ascii_lowercase())
    };
    Ok(kernels
        .entries()?
        .into_iter()
        .filter_map(|entry| entry.name.into_string().ok())
        .filter(|name| unused(name))
        .collect())
}

/// What earlier runs were writing when they were interrupted, by the names that only unfinished things have.
fn leftovers(boot: &BootDir) -> Result<Vec<PathBuf>, BootError> {
    let mut paths = Vec::new();
    let mut look = |dir: Option<Dir>, place: &str, is_ours: &dyn Fn(&str) -> bool| -> Result<(), BootError> {
        let Some(dir) = dir else {
            return Ok(());
        };
        for entry in dir.entries()? {
            if entry.name.to_str().is_some_and(is_ours) {
                paths.push(Path::new(place).join(entry.name));
            }
        }
        Ok(())
    };
    look(boot.kernels()?, super::boot_dir::KERNELS, &|name| {
        name.strip_prefix(TEMPORARY_PREFIX)
            .is_some_and(|name| parse_kernel_dir_name(name).is_some())
    })?;
    look(boot.entries()?, super::boot_dir::ENTRIES, &|name| {
        name.strip_prefix('.')
            .and_then(|name| name.strip_suffix(".new"))
            .is_some_and(|name| name.parse::<super::name::EntryName>().is_ok())
    })?;
    for script in SCRIPTS {
        let temporary = |name: &str| format!(".{name}.new");
        look(boot.dir().open_dir_optional(script.dir)?, script.dir, &|name| {
            name == temporary(script.file) || name == temporary(super::grub_env::ENV)
        })?;
    }
    Ok(paths)
}

impl ReconcilePlan {
    /// Returns whether `/boot` is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether something is missing that would be booted, or is there that must not be. What is only left over is no reason to worry.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.install.is_empty()
            || !self.write.is_empty()
            || !self.remove_entries.is_empty()
            || self.menu_outdated
    }

    /// Does what the plan says. `open_tree` opens the root of a deployment, from which kernel files are copied.
    ///
    /// On return everything is durable. An error leaves `/boot` in one of the states that an interruption leaves: it
    /// offers what it offered before, or what was wanted, and planning again finishes it.
    pub fn apply(
        &self,
        boot: &BootDir,
        open_tree: &dyn Fn(&DesiredEntry) -> Result<Dir, BootError>,
        progress: &dyn Progress,
    ) -> Result<ReconcileOutcome, BootError> {
        for desired in &self.install {
            let files = KernelFiles::find(&open_tree(desired)?)?;
            install_kernel(boot, &desired.stateroot, desired.bootcsum, &files, progress)?;
        }
        failpoint::hit("boot.reconcile.kernels")?;
        let mut found = boot.list_entries()?;
        let mut staged = Vec::new();
        if !self.write.is_empty() {
            let entries = boot.ensure_entries()?;
            for planned in &self.write {
                let desired = &planned.desired;
                let files = boot
                    .kernel_dir(&desired.stateroot, desired.bootcsum)?
                    .ok_or_else(|| BootError::NoKernel {
                        tree: boot.dir().path().to_owned(),
                    })
                    .and_then(KernelFiles::open)?;
                let entry = desired.to_entry(boot, &files)?;
                let written = StagedEntry::stage(boot, &entries, &planned.file_name, &entry)?;
                written.add_to(&mut found, entry);
                staged.push(written);
            }
        }
        // GRUB's menu must be able to boot everything in it: the obsolete ones leave it first.
        let menu = stage_menu(boot, &found, &self.remove_entries)?;
        // Kernels and entries must be where a loader finds them before a name leads to them, and even if nothing was
        // copied: the process that copied it may have died.
        // No power cut shows this sync: that is, its second half, the freeze. `syncfs` brings ext4's names to their place, and on
        // an XFS as small as a test's these inodes are neighbours, which are written at once. On a larger one they may get there
        // in any order, and GRUB looks for them there.
        flush(boot)?;
        failpoint::hit("boot.reconcile.kernels-synced")?;

        for entry in &staged {
            entry.show()?;
        }
        menu.iter().try_for_each(StagedMenu::show)?;
        let flushed = flush(boot)?;
        failpoint::hit("boot.reconcile.switched")?;

        for entry in &staged {
            entry.forget()?;
        }
        menu.iter().try_for_each(StagedMenu::forget)?;
        self.remove_obsolete(boot)?;
        Ok(ReconcileOutcome {
            menu_written: !menu.is_empty(),
            flushed,
        })
    }

    fn remove_obsolete(&self, boot: &BootDir) -> Result<(), BootError> {
        if !self.remove_entries.is_empty() {
            let entries = boot.ensure_entries()?;
            for file_name in &self.remove_entries {
                entries.remove_file_optional(file_name)?;
                failpoint::hit("boot.reconcile.entry-removed")?;
            }
            // No entry may come back after a power cut to find its kernel gone.
            flush(boot)?;
            failpoint::hit("boot.reconcile.entries-synced")?;
            drop_old_counts(boot)?;
        }
        for name in &self.remove_kernels {
            remove_kernel(boot, name)?;
            failpoint::hit("boot.reconcile.kernel-removed")?;
        }
        for path in &self.remove_leftovers {
            boot.dir().remove_tree(path)?;
            failpoint::hit("boot.reconcile.leftover-removed")?;
        }
        if !self.remove_kernels.is_empty() || !self.remove_leftovers.is_empty() {
            // No power cut shows this sync: what comes back is what nothing leads to, and goes again the next time. The
            // space is free when the command says so, and a FAT is not left half written.
            boot.dir().sync_fs()?;
        }
        Ok(())
    }
}

impl FoundEntry {
    fn tries(&self) -> Option<super::name::Tries> {
        self.name.as_ref().and_then(|name| name.tries)
    }
}
