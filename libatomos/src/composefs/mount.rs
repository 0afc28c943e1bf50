//! Mounting images over the store.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount as detach,
};

use crate::fs::{Dir, FsError, is_within, make_writable_in_private};
use crate::repo::{ObjectKind, Repo};

use super::{ComposefsError, Image, MountId};

/// What the overlays say that they show, before their id.
const SOURCE: &str = "atomos:";

/// Bytes in the kernel's list of mounts. A machine of containers has thousands.
const MAX_MOUNTINFO: usize = 64 << 20;

/// Mounts an image on the directory `target`, read-only, over the objects of `repo`, which need not be writable. Takes root. Whoever
/// does it sees to it that the objects stay: see [`MountId::hold`].
///
/// Where files of the repository cannot be setuid, devices or programs, because of how its file system is mounted or because it does not
/// belong to root alone, those of the image cannot either.
///
/// Where `files` are to be verified, [`Image::check_files`] says first whether they can be: what is not verified is mounted, and cannot be
/// opened.
///
/// # Errors
/// [`ComposefsError::Kernel`] where the kernel lacks a part; [`ComposefsError::Mounted`] if an image is mounted there.
pub fn mount(
    repo: &Repo,
    image: &Image,
    target: &Path,
    id: &MountId,
    files: FilesAre,
) -> Result<(), ComposefsError> {
    if mounted(target)?.is_some() {
        return Err(ComposefsError::Mounted {
            path: target.to_owned(),
        });
    }
    let place = Dir::open_ambient(target)?;
    if is_within(repo.dir(), &place)? {
        return Err(ComposefsError::CoversRepository {
            path: target.to_owned(),
        });
    }
    let overlay = overlay(repo, image, &format!("{SOURCE}{id}"), target, files, None)?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&overlay, "", &place, "", how)
        .map_err(|errno| FsError::new("mount an image on", target, errno).into())
}

/// Where what is written over an image goes: paths of two directories of one file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upper<'a> {
    pub changes: &'a Path,
    pub work: &'a Path,
}

/// Whether the kernel compares what it reads of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesAre {
    /// They are as they are.
    Believed,
    /// Each must be verified by fs-verity, and have the digest that the image says.
    Verified,
}

