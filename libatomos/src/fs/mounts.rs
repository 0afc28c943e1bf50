//! Seeing mounts in a way of one's own.
//!
//! A booted system has its physical root read-only, so that nothing but this program writes there. It writes in a
//! mount namespace of its own, in which the mounts are writable; the rest of the system never sees that.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change, mount_remount};

use super::{FsError, ioctl};

/// The flags of a mount, as they are read and as they are set. A remount sets every one: what is not repeated is
/// taken away.
const FLAGS: [(StatVfsMountFlags, MountFlags); 6] = [
    (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
    (StatVfsMountFlags::NODEV, MountFlags::NODEV),
    (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
    (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
];

/// Gives the calling thread, and those it starts from now on, mounts of their own, and makes `paths` writable in them
/// where they are mount points. Call it before anything beneath them is opened. Takes root.
///
/// A file system that is itself read-only, as a `/boot` that fstab mounts with `ro`, is made writable and stays so;
/// everybody else's mount of it keeps its own flag, so that they see it read-only as before.
pub fn make_writable_in_private(paths: &[&Path]) -> Result<(), FsError> {
    let fail = |path: &Path, errno| FsError::new("make writable", path, errno);
    ioctl::unshare_mounts()
        .map_err(|errno| FsError::new("get a mount namespace for", "this process", errno))?;
    let root = Path::new("/");
    let private = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(root, private).map_err(|errno| fail(root, errno))?;
    for path in paths {
        make_writable(path).map_err(|errno| fail(path, errno))?;
    }
    Ok(())
}

fn make_writable(path: &Path) -> rustix::io::Result<()> {
    // First this mount alone, then, if that was not what kept it read-only, the file system.
    for scope in [MountFlags::BIND, MountFlags::empty()] {
        let found = statvfs(path)?.f_flag;
        if !found.contains(StatVfsMountFlags::RDONLY) {
            break;
        }
        let kept = FLAGS.iter().filter(|(seen, _)| found.contains(*seen));
        let flags = kept.fold(scope, |flags, (_, flag)| flags | *flag);
        match mount_remount(path, flags, c"") {
            // It is no mount point: it is as writable as what it lies on.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "what is tested is whether a path can be written to"
)]
mod tests {
    use std::path::PathBuf;

    use rustix::mount::{mount, mount_bind};

    use super::*;

    /// Makes a read-only tmpfs, of the kind that `prepare` makes of it, in a thread whose mounts are its own; makes it
    /// writable; returns whether it can be written to in there, and whether another mount of it can.
    fn can_write(prepare: fn(&Path)) -> Option<(bool, bool)> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        let outcome = std::thread::spawn(move || {
            ioctl::unshare_mounts().unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let [path, other]: [PathBuf; 2] = ["fs", "other"].map(|name| directory.path().join(name));
            std::fs::create_dir(&path).unwrap();
            std::fs::create_dir(&other).unwrap();
            mount("tmpfs", &path, "tmpfs", MountFlags::NODEV, c"").unwrap();
            prepare(&path);
            mount_bind(&path, &other).unwrap();
            assert!(std::fs::write(path.join("file"), "").is_err());
            make_writable_in_private(&[&path]).unwrap();
            assert!(statvfs(&path).unwrap().f_flag.contains(StatVfsMountFlags::NODEV));
            let write = |path: &Path| std::fs::write(path.join("file"), "").is_ok();
            (write(&path), write(&other))
        });
        Some(outcome.join().unwrap())
    }

    #[test]
    fn a_mount_that_is_read_only_becomes_writable_alone() {
        let outcome = can_write(|path| {
            mount_remount(
                path,
                MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV,
                c"",
            )
            .unwrap();
        });
        assert!(outcome.is_none_or(|outcome| outcome == (true, false)));
    }

    #[test]
    fn a_file_system_that_is_read_only_becomes_writable_for_one_mount() {
        let outcome = can_write(|path| {
            mount_remount(path, MountFlags::RDONLY | MountFlags::NODEV, c"").unwrap();
        });
        assert!(outcome.is_none_or(|outcome| outcome == (true, false)));
    }
}
