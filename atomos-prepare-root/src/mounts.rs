//! The mounts that make a deployment the root.
//!
//! ```text
//! /          the deployment's directory, bound, or its image, read-only; or an overlay over it, written to in memory
//! /etc       its own etc, writable; or an overlay over it, written to in memory
//! /var       the stateroot's var, writable
//! /sysroot   the physical root, read-only
//! /boot      the physical root's boot, read-only, where it is no file system of its own
//! ```
//!
//! Everything is built at a place of its own and moved over the physical root in one step at the end, so a
//! failure on the way leaves the initramfs where it was, able to say so.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, statat, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, mount_move, mount_remount, unmount,
};

use crate::conf::{Etc, Root};
use crate::error::{Doing, Error, Result};
use crate::log::{Level, say};
use crate::transient::Memory;
use crate::verity::DIGEST_LEN;

/// Where the new root is put together in an initramfs. It is on the tmpfs that becomes the system's `/run`.
const STAGING: &str = "/run/atomos/root";

/// Where in an initramfs the memory for transient changes is mounted for a moment.
const MEMORY: &str = "/run/atomos/memory";

/// Directories of a deployment that other things are mounted on; without them the system cannot come up.
const MOUNT_POINTS: [&str; 8] = ["dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "var"];

/// What to mount: paths below the physical root, and what becomes of changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) deployment: &'a str,
    /// The image to be mounted rather than the deployment's files.
    pub(crate) image: Option<Image<'a>>,
    pub(crate) var: &'a str,
    pub(crate) root: Root,
    pub(crate) etc: Etc,
}

/// An image, and where the bytes of its files are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image<'a> {
    pub(crate) path: &'a str,
    pub(crate) objects: &'a str,
    /// Whether the files do as well, where the kernel cannot mount it.
    pub(crate) or_files: bool,
    /// What it must be, and all that it leads to, by fs-verity; anything where `None`.
    pub(crate) digest: Option<&'a [u8; DIGEST_LEN]>,
}

impl Layout<'_> {
    fn needs_memory(self) -> bool {
        self.root == Root::Transient || self.etc == Etc::Transient
    }
}

/// Makes the deployment the root file system at `target`, where an initramfs has mounted the physical root. Returns whether its image is
/// mounted.
pub(crate) fn prepare_in_initramfs(target: &str, layout: Layout<'_>) -> Result<bool> {
    if !is_mount_point(target)? {
        return Err(Error::new(format!(
            "no file system is mounted at {target}; was the root device found"
        )));
    }
    // systemd shares its mounts, in the initramfs too, and below a shared mount nothing can be moved.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).doing(|| "making the mounts private".to_owned())?;
    make_writable(target);
    std::fs::create_dir_all(STAGING).doing(|| format!("creating {STAGING}"))?;
    if layout.needs_memory() {
        std::fs::create_dir_all(MEMORY).doing(|| format!("creating {MEMORY}"))?;
    }
    let from_image = assemble(target, STAGING, MEMORY, layout)?;
    let sysroot = format!("{STAGING}/sysroot");
    mount_move(target, sysroot.as_str()).doing(|| format!("moving {target} to {sysroot}"))?;
    finish(STAGING)?;
    mount_move(STAGING, target).doing(|| format!("moving the new root to {target}"))?;
    // Left behind, they are empty directories in a tmpfs.
    let _ = std::fs::remove_dir(STAGING);
    let _ = std::fs::remove_dir(MEMORY);
    Ok(from_image)
}

