//! A disk that boots: partition table, loader, two file systems.
//!
//! ```text
//! sector 0        boot.img, and the partition table in its last bytes
//! sector 1 …      core.img: GRUB with every module it needs                (only with GRUB)
//! 1 MiB           "atomos-boot": ext4, XFS or btrfs; or FAT, the EFI system partition
//! 400 MiB         "atomos-root": ext4, XFS or btrfs
//! ```
//!
//! The machine that makes it may know neither partition tables nor FAT: file systems are made and mounted by their offset in
//! the image, and FAT is written by mtools.

pub mod esp;
mod filesystem;
mod grub;
mod loop_device;
mod table;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Logged, run};

pub use filesystem::FileSystem;
pub use grub::{GRUB_MODULES, configure as configure_grub, install as install_grub};
pub use loop_device::LoopDevice;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The partition for `/boot`. XFS wants 300 MiB at least.
pub const BOOT: Partition = Partition {
    start: MIB,
    end: 400 * MIB,
};
/// The partition of the physical root.
pub const ROOT: Partition = Partition {
    start: 400 * MIB,
    end: DISK_SIZE,
};
/// Sparse: what is not written takes no space.
const DISK_SIZE: u64 = 6 * 1024 * MIB;

/// The label of the file system for `/boot`.
const BOOT_LABEL: &str = "atomos-boot";
/// The label of the physical root.
const ROOT_LABEL: &str = "atomos-root";

/// A range of bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// The first byte.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
}

impl Partition {
    /// Its size in bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }
}

/// What starts the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// Debian's GRUB, which reads the menu that atomos writes.
    Grub,
    /// systemd-boot under an EFI firmware, which reads entries.
    SystemdBoot,
}

/// A kind of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What starts the kernel.
    pub loader: Loader,
    /// The file system of `/boot`.
    pub boot: FileSystem,
    /// The physical root.
    pub root: FileSystem,
}

impl Kind {
    /// GRUB, with ext4 for everything.
    pub const GRUB_EXT4: Self = Self {
        loader: Loader::Grub,
        boot: FileSystem::Ext4,
        root: FileSystem::Ext4,
    };
    /// GRUB, with XFS for everything. GRUB replays no journal.
    pub const GRUB_XFS: Self = Self {
        loader: Loader::Grub,
        boot: FileSystem::Xfs,
        root: FileSystem::Xfs,
    };
    /// systemd-boot on an EFI system partition, with btrfs for the root.
    pub const UEFI_BTRFS: Self = Self {
        loader: Loader::SystemdBoot,
        boot: FileSystem::Vfat,
        root: FileSystem::Btrfs,
    };

    /// A name for files.
    pub fn name(self) -> String {
        let loader = match self.loader {
            Loader::Grub => "grub",
            Loader::SystemdBoot => "systemd-boot",
        };
        format!("{loader}-{}-{}", self.boot.name(), self.root.name())
    }

    /// The labels of `/boot` and the physical root, as the machine finds them.
    pub fn labels(self) -> [String; 2] {
        [self.boot.label(BOOT_LABEL), self.root.label(ROOT_LABEL)]
    }

    /// What the machine's owner has in `/etc/fstab`: where `/boot` is. Only ext4 is checked when it is mounted; the test's system
    /// has no programs to check others.
    pub fn fstab(self) -> String {
        let [boot, _] = self.labels();
        let (options, pass) = match self.boot {
            FileSystem::Ext4 => ("ro,nosuid,nodev", 2),
            FileSystem::Vfat => ("ro,nosuid,nodev,umask=0077", 0),
            FileSystem::Xfs | FileSystem::Btrfs => ("ro,nosuid,nodev", 0),
        };
        format!("LABEL={boot} /boot {} {options} 0 {pass}\n", self.boot.name())
    }
}

/// A disk image.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    kind: Kind,
}

/// A disk's file systems, mounted: the root at `root`, `/boot` within it. Unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    /// Where the physical root is.
    pub root: PathBuf,
}

