//! A disk that boots: partition table, GRUB, two file systems.
//!
//! ```text
//! sector 0        boot.img, and the partition table in its last bytes
//! sector 1 …      core.img: GRUB with every module it needs, so that /boot holds no code of its own
//! 1 MiB           ext4 "atomos-boot"
//! 256 MiB         ext4 "atomos-root"
//! ```
//!
//! The machine that makes it may know neither partition tables nor have free loop devices with partitions: file
//! systems are made and mounted by their offset in the image. GRUB is put in place by writing two files to where they
//! belong, which is all that `grub-bios-setup` would do and needs no device.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::GRUB_MODULES;
use crate::process::{Logged, run};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
const BOOT_START: u64 = MIB;
const ROOT_START: u64 = 256 * MIB;
/// Sparse: what is not written takes no space.
const DISK_SIZE: u64 = 6 * 1024 * MIB;

/// The label of the file system for `/boot`.
pub const BOOT_LABEL: &str = "atomos-boot";
/// The label of the physical root.
pub const ROOT_LABEL: &str = "atomos-root";

/// What GRUB runs before it has found its configuration: /boot may be on any disk, so it is found by its label.
const EARLY_CONFIG: &str = "\
search --no-floppy --label atomos-boot --set=root
set prefix=($root)/grub
";

/// Linked into core.img.
const MODULES: [&str; 14] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "configfile",
    "search",
    "search_label",
    "test",
    "echo",
    "serial",
    "terminal",
    "loadenv",
    "reboot",
];

/// A disk image.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
}

/// A disk's file systems, mounted: the root at `root`, `/boot` within it. Unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    /// Where the physical root is.
    pub root: PathBuf,
}

impl Disk {
    /// Makes an image in `work`, with empty file systems and GRUB.
    ///
    /// # Errors
    /// If a program fails or the image cannot be written.
    pub fn create(work: &Path) -> Result<Self> {
        let image = work.join("disk.img");
        let file = File::create(&image).with_context(|| format!("cannot write {}", image.display()))?;
        file.set_len(DISK_SIZE).context("cannot size the disk image")?;
        install_grub(work, &file)?;
        make_ext4(&image, BOOT_LABEL, BOOT_START, ROOT_START)?;
        make_ext4(&image, ROOT_LABEL, ROOT_START, DISK_SIZE)?;
        Ok(Self { image })
    }

    /// The image's file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Mounts the file systems at `root`. Only inside a mount namespace of the test's own.
    ///
    /// # Errors
    /// If a mount fails.
    pub fn mount(&self, root: &Path) -> Result<Mounted> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        mount_at(&self.image, ROOT_START, DISK_SIZE, root)?;
        let mounted = Mounted {
            root: root.to_owned(),
        };
        let boot = root.join("boot");
        std::fs::create_dir_all(&boot).with_context(|| format!("cannot make {}", boot.display()))?;
        mount_at(&self.image, BOOT_START, ROOT_START, &boot)?;
        Ok(mounted)
    }

    /// Checks both file systems, which a machine that went off left behind.
    ///
    /// # Errors
    /// If one of them is not clean.
    pub fn check(&self, work: &Path) -> Result<()> {
        let log = Logged::create(&work.join("e2fsck.log"))?;
        for start in [BOOT_START, ROOT_START] {
            let mut device = self.image.clone().into_os_string();
            device.push(format!("?offset={start}"));
            log.run(Command::new("e2fsck").args(["-f", "-n"]).arg(device))?;
        }
        Ok(())
    }
}

impl Mounted {
    /// Unmounts, so that the image holds everything.
    ///
    /// # Errors
    /// If something still uses the file systems.
    pub fn unmount(self) -> Result<()> {
        let outcome = run(Command::new("umount").args(["--recursive", "--"]).arg(&self.root));
        std::mem::forget(self);
        outcome
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // On the way out of a failure; the namespace ends soon anyhow.
        let _ = run(Command::new("umount")
            .args(["--recursive", "--lazy", "--"])
            .arg(&self.root));
    }
}

