//! Whole trees: removing one, copying one.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, IFlags, Mode, ioctl_getflags, ioctl_setflags};

use crate::format::Xattrs;

use super::{
    Dir, DirEntry, FileKind, FsError, Stat, copy_file_data, read_xattrs, read_xattrs_at, write_xattrs,
    write_xattrs_at,
};

/// Removes `name` in `parent` with all beneath it. Does not cross into what is mounted there, be it another file system
/// or a directory of the same one: a mount is an error (`EBUSY`), as it is for `rmdir`.
///
/// A subvolume is no mount, and has a device of its own: it is an error as well (`ENOTEMPTY`) unless it is `with_subvolumes`, for trees that nobody
/// else has anything in.
pub(super) fn remove_tree(parent: &Dir, name: &Path, with_subvolumes: bool) -> Result<(), FsError> {
    let Some(stat) = parent.stat_optional(name)? else {
        return Ok(());
    };
    if stat.kind != FileKind::Dir {
        return unless_held(parent, name, || parent.remove_file_optional(name).map(|_| ()));
    }
    // A bind mount has the same device: a `/var` bound into an old deployment must outlive it.
    if let Some(dir) = parent.open_dir_unless_mount(name)?
        && (with_subvolumes || dir.stat_self()?.dev == parent.stat_self()?.dev)
    {
        remove_contents(&dir, with_subvolumes)?;
    }
    unless_held(parent, name, || parent.remove_dir(name))
}

/// Removes a name by `remove`. Where it, or the directory that it lies in, is immutable or may only be appended to, which keeps root out
/// as well, it loses that first: one such file in an old tree must not keep all that comes after it from being removed.
fn unless_held(parent: &Dir, name: &Path, remove: impl Fn() -> Result<(), FsError>) -> Result<(), FsError> {
    match remove() {
        Err(error) if error.is_not_permitted() && let_go(parent, name) => remove(),
        other => other,
    }
}

/// Takes the flags away by which a name cannot be removed; returns whether there were any.
fn let_go(parent: &Dir, name: &Path) -> bool {
    let clear = |fd: BorrowedFd<'_>| {
        let held = IFlags::IMMUTABLE | IFlags::APPEND;
        ioctl_getflags(fd)
            .is_ok_and(|flags| flags.intersects(held) && ioctl_setflags(fd, flags.difference(held)).is_ok())
    };
    // Only these have flags; to open anything else may do something.
    let own = match parent.stat(name).map(|stat| stat.kind) {
        Ok(FileKind::File) => parent.open_file(name).is_ok_and(|file| clear(file.as_fd())),
        Ok(FileKind::Dir) => parent.open_dir(name).is_ok_and(|dir| clear(dir.as_fd())),
        _ => false,
    };
    clear(parent.as_fd()) || own
}

/// Removes everything in `dir`, not `dir` itself.
pub fn remove_tree_contents(dir: &Dir) -> Result<(), FsError> {
    remove_contents(dir, false)
}

fn remove_contents(dir: &Dir, with_subvolumes: bool) -> Result<(), FsError> {
    dir.entries()?
        .iter()
        .try_for_each(|entry| remove_listed(dir, entry, with_subvolumes))
}

/// Removes what an entry of `dir` names, a directory with everything in it.
pub(crate) fn remove_entry(dir: &Dir, entry: &DirEntry) -> Result<(), FsError> {
    remove_listed(dir, entry, false)
}

fn remove_listed(dir: &Dir, entry: &DirEntry, with_subvolumes: bool) -> Result<(), FsError> {
    match entry.kind {
        FileKind::Dir | FileKind::Unknown => remove_tree(dir, Path::new(&entry.name), with_subvolumes),
        _ => unless_held(dir, Path::new(&entry.name), || {
            dir.remove_file_optional(&entry.name).map(drop)
        }),
    }
}

