//! What is mounted at the target: the root, `/boot`, the EFI system partition.
//!
//! The kernel is asked, by the mounts' numbers, so neither a path that somebody moves meanwhile nor a list in `/etc` is
//! believed.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use crate::boot::KernelArgs;
use crate::fs::{Dir, FsError};

use super::{InstallOptions, Loader, SysrootError, refuse, superblock};

/// Bytes of `/proc/self/mountinfo`. A machine with ten thousand containers has some megabytes.
const MAX_MOUNTINFO: usize = 64 * 1024 * 1024;

/// Where an EFI system partition is looked for, below the target, in this order.
const ESP_PLACES: [&str; 3] = ["efi", "boot/efi", "boot"];

/// The number of the inode that is the root of a btrfs subvolume, and of nothing else.
const SUBVOLUME: u64 = 256;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountedFs {
    /// Where it is, as a path below the target: `boot`, or empty for the root.
    pub path: PathBuf,
    /// The type, as the kernel has it: `ext4`.
    pub kind: String,
    /// What is mounted: `/dev/sda2`.
    pub source: String,
    /// Which directory of the file system is mounted; `/` unless it is a subvolume or a bind mount.
    pub subtree: String,
    /// As `root=UUID=` and `/etc/fstab` name it, where it could be read.
    pub uuid: Option<String>,
}

impl MountedFs {
    /// Returns whether firmware reads it.
    #[must_use]
    pub fn is_fat(&self) -> bool {
        matches!(self.kind.as_str(), "vfat" | "msdos")
    }
}

/// The target's file systems.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) target: PathBuf,
    /// `None` for a mere directory.
    pub(super) root: Option<MountedFs>,
    /// `/boot`, where it is a file system of its own.
    pub(super) boot: Option<MountedFs>,
    /// The EFI system partition; it may be `/boot`.
    pub(super) esp: Option<Esp>,
}

/// Where firmware looks for loaders.
#[derive(Debug)]
pub(super) struct Esp {
    /// Below the target.
    pub(super) path: PathBuf,
    /// `None` where a mere directory was named.
    pub(super) mount: Option<MountedFs>,
}

impl Layout {
    pub(super) fn probe(root: &Dir, options: &InstallOptions) -> Result<Self, SysrootError> {
        let target = root.path().to_owned();
        let mounted = mounted_at(root, "")?;
        if mounted.is_none() && !options.allow_directory {
            return Err(refuse(&target, "no file system is mounted there"));
        }
        if let Some(fs) = &mounted
            && fs.subtree != "/"
        {
            // It goes to kernel arguments and to fstab, which would both have to quote it in a way of their own.
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/@._-+".contains(&byte);
            // A directory that is bound there looks the same in the kernel's list, and cannot be mounted by name.
            let is_subvolume = fs.kind == "btrfs" && root.stat_self()?.ino == SUBVOLUME;
            if !is_subvolume || !fs.subtree.bytes().all(plain) {
                let reason = format!("it is {:?} of its file system, and not its root", fs.subtree);
                return Err(refuse(&target, reason));
            }
        }
        let boot = match root.open_dir_optional("boot")? {
            Some(dir) => mounted_at(&dir, "boot")?,
            None => None,
        };
        // A loader's paths start at the root of the file system.
        if let Some(boot) = boot.as_ref().filter(|boot| boot.subtree != "/") {
            let reason = format!("/boot is {:?} of its file system, and not its root", boot.subtree);
            return Err(refuse(&target, reason));
        }
        if boot.is_none() && mounted.as_ref().is_some_and(|fs| fs.subtree != "/") {
            return Err(refuse(
                &target,
                "it is a subvolume, and then /boot must be a file system of its own",
            ));
        }
        let esp = find_esp(root, options)?;
        Ok(Self {
            target,
            root: mounted,
            boot,
            esp,
        })
    }

    /// Returns the loader that suits.
    pub(super) fn choose_loader(&self, options: &InstallOptions) -> Loader {
        match options.loader {
            // A BIOS starts nothing else from there.
            Loader::Auto if options.grub_device.is_some() => Loader::Grub,
            Loader::Auto if self.boot.as_ref().is_some_and(MountedFs::is_fat) => Loader::SystemdBoot,
            Loader::Auto => Loader::Grub,
            other => other,
        }
    }

