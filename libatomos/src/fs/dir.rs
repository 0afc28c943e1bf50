//! An open directory and what can be done beneath it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags, Timespec,
    Timestamps, UTIME_OMIT,
};

use crate::failpoint::fault::{call, once};
use crate::failpoint::watch::{self, Sync};

use super::{FileKind, FsError, Stat, write_all};

/// An open directory. Names may have several components; none of them may be a link or lead out.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: OsString,
    /// The type, as the directory has it; [`FileKind::Unknown`] on file systems that do not record it.
    pub kind: FileKind,
    /// The inode, as the directory has it: on an overlay, or where something is mounted, `stat` may say another.
    pub ino: u64,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// How what is somebody's own to arrange is found: a system's configuration.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// Opens `path` as the process sees it, following links.
    pub fn open_ambient(path: impl AsRef<Path>) -> Result<Self, FsError> {
        let path = path.as_ref();
        let fd = rustix::fs::open(path, dir_flags(), Mode::empty()).map_err(FsError::at(
            "open the directory",
            path,
            "",
        ))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens `path` as the process sees it, and makes it and its parents if they are missing.
    pub fn ensure_ambient(path: impl AsRef<Path>) -> Result<Self, FsError> {
        let path = path.as_ref();
        match Self::open_ambient(path) {
            Err(error) if error.is_not_found() => {}
            other => return other,
        }
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Self::open_ambient(".")?,
            Some(parent) => Self::ensure_ambient(parent)?,
            None => return Self::open_ambient(path),
        };
        match path.file_name() {
            Some(name) => Ok(Self {
                path: path.to_owned(),
                ..parent.ensure_dir(name, 0o777)?
            }),
            None => Self::open_ambient(path),
        }
    }

    /// Takes a descriptor of a directory; `path` is for messages.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self {
            fd,
            path: path.into(),
        }
    }

    /// Gives the descriptor away.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Returns the path that messages name the directory by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a second descriptor of the directory.
    pub fn try_clone(&self) -> Result<Self, FsError> {
        let fd = self
            .fd
            .try_clone()
            .map_err(FsError::at("duplicate", &self.path, ""))?;
        Ok(Self {
            fd,
            path: self.path.clone(),
        })
    }

    fn child_path(&self, name: &Path) -> PathBuf {
        if name.as_os_str().is_empty() || name == Path::new(".") {
            self.path.clone()
        } else {
            self.path.join(name)
        }
    }

    fn openat(
        &self,
        name: &Path,
        flags: OFlags,
        mode: Mode,
        action: &'static str,
    ) -> Result<OwnedFd, FsError> {
        self.openat_resolving(name, flags, mode, BENEATH, action)
    }

    fn openat_resolving(
        &self,
        name: &Path,
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
        action: &'static str,
    ) -> Result<OwnedFd, FsError> {
        let open = || rustix::fs::openat2(&self.fd, name, flags | OFlags::CLOEXEC, mode, resolve);
        loop {
            let opened = match flags.contains(OFlags::CREATE) {
                true => call("open", open),
                false => open(),
            };
            match opened {
                // The kernel asks to try again when a rename raced with the look-up.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Ok(fd) => return Ok(fd),
                Err(errno) => return Err(FsError::new(action, self.child_path(name), errno)),
            }
        }
    }

    /// Opens the directory `name`.
    pub fn open_dir(&self, name: impl AsRef<Path>) -> Result<Self, FsError> {
        let name = name.as_ref();
        let fd = self.openat(
            name,
            dir_flags() | OFlags::NOFOLLOW,
            Mode::empty(),
            "open the directory",
        )?;
        Ok(Self {
            fd,
            path: self.child_path(name),
        })
    }

    /// Opens the directory `name`, or returns `None` where there is none.
    pub fn open_dir_optional(&self, name: impl AsRef<Path>) -> Result<Option<Self>, FsError> {
        absent_is_none(self.open_dir(name))
    }

    /// Opens the directory `name`, or returns `None` where something is mounted on it or on the way to it.
    pub(crate) fn open_dir_unless_mount(&self, name: &Path) -> Result<Option<Self>, FsError> {
        let flags = dir_flags() | OFlags::NOFOLLOW;
        let resolve = BENEATH | ResolveFlags::NO_XDEV;
        match self.openat_resolving(name, flags, Mode::empty(), resolve, "open the directory") {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: self.child_path(name),
            })),
            Err(error) if error.source.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the directory `name`, which must not exist. The mode is subject to the process's umask.
    pub fn create_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<(), FsError> {
        let name = name.as_ref();
        call("mkdir", || {
            rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))
        })
        .map_err(FsError::at("make the directory", &self.path, name))
    }

    /// Opens the directory `name`, and makes it if it is missing (one component only).
    pub fn ensure_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<Self, FsError> {
        let name = name.as_ref();
        match self.create_dir(name, mode) {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => self.open_dir(name),
        }
    }

    /// Opens the directory at `path`, and makes each missing one on the way.
    pub fn ensure_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<Self, FsError> {
        let mut dir = self.try_clone()?;
        for component in path.as_ref().components() {
            dir = dir.ensure_dir(component, mode)?;
        }
        Ok(dir)
    }

    /// Opens the file `name` for reading, which does not change when it was read last, if it is the caller's. Does not wait for a
    /// fifo's writer.
    pub fn open_file(&self, name: impl AsRef<Path>) -> Result<File, FsError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = |flags| self.openat(name.as_ref(), flags, Mode::empty(), "open");
        // Reading leaves no trace: a time in each inode is written twice, in the journal and in its place, and whoever reads a
        // whole store would have all of it written.
        match open(flags | OFlags::NOATIME) {
            // That is for the file's owner to ask.
            Err(error) if error.source.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
                open(flags)
            }
            other => other,
        }
        .map(File::from)
    }

    /// Opens the file `name` for reading, or returns `None` where there is none.
    pub fn open_file_optional(&self, name: impl AsRef<Path>) -> Result<Option<File>, FsError> {
        absent_is_none(self.open_file(name))
    }

    /// Makes the file `name`, which must not exist, open for reading and writing.
    pub fn create_file(&self, name: impl AsRef<Path>, mode: u32) -> Result<File, FsError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.openat(name.as_ref(), flags, Mode::from_raw_mode(mode), "create")
            .map(File::from)
    }

    /// Makes a file that has no name and goes when nobody has it open, for reading and writing.
    pub(crate) fn create_unnamed(&self, mode: u32) -> Result<File, FsError> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, ".", flags, Mode::from_raw_mode(mode)) {
            Ok(fd) => Ok(File::from(fd)),
            // A file system that has files with names only.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let (name, file) = self.write_beside(format!("unnamed-{}", std::process::id()), b"", mode)?;
                self.remove_file(&name)?;
                Ok(file)
            }
            Err(errno) => Err(FsError::new("create a file in", &self.path, errno)),
        }
    }

    /// Opens the file `name` for reading and writing, and makes it if it is missing.
    pub fn open_or_create_file(&self, name: impl AsRef<Path>, mode: u32) -> Result<File, FsError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        self.openat(name.as_ref(), flags, Mode::from_raw_mode(mode), "open")
            .map(File::from)
    }

    /// Returns the bytes of the file `name`; more than `limit` of them is an error.
    pub fn read(&self, name: impl AsRef<Path>, limit: usize) -> Result<Vec<u8>, FsError> {
        let name = name.as_ref();
        let file = self.open_file(name)?;
        // Most are small: one call has such a file, another finds its end, and nobody has to ask for its size.
        read_bounded(&file, SMALL, limit).map_err(FsError::at("read", &self.path, name))
    }

    /// Returns the bytes of the file `name`, or `None` where there is none.
    pub fn read_optional(&self, name: impl AsRef<Path>, limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        absent_is_none(self.read(name, limit))
    }

    /// Opens the directory `name` as a process would whose root this directory is: links are followed, and none leads out of it. `None`
    /// where there is none.
    pub fn open_dir_in_root(&self, name: impl AsRef<Path>) -> Result<Option<Self>, FsError> {
        let name = name.as_ref();
        let opened = self.openat_resolving(name, dir_flags(), Mode::empty(), IN_ROOT, "open the directory");
        absent_is_none(opened.map(|fd| Self {
            fd,
            path: self.child_path(name),
        }))
    }

    /// Returns the bytes of the file `name` as a process would read it whose root this directory is; `None` where there is none, and
    /// an error for more than `limit` of them.
    pub fn read_in_root(&self, name: impl AsRef<Path>, limit: usize) -> Result<Option<Vec<u8>>, FsError> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = self.openat_resolving(name, flags, Mode::empty(), IN_ROOT, "open");
        let Some(fd) = absent_is_none(opened)? else {
            return Ok(None);
        };
        read_bounded(&File::from(fd), SMALL, limit)
            .map(Some)
            .map_err(FsError::at("read", &self.path, name))
    }

    /// Returns the target of the symbolic link `name`.
    pub fn read_link(&self, name: impl AsRef<Path>) -> Result<Vec<u8>, FsError> {
        let name = name.as_ref();
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(FsError::at("read the link", &self.path, name))
    }

    /// Returns what `name` itself is, a link not followed.
    pub fn stat(&self, name: impl AsRef<Path>) -> Result<Stat, FsError> {
        let name = name.as_ref();
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(Stat::from)
            .map_err(FsError::at("look at", &self.path, name))
    }

    /// As [`stat`](Self::stat), and whether something is mounted there: the same call says it, from Linux 5.8 on.
    pub(crate) fn stat_and_mount(&self, name: impl AsRef<Path>) -> Result<(Stat, bool), FsError> {
        let name = name.as_ref();
        // As the older call, which a filter may let through alone, never mounts anything.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match rustix::fs::statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => Ok((
                Stat::from(stat),
                stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            )),
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => Ok((self.stat(name)?, false)),
            Err(errno) => Err(FsError::at("look at", &self.path, name)(errno)),
        }
    }

    /// Returns what a file is that was opened as `name`.
    pub(crate) fn stat_opened(&self, file: &File, name: &Path) -> Result<Stat, FsError> {
        rustix::fs::fstat(file)
            .map(Stat::from)
            .map_err(FsError::at("look at", &self.path, name))
    }

    /// Returns what `name` itself is, or `None` where there is nothing.
    pub fn stat_optional(&self, name: impl AsRef<Path>) -> Result<Option<Stat>, FsError> {
        absent_is_none(self.stat(name))
    }

    /// Returns what the directory itself is.
    pub fn stat_self(&self) -> Result<Stat, FsError> {
        rustix::fs::fstat(&self.fd)
            .map(Stat::from)
            .map_err(FsError::at("look at", &self.path, ""))
    }

    /// Returns whether there is anything called `name`.
    pub fn exists(&self, name: impl AsRef<Path>) -> Result<bool, FsError> {
        Ok(self.stat_optional(name)?.is_some())
    }

    /// Returns the directory's entries, sorted by the bytes of their names.
    pub fn entries(&self) -> Result<Vec<DirEntry>, FsError> {
        self.sorted(self.listable()?.as_fd())
    }

    /// As [`entries`](Self::entries), once, for whoever has just opened the directory: its position moves.
    pub(crate) fn entries_once(&mut self) -> Result<Vec<DirEntry>, FsError> {
        self.sorted(self.fd.as_fd())
    }

    /// Calls `visit` with each entry's name, type and inode, in the order that the directory has them in. Nothing is kept.
    pub(crate) fn visit_entries(&self, visit: impl FnMut(&OsStr, FileKind, u64)) -> Result<(), FsError> {
        list(self.listable()?.as_fd(), visit).map_err(|errno| self.cannot_list(errno))
    }

    /// A descriptor of its own: the position in a directory belongs to the open file, which others may share.
    fn listable(&self) -> Result<OwnedFd, FsError> {
        rustix::fs::openat(&self.fd, ".", dir_flags(), Mode::empty()).map_err(|errno| self.cannot_list(errno))
    }

    fn cannot_list(&self, errno: rustix::io::Errno) -> FsError {
        FsError::new("list", self.path.clone(), errno)
    }

    fn sorted(&self, fd: BorrowedFd<'_>) -> Result<Vec<DirEntry>, FsError> {
        let mut entries = Vec::new();
        list(fd, |name, kind, ino| {
            entries.push(DirEntry {
                name: name.to_owned(),
                kind,
                ino,
            });
        })
        .map_err(|errno| self.cannot_list(errno))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Removes the file, link or device `name`.
    pub fn remove_file(&self, name: impl AsRef<Path>) -> Result<(), FsError> {
        let name = name.as_ref();
        call("unlink", || {
            rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
        })
        .map_err(FsError::at("remove", &self.path, name))
    }

    /// Removes the file `name`; returns whether there was one.
    pub fn remove_file_optional(&self, name: impl AsRef<Path>) -> Result<bool, FsError> {
        Ok(absent_is_none(self.remove_file(name))?.is_some())
    }

    /// Removes the empty directory `name`.
    pub fn remove_dir(&self, name: impl AsRef<Path>) -> Result<(), FsError> {
        let name = name.as_ref();
        call("rmdir", || {
            rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
        })
        .map_err(FsError::at("remove the directory", &self.path, name))
    }

    /// Removes `name`, whatever it is, with all beneath it; nothing there is no error.
    pub fn remove_tree(&self, name: impl AsRef<Path>) -> Result<(), FsError> {
        super::tree::remove_tree(self, name.as_ref(), false)
    }

    /// The same with the subvolumes in it.
    pub(crate) fn remove_tree_with_subvolumes(&self, name: impl AsRef<Path>) -> Result<(), FsError> {
        super::tree::remove_tree(self, name.as_ref(), true)
    }

    /// Renames `name` to `new_name` in `target`, replacing what is there.
    #[track_caller]
    pub fn rename(
        &self,
        name: impl AsRef<Path>,
        target: &Self,
        new_name: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        let new_name = new_name.as_ref();
        call("rename", || {
            rustix::fs::renameat(&self.fd, name.as_ref(), &target.fd, new_name)
        })
        .map_err(FsError::at("rename to", &target.path, new_name))?;
        target.renamed()
    }

    /// Renames `name` to `new_name` in `target`, where nothing may be.
    #[track_caller]
    pub fn rename_new(
        &self,
        name: impl AsRef<Path>,
        target: &Self,
        new_name: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        let new_name = new_name.as_ref();
        call("rename", || {
            rustix::fs::renameat_with(
                &self.fd,
                name.as_ref(),
                &target.fd,
                new_name,
                RenameFlags::NOREPLACE,
            )
        })
        .map_err(FsError::at("rename to", &target.path, new_name))?;
        target.renamed()
    }

    /// A test may have put a sync off until a name is there, to see that this is noticed.
    #[track_caller]
    fn renamed(&self) -> Result<(), FsError> {
        match watch::renamed() {
            true => self.sync_fs_unwatched(),
            false => Ok(()),
        }
    }

    /// Gives the file `name` a second name, `new_name` in `target`.
    pub fn link(
        &self,
        name: impl AsRef<Path>,
        target: &Self,
        new_name: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        let new_name = new_name.as_ref();
        call("link", || {
            rustix::fs::linkat(&self.fd, name.as_ref(), &target.fd, new_name, AtFlags::empty())
        })
        .map_err(FsError::at("link", &target.path, new_name))
    }

    /// Makes the symbolic link `name`.
    pub fn symlink(&self, target: &[u8], name: impl AsRef<Path>) -> Result<(), FsError> {
        let name = name.as_ref();
        call("symlink", || {
            rustix::fs::symlinkat(OsStr::from_bytes(target), &self.fd, name)
        })
        .map_err(FsError::at("make the link", &self.path, name))
    }

    /// Sets the owner of `name` itself, a link not followed.
    pub fn set_owner(&self, name: impl AsRef<Path>, uid: u32, gid: u32) -> Result<(), FsError> {
        let name = name.as_ref();
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        call("chown", || {
            rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        })
        .map_err(FsError::at("set the owner of", &self.path, name))
    }

    /// Sets the modification time of `name` itself, a link not followed.
    pub fn set_mtime(&self, name: impl AsRef<Path>, mtime: i64) -> Result<(), FsError> {
        let name = name.as_ref();
        call("utimens", || {
            rustix::fs::utimensat(&self.fd, name, &mtime_only(mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
        .map_err(FsError::at("set the time of", &self.path, name))
    }

    /// Replaces the file `name` by one of `bytes`, in one step: a reader sees the old bytes or the new.
    ///
    /// The bytes are on disk before the name is; the name is durable once the caller has synced the directory's file
    /// system ([`Dir::sync_fs`]).
    #[track_caller]
    pub fn write_atomic(&self, name: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        let name = name.as_ref();
        let (temporary, file) = self.write_beside(name, bytes, mode)?;
        // An empty file has nothing that could come later than its name.
        if !bytes.is_empty() && watch::syncs(Sync::File) {
            call("fdatasync", || rustix::fs::fdatasync(&file))
                .map_err(FsError::at("write", &self.path, &temporary))?;
        }
        self.rename(&temporary, self, name)
    }

    /// Writes a file of `bytes` beside `name`, under a name that begins with a dot, and returns that name and the file. Its
    /// bytes are not synced.
    pub(crate) fn write_beside(
        &self,
        name: impl AsRef<Path>,
        bytes: &[u8],
        mode: u32,
    ) -> Result<(PathBuf, File), FsError> {
        let name = name.as_ref();
        let mut temporary = OsString::from(".");
        temporary.push(name.file_name().unwrap_or_else(|| OsStr::new("file")));
        temporary.push(".new");
        let temporary = name.with_file_name(temporary);
        self.remove_file_optional(&temporary)?;
        let file = self.create_file(&temporary, mode)?;
        write_all(&file, bytes)
            .and_then(|()| {
                Ok(call("fchmod", || {
                    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                })?)
            })
            .map_err(FsError::at("write", &self.path, &temporary))?;
        Ok((temporary, file))
    }

    /// Exchanges two names, which must both exist.
    #[track_caller]
    pub(crate) fn exchange(&self, a: impl AsRef<Path>, b: impl AsRef<Path>) -> Result<(), FsError> {
        let b = b.as_ref();
        once("exchange", || {
            rustix::fs::renameat_with(&self.fd, a.as_ref(), &self.fd, b, RenameFlags::EXCHANGE)
        })
        .map_err(FsError::at("replace", &self.path, b))?;
        self.renamed()
    }

    /// Waits until everything written to the directory's file system is on disk.
    #[track_caller]
    pub fn sync_fs(&self) -> Result<(), FsError> {
        match watch::syncs(Sync::FileSystem) {
            true => self.sync_fs_unwatched(),
            false => Ok(()),
        }
    }

    /// The same for whoever has told the watcher already.
    pub(crate) fn sync_fs_unwatched(&self) -> Result<(), FsError> {
        call("syncfs", || rustix::fs::syncfs(&self.fd)).map_err(FsError::at(
            "sync the file system of",
            &self.path,
            "",
        ))
    }

    /// Returns the bytes that an unprivileged writer can still store on the directory's file system.
    pub fn available_space(&self) -> Result<u64, FsError> {
        let stat =
            rustix::fs::fstatvfs(&self.fd).map_err(FsError::at("measure the space of", &self.path, ""))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Returns the size of the directory's file system, in bytes.
    pub fn total_space(&self) -> Result<u64, FsError> {
        let stat =
            rustix::fs::fstatvfs(&self.fd).map_err(FsError::at("measure the space of", &self.path, ""))?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns timestamps that set the modification time and leave the access time.
pub(crate) const fn mtime_only(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT as _,
        },
        last_modification: Timespec {
            tv_sec: mtime,
            tv_nsec: 0,
        },
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Reads the names of a directory from its position on.
fn list(fd: BorrowedFd<'_>, mut visit: impl FnMut(&OsStr, FileKind, u64)) -> rustix::io::Result<()> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut raw = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            visit(OsStr::from_bytes(name), entry.file_type().into(), entry.ino());
        }
    }
    Ok(())
}

fn absent_is_none<T>(result: Result<T, FsError>) -> Result<Option<T>, FsError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a small file has at most, in bytes.
const SMALL: u64 = 16 * 1024;

/// Returns the bytes of a file, from its position on; more than `limit` of them is an error. Its `size` is a hint that saves reads; what
/// counts is what is read.
pub(crate) fn read_bounded(file: &File, size: u64, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size.min(limit as u64) as usize + 1);
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!(
            "it has more than the {limit} bytes allowed here"
        )));
    }
    bytes.shrink_to_fit();
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn reading_a_file_leaves_no_trace_in_it() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let made = dir.create_file("file", 0o600).unwrap();
        crate::fs::write_all(&made, b"bytes").unwrap();
        // Older than the last change: whoever reads it in the usual way moves it, on a file system that keeps such times.
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        made.set_times(std::fs::FileTimes::new().set_accessed(long_ago))
            .unwrap();
        let mut bytes = Vec::new();
        dir.open_file("file").unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"bytes");
        assert_eq!(made.metadata().unwrap().accessed().unwrap(), long_ago);
    }

    #[test]
    fn a_file_of_somebody_elses_can_be_read() {
        let mut text = String::new();
        let mut file = Dir::open_ambient("/etc").unwrap().open_file("passwd").unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.contains("root"), "{text}");
    }
}
