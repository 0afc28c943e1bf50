//! Seeing mounts in a way of one's own.
//!
//! A booted system has its physical root read-only, so that nothing but this program writes there. It writes in a
//! mount namespace of its own, in which the mounts are writable; the rest of the system never sees that.

use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount_change, mount_remount};

use super::{FsError, ioctl};

/// Gives the calling thread, and those it starts from now on, mounts of their own, and makes `paths` writable in them
/// where they are mount points. Call it before anything beneath them is opened. Takes root.
pub fn make_writable_in_private(paths: &[&Path]) -> Result<(), FsError> {
    let fail = |path: &Path, errno| FsError::new("make writable", path, errno);
    ioctl::unshare_mounts()
        .map_err(|errno| FsError::new("get a mount namespace for", "this process", errno))?;
    let root = Path::new("/");
    let private = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(root, private).map_err(|errno| fail(root, errno))?;
    for path in paths {
        let flags = rustix::fs::statvfs(*path)
            .map_err(|errno| fail(path, errno))?
            .f_flag;
        if !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            continue;
        }
        // A remount sets every flag: what is not repeated is taken away.
        let mut kept = MountFlags::BIND;
        for (flag, keep) in [
            (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
            (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
            (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        ] {
            if flags.contains(flag) {
                kept |= keep;
            }
        }
        match mount_remount(*path, kept, c"") {
            // It is no mount point: it is as writable as what it lies on.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(errno) => return Err(fail(path, errno)),
        }
    }
    Ok(())
}