    /// Returns the kernel arguments: where the root is, unless that was said, and what was said.
    pub(super) fn kargs(&self, asked: &[String]) -> Result<Vec<String>, SysrootError> {
        let mut parsed = KernelArgs::new();
        for karg in asked {
            parsed.append(karg)?;
        }
        let mut kargs = Vec::new();
        if parsed.get("root").is_none() {
            let fs = self.root.as_ref();
            let Some(uuid) = fs.and_then(|fs| fs.uuid.as_ref()) else {
                let what = fs.map_or("a directory".to_owned(), |fs| {
                    format!("{} of type {}", fs.source, fs.kind)
                });
                return Err(refuse(
                    &self.target,
                    format!(
                        "its UUID cannot be read ({what}), so root= has to be given as a kernel argument"
                    ),
                ));
            };
            kargs.push(format!("root=UUID={uuid}"));
        }
        if let Some(fs) = &self.root
            && fs.subtree != "/"
            && parsed.get("rootflags").is_none()
        {
            kargs.push(format!("rootflags=subvol={}", fs.subtree.trim_start_matches('/')));
        }
        if parsed.get("panic").is_none() {
            // Without it a kernel that panics stands still, and the loader never counts.
            kargs.push("panic=10".to_owned());
        }
        kargs.extend_from_slice(asked);
        Ok(kargs)
    }
}

fn find_esp(root: &Dir, options: &InstallOptions) -> Result<Option<Esp>, SysrootError> {
    if let Some(path) = &options.esp {
        let path = path.strip_prefix(root.path()).unwrap_or(path);
        let dir = root.open_dir(path)?;
        return Ok(Some(Esp {
            path: path.to_owned(),
            mount: mounted_at(&dir, path)?,
        }));
    }
    for place in ESP_PLACES {
        let Some(dir) = root.open_dir_optional(place)? else {
            continue;
        };
        if let Some(mount) = mounted_at(&dir, place)?.filter(MountedFs::is_fat) {
            return Ok(Some(Esp {
                path: place.into(),
                mount: Some(mount),
            }));
        }
    }
    Ok(None)
}

/// Returns what is mounted at `dir`, or `None` where it is a directory like any other. `path` is where that is below the
/// target.
fn mounted_at(dir: &Dir, path: impl AsRef<Path>) -> Result<Option<MountedFs>, SysrootError> {
    let stat = statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|errno| FsError::new("look at the mount of", dir.path(), errno))?;
    if !StatxAttributes::from_bits_retain(stat.stx_attributes.bits()).contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(None);
    }
    let bytes = Dir::open_ambient("/proc/self")?.read("mountinfo", MAX_MOUNTINFO)?;
    let mount = parse_mountinfo(&String::from_utf8_lossy(&bytes), stat.stx_mnt_id);
    let Some(mut fs) = mount else {
        return Err(refuse(
            dir.path(),
            "the kernel does not say what is mounted there",
        ));
    };
    fs.path = path.as_ref().to_owned();
    if fs.source.starts_with('/') {
        fs.uuid = superblock::read_uuid(Path::new(&fs.source), &fs.kind);
    }
    Ok(Some(fs))
}

/// Finds a mount by its number: `36 35 98:0 /subtree /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw`.
fn parse_mountinfo(text: &str, id: u64) -> Option<MountedFs> {
    let id = id.to_string();
    let line = text.lines().find(|line| line.split(' ').next() == Some(&*id))?;
    let (mount, fs) = line.split_once(" - ")?;
    let mut fs = fs.split(' ');
    Some(MountedFs {
        path: PathBuf::new(),
        subtree: unescape(mount.split(' ').nth(3)?),
        kind: unescape(fs.next()?),
        source: unescape(fs.next()?),
        uuid: None,
    })
}

/// Blanks and backslashes are written as `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number() {
        let text = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                    125 25 0:40 /@root /mnt\\040x rw,noatime shared:1 master:2 - btrfs /dev/dm\\0400 rw,x\n\
                    26 25 0:5 / /dev rw\n";
        let fs = parse_mountinfo(text, 125).unwrap();
        assert_eq!(
            (&*fs.kind, &*fs.source, &*fs.subtree),
            ("btrfs", "/dev/dm 0", "/@root")
        );
        assert_eq!(parse_mountinfo(text, 25).unwrap().source, "/dev/sda1");
        assert_eq!(parse_mountinfo(text, 5), None);
        assert_eq!(parse_mountinfo(text, 26), None, "the line is damaged");
        assert_eq!(unescape("\\1\\04\\999\\134"), "\\1\\04\\999\\");
    }
}
