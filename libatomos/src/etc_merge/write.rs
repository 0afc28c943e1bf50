//! Making one entry, with exact metadata.
//!
//! What a call clears is set after it: changing the owner clears setuid and capabilities, setting an ACL changes the
//! mode, and anything made in a directory changes its time. An ordinary user's entries belong to the user.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use crate::format::Metadata;
use crate::fs::{Dir, FsError, copy_file_data, read_xattrs, write_xattrs, write_xattrs_at};

use super::entry::{ACL_ACCESS, ACL_DEFAULT, CAPABILITY, EtcEntry, EtcNode};

/// Where a new file's bytes are.
pub(super) enum Content<'a> {
    /// In an open file, from its start.
    File(&'a File),
    /// In memory.
    Bytes(&'a [u8]),
}

/// Makes the file `name` in `dir`, where nothing may be, and returns it open for reading and writing.
pub(super) fn make_file(
    dir: &Dir,
    name: &OsStr,
    content: &Content<'_>,
    metadata: &Metadata,
) -> Result<File, FsError> {
    let mut file = dir.create_file(name, 0o600)?;
    match content {
        Content::File(from) => copy_file_data(from, &file).map(|_| ()),
        Content::Bytes(bytes) => file.write_all(bytes),
    }
    .map_err(|error| FsError::new("write", dir.path().join(name), error))?;
    set_metadata(&file, metadata, &dir.path().join(name))?;
    Ok(file)
}

/// Makes what is neither file nor directory.
pub(super) fn make_special(dir: &Dir, name: &OsStr, entry: &EtcEntry) -> Result<(), FsError> {
    let metadata = &entry.metadata;
    let mode = Mode::from_raw_mode(metadata.mode & 0o777);
    let node = |kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(dir.as_fd(), name, kind, mode, device)
            .map_err(|errno| FsError::new("make the special file", dir.path().join(name), errno))
    };
    match &entry.node {
        EtcNode::Symlink { target } => dir.symlink(target, name)?,
        EtcNode::Char { major, minor } => node(FileType::CharacterDevice, *major, *minor)?,
        EtcNode::Block { major, minor } => node(FileType::BlockDevice, *major, *minor)?,
        EtcNode::Fifo => node(FileType::Fifo, 0, 0)?,
        EtcNode::File { .. } | EtcNode::Dir => {
            unreachable!("files and directories are made from descriptors")
        }
    }
    set_metadata_at(dir, name, entry)
}

/// Sets the metadata of an open file or directory.
pub(super) fn set_metadata(file: impl AsFd, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
    let fail = |action| move |errno: Errno| FsError::new(action, path, errno);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(fail("set the owner of"))?;
    }
    // What is made in a directory with a default ACL has got one. Labels are the system's to give.
    let is_label = |name: &[u8]| name.starts_with(b"security.") && name != CAPABILITY;
    for (name, _) in read_xattrs(&file, path)?.iter() {
        if metadata.xattrs.get(name).is_none() && !is_label(name) {
            rustix::fs::fremovexattr(&file, OsStr::from_bytes(name))
                .map_err(fail("remove an extended attribute of"))?;
        }
    }
    write_xattrs(&file, &metadata.xattrs, path)?;
    if !rustix::process::geteuid().is_root() {
        // An ordinary user's files may have lists too, and without its list the mode gives the group the mask.
        for name in [ACL_ACCESS, ACL_DEFAULT] {
            if let Some(acl) = metadata.xattrs.get(name) {
                rustix::fs::fsetxattr(&file, OsStr::from_bytes(name), acl, XattrFlags::empty())
                    .map_err(fail("set the access control list of"))?;
            }
        }
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(metadata.mode)).map_err(fail("set the mode of"))?;
    rustix::fs::futimens(&file, &crate::fs::mtime_only(metadata.mtime)).map_err(fail("set the time of"))
}

/// Sets the metadata of a name itself, a link not followed.
pub(super) fn set_metadata_at(dir: &Dir, name: &OsStr, entry: &EtcEntry) -> Result<(), FsError> {
    let metadata = &entry.metadata;
    if rustix::process::geteuid().is_root() {
        dir.set_owner(name, metadata.uid, metadata.gid)?;
        write_xattrs_at(dir, name, &metadata.xattrs)?;
    }
    if !matches!(entry.node, EtcNode::Symlink { .. }) {
        rustix::fs::chmodat(
            dir.as_fd(),
            name,
            Mode::from_raw_mode(metadata.mode),
            AtFlags::empty(),
        )
        .map_err(|errno| FsError::new("set the mode of", dir.path().join(name), errno))?;
    }
    dir.set_mtime(name, metadata.mtime)
}
