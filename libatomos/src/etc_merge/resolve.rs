//! Ending a conflict, and going back to a default.
//!
//! These change an `/etc` that is in use. A file is replaced by a rename, a directory by an exchange, so that a
//! program that opens it sees the old or the new, never a part. Nothing is durable until the caller syncs.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::RenameFlags;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::format::Metadata;
use crate::fs::{Dir, FileKind, FsError, copy_tree};

use super::conflict::{ConflictRecord, Conflicts};
use super::diff::changed_beneath;
use super::entry::{ACL_ACCESS, ACL_DEFAULT, EtcEntry, EtcNode, SPECIAL, is_plain_xattr};
use super::error::EtcMergeError;
use super::keyed::AccountFile;
use super::path::EtcPath;
use super::rule::ConflictKind;
use super::snapshot::{dir_entry, open_beneath, read_at};
use super::write;

/// How a conflict ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Resolution {
    /// What is here stays as it is.
    Mine,
    /// The new default takes its place: all of it, or the mode or the attributes if these alone are in conflict.
    Theirs,
    /// Somebody edited it; it stays as it is now.
    Edited,
}

/// Ends the conflict at `path` and returns its record. `etc` is the deployment's `/etc`, `default` its `usr/etc`.
///
/// The caller saves the conflicts afterwards, and a crash in between leaves a record of a conflict that is over; to
/// end it again does no harm.
///
/// # Errors
/// No conflict at that path; for [`Resolution::Theirs`] a file that cannot be replaced, among them the account files.
/// The record then stays.
pub fn resolve(
    conflicts: &mut Conflicts,
    path: &EtcPath,
    resolution: Resolution,
    etc: &Dir,
    default: &Dir,
    cancel: &Cancel,
) -> Result<ConflictRecord, EtcMergeError> {
    let no_conflict = || EtcMergeError::NoConflict { path: path.clone() };
    let record = conflicts.get(path).ok_or_else(no_conflict)?;
    if resolution == Resolution::Theirs {
        take_theirs(record, etc, default, cancel)?;
    }
    conflicts.remove(path).ok_or_else(no_conflict)
}

/// Replaces what is at `path` in `etc` by what is there in `default`; removes it if the default has nothing there. Returns whether there is a
/// default.
///
/// # Errors
/// `/etc` itself and the account files are refused; so is a path that neither has, and a directory in which there is something that was made or
/// changed here: [`reset_all`] gives that up.
pub fn reset(path: &EtcPath, etc: &Dir, default: &Dir, cancel: &Cancel) -> Result<bool, EtcMergeError> {
    let lost = lost_by_reset(path, etc, default, cancel)?;
    if lost.is_empty() {
        return put_back(path, etc, default, cancel);
    }
    let path = path.clone();
    Err(EtcMergeError::LocalChanges { path, lost })
}

/// As [`reset`], with all that was made or changed here beneath a directory, which is returned as well.
pub fn reset_all(
    path: &EtcPath,
    etc: &Dir,
    default: &Dir,
    cancel: &Cancel,
) -> Result<(bool, Vec<EtcPath>), EtcMergeError> {
    let lost = lost_by_reset(path, etc, default, cancel)?;
    Ok((put_back(path, etc, default, cancel)?, lost))
}

/// Returns what was made or changed here beneath the directory `path`, sorted: what [`reset_all`] would give up there. Nothing for anything but a
/// directory.
///
/// # Errors
/// `/etc` itself and the account files are refused; so is a path that neither has.
pub fn lost_by_reset(
    path: &EtcPath,
    etc: &Dir,
    default: &Dir,
    cancel: &Cancel,
) -> Result<Vec<EtcPath>, EtcMergeError> {
    let (parent, name) = split(path)?;
    if dir_of_default(default, &parent, name)?.is_none() {
        // Nothing to remove is a mistake in the path.
        etc.stat(path.as_path())?;
    }
    changed_beneath(path, default, etc, cancel)
}

/// Replaces or removes what is at `path`, with all beneath it. Returns whether there is a default.
fn put_back(path: &EtcPath, etc: &Dir, default: &Dir, cancel: &Cancel) -> Result<bool, EtcMergeError> {
    cancel.check()?;
    let (parent, name) = split(path)?;
    match dir_of_default(default, &parent, name)? {
        Some(from) => replace(&from, name, &ensure_parents(etc, default, &parent)?).map(|()| true),
        None => {
            etc.stat(path.as_path())?;
            etc.open_dir(parent.as_path())?.remove_tree(name)?;
            Ok(false)
        }
    }
}

/// Returns the directory and the name of what can be put back: not `/etc` itself, and no account file.
fn split(path: &EtcPath) -> Result<(EtcPath, &OsStr), EtcMergeError> {
    refuse_accounts(path)?;
    let (parent, name) = path.split_last().ok_or(EtcMergeError::WholeEtc)?;
    Ok((parent, OsStr::from_bytes(name)))
}

/// Returns the directory in which there is a default called `name`, if there is one.
fn dir_of_default(default: &Dir, parent: &EtcPath, name: &OsStr) -> Result<Option<Dir>, FsError> {
    match open_beneath(default, parent)? {
        Some(dir) if dir.exists(name)? => Ok(Some(dir)),
        _ => Ok(None),
    }
}

