//! What a test in a machine needs: programs of this machine, and the project's own, built.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::disk::{GRUB_MODULES, esp};
use super::firmware;
use crate::process::{has_program, is_root, run};
use crate::workspace;

/// What the tests run or read, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 12] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("grub-mkimage", "grub-common"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("nginx", "nginx-light"),
    ("unshare", "util-linux"),
    ("losetup", "mount"),
    ("mount", "mount"),
    ("cp", "coreutils"),
];

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
    let files = [
        (Path::new(GRUB_MODULES).join("boot.img"), "grub-pc-bin"),
        (PathBuf::from(esp::SYSTEMD_BOOT), "systemd-boot-efi"),
        (PathBuf::from(firmware::CODE), "ovmf"),
    ];
    missing.extend(
        files
            .iter()
            .filter(|(file, _)| !file.exists())
            .map(|(_, package)| *package),
    );
    if !missing.is_empty() {
        bail!("missing programs; run `apt-get install {}`", missing.join(" "));
    }
    Ok(())
}

/// Builds the programs, optimised as they are released.
///
/// # Errors
/// If a build fails.
pub fn build_programs() -> Result<Programs> {
    let atomos = workspace::build_atomos()?;
    Ok(Programs {
        atomos: find(atomos)?,
        prepare_root: build_prepare_root()?,
    })
}

fn find(path: PathBuf) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))
}

/// Builds `atomos-prepare-root` as it is released, and returns its path.
///
/// # Errors
/// If the build fails.
pub fn build_prepare_root() -> Result<PathBuf> {
    let target = "x86_64-unknown-linux-gnu";
    // Static, also with glibc. The target is named so that the flag does not reach build scripts.
    let mut command = workspace::cargo(
        &workspace::root(),
        &["build", "--quiet", "--locked", "--package", "atomos-prepare-root"],
    );
    run(command
        .args(["--profile", "prepare-root", "--target", target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    let out = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    find(
        workspace::root()
            .join(out)
            .join(target)
            .join("prepare-root/atomos-prepare-root"),
    )
}
