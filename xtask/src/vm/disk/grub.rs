//! GRUB for a machine with a BIOS, put in place by writing two files to where they belong, which is all that
//! `grub-bios-setup` would do and needs no device.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{BOOT, SECTOR};
use crate::process::run;

/// GRUB's modules for machines with a BIOS.
pub const GRUB_MODULES: &str = "/usr/lib/grub/i386-pc";

/// What GRUB runs before it has found its configuration: /boot may be on any disk, so it is found by its label.
const EARLY_CONFIG: &str = "\
search --no-floppy --label atomos-boot --set=root
set prefix=($root)/grub
";

/// Linked into core.img, so that /boot holds no code of its own.
const MODULES: [&str; 17] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "xfs",
    "btrfs",
    "normal",
    "linux",
    "configfile",
    "search",
    "search_label",
    "test",
    "echo",
    "regexp",
    "serial",
    "terminal",
    "loadenv",
    "reboot",
];

/// The loader does not wait for a person.
const SETTINGS: &str = "set timeout=0\n";

/// Writes GRUB's core into the gap before the first partition, and returns the code of the first sector.
///
/// # Errors
/// If a program fails or the image cannot be written.
pub fn install(work: &Path, disk: &File) -> Result<[u8; 440]> {
    let early = work.join("grub-early.cfg");
    std::fs::write(&early, EARLY_CONFIG).with_context(|| format!("cannot write {}", early.display()))?;
    let core = work.join("core.img");
    run(Command::new("grub-mkimage")
        .args(["--format=i386-pc", "--directory", GRUB_MODULES])
        .args(["--prefix=(hd0,msdos1)/grub", "--config"])
        .arg(&early)
        .arg("--output")
        .arg(&core)
        .args(MODULES))?;
    let boot = Path::new(GRUB_MODULES).join("boot.img");
    let boot = std::fs::read(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let core = std::fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    ensure!(
        (core.len() as u64) < BOOT.start - SECTOR,
        "GRUB's core does not fit before the first partition"
    );
    disk.write_all_at(&core, SECTOR)
        .context("cannot write GRUB's core")?;
    boot.first_chunk().copied().context("boot.img is not one sector")
}

/// Writes what a machine's owner has in `/boot/grub`: the project's fixed configuration.
///
/// # Errors
/// If a file cannot be written.
pub fn configure(boot: &Path) -> Result<()> {
    let grub = boot.join("grub");
    let fixed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-hooks/grub/grub.cfg");
    std::fs::create_dir_all(&grub)
        .and_then(|()| std::fs::copy(&fixed, grub.join("grub.cfg")))
        .and_then(|_| std::fs::write(grub.join("custom.cfg"), SETTINGS))
        // Asks for a menu file: this GRUB reads no entries.
        .and_then(|()| std::fs::write(grub.join("atomos.enabled"), ""))
        .with_context(|| format!("cannot write below {}", grub.display()))
}