fn make_ext4(image: &Path, label: &str, start: u64, end: u64) -> Result<()> {
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "1", "-L", label, "-E"])
        .arg(format!("offset={start},nodiscard"))
        .arg(image)
        .arg(format!("{}k", (end - start) / 1024)))
}

fn mount_at(image: &Path, start: u64, end: u64, target: &Path) -> Result<()> {
    run(Command::new("mount")
        .args(["-t", "ext4", "-o"])
        .arg(format!("loop,offset={start},sizelimit={}", end - start))
        .arg(image)
        .arg(target))
}

fn install_grub(work: &Path, disk: &File) -> Result<()> {
    let early = work.join("grub-early.cfg");
    std::fs::write(&early, EARLY_CONFIG).with_context(|| format!("cannot write {}", early.display()))?;
    let core = work.join("core.img");
    run(Command::new("grub-mkimage")
        .args([
            "--format=i386-pc",
            "--directory",
            GRUB_MODULES,
            "--prefix=(hd0,msdos1)/grub",
            "--config",
        ])
        .arg(&early)
        .arg("--output")
        .arg(&core)
        .args(MODULES))?;
    let boot = Path::new(GRUB_MODULES).join("boot.img");
    let boot = std::fs::read(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let core = std::fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    ensure!(
        (core.len() as u64) < BOOT_START - SECTOR,
        "GRUB's core does not fit before the first partition"
    );
    let partitions = [(BOOT_START, ROOT_START), (ROOT_START, DISK_SIZE)];
    disk.write_all_at(&master_boot_record(&boot, &partitions)?, 0)
        .context("cannot write the first sector")?;
    disk.write_all_at(&core, SECTOR)
        .context("cannot write GRUB's core")
}

/// The first sector: boot code, and a table of Linux partitions given as byte ranges.
fn master_boot_record(code: &[u8], partitions: &[(u64, u64)]) -> Result<[u8; 512]> {
    const CODE_LEN: usize = 440;
    const TABLE: usize = 446;
    const ENTRY_LEN: usize = 16;
    const LINUX: u8 = 0x83;
    ensure!(
        code.len() == 512 && partitions.len() <= 4,
        "boot.img is not one sector"
    );
    let mut sector = [0; 512];
    sector[..CODE_LEN].copy_from_slice(&code[..CODE_LEN]);
    for (index, (start, end)) in partitions.iter().enumerate() {
        let entry = &mut sector[TABLE + index * ENTRY_LEN..][..ENTRY_LEN];
        entry[0] = if index == 0 { 0x80 } else { 0 };
        // Cylinders, heads and sectors are given up on: "see the linear fields".
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = LINUX;
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        let sectors =
            |bytes: u64| u32::try_from(bytes / SECTOR).context("the disk is too large for its table");
        entry[8..12].copy_from_slice(&sectors(*start)?.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(end - start)?.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_table_names_the_ranges_in_sectors() {
        let code = [0x90; 512];
        let sector = master_boot_record(&code, &[(MIB, 256 * MIB), (256 * MIB, 1024 * MIB)]).unwrap();
        assert_eq!(sector[..440], code[..440]);
        assert_eq!(sector[446], 0x80, "the first partition is the active one");
        assert_eq!(sector[446 + 4], 0x83);
        assert_eq!(sector[446 + 8..446 + 16], [0, 8, 0, 0, 0, 0xf8, 7, 0]);
        assert_eq!(sector[462], 0);
        assert_eq!(sector[462 + 8..462 + 12], (256 * 2048_u32).to_le_bytes());
        assert_eq!(sector[478..510], [0; 32], "the other two entries are empty");
        assert_eq!(sector[510..], [0x55, 0xaa]);
        assert!(master_boot_record(&code[1..], &[]).is_err());
    }
}
