//! A deployment's image as the root.
//!
//! The image is an EROFS file system without the bytes of files. Over it lies an overlay, which takes them from the repository: that is
//! its *data-only* layer. An image that was sealed is what the kernel says that it is, by fs-verity, and so is each file of it. Whatever is missing in the kernel is named, since nobody looks at a machine twice.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind, move_mount, unmount,
};

use crate::error::{Doing, Error, Result};
use crate::seal::Hex;
use crate::transient::Memory;
use crate::verity::{self, DIGEST_LEN};

/// What the mount says that it shows.
const SOURCE: &str = "atomos";

/// Whether the kernel takes the file for an image: it is mounted where nobody sees it, and let go again.
pub(crate) fn try_out(image: &str) -> Result<()> {
    mount_erofs(image, image).map(drop)
}

/// Fails unless the kernel verifies the file at `path` as `expected`. People know it as `image`.
pub(crate) fn check(path: &str, image: &str, expected: &[u8; DIGEST_LEN]) -> Result<()> {
    // Not to wait for the writer of a fifo.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("opening {image}"))?;
    let found = verity::measure(&file).map_err(|error| Error::new(format!("{image}: {error}")))?;
    match found == *expected {
        true => Ok(()),
        false => Err(Error::new(format!(
            "{image} has the fs-verity digest {}, and {} is sealed",
            Hex(&found),
            Hex(expected)
        ))),
    }
}

/// Mounts `image` at the directory `at`, with the bytes of files in `objects`; what is written to it goes to `memory`, where there is one.
/// Where a `digest` is given, the image must have it, and each file the one that the image says.
pub(crate) fn mount(
    image: &str,
    objects: &str,
    at: &str,
    memory: Option<&Memory>,
    digest: Option<&[u8; DIGEST_LEN]>,
) -> Result<()> {
    let flags = inherited(objects)?;
    // The image's file holds the mount that it was opened in. Were that the physical root's, it could not be unmounted when the machine goes
    // down; so it is one that nobody sees any more.
    let (directory, name) = image.rsplit_once('/').unwrap_or((".", image));
    mount_bind(directory, at).doing(|| format!("binding {directory} to {at}"))?;
    let path = format!("{at}/{name}");
    let erofs = digest
        .map_or(Ok(()), |digest| check(&path, image, digest))
        .and_then(|()| mount_erofs(&path, image));
    unmount(at, UnmountFlags::DETACH).doing(|| format!("taking {directory} from {at} again"))?;
    let erofs = erofs?;
    // Linux before 6.15 takes for layers only what is mounted somewhere. There, the next is put in its place.
    attach(&erofs, at)?;
    let made = overlay(at, objects, memory, digest.is_some());
    unmount(at, UnmountFlags::DETACH).doing(|| format!("taking {image} from {at} again"))?;
    let read_only = match memory {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let made = made?;
    let overlay = fsmount(&made, FsMountFlags::FSMOUNT_CLOEXEC, read_only | flags)
        .doing(|| format!("mounting {image}"))?;
    attach(&overlay, at)
}

/// Mounts the image at `path`, nowhere yet. People know it as `image`.
fn mount_erofs(path: &str, image: &str) -> Result<OwnedFd> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)
        .doing(|| format!("mounting {image}; has the kernel, or the initramfs, the module erofs"))?;
    let create = || {
        fsconfig_set_string(&context, "source", path)?;
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_create(&context)
    };
    match create() {
        Err(Errno::NOTBLK) => Err(Error::new(format!(
            "this kernel cannot mount {image}: it takes EROFS from block devices only, or not from files of this file \
             system; Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE does"
        ))),
        other => other.doing(|| format!("mounting {image}; is it damaged")),
    }?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .doing(|| format!("mounting {image}"))
}

/// Makes the overlay of the image that is mounted at `lower`. It is not mounted yet.
fn overlay(lower: &str, objects: &str, memory: Option<&Memory>, is_verified: bool) -> Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .doing(|| "mounting an image; has the kernel, or the initramfs, the module overlay".to_owned())?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
    set("source", SOURCE)
        .and_then(|()| set("metacopy", "on"))
        .and_then(|()| set("redirect_dir", "on"))
        .and_then(|()| set("lowerdir+", lower))
        .and_then(|()| set("datadir+", objects))
        .doing(|| {
            format!("making {objects} a data-only layer of an overlay, which Linux 6.8 and newer can")
        })?;
    if is_verified {
        set("verity", "require")
            .doing(|| "having each file verified, which Linux 6.6 and newer can".to_owned())?;
    }
    if let Some(memory) = memory {
        let layers = memory.layers("image", lower)?;
        set("upperdir", &layers.upper)
            .and_then(|()| set("workdir", &layers.work))
            .doing(|| format!("making {} the top of an overlay", layers.upper))?;
    }
    fsconfig_create(&context).doing(|| format!("making an overlay of an image and {objects}"))?;
    Ok(context)
}

/// What of the mount that the objects lie on holds for who sees them through the image, too. If somebody else than root can write to them,
/// that is all that they are good for.
fn inherited(objects: &str) -> Result<MountAttrFlags> {
    let found = statvfs(objects).doing(|| format!("looking at {objects}"))?.f_flag;
    let stat = std::fs::symlink_metadata(objects).doing(|| format!("looking at {objects}"))?;
    let is_roots_own = stat.uid() == 0 && stat.mode() & 0o022 == 0;
    let pairs = [
        (
            StatVfsMountFlags::NOSUID,
            MountAttrFlags::MOUNT_ATTR_NOSUID,
            !is_roots_own,
        ),
        (
            StatVfsMountFlags::NODEV,
            MountAttrFlags::MOUNT_ATTR_NODEV,
            !is_roots_own,
        ),
        (
            StatVfsMountFlags::NOEXEC,
            MountAttrFlags::MOUNT_ATTR_NOEXEC,
            false,
        ),
    ];
    let kept = pairs
        .into_iter()
        .filter(|(seen, _, anyhow)| *anyhow || found.contains(*seen));
    Ok(kept.fold(MountAttrFlags::empty(), |flags, (_, flag, _)| flags | flag))
}

fn attach(mount: &OwnedFd, at: &str) -> Result<()> {
    move_mount(mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(|| format!("mounting {at}"))
}