/// Copies `name` in `source` to `new_name` in `target`, with owner, mode, time and extended attributes; a directory
/// with all beneath it. Sockets are left out. Nothing may be at the target.
///
/// An ordinary user's copy belongs to the user and has no extended attributes but `user.*`.
pub fn copy_tree(source: &Dir, name: &OsStr, target: &Dir, new_name: &OsStr) -> Result<(), FsError> {
    let stat = source.stat(name)?;
    match stat.kind {
        FileKind::File => {
            let from = source.open_file(name)?;
            let to = target.create_file(new_name, 0o600)?;
            copy_file_data(&from, &to)
                .map_err(|error| FsError::new("copy to", target.path().join(new_name), error))?;
            let path = target.path().join(new_name);
            set_metadata(&to, &stat, &read_xattrs(&from, source.path())?, &path)
        }
        FileKind::Dir => {
            target.create_dir(new_name, 0o700)?;
            let (from, to) = (source.open_dir(name)?, target.open_dir(new_name)?);
            for entry in from.entries()? {
                copy_tree(&from, &entry.name, &to, &entry.name)?;
            }
            set_metadata(&to, &stat, &read_xattrs(&from, from.path())?, to.path())
        }
        FileKind::Symlink => {
            target.symlink(&source.read_link(name)?, new_name)?;
            set_name_metadata(source, name, target, new_name, &stat)
        }
        FileKind::Char | FileKind::Block | FileKind::Fifo => {
            let kind = match stat.kind {
                FileKind::Char => FileType::CharacterDevice,
                FileKind::Block => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            let device = rustix::fs::makedev(stat.rdev.0, stat.rdev.1);
            rustix::fs::mknodat(
                target.as_fd(),
                new_name,
                kind,
                Mode::from_raw_mode(stat.mode),
                device,
            )
            .map_err(FsError::at("make the special file", target.path(), new_name))?;
            rustix::fs::chmodat(
                target.as_fd(),
                new_name,
                Mode::from_raw_mode(stat.mode),
                rustix::fs::AtFlags::empty(),
            )
            .map_err(FsError::at("set the mode of", target.path(), new_name))?;
            set_name_metadata(source, name, target, new_name, &stat)
        }
        FileKind::Socket | FileKind::Unknown => Ok(()),
    }
}

fn set_name_metadata(
    source: &Dir,
    name: &OsStr,
    target: &Dir,
    new_name: &OsStr,
    stat: &Stat,
) -> Result<(), FsError> {
    if rustix::process::geteuid().is_root() {
        target.set_owner(new_name, stat.uid, stat.gid)?;
        write_xattrs_at(target, new_name, &read_xattrs_at(source, name)?)?;
    }
    target.set_mtime(new_name, stat.mtime)
}

/// Owner before all else: changing it clears setuid and removes capabilities.
fn set_metadata(file: impl AsFd, stat: &Stat, xattrs: &Xattrs, path: &Path) -> Result<(), FsError> {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(stat.uid),
            rustix::fs::Gid::from_raw(stat.gid),
        );
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(FsError::at("set the owner of", path, ""))?;
    }
    write_xattrs(&file, xattrs, path)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.mode))
        .and_then(|()| rustix::fs::futimens(&file, &super::dir::mtime_only(stat.mtime)))
        .map_err(FsError::at("set mode and time of", path, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_into_a_tree_outlives_it() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let var = dir.ensure_dir_all("tree/var", 0o755).unwrap();
        let kept = dir.ensure_dir("kept", 0o755).unwrap();
        kept.write_atomic("data", b"precious", 0o644).unwrap();
        let mount = |command: &str, paths: &[&Path]| {
            let status = std::process::Command::new(command).args(paths).status();
            status.is_ok_and(|status| status.success())
        };
        if !mount("mount", &[Path::new("--bind"), kept.path(), var.path()]) {
            eprintln!("skipped: cannot bind a directory");
            return;
        }
        let removed = dir.remove_tree("tree");
        let data = kept.read("data", 100);
        assert!(mount("umount", &[var.path()]));
        assert_eq!(data.unwrap(), b"precious");
        assert_eq!(
            removed.unwrap_err().source.raw_os_error(),
            Some(rustix::io::Errno::BUSY.raw_os_error())
        );
        dir.remove_tree("tree").unwrap();
        assert!(!dir.exists("tree").unwrap());
    }

    #[test]
    fn a_copy_keeps_capabilities_and_setuid_of_another_owner() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root gives files away and sets capabilities");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        // Version 2, cap_net_raw permitted and effective.
        let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        let xattrs: Xattrs = [(b"security.capability".to_vec(), capability)]
            .into_iter()
            .collect();
        let file = dir.create_file("a", 0o600).unwrap();
        rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(7)), None).unwrap();
        write_xattrs(&file, &xattrs, Path::new("a")).unwrap();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o4755)).unwrap();
        copy_tree(&dir, OsStr::new("a"), &dir, OsStr::new("b")).unwrap();
        let (from, to) = (dir.stat("a").unwrap(), dir.stat("b").unwrap());
        assert_eq!((to.uid, to.mode), (7, 0o4755));
        assert_eq!((from.uid, from.mode), (7, 0o4755));
        assert_eq!(read_xattrs_at(&dir, OsStr::new("b")).unwrap(), xattrs);
    }
}
