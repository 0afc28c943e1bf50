//! Putting recorded metadata on inodes, writing only what differs.
//!
//! A system call that changes nothing still costs a journal entry; on a tree of 20,000 files that is noticed.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};

use crate::failpoint::fault::call;
use crate::format::Metadata;

use super::{FileKind, FsError, SELINUX, Stat, mtime_only, read_xattrs, write_xattrs};

/// Sets owner, mode, extended attributes and time of an open file. Owner first: changing it clears setuid and
/// capabilities. Time last: everything else could change it.
pub(crate) fn apply_to_file(file: &File, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    apply_to_known(file, &stat_file(file, path)?, metadata, path)
}

/// As [`apply_to_file`], of a file that was looked at just now, after the last that was written to it.
pub(crate) fn apply_to_known(
    file: &File,
    stat: &Stat,
    metadata: &Metadata,
    path: &Path,
) -> Result<(), FsError> {
    set_owner_and_mode(file, stat, metadata, path)?;
    write_xattrs(file, &metadata.xattrs, path)?;
    // Nothing of that changes it. To set what it is already is a change of the inode to the file system all the same.
    match (stat.mtime, stat.mtime_nsec) == (metadata.mtime, 0) {
        true => Ok(()),
        false => set_time(file, metadata, path),
    }
}

/// A part of an inode that a file system may not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InodePart {
    /// The modification time.
    Time,
    /// Access control lists, capabilities and other extended attributes.
    Attributes,
}

/// Times that every file system has; the smallest are those of ext4 with inodes of 128 bytes.
const KEPT_EVERYWHERE: std::ops::Range<i64> = 0..1 << 31;

/// Returns what an open file has not kept of what was just set on it, and why; `None` where that is all of it. A time that the file
/// system has not becomes one that it has. The kernel keeps access control lists and capabilities in a form of its own, and a list has a
/// say in the mode. An inode that is not what it was meant to be is never found again.
pub(crate) fn find_unkept(
    file: &File,
    metadata: &Metadata,
    path: &Path,
) -> Result<Option<(InodePart, String)>, FsError> {
    if !KEPT_EVERYWHERE.contains(&metadata.mtime) {
        let kept = stat_file(file, path)?.mtime;
        if kept != metadata.mtime {
            let reason = format!(
                "the file system makes its time, {} seconds after 1970, one of {kept}",
                metadata.mtime
            );
            return Ok(Some((InodePart::Time, reason)));
        }
    }
    let is_plain = |name: &[u8]| name.starts_with(b"user.") || name == SELINUX;
    if metadata.xattrs.iter().all(|(name, _)| is_plain(name)) {
        return Ok(None);
    }
    let mut found = read_xattrs(file, path)?;
    if metadata.xattrs.get(SELINUX).is_none() {
        found.remove(SELINUX);
    }
    if found == metadata.xattrs && stat_file(file, path)?.mode == metadata.mode {
        return Ok(None);
    }
    let reason = "its access control list or its capabilities are not as the kernel keeps them, or do not fit its mode";
    Ok(Some((InodePart::Attributes, reason.to_owned())))
}

pub(crate) fn stat_file(file: &File, path: &Path) -> Result<Stat, FsError> {
    rustix::fs::fstat(file)
        .map(Stat::from)
        .map_err(|errno| FsError::new("look at", path, errno))
}

pub(crate) fn set_owner_and_mode(
    file: impl AsFd,
    stat: &Stat,
    metadata: &Metadata,
    path: &Path,
) -> Result<(), FsError> {
    let mut mode_now = stat.mode;
    if (stat.uid, stat.gid) != (metadata.uid, metadata.gid) {
        call("fchown", || {
            rustix::fs::fchown(
                &file,
                Some(Uid::from_raw(metadata.uid)),
                Some(Gid::from_raw(metadata.gid)),
            )
        })
        .map_err(|errno| FsError::new("set the owner of", path, errno))?;
        // The kernel takes setuid and setgid from a file with the owner, and not from a directory.
        if stat.kind != FileKind::Dir {
            mode_now &= 0o1777;
        }
    }
    if mode_now != metadata.mode {
        call("fchmod", || {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(metadata.mode))
        })
        .map_err(|errno| FsError::new("set the mode of", path, errno))?;
    }
    Ok(())
}

pub(crate) fn set_mode(file: impl AsFd, stat: &Stat, mode: u32, path: &Path) -> Result<(), FsError> {
    if stat.mode != mode {
        call("fchmod", || rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)))
            .map_err(|errno| FsError::new("set the mode of", path, errno))?;
    }
    Ok(())
}

pub(crate) fn set_time(file: impl AsFd, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    call("utimens", || {
        rustix::fs::futimens(&file, &mtime_only(metadata.mtime))
    })
    .map_err(|errno| FsError::new("set the time of", path, errno))
}
