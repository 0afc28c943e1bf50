//! What `lstat` says of a file.

use rustix::fs::{FileType, RawMode};

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Whatever the kernel does not say.
    Unknown,
}

impl FileKind {
    /// Returns what a person calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symbolic link",
            Self::Char => "character device",
            Self::Block => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Unknown => "file of an unknown type",
        }
    }
}

impl From<FileType> for FileKind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::Char,
            FileType::BlockDevice => Self::Block,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

/// A file's inode, as `lstat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The type.
    pub kind: FileKind,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Bytes in the file.
    pub size: u64,
    /// Modification time, whole seconds.
    pub mtime: i64,
    /// The nanoseconds of the modification time.
    pub mtime_nsec: i64,
    /// Change time, whole seconds.
    pub ctime: i64,
    /// The nanoseconds of the change time.
    pub ctime_nsec: i64,
    /// The device that the file is on.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// Names that the inode has.
    pub nlink: u64,
    /// Space taken on disk, in bytes.
    pub allocated: u64,
    /// The device that a device file stands for: major and minor number.
    pub rdev: (u32, u32),
}

impl From<rustix::fs::Statx> for Stat {
    fn from(stat: rustix::fs::Statx) -> Self {
        Self {
            kind: FileType::from_raw_mode(RawMode::from(stat.stx_mode)).into(),
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            mtime: stat.stx_mtime.tv_sec,
            mtime_nsec: i64::from(stat.stx_mtime.tv_nsec),
            ctime: stat.stx_ctime.tv_sec,
            ctime_nsec: i64::from(stat.stx_ctime.tv_nsec),
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            nlink: u64::from(stat.stx_nlink),
            allocated: stat.stx_blocks * 512,
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        }
    }
}

impl From<rustix::fs::Stat> for Stat {
    fn from(stat: rustix::fs::Stat) -> Self {
        // The fields' types differ between architectures.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        Self {
            kind: FileType::from_raw_mode(stat.st_mode as RawMode).into(),
            mode: u32::from(stat.st_mode) & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: stat.st_mtime as i64,
            mtime_nsec: stat.st_mtime_nsec as i64,
            ctime: stat.st_ctime as i64,
            ctime_nsec: stat.st_ctime_nsec as i64,
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            allocated: stat.st_blocks as u64 * 512,
            rdev: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fs::Dir;

    #[test]
    fn both_calls_of_the_kernel_say_the_same() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        dir.write_atomic("file", b"bytes", 0o640).unwrap();
        dir.set_mtime("file", -5).unwrap();
        dir.create_dir("dir", 0o700).unwrap();
        dir.symlink(b"file", "link").unwrap();
        let dev = Dir::open_ambient("/dev").unwrap();
        for (dir, name) in [(&dir, "file"), (&dir, "dir"), (&dir, "link"), (&dev, "null")] {
            let (stat, _) = dir.stat_and_mount(name).unwrap();
            assert_eq!(stat, dir.stat(name).unwrap(), "{name}");
        }
    }
}
