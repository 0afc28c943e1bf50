//! EROFS images of nothing but metadata, uncompressed: what the kernel's `erofs` mounts.
//!
//! An image has a super block, then inodes, each with its attributes and, where they are short, its data behind it; then blocks of
//! data. An inode is named by where it lies, in slots of 32 bytes. So everything gets its place before anything is written.
//!
//! The format is the kernel's: `fs/erofs/erofs_fs.h`, and `Documentation/filesystems/erofs.rst`.

mod directory;
mod disk;
mod space;

pub(super) use directory::{Dirent, blocks, encode as encode_block};
pub(super) use disk::{
    BLOCK, CHUNK, FIRST_INODE, HOLE, INODE, Inode, Kind, Layout, ONE_CHUNK, SLOT, Super, Xattrs, device,
    is_image,
};
pub(super) use space::{Space, Spot};
