//! Virtual machines that boot what atomos deployed.
//!
//! Everything that the rest of the project promises about a machine is only proven by one that boots: here is a
//! disk with a loader that knows nothing of the host, emulated in software (`-accel tcg`, which works where there is
//! no `/dev/kvm` or a broken one), driven from outside.
//!
//! ```text
//! command   `cargo xtask vm-test`
//! scenario  which tests there are: a story on a kind of disk
//! stories   what happens to machines; results what came of it, for the document
//! lab       what all tests of a run share, and what each has for itself
//! guest     what is asked inside a machine
//! machine   QEMU; the console in a file; a port on which the guest runs scripts
//! hardware  what a machine consists of; firmware what runs first; patience how long to wait
//! disk      an image: a loader, /boot and root, on one of several file systems
//! store     versions: their trees, a repository with their commits, and the published site
//! tree      a Debian tree made fit for the test, in an overlay above the one it was made from; units its units
//! ```
//!
//! All mounts are made in a mount namespace that [`enter_namespace`] enters by running this program again, so
//! nothing is left behind however the test ends, and a killed test takes its machine with it.

mod command;
mod disk;
mod firmware;
mod guest;
pub mod hardware;
mod host;
mod lab;
mod machine;
pub mod patience;
mod programs;
mod results;
mod scenario;
pub mod steps;
mod store;
mod stories;
mod text;
mod tree;
mod units;
mod versions;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::run;

pub use command::{TestArgs, test};
pub use disk::{configure_grub, install_grub};
pub use programs::build_prepare_root;

/// Set in the program that runs inside the namespaces.
const INSIDE: &str = "ATOMOS_VM_TEST_INSIDE";

/// How tests in machines run.
#[derive(Debug, Clone)]
struct Options {
    /// Leaves what a test that passed has made.
    keep: bool,
    /// Saves machines that have booted, for others to go on from there.
    resume: bool,
    /// The emulator's processor time that a boot may take. Half a minute is usual.
    boot_limit: Duration,
}

/// Goes on inside mount and process namespaces of its own, as the same program with the same arguments. Returns
/// when it is inside.
///
/// # Errors
/// If the program cannot be run again.
pub fn enter_namespace() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let failure = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(failure).context("cannot start `unshare`")
}

/// Makes an empty directory for a test, and returns its absolute path.
fn make_work_directory(path: &Path) -> Result<PathBuf> {
    remove_work_directory(path)?;
    ensure_work_directory(path)
}

/// Makes a directory unless it is there, and returns its absolute path.
fn ensure_work_directory(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    path.canonicalize()
        .with_context(|| format!("cannot resolve {}", path.display()))
}

/// Removes what a test left. Never follows a mount out of the directory.
fn remove_work_directory(path: &Path) -> Result<()> {
    run(Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(path))
}
