//! The file system, by descriptor.
//!
//! A [`Dir`] is an open directory; every name is resolved beneath it and without following links, so nobody who can
//! write to a directory on the way can send an operation elsewhere. Paths are kept for messages alone.
//! [`Dir::open_ambient`] is the one way in.

mod copy;
mod dir;
mod error;
mod inode;
pub(crate) mod ioctl;
mod lock;
#[cfg(test)]
pub(crate) mod loop_mount;
mod mounts;
pub(crate) mod path_text;
mod stat;
mod tree;
mod verity;
mod within;
mod xattr;

pub(crate) use copy::{CHUNK, FileHasher, hash_file_and_verity, write_all};
pub use copy::{CopyMethod, copy_file_data, hash_file, read_up_to};
pub use dir::{Dir, DirEntry};
pub(crate) use dir::{mtime_only, read_bounded};
pub use error::FsError;
pub use inode::InodePart;
pub(crate) use inode::{
    apply_to_file, apply_to_known, find_unkept, set_mode, set_owner_and_mode, set_time, stat_file,
};
#[cfg(test)]
pub(crate) use ioctl::SharedMap;
pub(crate) use ioctl::{begin_write_back, nobody_writes};
pub use lock::{FileLock, LockError, LockHolder, LockMode, LockNotice, LockWait, Patience};
pub use mounts::make_writable_in_private;
pub use stat::{FileKind, Stat};
pub(crate) use tree::remove_entry;
pub use tree::{copy_tree, remove_tree_contents};
pub(crate) use verity::{is_verity, protect, verity_of, why_no_verity};
pub(crate) use within::is_within;
pub(crate) use xattr::{
    SELINUX, disinherit, drop_transient, has_no_other_xattrs, read_xattrs_of, remove_other_xattrs,
};
pub use xattr::{read_xattrs, read_xattrs_at, write_xattrs, write_xattrs_at};
