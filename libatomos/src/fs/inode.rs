//! Putting recorded metadata on inodes, writing only what differs.
//!
//! A system call that changes nothing still costs a journal entry; on a tree of 20,000 files that is noticed.

use std::fs::File;
use std::io;
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

/// As [`apply_to_file`], of a file that was looked at just now.
pub(crate) fn apply_to_known(
    file: &File,
    stat: &Stat,
    metadata: &Metadata,
    path: &Path,
) -> Result<(), FsError> {
    set_owner_and_mode(file, stat, metadata, path)?;
    write_xattrs(file, &metadata.xattrs, path)?;
    set_time(file, metadata, path)
}

/// Fails unless an open file has the attributes that were just set, and still its mode. The kernel keeps access control lists and
/// capabilities in a form of its own, and a list has a say in the mode: an inode that is not what it was meant to be is never found again.
pub(crate) fn check_kept(file: &File, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    let is_plain = |name: &[u8]| name.starts_with(b"user.") || name == SELINUX;
    if metadata.xattrs.iter().all(|(name, _)| is_plain(name)) {
        return Ok(());
    }
    let mut found = read_xattrs(file, path)?;
    if metadata.xattrs.get(SELINUX).is_none() {
        found.remove(SELINUX);
    }
    if found == metadata.xattrs && stat_file(file, path)?.mode == metadata.mode {
        return Ok(());
    }
    let reason = "its access control list or its capabilities are not as the kernel keeps them, or do not fit its mode";
    Err(FsError::new(
        "keep the attributes of",
        path,
        io::Error::new(io::ErrorKind::InvalidInput, reason),
    ))
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
