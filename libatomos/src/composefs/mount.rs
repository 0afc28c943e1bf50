//! Mounting images over the store, and what keeps their objects meanwhile.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount as detach,
};

use crate::digest::{CommitId, Digest};
use crate::fs::{Dir, FsError};
use crate::repo::{ObjectKind, Repo, RootName, RootRecord};

use super::{ComposefsError, Image};

/// What the roots of mounts are called, before the boot and the place.
const ROOT: &str = "mount.";

/// What `statfs` calls an overlay.
const OVERLAYFS: u64 = 0x794c_7630;

/// Mounts an image on the directory `target`, read-only, over the objects of `repo`, which need not be writable. Takes root. Whoever
/// does it sees to it that the objects stay: see [`hold`].
///
/// # Errors
/// [`ComposefsError::Kernel`] where the kernel lacks a part.
pub fn mount(repo: &Repo, image: &Image, target: &Path) -> Result<(), ComposefsError> {
    let missing = |missing| ComposefsError::Kernel {
        path: target.to_owned(),
        missing,
    };
    let fail = |errno: Errno| ComposefsError::from(FsError::new("mount an image on", target, errno));
    let place = Dir::open_ambient(target)?;
    let erofs = mount_erofs(&image.file).map_err(|errno| match errno {
        Errno::NODEV => missing("this kernel has no EROFS"),
        Errno::NOTBLK => missing(
            "this kernel mounts EROFS from block devices only; Linux 6.12 and newer can, where it is configured",
        ),
        errno => fail(errno),
    })?;
    let objects = repo.kind_dir(ObjectKind::Blob);
    let overlay = mount_overlay(&erofs, objects).map_err(|errno| match errno {
        Errno::NODEV => missing("this kernel has no overlayfs"),
        Errno::INVAL => {
            missing("the overlayfs of this kernel has no data-only layers; Linux 6.8 and newer have")
        }
        errno => fail(errno),
    })?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&overlay, "", &place, "", how).map_err(fail)
}

/// Keeps a commit from pruning because of what is to be mounted on `target`, until [`release`], or until the machine has booted again
/// and somebody prunes. Durable on return.
///
/// # Errors
/// If the repository cannot be written.
pub fn hold(repo: &Repo, target: &Path, commit: CommitId) -> Result<(), ComposefsError> {
    let mut record = RootRecord::default();
    record.commits.insert(commit);
    Ok(repo.set_root(&root_name(target)?, &record)?)
}

/// Lets go of what was mounted on `target`; nothing is no error.
///
/// # Errors
/// If the repository cannot be written.
pub fn release(repo: &Repo, target: &Path) -> Result<(), ComposefsError> {
    Ok(repo.remove_root(&root_name(target)?)?)
}

/// Unmounts what [`mount`] has mounted on `target`.
///
/// # Errors
/// [`ComposefsError::NotMounted`] if nothing like it is mounted there; if it is in use.
pub fn unmount(target: &Path) -> Result<(), ComposefsError> {
    if !is_overlay(target)? {
        return Err(ComposefsError::NotMounted {
            path: target.to_owned(),
        });
    }
    detach(target, UnmountFlags::empty()).map_err(|errno| match errno {
        Errno::INVAL => ComposefsError::NotMounted {
            path: target.to_owned(),
        },
        errno => FsError::new("unmount", target, errno).into(),
    })
}

/// Lets go of what was mounted before the machine booted.
///
/// # Errors
/// If the repository cannot be read or written.
pub fn forget_earlier_boots(repo: &Repo) -> Result<(), ComposefsError> {
    let now = format!("{ROOT}{}.", boot()?);
    for (name, _) in repo.list_roots()? {
        let text = name.to_string();
        if text.starts_with(ROOT) && !text.starts_with(&now) {
            repo.remove_root(&name)?;
        }
    }
    Ok(())
}

/// Mounts the image nowhere. Its file needs no name.
fn mount_erofs(image: &File) -> Result<OwnedFd, Errno> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", descriptor(image))?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

fn mount_overlay(erofs: &OwnedFd, objects: &Dir) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
    set("source", "atomos")?;
    set("metacopy", "on")?;
    set("redirect_dir", "on")?;
    set("lowerdir+", &descriptor(erofs))?;
    set("datadir+", &descriptor(objects))?;
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
}

/// The path by which the kernel finds what is open.
fn descriptor(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

fn is_overlay(target: &Path) -> Result<bool, FsError> {
    let found = rustix::fs::statfs(target).map_err(|errno| FsError::new("look at", target, errno))?;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let is_overlay = found.f_type as u64 & 0xffff_ffff == OVERLAYFS;
    Ok(is_overlay)
}

/// One path for one place: a mount is found again by it.
fn absolute(target: &Path) -> Result<PathBuf, FsError> {
    let dir = Dir::open_ambient(target)?;
    let path = rustix::fs::readlink(descriptor(&dir), Vec::new())
        .map_err(|errno| FsError::new("find", target, errno))?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes())))
}

fn root_name(target: &Path) -> Result<RootName, FsError> {
    let place = Digest::of(absolute(target)?.as_os_str().as_bytes()).to_string();
    let name = format!("{ROOT}{}.{}", boot()?, &place[..16]);
    Ok(name.parse().expect("letters, digits and dots make a name"))
}

/// A name of the time since the machine was booted.
fn boot() -> Result<String, FsError> {
    let bytes = Dir::open_ambient("/proc/sys/kernel/random")?.read("boot_id", 64)?;
    Ok(Digest::of(&bytes).to_string()[..12].to_owned())
}