/// Mounts an image over the objects of `repo`, attached nowhere: read-only, unless there is a place for what is written. `source` is what
/// it says that it shows; `target` is for messages.
pub(crate) fn overlay(
    repo: &Repo,
    image: &Image,
    source: &str,
    target: &Path,
    files: FilesAre,
    upper: Option<Upper<'_>>,
) -> Result<OwnedFd, ComposefsError> {
    let objects = repo.kind_dir(ObjectKind::Blob);
    let flags = inherited(objects)?;
    // Linux before 6.15 takes for layers only what is attached in the mount namespace of who asks. In one of its own a thread can
    // attach the image without anybody seeing that.
    let made = std::thread::scope(|scope| {
        let make = || {
            // It fails in a chroot, where the newer kernels still can.
            let private = make_writable_in_private(&[]).is_ok();
            layered(objects, &image.file, private, source, target, files, upper)
        };
        let thread = std::thread::Builder::new().name("atomos-mount".to_owned());
        let thread = thread
            .spawn_scoped(scope, make)
            .map_err(|error| FsError::new("start a thread to mount an image on", target, error))?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let read_only = match upper {
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Some(_) => MountAttrFlags::empty(),
    };
    fsmount(made.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, read_only | flags)
        .map_err(|errno| FsError::new("mount an image on", target, errno).into())
}

/// Makes the overlay, which nothing shows yet. `private` is whether nobody but the calling thread sees its mounts.
fn layered(
    objects: &Dir,
    image: &File,
    private: bool,
    source: &str,
    target: &Path,
    files: FilesAre,
    upper: Option<Upper<'_>>,
) -> Result<OwnedFd, ComposefsError> {
    let missing = |missing| ComposefsError::Kernel {
        path: target.to_owned(),
        missing,
    };
    let fail = |errno: Errno| ComposefsError::from(FsError::new("mount an image on", target, errno));
    let objects = seen_here(objects)?;
    // The file holds the mount that it was opened in. One that nobody else sees keeps nobody from unmounting.
    let here = file_seen_here(image);
    let erofs = mount_erofs(here.as_ref().unwrap_or(image)).map_err(|errno| match errno {
        Errno::NODEV => missing("this kernel has no EROFS"),
        Errno::NOTBLK => missing(
            "this kernel mounts EROFS from block devices only; Linux 6.12 and newer can, where it is configured",
        ),
        errno => fail(errno),
    })?;
    if private {
        // Over the objects, which are open already: a place that is surely there.
        let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&erofs, "", &objects, "", how).map_err(fail)?;
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => missing("this kernel has no overlayfs"),
        errno => fail(errno),
    })?;
    let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
    set("source", source)
        .and_then(|()| set("metacopy", "on"))
        .and_then(|()| set("redirect_dir", "on"))
        .map_err(fail)?;
    if files == FilesAre::Verified {
        set("verity", "require").map_err(|errno| match errno {
            Errno::INVAL => missing(
                "the overlayfs of this kernel does not compare fs-verity digests; Linux 6.6 and newer does",
            ),
            errno => fail(errno),
        })?;
    }
    // An option that it does not know.
    set("lowerdir+", &descriptor(&erofs))
        .and_then(|()| set("datadir+", &descriptor(&objects)))
        .map_err(|errno| match errno {
            Errno::INVAL => {
                missing("the overlayfs of this kernel has no data-only layers; Linux 6.8 and newer have")
            }
            errno => fail(errno),
        })?;
    if let Some(Upper { changes, work }) = upper {
        fsconfig_set_string(context.as_fd(), "upperdir", changes)
            .and_then(|()| fsconfig_set_string(context.as_fd(), "workdir", work))
            .map_err(fail)?;
    }
    fsconfig_create(context.as_fd()).map_err(fail)?;
    Ok(context)
}

/// Opens a file once more, as a thread with mounts of its own sees it; `None` where it has no name.
fn file_seen_here(file: &File) -> Option<File> {
    let path = rustix::fs::readlink(descriptor(file), Vec::new()).ok()?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
    let here = Dir::open_ambient(path.parent()?)
        .ok()?
        .open_file(path.file_name()?)
        .ok()?;
    let identity = |file: &File| {
        rustix::fs::fstat(file)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .ok()
    };
    (identity(&here)? == identity(file)?).then_some(here)
}

/// Opens a directory once more, as a thread with mounts of its own sees it.
fn seen_here(dir: &Dir) -> Result<Dir, FsError> {
    let path = rustix::fs::readlink(descriptor(dir), Vec::new())
        .map_err(|errno| FsError::new("find", dir.path(), errno))?;
    let here = Dir::open_ambient(std::ffi::OsStr::from_bytes(path.as_bytes()))?;
    let identity = |dir: &Dir| dir.stat_self().map(|stat| (stat.dev, stat.ino));
    match identity(&here)? == identity(dir)? {
        true => Ok(here),
        false => Err(FsError::new(
            "find",
            dir.path(),
            std::io::Error::other("something else is mounted over it"),
        )),
    }
}

/// Unmounts the image that is mounted on `target`.
///
/// # Errors
/// [`ComposefsError::NotMounted`] if none is, or something else is mounted over it; if it is in use.
pub fn unmount(target: &Path) -> Result<(), ComposefsError> {
    if mounted(target)?.is_none() {
        return Err(ComposefsError::NotMounted {
            path: target.to_owned(),
        });
    }
    Ok(detach(target, UnmountFlags::empty()).map_err(|errno| FsError::new("unmount", target, errno))?)
}

