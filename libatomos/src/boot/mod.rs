//! What the boot loader reads.

mod boot_dir;
mod bootcsum;
mod error;
mod flush;
mod install;
mod menu;
mod reconcile;
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

pub use boot_dir::{BootDir, BootFsKind, BootOptions, FoundEntry};
pub use bootcsum::{BootCsum, InvalidBootCsum, KernelFile, KernelFiles};
pub use error::BootError;
pub use flush::FlushMethod;
pub use install::{InstallOutcome, install_kernel};
pub use kargs::{KargsError, KernelArgs};
pub use menu::wants_menu;
pub use reconcile::{
    KernelCheck, PlannedEntry, ReconcileOptions, ReconcileOutcome, ReconcilePlan, plan_reconcile,
};
pub use space::{MARGIN, NeededKernel, RemovableKernel, SpaceReport, check_space};
pub use status::{FirstEntry, Loader, LoaderForecast, Pin, PinSource, forecast};
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
