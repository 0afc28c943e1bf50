//! File systems on the disks, mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::process::describe;

/// How often it is tried to unmount what is in use: for a minute, which only a machine that hangs needs.
const MAX_TRIES: u32 = 3000;

/// The file systems that are tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl Kind {
    /// Returns the name that the kernel has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Makes an empty file system on the disk, with a label of at most twelve bytes.
    ///
    /// # Errors
    /// If its program fails.
    pub fn make(self, disk: &Path, label: &str) -> Result<()> {
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        match self {
            // Not lazily: the kernel would go on initialising it while writes are recorded.
            Self::Ext4 => command
                .args(["-q", "-F", "-b", "4096", "-m", "0"])
                .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]),
            Self::Xfs => command.args(["-q", "-f", "-K"]),
            Self::Btrfs => command.args(["-q", "-f", "-K", "-m", "single"]),
        };
        command.args(["-L", label]).arg(disk);
        let output = command
            .output()
            .with_context(|| format!("cannot start `{}`", describe(&command)))?;
        // mkfs.btrfs talks however quiet it is to be.
        ensure!(
            output.status.success(),
            "`{}` failed: {}",
            describe(&command),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Says what is wrong with the file system on a disk whose journal was replayed.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn check(self, disk: &Path) -> Result<()> {
        let mut command = match self {
            Self::Ext4 => Command::new("e2fsck"),
            Self::Xfs => Command::new("xfs_repair"),
            Self::Btrfs => Command::new("btrfs"),
        };
        match self {
            Self::Ext4 => command.arg("-fn"),
            Self::Xfs => command.arg("-n"),
            Self::Btrfs => command.args(["check", "--readonly"]),
        };
        let output = command
            .arg(disk)
            .output()
            .with_context(|| format!("cannot start `{}`", describe(&command)))?;
        if !output.status.success() {
            bail!(
                "`{}` says: {}{}",
                describe(&command),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Options that have the kernel do as little as it may by itself: it does not write by the clock, and ext4 does not write a
    /// file that takes another's name, for programs that forget to.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,commit=900,noauto_da_alloc",
            Self::Btrfs => "loop,commit=900",
            // Copies of one disk are mounted beside each other.
            Self::Xfs => "loop,nouuid",
        }
    }
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    target: PathBuf,
}

impl Mount {
    /// Mounts the file system on the disk; its journal is replayed.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn new(kind: Kind, disk: &Path, target: &Path) -> Result<Self> {
        std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
        let output = Command::new("mount")
            .args(["-t", kind.name(), "-o", kind.options()])
            .args([disk, target])
            .output()
            .context("cannot start mount")?;
        ensure!(
            output.status.success(),
            "the file system cannot be mounted: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Self {
            target: target.to_owned(),
        })
    }

    /// Unmounts it, and says so if somebody is still in it.
    ///
    /// # Errors
    /// If it cannot be unmounted.
    pub fn unmount(self) -> Result<()> {
        let mut tries = 0;
        loop {
            match rustix::mount::unmount(&self.target, UnmountFlags::empty()) {
                // A process that another thread is starting has this one's descriptors until it has become its program.
                Err(Errno::BUSY) if tries < MAX_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(()) => {
                    std::mem::forget(self);
                    return Ok(());
                }
                other => {
                    return other.with_context(|| format!("cannot unmount {}", self.target.display()));
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: what a failed test still holds open must not keep the disk.
        if let Err(error) = rustix::mount::unmount(&self.target, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.target.display());
        }
    }
}
