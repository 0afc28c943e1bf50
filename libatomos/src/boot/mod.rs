//! What the boot loader reads.

pub mod bls;
pub mod kargs;
pub mod name;
pub mod order;

/// Returns the `version` of an entry: its number, then the operating system's version for people. The number decides.
#[must_use]
pub fn sort_version(n: u64, version: &str) -> String {
    format!("{n}-{version}")
}
