//! Making a change visible to a loader that reads the file system by itself.
//!
//! After `syncfs` the data is on disk, and the names are in the journal at least; the kernel would replay it. A boot
//! loader does not: GRUB reads what is in its final place, and on XFS that can be the old directory for as long as
//! nobody else writes. Freezing the file system makes the kernel empty the journal. It is thawed at once.
//!
//! Only a `/boot` that is a file system of its own is frozen. Where it is a directory of the root file system, every
//! writer of the machine would wait, this process's own log among them; ext4 and btrfs show the loader what `syncfs` has
//! written, and an XFS root with `/boot` in it is what installers avoid.

use rustix::io::Errno;

use crate::failpoint::{
    self,
    watch::{self, Sync},
};
use crate::fs::{FsError, ioctl};

use super::{BootDir, BootError, BootFsKind};

/// How a change was made to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushMethod {
    /// `syncfs` alone: `/boot` has no journal, or is not a file system of its own, or cannot be frozen.
    Synced,
    /// `syncfs`, then a freeze and a thaw.
    FrozenAndThawed,
}

/// Waits until everything written to `/boot` is on disk, where the loader looks.
#[track_caller]
pub(super) fn flush(boot: &BootDir) -> Result<FlushMethod, BootError> {
    failpoint::hit("boot.flush.begin")?;
    if !watch::syncs(Sync::Flush) {
        return Ok(FlushMethod::Synced);
    }
    boot.dir().sync_fs_unwatched()?;
    failpoint::hit("boot.flush.synced")?;
    if boot.kind() != BootFsKind::Posix || !boot.is_mount() || !is_mount_point(boot)? {
        return Ok(FlushMethod::Synced);
    }
    if !watch::syncs(Sync::Freeze) {
        return Ok(FlushMethod::Synced);
    }
    // What cannot be frozen, or may not be, or is being frozen by a snapshot, has been synced.
    let method = match ioctl::freeze_and_thaw(boot.dir()) {
        Ok(()) => FlushMethod::FrozenAndThawed,
        Err(_) => FlushMethod::Synced,
    };
    failpoint::hit("boot.flush.frozen")?;
    Ok(method)
}

/// A directory on another device than the one that it is in is the root of a mount, and not of a bind mount of the same
/// file system. Asked of the kernel, whatever an option says: freezing the root file system stops the machine. It does not see a directory
/// of the physical root beneath an overlay, which [`BootDir::is_mount`] does.
fn is_mount_point(boot: &BootDir) -> Result<bool, FsError> {
    let device = |name: &str| {
        rustix::fs::statat(boot.dir(), name, rustix::fs::AtFlags::empty())
            .map(|stat| stat.st_dev)
            .map_err(|errno: Errno| FsError::new("look at", boot.dir().path().join(name), errno))
    };
    Ok(device(".")? != device("..")?)
}
