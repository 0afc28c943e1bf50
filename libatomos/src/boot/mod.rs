//! What the boot loader reads.

mod boot_dir;
mod bootcsum;
mod error;

pub mod bls;
pub mod kargs;
pub mod name;
pub mod order;

pub use boot_dir::{BootDir, BootFsKind, BootOptions, FoundEntry};
pub use bootcsum::{BootCsum, InvalidBootCsum, KernelFile, KernelFiles};
pub use error::BootError;

/// Returns the `version` of an entry: its number, then the operating system's version for people. The number decides.
#[must_use]
pub fn sort_version(n: u64, version: &str) -> String {
    format!("{n}-{version}")
}
