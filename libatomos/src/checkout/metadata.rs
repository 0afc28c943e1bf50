//! Putting recorded metadata on what a checkout makes, as far as its ownership goes.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use crate::format::Metadata;
use crate::fs::{
    Dir, FsError, set_mode, set_owner_and_mode, set_time, stat_file, write_xattrs, write_xattrs_at,
};

use super::Ownership;

/// As [`crate::fs::apply_to_file`], for a directory. Its entries must be there: making one changes the time.
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
    set_mode(file, &stat_file(file, path)?, user_mode(metadata.mode), path)?;
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

/// No bit that gives another's rights. That of a directory in which everybody removes but what is their own takes some away, and stays.
pub(super) const fn user_mode(mode: u32) -> u32 {
    mode & 0o1777
}
