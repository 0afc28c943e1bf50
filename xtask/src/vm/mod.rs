//! Virtual machines that boot what atomos deployed.
//!
//! Everything that the rest of the project promises about a machine is only proven by one that boots: here is a
//! disk with a loader that knows nothing of the host, emulated in software (`-accel tcg`, which works where there is
//! no `/dev/kvm` or a broken one), driven from outside.
//!
//! ```text
//! disk     an image: GRUB in the gap after the partition table, ext4 for /boot, ext4 for the root
//! tree     a Debian tree made fit for the test, in an overlay above the one it was made from
//! machine  QEMU; the console in a file; a port on which the guest runs scripts
//! smoke    the scenario: boot, upgrade, reboot, roll back, reboot
//! ```
//!
//! All mounts are made in a mount namespace that [`enter_namespace`] enters by running this program again, so
//! nothing is left behind however the test ends, and a killed test takes its machine with it.

mod command;
mod disk;
mod machine;
mod smoke;
pub mod steps;
mod tree;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{has_program, is_root, run};

pub use command::{TestArgs, test};
pub use smoke::smoke;

/// Set in the program that runs inside the namespaces.
const INSIDE: &str = "ATOMOS_VM_TEST_INSIDE";

/// What the tests run, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("grub-mkimage", "grub-common"),
    ("mkfs.ext4", "e2fsprogs"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// GRUB's modules for machines with a BIOS.
const GRUB_MODULES: &str = "/usr/lib/grub/i386-pc";

/// How a test in a machine runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where disks, overlays and logs are made. Emptied first.
    pub work: PathBuf,
    /// Leaves what is in `work` there afterwards.
    pub keep: bool,
    /// How long a boot may take. Half a minute on two idle cores; a busy machine may take minutes.
    pub boot_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            work: PathBuf::from("target/xtask/vm"),
            keep: false,
            boot_timeout: Duration::from_secs(300),
        }
    }
}

/// The project's programs that a machine gets.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `atomos`; the host runs it too.
    pub atomos: PathBuf,
    /// `atomos-prepare-root`, static.
    pub prepare_root: PathBuf,
}

/// Says what is missing on this machine for a test in a virtual one.
///
/// # Errors
/// If something is missing.
pub fn check_requirements() -> Result<()> {
    if !is_root() {
        bail!("tests in a virtual machine mount file systems, which needs root");
    }
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(GRUB_MODULES).join("boot.img").exists() {
        missing.push("grub-pc-bin");
    }
    if !missing.is_empty() {
        bail!("missing programs; run `apt-get install {}`", missing.join(" "));
    }
    Ok(())
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

/// Builds the programs, optimised as they are released.
///
/// # Errors
/// If a build fails.
pub fn build_programs() -> Result<Programs> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = "x86_64-unknown-linux-gnu";
    run(Command::new(&cargo).args(["build", "--quiet", "--release", "--package", "atomos-cli"]))?;
    // Static, also with glibc. The target is named so that the flag does not reach build scripts.
    run(Command::new(&cargo)
        .args([
            "build",
            "--quiet",
            "--package",
            "atomos-prepare-root",
            "--profile",
            "prepare-root",
            "--target",
            target,
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let out = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let find = |path: PathBuf| {
        path.canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))
    };
    Ok(Programs {
        atomos: find(out.join("release/atomos"))?,
        prepare_root: find(out.join(target).join("prepare-root/atomos-prepare-root"))?,
    })
}

/// Makes an empty directory for a test, and returns its absolute path.
fn make_work_directory(path: &Path) -> Result<PathBuf> {
    remove_work_directory(path)?;
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
