//! GRUB: a configuration that sources our menu, and `grub-install` for the rest.
//!
//! ```text
//! /boot/grub/grub.cfg         the configuration of bootloader-hooks/grub, written once
//! /boot/grub/atomos.enabled   asks for a menu; `atomos.cfg` follows with the deployment
//! ```
//!
//! What firmware starts, and the modules, are put in place by `grub-install` of the machine that installs, which knows
//! the ways of disks: gaps, BIOS boot partitions, RAID. It generates no configuration. `--removable --no-nvram` writes
//! the loader under the name that firmware starts by itself, and leaves this machine's variables alone.

use std::path::{Path, PathBuf};

use crate::fs::Dir;

use super::esp;
use super::probe::{Esp, Layout};
use super::{InstallOptions, InstallPlan, SysrootError, refuse};

/// Where GRUB looks, below `/boot`.
const DIRECTORY: &str = "grub";

/// The configuration.
const GRUB_CFG: &[u8] = include_bytes!("../../../../bootloader-hooks/grub/grub.cfg");

/// Bytes in somebody's `grub.cfg`.
const MAX_CFG: usize = 16 * 1024 * 1024;

/// What it is called until another system's is replaced.
const REPLACED: &str = "grub.cfg.before-atomos";

/// Refuses what GRUB would not boot from.
pub(super) fn check(layout: &Layout, options: &InstallOptions, resumes: bool) -> Result<(), SysrootError> {
    if options.existing {
        return Ok(());
    }
    if !options.grub_config_only
        && let Some(esp) = efi(layout, options)
    {
        // No GRUB says whose it is.
        esp::check(&layout.target, &esp.path, options, resumes, |_| false)?;
    }
    let root = Dir::open_ambient(&layout.target)?;
    let Some(dir) = root.open_dir_optional(Path::new("boot").join(DIRECTORY))? else {
        return Ok(());
    };
    match dir.read_optional("grub.cfg", MAX_CFG)? {
        Some(bytes) if bytes != GRUB_CFG && !dir.exists("atomos.enabled")? => {
            Err(refuse(&layout.target, "/boot/grub/grub.cfg is another system's"))
        }
        _ => Ok(()),
    }
}

/// Returns the calls of `grub-install` that put GRUB where firmware finds it; none where its configuration alone is wanted.
///
/// # Errors
/// There is no place for it, and nobody said that it is there already: such a disk boots nothing.
pub(super) fn programs(
    layout: &Layout,
    options: &InstallOptions,
    warnings: &mut Vec<String>,
) -> Result<Vec<Vec<String>>, SysrootError> {
    if options.grub_config_only {
        warnings.push("GRUB itself is not installed, only its configuration: it has to be there".to_owned());
        return Ok(Vec::new());
    }
    let boot = layout.target.join("boot");
    let call = |arguments: &[String]| {
        let mut words = vec!["grub-install".to_owned()];
        words.extend_from_slice(arguments);
        words.push(format!("--boot-directory={}", boot.display()));
        words
    };
    let mut calls = Vec::new();
    if let Some(device) = &options.grub_device {
        let mut words = call(&["--target=i386-pc".to_owned()]);
        words.push(device.display().to_string());
        calls.push(words);
    }
    if let Some(esp) = efi(layout, options) {
        calls.push(call(&[
            format!("--target={}", efi_target(std::env::consts::ARCH)),
            format!("--efi-directory={}", layout.target.join(&esp.path).display()),
            "--removable".to_owned(),
            "--no-nvram".to_owned(),
        ]));
    }
    if calls.is_empty() {
        return Err(SysrootError::NoPlaceForGrub {
            target: layout.target.clone(),
        });
    }
    Ok(calls)
}

/// Returns the EFI system partition that `grub-install` is told of.
fn efi<'a>(layout: &'a Layout, options: &InstallOptions) -> Option<&'a Esp> {
    let esp = layout.esp.as_ref();
    esp.filter(|esp| esp.is_fat() || options.esp.is_some())
}

/// GRUB's name of an architecture with UEFI.
fn efi_target(architecture: &str) -> &'static str {
    match architecture {
        "aarch64" => "arm64-efi",
        "arm" => "arm-efi",
        "riscv64" => "riscv64-efi",
        "loongarch64" => "loongarch64-efi",
        "x86" => "i386-efi",
        _ => "x86_64-efi",
    }
}

/// Asks for a menu. Before the deployment, so that it gets one.
pub(super) fn prepare(plan: &InstallPlan, root: &Dir) -> Result<Vec<PathBuf>, SysrootError> {
    let dir = root.ensure_dir("boot", 0o755)?.ensure_dir(DIRECTORY, 0o755)?;
    let mut written = Vec::new();
    if !dir.exists("atomos.enabled")? {
        dir.write_atomic("atomos.enabled", b"", 0o644)?;
        written.push(Path::new("boot").join(DIRECTORY).join("atomos.enabled"));
    }
    debug_assert_eq!(plan.loader, super::Loader::Grub);
    dir.sync_fs()?;
    Ok(written)
}

/// Writes the configuration. After the deployment, whose menu it sources.
pub(super) fn configure(root: &Dir) -> Result<Vec<PathBuf>, SysrootError> {
    let dir = root.open_dir(Path::new("boot").join(DIRECTORY))?;
    let there = dir.read_optional("grub.cfg", MAX_CFG)?;
    if there.as_deref() == Some(GRUB_CFG) {
        return Ok(Vec::new());
    }
    if let Some(theirs) = there
        && !dir.exists(REPLACED)?
    {
        dir.write_atomic(REPLACED, &theirs, 0o600)?;
        dir.sync_fs()?;
    }
    dir.write_atomic("grub.cfg", GRUB_CFG, 0o644)?;
    dir.sync_fs()?;
    Ok(vec![Path::new("boot").join(DIRECTORY).join("grub.cfg")])
}