fn take_theirs(
    record: &ConflictRecord,
    etc: &Dir,
    default: &Dir,
    cancel: &Cancel,
) -> Result<(), EtcMergeError> {
    let path = &record.path;
    let conflict = &record.conflict;
    let now = read_one(etc, path, cancel)?;
    let theirs = read_one(default, path, cancel)?;
    let is_dir = |entry: &Option<EtcEntry>| entry.as_ref().is_some_and(EtcEntry::is_dir);
    let metadata_alone = conflict
        .kinds
        .iter()
        .all(|kind| matches!(kind, ConflictKind::Mode | ConflictKind::Xattrs));
    match (now, theirs) {
        // What is in a directory has conflicts of its own.
        (Some(now), Some(theirs))
            if now.node.same_kind(&theirs.node)
                && (metadata_alone || is_dir(&conflict.mine) && now.is_dir()) =>
        {
            let metadata = with_units(&now, &theirs, &conflict.kinds);
            set(etc, path, &now.node, &metadata)
        }
        _ => put_back(path, etc, default, cancel).map(drop),
    }
}

/// Returns the metadata of `now` with the units in conflict taken from `theirs`.
fn with_units(now: &EtcEntry, theirs: &EtcEntry, kinds: &[ConflictKind]) -> Metadata {
    let (mut metadata, theirs) = (now.metadata.clone(), &theirs.metadata);
    let mut take = |belongs: &dyn Fn(&[u8]) -> bool| {
        metadata.xattrs.retain(|name| !belongs(name));
        for (name, value) in theirs.xattrs.iter().filter(|(name, _)| belongs(name)) {
            metadata.xattrs.insert(name.to_vec(), value.to_vec());
        }
    };
    if kinds.contains(&ConflictKind::Mode) {
        take(&|name| name == ACL_ACCESS || name == ACL_DEFAULT);
    }
    if kinds.contains(&ConflictKind::Xattrs) {
        take(&is_plain_xattr);
    }
    if kinds.contains(&ConflictKind::Mode) {
        metadata.mode = metadata.mode & SPECIAL | theirs.mode & !SPECIAL;
    }
    if kinds.contains(&ConflictKind::Content) {
        metadata.mode = metadata.mode & !SPECIAL | theirs.mode & SPECIAL;
        (metadata.uid, metadata.gid) = (theirs.uid, theirs.gid);
    }
    metadata
}

fn set(etc: &Dir, path: &EtcPath, node: &EtcNode, metadata: &Metadata) -> Result<(), EtcMergeError> {
    let shown = etc.path().join(path.as_path());
    match (node, path.split_last()) {
        (EtcNode::Dir, _) => write::set_metadata(etc.open_dir(path.as_path())?, metadata, &shown)?,
        (EtcNode::File { .. }, _) => {
            write::set_metadata(etc.open_file(path.as_path())?, metadata, &shown)?;
        }
        (_, Some((parent, name))) => {
            let entry = EtcEntry {
                node: node.clone(),
                metadata: metadata.clone(),
            };
            let dir = etc.open_dir(parent.as_path())?;
            write::set_metadata_at(&dir, OsStr::from_bytes(name), &entry)?;
        }
        (_, None) => return Err(EtcMergeError::WholeEtc),
    }
    Ok(())
}

/// Reads the entry at `path`, not what is in it.
fn read_one(root: &Dir, path: &EtcPath, cancel: &Cancel) -> Result<Option<EtcEntry>, EtcMergeError> {
    if let Some(dir) = open_beneath(root, path)? {
        return Ok(Some(dir_entry(&dir, &dir.stat_self()?)?));
    }
    Ok(read_at(root, path, cancel)?.map(|tree| tree.entry))
}

fn refuse_accounts(path: &EtcPath) -> Result<(), EtcMergeError> {
    let is_account_file = AccountFile::ALL
        .iter()
        .any(|file| file.name().as_bytes() == path.as_bytes());
    if is_account_file {
        return Err(EtcMergeError::AccountFile { path: path.clone() });
    }
    Ok(())
}

/// Opens the directory at `path` in `etc`; those that are missing on the way are made as the default has them.
fn ensure_parents(etc: &Dir, default: &Dir, path: &EtcPath) -> Result<Dir, EtcMergeError> {
    let (mut here, mut there) = (etc.try_clone()?, default.try_clone()?);
    for name in path.names() {
        let name = OsStr::from_bytes(name);
        there = there.open_dir(name)?;
        here = match here.open_dir_optional(name)? {
            Some(dir) => dir,
            None => {
                here.create_dir(name, 0o700)?;
                let made = here.open_dir(name)?;
                let entry = dir_entry(&there, &there.stat_self()?)?;
                write::set_metadata(&made, &entry.metadata, made.path())?;
                made
            }
        };
    }
    Ok(here)
}

/// Copies `name` from one directory to the other, where it replaces what is there in one step.
fn replace(from: &Dir, name: &OsStr, to: &Dir) -> Result<(), EtcMergeError> {
    // Hidden, and there for a moment only: programs that read every file of a directory pass over a dot.
    let mut temporary = OsString::from(".atomos-new.");
    temporary.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(200)]));
    to.remove_tree(&temporary)?;
    copy_tree(from, name, to, &temporary)?;
    let is_dir = |name: &OsStr| -> Result<Option<bool>, FsError> {
        Ok(to.stat_optional(name)?.map(|stat| stat.kind == FileKind::Dir))
    };
    match (is_dir(&temporary)?, is_dir(name)?) {
        // A socket is not copied.
        (None, _) => {}
        (_, None) => to.rename_new(&temporary, to, name)?,
        (Some(false), Some(false)) => to.rename(&temporary, to, name)?,
        _ => {
            rustix::fs::renameat_with(to.as_fd(), &temporary, to.as_fd(), name, RenameFlags::EXCHANGE)
                .map_err(|errno| FsError::new("replace", to.path().join(name), errno))?;
            to.remove_tree(&temporary)?;
        }
    }
    Ok(())
}
