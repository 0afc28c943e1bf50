//! Every cap of the format, in one place.
//!
//! A decoder refuses what exceeds a cap before it allocates for it; an encoder refuses to write it. The numbers are
//! the kernel's own where it has one.

/// Bytes in a file name (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// Bytes in a symbolic link's target (`PATH_MAX` less the final NUL).
pub const MAX_LINK_TARGET: usize = 4095;

/// Bytes in an extended attribute's name (`XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME: usize = 255;

/// Bytes in an extended attribute's value (`XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE: usize = 65_536;

/// Bytes of all extended attributes of one entry, as encoded. The kernel caps the names at 64 KiB
/// (`XATTR_LIST_MAX`) and ext4 the values at about as much; two full values fit.
pub const MAX_XATTRS: usize = 256 * 1024;

/// Bytes in an encoded dirtree: about a million entries in one directory.
pub const MAX_DIRTREE: usize = 128 * 1024 * 1024;

/// Bytes in an encoded commit.
pub const MAX_COMMIT: usize = 1024 * 1024;

/// Entries of a commit's metadata.
pub const MAX_COMMIT_METADATA: usize = 1024;

/// Bytes in a commit's subject or version.
pub const MAX_COMMIT_LINE: usize = 4096;

/// Directories below one another. `PATH_MAX` allows 2048 one-letter names.
pub const MAX_DEPTH: usize = 2048;

/// Bytes in a ref name.
pub const MAX_REF_NAME: usize = 200;

/// Bytes in a repository's `config`.
pub const MAX_CONFIG: usize = 64 * 1024;

/// Bytes in a repository's `refs` file: some 50,000 refs.
pub const MAX_REFS: usize = 16 * 1024 * 1024;

/// The highest permission bits: setuid, setgid, sticky and rwx for three.
pub const MODE_MASK: u32 = 0o7777;