impl Disk {
    /// Makes an image in `work`, with empty file systems, and a loader where that is outside of them.
    ///
    /// # Errors
    /// If a program fails or the image cannot be written.
    pub fn create(work: &Path, kind: Kind) -> Result<Self> {
        let image = work.join("disk.img");
        let file = File::create(&image).with_context(|| format!("cannot write {}", image.display()))?;
        file.set_len(DISK_SIZE).context("cannot size the disk image")?;
        let code = match kind.loader {
            Loader::Grub => grub::install(work, &file)?,
            Loader::SystemdBoot => [0; 440],
        };
        let record = table::master_boot_record(&code, &[(BOOT, kind.boot), (ROOT, kind.root)])?;
        file.write_all_at(&record, 0)
            .context("cannot write the first sector")?;
        for (partition, file_system, label) in [(BOOT, kind.boot, BOOT_LABEL), (ROOT, kind.root, ROOT_LABEL)]
        {
            file_system.make(LoopDevice::attach(&image, partition)?.path(), label)?;
        }
        Ok(Self { image, kind })
    }

    /// An image that was made before.
    pub const fn open(image: PathBuf, kind: Kind) -> Self {
        Self { image, kind }
    }

    /// Copies the image to another directory.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy_to(&self, work: &Path) -> Result<Self> {
        let image = work.join("disk.img");
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([&self.image, &image]))?;
        Ok(Self {
            image,
            kind: self.kind,
        })
    }

    /// The image's file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What kind of disk it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Mounts the file systems at `root`. Only inside a mount namespace of the test's own. A FAT is shown as a copy: what is
    /// written to it stays only by [`Mounted::install`].
    ///
    /// # Errors
    /// If a mount fails.
    pub fn mount(&self, root: &Path) -> Result<Mounted> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        let mounted = Mounted {
            root: root.to_owned(),
        };
        mount_partition(&self.image, ROOT, self.kind.root, root)?;
        let boot = root.join("boot");
        std::fs::create_dir_all(&boot).with_context(|| format!("cannot make {}", boot.display()))?;
        if self.kind.boot == FileSystem::Vfat {
            run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&boot))?;
            if !esp::list(&self.image, "")?.is_empty() {
                esp::read(&self.image, &boot)?;
            }
        } else {
            mount_partition(&self.image, BOOT, self.kind.boot, &boot)?;
        }
        Ok(mounted)
    }

    /// Writes the loader's configuration to a mounted disk's `/boot`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn configure_loader(&self, mounted: &Mounted) -> Result<()> {
        let boot = mounted.root.join("boot");
        match self.kind.loader {
            Loader::Grub => grub::configure(&boot),
            Loader::SystemdBoot => esp::configure(&boot),
        }
    }

    /// Checks both file systems, which a machine that went off left behind; `began_in_1970` says what its clock was for a while.
    ///
    /// # Errors
    /// If one of them is not clean.
    pub fn check(&self, work: &Path, began_in_1970: bool) -> Result<()> {
        let log = Logged::create(&work.join("fsck.log"))?;
        for (partition, file_system) in [(BOOT, self.kind.boot), (ROOT, self.kind.root)] {
            let device = LoopDevice::attach(&self.image, partition)?;
            if began_in_1970 {
                file_system.admit_early_times(device.path(), &log)?;
            }
            file_system.check(device.path(), &log)?;
        }
        Ok(())
    }
}

impl Mounted {
    /// Unmounts, so that the image holds everything; a new FAT gets what was written to its copy.
    ///
    /// # Errors
    /// If something still uses the file systems, or what is there cannot be copied.
    pub fn install(self, disk: &Disk) -> Result<()> {
        if disk.kind.boot == FileSystem::Vfat {
            esp::write(&disk.image, &self.root.join("boot"))?;
        }
        self.unmount()
    }

    /// Unmounts, so that the image holds everything that is not on a FAT.
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

fn mount_partition(image: &Path, partition: Partition, file_system: FileSystem, target: &Path) -> Result<()> {
    let device = LoopDevice::attach(image, partition)?;
    run(Command::new("mount")
        .args(["-t", file_system.name(), "--"])
        .arg(device.path())
        .arg(target))
}
