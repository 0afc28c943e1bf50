//! Putting recorded metadata on inodes, writing only what differs.
//!
//! A system call that changes nothing still costs a journal entry; on a tree of 20,000 files that is noticed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};

use crate::format::Metadata;
use crate::fs::{Dir, FsError, Stat, mtime_only, write_xattrs, write_xattrs_at};

use super::Ownership;

/// Sets owner, mode, extended attributes and time of an open file. Owner first: changing it clears setuid and
/// capabilities. Time last: everything else could change it.
pub(crate) fn apply_to_file(file: &File, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    let stat = fstat(file, path)?;
    set_owner_and_mode(file, &stat, metadata, path)?;
    write_xattrs(file, &metadata.xattrs, path)?;
    set_time(file, metadata, path)
}

/// As [`apply_to_file`], for a directory. Its entries must be there: making one changes the time.
pub(super) fn apply_to_dir(dir: &Dir, metadata: &Metadata, ownership: Ownership) -> Result<(), FsError> {
    let stat = dir.stat_self()?;
    match ownership {
        Ownership::Exact => {
            set_owner_and_mode(dir, &stat, metadata, dir.path())?;
            write_xattrs(dir, &metadata.xattrs, dir.path())?;
        }
        Ownership::User => {
            set_mode(dir, &stat, user_mode(metadata.mode) | 0o700, dir.path())?;
        }
    }
    set_time(dir, metadata, dir.path())
}

/// Sets mode and time of a file that belongs to the caller.
pub(super) fn apply_user_to_file(file: &File, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    set_mode(file, &fstat(file, path)?, user_mode(metadata.mode), path)?;
    set_time(file, metadata, path)
}

/// Sets the metadata of a link or a special file, which cannot be opened.
pub(super) fn apply_to_name(
    dir: &Dir,
    name: &OsStr,
    metadata: &Metadata,
    ownership: Ownership,
) -> Result<(), FsError> {
    if ownership == Ownership::Exact {
        let stat = dir.stat(name)?;
        if (stat.uid, stat.gid) != (metadata.uid, metadata.gid) {
            dir.set_owner(name, metadata.uid, metadata.gid)?;
        }
        write_xattrs_at(dir, name, &metadata.xattrs)?;
    }
    dir.set_mtime(name, metadata.mtime)
}

/// No bit that gives another's rights.
const fn user_mode(mode: u32) -> u32 {
    mode & 0o777
}

fn fstat(file: &File, path: &Path) -> Result<Stat, FsError> {
    rustix::fs::fstat(file)
        .map(Stat::from)
        .map_err(|errno| FsError::new("look at", path, errno))
}

fn set_owner_and_mode(file: impl AsFd, stat: &Stat, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    let mut mode_now = stat.mode;
    if (stat.uid, stat.gid) != (metadata.uid, metadata.gid) {
        rustix::fs::fchown(
            &file,
            Some(Uid::from_raw(metadata.uid)),
            Some(Gid::from_raw(metadata.gid)),
        )
        .map_err(|errno| FsError::new("set the owner of", path, errno))?;
        mode_now &= 0o777;
    }
    if mode_now != metadata.mode {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(metadata.mode))
            .map_err(|errno| FsError::new("set the mode of", path, errno))?;
    }
    Ok(())
}

fn set_mode(file: impl AsFd, stat: &Stat, mode: u32, path: &Path) -> Result<(), FsError> {
    if stat.mode != mode {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .map_err(|errno| FsError::new("set the mode of", path, errno))?;
    }
    Ok(())
}

fn set_time(file: impl AsFd, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    rustix::fs::futimens(&file, &mtime_only(metadata.mtime))
        .map_err(|errno| FsError::new("set the time of", path, errno))
}
