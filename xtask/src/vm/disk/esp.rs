//! An EFI system partition with systemd-boot, which is `/boot` too.
//!
//! The kernel of the machine that makes the disk need not know FAT: what belongs there is written to a tmpfs, and copied by mtools.
//! On the machine that boots, the file system is what it is, and atomos writes to it as to any other.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::BOOT;
use crate::process::{capture, run};

/// systemd-boot, as its package has it.
pub const SYSTEMD_BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// Where every firmware looks on a disk that it has no entry for.
const FALLBACK: &str = "EFI/BOOT/BOOTX64.EFI";
/// The loader does not wait for a person.
const LOADER_CONF: &str = "timeout 0\nconsole-mode keep\n";

/// Writes systemd-boot and its configuration.
///
/// # Errors
/// If a file cannot be written.
pub fn configure(boot: &Path) -> Result<()> {
    let fallback = boot.join(FALLBACK);
    let loader = boot.join("loader");
    std::fs::create_dir_all(boot.join("EFI/BOOT"))
        .and_then(|()| std::fs::copy(SYSTEMD_BOOT, &fallback))
        .and_then(|_| std::fs::create_dir_all(&loader))
        .and_then(|()| std::fs::write(loader.join("loader.conf"), LOADER_CONF))
        .with_context(|| format!("cannot write below {}", boot.display()))
}

/// Copies what is in a directory to the partition.
///
/// # Errors
/// If mtools fail.
pub fn write(image: &Path, boot: &Path) -> Result<()> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(boot).with_context(|| format!("cannot list {}", boot.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", boot.display()))?;
        entries.push(entry.path());
    }
    run(mtools("mcopy", image)
        .args(["-s", "-Q"])
        .args(&entries)
        .arg("::/"))
}

/// Copies what is on the partition to an empty directory.
///
/// # Errors
/// If mtools fail.
pub fn read(image: &Path, boot: &Path) -> Result<()> {
    run(mtools("mcopy", image).args(["-s", "-Q", "-m", "::/*"]).arg(boot))
}

/// The names in a directory of the partition.
///
/// # Errors
/// If mtools fail.
pub fn list(image: &Path, directory: &str) -> Result<Vec<String>> {
    let text = capture(mtools("mdir", image).arg("-b").arg(format!("::/{directory}")))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            Some(
                PathBuf::from(line.trim_end_matches('/'))
                    .file_name()?
                    .to_str()?
                    .to_owned(),
            )
        })
        .collect())
}

/// A program of mtools that works on the partition.
fn mtools(program: &str, image: &Path) -> Command {
    let mut place: OsString = image.into();
    place.push(format!("@@{}", BOOT.start));
    let mut command = Command::new(program);
    // The geometry of a partition in a file is nothing to be checked.
    command.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(place);
    command
}
