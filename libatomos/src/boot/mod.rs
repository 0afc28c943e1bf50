//! What the boot loader reads: kernels and entries in `/boot`, and the one step that switches between deployments.
//!
//! ```text
//! /boot/atomos/<stateroot>-<bootcsum>/{vmlinuz,initramfs.img,devicetree,dtb/…}   shared by deployments
//! /boot/loader/entries/atomos-<N>-<stateroot>-<commit12>.<serial>[+tries].conf   one for each deployment
//! /boot/grub/atomos.cfg                                                          where GRUB has no blscfg
//! ```
//!
//! Nothing here is the truth. The truth is a list of [`DesiredEntry`], which a sysroot keeps in `/atomos`; `/boot` is made
//! to say the same by [`plan_reconcile`] and [`ReconcilePlan::apply`], and could be lost altogether. Whatever changes
//! what a machine boots is this one operation with another list: deploy, upgrade, rollback, other kernel arguments, a
//! boot that turned out good, recovery.
//!
//! Two invariants hold at every moment, also for a machine that loses its power:
//!
//! - an entry that a loader would offer names kernel files that are whole and on disk;
//! - the highest number N is first for every loader, and no N is ever used again, so that a switch is one new file.
//!
//! | module | |
//! |---|---|
//! | [`kargs`] | kernel arguments |
//! | [`bls`], [`name`] | entries and their file names |
//! | [`order`] | how loaders sort them |
//! | `bootcsum`, `install` | the kernel of a tree, and putting it into `/boot` |
//! | `switch`, `menu`, `flush` | the visible step, for each kind of file system and loader |
//! | `extlinux` | what U-Boot reads |
//! | `count`, `grub_env` | how GRUB counts boots |
//! | `reconcile`, `space` | plan and order of all steps; whether there is room |
//! | `verify`, `status` | looking: is it whole, and what will be booted |
//!
//! `docs/boot.md` has the whole story, with what each interruption leaves.

mod boot_dir;
mod bootcsum;
mod count;
mod error;
mod extlinux;
mod flush;
mod grub_env;
mod install;
mod menu;
mod reconcile;
mod show;
mod space;
mod status;
mod switch;
#[cfg(test)]
mod tests;
mod verify;

pub mod bls;
pub mod kargs;
pub mod name;
pub mod order;

pub(crate) use boot_dir::ENTRIES;
pub use boot_dir::{BootDir, BootFsKind, BootOptions, FoundEntry};
pub use bootcsum::{BootCsum, InvalidBootCsum, KernelFile, KernelFiles};
pub(crate) use bootcsum::{KERNEL_NAMES, parse_kernel_dir_name};
pub use error::BootError;
pub use extlinux::{ExtlinuxDefault, extlinux_conf};
pub use flush::FlushMethod;
pub use grub_env::{GrubEnv, grub_can_write};
pub use install::{InstallOutcome, install_kernel};
pub use kargs::{KargsError, KernelArgs};
pub use menu::{is_in_menu, wants_menu};
pub use reconcile::{
    KernelCheck, PlannedEntry, ReconcileOptions, ReconcileOutcome, ReconcilePlan, plan_reconcile,
};
pub use space::{MARGIN, NeededKernel, RemovableKernel, SpaceReport, check_space, kernel_space};
pub use status::{FirstEntry, Loader, LoaderForecast, Pin, PinSource, forecast};
pub(crate) use switch::ENTRY_KARG;
pub use switch::{DesiredEntry, SORT_KEY, write_entry};
pub use verify::{EntryFinding, EntryReport, verify_entries};

/// Returns the `version` of an entry: its number, then the operating system's version for people. The number decides.
#[must_use]
pub fn sort_version(n: u64, version: &str) -> String {
    let digits_and_letters = |c: &char| c.is_ascii_alphanumeric() || ".-~^_+:".contains(*c);
    let version: String = version.chars().filter(digits_and_letters).collect();
    if version.is_empty() {
        n.to_string()
    } else {
        format!("{n}-{version}")
    }
}
