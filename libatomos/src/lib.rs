//! Keeps operating system trees in a content-addressed store and switches a machine between them atomically.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod boot;
pub mod cancel;
pub mod checkout;
pub mod commit;
pub mod digest;
pub mod error;
pub mod etc_merge;
pub mod failpoint;
pub mod format;
pub mod fs;
pub mod lint;
pub mod names;
pub mod os_var;
mod parallel;
pub mod progress;
pub mod repo;
pub mod sysroot;
#[cfg(feature = "testing")]
pub mod testing;
