//! Helpers for tests: of this library, and of programs that embed it. Behind the feature `testing`.
//!
//! [`OddTree`] makes a directory with everything that a file system can hold and a naive program would lose;
//! [`small_tree`] makes a plain one from a seed. [`TestRepo`] is a repository in a temporary directory. [`LoopFs`] is
//! a file system of a chosen kind and size, for what only a real one shows. [`decode`] reaches the decoders that have
//! no public name, for fuzzing; [`laws`] has what must be true of whatever a site sends.
//!
//! What cannot be had (root's rights, a device, a program) is said on standard error, so that a skipped test is seen.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, owns the directories that it names, and says what it skips"
)]

use std::path::PathBuf;

mod archives;
pub mod decode;
mod images;
mod imports;
pub mod laws;
mod loopfs;
mod odd;
mod progress;
mod repo;
mod small;

pub use loopfs::LoopFs;
pub use odd::{Needs, OddTree, Order, acl, file_capability};
pub use progress::RecordingProgress;
pub use repo::TestRepo;
pub use small::{small_tree, touch_up};

/// Returns whether the process has root's rights, and says that `what` is skipped where it has not.
#[must_use]
pub fn is_root_or_skip(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(what, "it takes root");
    }
    root
}

/// Says that a test, or a part of one, is not done here.
pub fn skip(what: &str, why: &str) {
    eprintln!("skipped: {what}: {why}");
}

/// Returns a directory of a file system in memory, or the temporary directory where there is none that keeps extended
/// attributes (tmpfs does from Linux 6.6 on).
#[must_use]
pub fn memory_dir() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let keeps_attributes = || {
        let probe = tempfile::NamedTempFile::new_in(&memory).ok()?;
        rustix::fs::fsetxattr(&probe, "user.atomos", b"", rustix::fs::XattrFlags::empty()).ok()
    };
    if keeps_attributes().is_some() {
        memory
    } else {
        std::env::temp_dir()
    }
}