/// Makes the deployment the root file system of this process, which is the first one: the kernel has mounted the
/// physical root at `/` and there is no initramfs. Returns whether the deployment's image is mounted.
pub(crate) fn prepare_as_init(layout: Layout<'_>) -> Result<bool> {
    make_writable("/");
    // Bound over itself: a place that is surely there, and a mount of its own, as pivot_root asks.
    let root = layout.deployment;
    // The stateroot's var is surely there, is not needed until the memory is detached again, and is not hidden by
    // what is mounted at the root meanwhile.
    let from_image = assemble("", root, layout.var, layout)?;
    mount(
        "tmpfs",
        format!("{root}/run"),
        "tmpfs",
        MountFlags::NODEV | MountFlags::NOSUID,
        c"mode=0755",
    )
    .doing(|| "mounting /run".to_owned())?;
    // The kernel mounts this one itself if the physical root has a /dev, and init would then find it in the
    // wrong place. Where it cannot be mounted, init will say so.
    let dev_flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let _ = mount(
        "devtmpfs",
        format!("{root}/dev"),
        "devtmpfs",
        dev_flags,
        c"mode=0755",
    );
    let _ = unmount("/dev", UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    rustix::process::pivot_root(root, format!("{root}/sysroot"))
        .doing(|| format!("making {root} the root file system"))?;
    rustix::process::chdir("/").doing(|| "entering the new root".to_owned())?;
    finish("")?;
    Ok(from_image)
}

/// Mounts the deployment and what is writable in it at `root`. `physical` is where the physical root is, without
/// a slash at its end; `memory` a directory where memory for transient changes can be mounted meanwhile. Returns whether what is mounted is
/// the deployment's image.
fn assemble(physical: &str, root: &str, memory: &str, layout: Layout<'_>) -> Result<bool> {
    let deployment = format!("{physical}{}", layout.deployment);
    let var = format!("{physical}{}", layout.var);
    // Held before anything is mounted on it. An image or an overlay at `root` has an etc of its own.
    let own_etc = open_tree(&format!("{deployment}/etc"))?;
    let memory = match layout.needs_memory() {
        true => Some(Memory::mount(memory)?),
        false => None,
    };
    let changes = memory.as_ref().filter(|_| layout.root == Root::Transient);
    let from_image = match layout.image {
        Some(image) => mount_image(physical, root, changes, image)?,
        None => false,
    };
    if from_image {
        check_mount_points(root)?;
    } else {
        check_mount_points(&deployment)?;
        match changes {
            Some(memory) => memory.overlay("root", &deployment, root)?,
            None => bind(&deployment, root)?,
        }
    }
    let etc = format!("{root}/etc");
    match (layout.etc, &memory) {
        (Etc::Transient, Some(memory)) => {
            // That of an image is empty.
            if from_image {
                attach(&own_etc, &etc)?;
            }
            // Elsewhere it is a part of a transient root.
            if from_image || layout.root == Root::ReadOnly {
                memory.overlay("etc", &etc, &etc)?;
            }
        }
        _ => attach(&own_etc, &etc)?,
    }
    if let Some(memory) = memory {
        memory.detach()?;
    }
    bind(&var, &format!("{root}/var"))?;
    match layout.root {
        Root::Transient => {}
        // Last, and only this mount: those above keep their own flag.
        Root::ReadOnly => remount_read_only(root)?,
    }
    Ok(from_image)
}

/// Mounts the image at `root`; returns whether it is, for what does without.
fn mount_image(physical: &str, root: &str, changes: Option<&Memory>, image: Image<'_>) -> Result<bool> {
    let path = format!("{physical}{}", image.path);
    let objects = format!("{physical}{}", image.objects);
    match crate::image::mount(&path, &objects, root, changes, image.digest) {
        Ok(()) => Ok(true),
        Err(error) if image.or_files => {
            say(Level::Warning, &format!("{error}; booting the files"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn check_mount_points(root: &str) -> Result<()> {
    for name in MOUNT_POINTS {
        let path = format!("{root}/{name}");
        let found = std::fs::symlink_metadata(&path).doing(|| format!("looking for {path}"))?;
        if !found.is_dir() {
            return Err(Error::new(format!("{path} is not a directory")));
        }
    }
    Ok(())
}

/// What can be mounted once the physical root is at `<root>/sysroot`.
fn finish(root: &str) -> Result<()> {
    let sysroot = format!("{root}/sysroot");
    let boot = format!("{sysroot}/boot");
    // On a machine with a /boot of its own this directory is empty and fstab or a generator mounts it.
    if Path::new(&format!("{boot}/atomos")).is_dir() {
        let target = format!("{root}/boot");
        // Booting needs it no more; an update will, and says so.
        if let Err(error) = bind(&boot, &target).and_then(|()| remount_read_only(&target)) {
            say(Level::Warning, &format!("{error}; going on without /boot"));
        }
    }
    remount_read_only(&sysroot)
}

/// A mount of its own of the directory at `path`, not attached yet.
fn open_tree(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, path, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW)
        .doing(|| format!("opening {path} to mount it"))
}

fn attach(tree: &OwnedFd, target: &str) -> Result<()> {
    rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| format!("mounting {target}"))
}

fn bind(source: &str, target: &str) -> Result<()> {
    mount_bind(source, target).doing(|| format!("binding {source} to {target}"))
}

fn remount_read_only(path: &str) -> Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | kept_flags(path)?;
    mount_remount(path, flags, "").doing(|| format!("making {path} read-only"))
}

/// Makes the physical root writable, as `/etc` and `/var` need it: loaders pass `ro` by habit. The file system
/// check, if there is one, was before us. A file system that refuses, after an error perhaps, is still worth
/// booting: a person can log in and look.
pub(crate) fn make_writable(physical: &str) {
    let remounted = kept_flags(physical)
        .and_then(|flags| mount_remount(physical, flags, "").doing(|| format!("making {physical} writable")));
    if let Err(error) = remounted {
        crate::log::say(
            crate::log::Level::Warning,
            &format!("{error}; going on with what there is"),
        );
    }
}

/// The flags a mount has, but for read-only: a remount that does not repeat them takes them away.
fn kept_flags(path: &str) -> Result<MountFlags> {
    let found = statvfs(path).doing(|| format!("looking at {path}"))?.f_flag;
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept = pairs.into_iter().filter(|(seen, _)| found.contains(*seen));
    Ok(kept.fold(MountFlags::empty(), |flags, (_, flag)| flags | flag))
}

/// Whether something is mounted at `path`: its device differs from its parent's, or it is a root.
fn is_mount_point(path: &str) -> Result<bool> {
    let look = |path: &str| {
        statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .doing(|| format!("looking at {path}"))
    };
    let (here, above) = (look(path)?, look(&format!("{path}/.."))?);
    Ok(here.st_dev != above.st_dev || here.st_ino == above.st_ino)
}
