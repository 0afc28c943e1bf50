//! Extended attributes.
//!
//! There is no `*at` call for them before Linux 6.13, so a name is reached through `/proc/self/fd/<dir>/<name>`,
//! which the kernel resolves from the descriptor. Whether a name has any is asked of every file that is checked out, and that way
//! costs as much as making a link: where there is a call for it, that is used.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::failpoint::fault::call;
use crate::format::{Xattrs, limits};

use super::ioctl::list_xattrs_at;
use super::{Dir, FsError};

/// Attributes that say how one kernel or one machine sees the file, and are not the tree's: the kernel's own record
/// of an overlay's layers belongs to the mount.
fn is_transient(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name == b"security.evm" || name == b"system.nfs4_acl"
}

/// A kernel with SELinux labels every inode that it makes, so a tree that records no label has nothing to say of one.
pub(crate) const SELINUX: &[u8] = b"security.selinux";

/// Takes out what says how one kernel or one machine sees a file, and is not the tree's.
pub(crate) fn drop_transient(xattrs: &mut Xattrs) {
    xattrs.retain(|name| !is_transient(name));
}

/// Returns the extended attributes of an open file or directory; `path` is for messages.
pub fn read_xattrs(file: impl AsFd, path: &Path) -> Result<Xattrs, FsError> {
    read_of_file(file).map_err(FsError::at("read the extended attributes of", path, ""))
}

/// Returns the extended attributes of an open file that was opened as `name` in `dir`.
pub(crate) fn read_xattrs_of(file: impl AsFd, dir: &Dir, name: &Path) -> Result<Xattrs, FsError> {
    read_of_file(file).map_err(FsError::at("read the extended attributes of", dir.path(), name))
}

fn read_of_file(file: impl AsFd) -> Result<Xattrs, io::Error> {
    read(
        |buffer| rustix::fs::flistxattr(&file, buffer),
        |name, buffer| rustix::fs::fgetxattr(&file, name, buffer),
    )
}

/// Returns whether the open file has no attribute that `known` lacks, one that is not the tree's included.
pub(crate) fn has_no_other_xattrs(file: impl AsFd, known: &Xattrs) -> bool {
    let mut names = [0u8; 4096];
    match rustix::fs::flistxattr(&file, &mut names[..]) {
        Ok(len) => names[..len]
            .split(|byte| *byte == 0)
            .all(|name| name.is_empty() || known.get(name).is_some()),
        Err(errno) => errno == Errno::OPNOTSUPP,
    }
}

/// Returns the extended attributes of `name` itself, a link not followed.
pub fn read_xattrs_at(dir: &Dir, name: &OsStr) -> Result<Xattrs, FsError> {
    let fail = |error: std::ffi::NulError| {
        FsError::new("read the extended attributes of", dir.path().join(name), error)
    };
    let c_name = CString::new(name.as_bytes()).map_err(fail)?;
    read(
        |buffer| match list_xattrs_at(dir.as_fd(), &c_name, buffer) {
            // Not there, or kept from this process by a filter that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::llistxattr(proc_path(dir, name), buffer),
            listed => listed,
        },
        |attribute, buffer| rustix::fs::lgetxattr(proc_path(dir, name), attribute, buffer),
    )
    .map_err(FsError::at("read the extended attributes of", dir.path(), name))
}

/// Sets `xattrs` on an open file or directory; `path` is for messages. Those of an ordinary user are `user.*` alone.
pub fn write_xattrs(file: impl AsFd, xattrs: &Xattrs, path: &Path) -> Result<(), FsError> {
    if xattrs.is_empty() {
        return Ok(());
    }
    for (name, value) in writable(xattrs) {
        call("setxattr", || {
            rustix::fs::fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty())
        })
        .map_err(|errno| does_not_fit(errno, &file, name, value))
        .map_err(FsError::at("set an extended attribute of", path, ""))?;
    }
    Ok(())
}

/// What stays free on a disk on which an attribute found no room for another reason.
const FREE: u64 = 1 << 20;