/// Returns which image is mounted on `target`, if that is what is seen there.
///
/// # Errors
/// If there is no such directory.
pub fn mounted(target: &Path) -> Result<Option<MountId>, ComposefsError> {
    let target = absolute(target)?;
    Ok(seen_on(&table()?, target.as_os_str().as_bytes()))
}

/// Returns whether the image is mounted anywhere, as far as this process sees: it may have been moved, or bound to other places.
///
/// # Errors
/// If the kernel does not say.
pub fn is_mounted(id: &MountId) -> Result<bool, ComposefsError> {
    Ok(lines(&table()?).any(|(_, found)| found.as_ref() == Some(id)))
}

/// What of the mount that the objects lie on holds for whoever sees them elsewhere, too.
fn inherited(objects: &Dir) -> Result<MountAttrFlags, FsError> {
    let found = rustix::fs::fstatvfs(objects)
        .map_err(|errno| FsError::new("look at the mount of", objects.path(), errno))?
        .f_flag;
    let stat = objects.stat_self()?;
    let is_roots_own = stat.uid == 0 && stat.mode & 0o022 == 0;
    let mut flags = MountAttrFlags::empty();
    if found.contains(StatVfsMountFlags::NOSUID) || !is_roots_own {
        flags |= MountAttrFlags::MOUNT_ATTR_NOSUID;
    }
    if found.contains(StatVfsMountFlags::NODEV) || !is_roots_own {
        flags |= MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    if found.contains(StatVfsMountFlags::NOEXEC) {
        flags |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    Ok(flags)
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

/// The path by which the kernel finds what is open.
fn descriptor(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// The path by which the kernel knows the directory.
fn absolute(target: &Path) -> Result<PathBuf, FsError> {
    let dir = Dir::open_ambient(target)?;
    let path = rustix::fs::readlink(descriptor(&dir), Vec::new())
        .map_err(|errno| FsError::new("find", target, errno))?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes())))
}

/// The mounts that this process sees (`proc_pid_mountinfo(5)`).
fn table() -> Result<Vec<u8>, FsError> {
    Dir::open_ambient("/proc/self")?.read("mountinfo", MAX_MOUNTINFO)
}

/// Each mount's place, and which image it is, if it is one.
fn lines(table: &[u8]) -> impl Iterator<Item = (Vec<u8>, Option<MountId>)> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = unescape(fields.nth(4)?);
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source) = (rest.next()?, rest.next()?);
        let id = source
            .strip_prefix(SOURCE.as_bytes())
            .filter(|_| kind == b"overlay");
        let id = id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        Some((place, id))
    })
}

/// Of several mounts on one place the last is what is seen.
fn seen_on(table: &[u8], target: &[u8]) -> Option<MountId> {
    lines(table).filter(|(place, _)| place == target).last()?.1
}

/// Undoes the kernel's `\040` for a blank.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|code| *first == b'\\' && code.iter().all(u8::is_ascii_digit));
        match code {
            Some(code) => {
                let value = code
                    .iter()
                    .fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_a_place_counts() {
        let id: MountId = "0123456789abcdef".parse().unwrap();
        let ours = format!("36 35 98:0 / /mnt/a\\040b ro shared:1 - overlay atomos:{id} ro,lowerdir+=x");
        let ours = ours.as_bytes();
        let other = b"37 36 0:9 / /mnt/a\\040b rw - tmpfs tmpfs rw";
        assert_eq!(seen_on(ours, b"/mnt/a b"), Some(id.clone()));
        assert_eq!(seen_on(ours, b"/mnt/a"), None);
        assert_eq!(seen_on(&[ours, other].join(&b'\n'), b"/mnt/a b"), None);
        assert_eq!(seen_on(&[other, ours].join(&b'\n'), b"/mnt/a b"), Some(id));
        let foreign = b"36 35 98:0 / /mnt ro - overlay overlay ro\nshort line";
        assert_eq!(seen_on(foreign, b"/mnt"), None);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(b"a\\040b\\134\\x\\"), b"a b\\\\x\\");
    }
}
