//! The file systems that a disk may have, by the programs that make and check them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::{Logged, run};

/// What is on a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT32, which the kernel of the machine that makes disks may not know.
    Vfat,
}

impl FileSystem {
    /// The name by which `mount` knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
        }
    }

    /// Its number in a partition table: Linux's, or that of an EFI system partition.
    pub const fn partition_type(self) -> u8 {
        match self {
            Self::Vfat => 0xef,
            Self::Ext4 | Self::Xfs | Self::Btrfs => 0x83,
        }
    }

    /// A label as this file system keeps it: FAT has capitals alone.
    pub fn label(self, label: &str) -> String {
        match self {
            Self::Vfat => label.to_uppercase(),
            Self::Ext4 | Self::Xfs | Self::Btrfs => label.to_owned(),
        }
    }

    /// Makes an empty one on a device.
    ///
    /// # Errors
    /// If the program fails.
    pub fn make(self, device: &Path, label: &str) -> Result<()> {
        // Discarding is left out: the image is sparse, and the machine's disk may take minutes over it.
        let (program, options): (_, &[&str]) = match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "1", "-E", "nodiscard", "-L"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K", "-L"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "--nodiscard", "--label"]),
            Self::Vfat => ("mkfs.vfat", &["-F", "32", "-n"]),
        };
        run(Command::new(program)
            .args(options)
            .arg(self.label(label))
            .arg(device)
            .stdout(Stdio::null()))
    }

    /// Lets [`FileSystem::check`] believe that files were removed shortly after 1970. ext4 has the number of the next orphaned inode where
    /// others have the time of their removal, and `e2fsck` takes a small one for that number, unless the whole file system
    /// is as old.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn admit_early_times(self, device: &Path, log: &Logged) -> Result<()> {
        match self {
            Self::Ext4 => log.run(
                Command::new("debugfs")
                    .args(["-w", "-R", "set_super_value mtime @1000"])
                    .arg(device),
            ),
            Self::Xfs | Self::Btrfs | Self::Vfat => Ok(()),
        }
    }

    /// Checks one that a machine left, and changes nothing. What the machine left in a journal is not an error.
    ///
    /// # Errors
    /// If it is not clean.
    pub fn check(self, device: &Path, log: &Logged) -> Result<()> {
        let (program, options): (_, &[&str]) = match self {
            Self::Ext4 => ("e2fsck", &["-f", "-n"]),
            Self::Xfs => ("xfs_repair", &["-n"]),
            Self::Btrfs => ("btrfs", &["check", "--readonly"]),
            Self::Vfat => ("fsck.vfat", &["-n"]),
        };
        log.run(Command::new(program).args(options).arg(device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_efi_system_partition_is_one() {
        assert_eq!(FileSystem::Vfat.partition_type(), 0xef);
        for other in [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs] {
            assert_eq!(other.partition_type(), 0x83);
            assert_eq!(other.label("atomos-boot"), "atomos-boot");
        }
        assert_eq!(FileSystem::Vfat.label("atomos-boot"), "ATOMOS-BOOT");
    }
}