/// Tells an attribute that the file system cannot keep, for its size or for what it is, from a disk that is full: the kernel says of both that
/// there is no space.
fn does_not_fit(errno: Errno, on: impl AsFd, name: &[u8], value: &[u8]) -> io::Error {
    let is_free =
        || rustix::fs::fstatvfs(on).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > FREE);
    let does_not_fit = match errno {
        Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP => true,
        Errno::NOSPC => is_free(),
        _ => false,
    };
    let error = io::Error::from(errno);
    match does_not_fit {
        true => io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the file system does not keep the {} bytes of {}: {error}",
                value.len(),
                name.escape_ascii()
            ),
        ),
        false => error,
    }
}

/// Sets `xattrs` on `name` itself, a link not followed.
pub fn write_xattrs_at(dir: &Dir, name: &OsStr, xattrs: &Xattrs) -> Result<(), FsError> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let path = proc_path(dir, name);
    for (attribute, value) in writable(xattrs) {
        call("setxattr", || {
            rustix::fs::lsetxattr(&path, OsStr::from_bytes(attribute), value, XattrFlags::empty())
        })
        .map_err(|errno| does_not_fit(errno, dir, attribute, value))
        .map_err(FsError::at("set an extended attribute of", dir.path(), name))?;
    }
    Ok(())
}

/// Removes the attributes of a directory that a tree would record and `kept` lacks. A label stays, which a system with a policy
/// gives to whatever has none.
pub(crate) fn remove_other_xattrs(dir: &Dir, kept: &Xattrs) -> Result<(), FsError> {
    for (name, _) in read_xattrs(dir, dir.path())?.iter() {
        if kept.get(name).is_none() && name != SELINUX {
            rustix::fs::fremovexattr(dir, OsStr::from_bytes(name)).map_err(FsError::at(
                "remove an extended attribute of",
                dir.path(),
                "",
            ))?;
        }
    }
    Ok(())
}

/// Takes from a directory what it would pass on to everything made in it: its access control lists and its setgid bit,
/// which it may have from the directory that it was made in.
pub(crate) fn disinherit(dir: &Dir) -> Result<(), FsError> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(dir, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => {
                return Err(FsError::new(
                    "remove the access control list of",
                    dir.path(),
                    errno,
                ));
            }
        }
    }
    let mode = dir.stat_self()?.mode;
    if mode & 0o2000 != 0 {
        rustix::fs::fchmod(dir, rustix::fs::Mode::from_raw_mode(mode & !0o2000))
            .map_err(|errno| FsError::new("set the mode of", dir.path(), errno))?;
    }
    Ok(())
}

fn writable(xattrs: &Xattrs) -> impl Iterator<Item = (&[u8], &[u8])> {
    let root = rustix::process::geteuid().is_root();
    xattrs
        .iter()
        .filter(move |(name, _)| root || name.starts_with(b"user."))
}

fn proc_path(dir: &Dir, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    path.push(name);
    path
}

type Fetched = rustix::io::Result<usize>;

fn read(
    list: impl Fn(&mut [u8]) -> Fetched,
    get: impl Fn(&CStr, &mut [u8]) -> Fetched,
) -> Result<Xattrs, io::Error> {
    // Nearly every file has none: one call with a small buffer on the stack finds that out.
    let mut small = [0u8; 512];
    let names = match list(&mut small) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        Ok(len) => small[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; limits::MAX_XATTR_VALUE];
            let len = list(&mut large)?;
            large.truncate(len);
            large
        }
        Err(errno) => return Err(errno.into()),
    };
    let mut xattrs = Xattrs::new();
    let mut value = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        if is_transient(c_name.to_bytes()) {
            continue;
        }
        value.resize(limits::MAX_XATTR_VALUE, 0);
        match get(c_name, &mut value) {
            Ok(len) => xattrs.insert(c_name.to_bytes().to_vec(), value[..len].to_vec()),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(xattrs)
}
