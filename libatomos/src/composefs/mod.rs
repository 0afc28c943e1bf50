//! Trees as images of their metadata, mounted over the store.
//!
//! An image has every name of a tree, with owner, mode, time and attributes, and for the bytes of each file the name of its blob in the
//! store. It is made from dirtrees alone, takes some 200 bytes for a file, and is the same for the same tree. Mounted, it is
//! two file systems of the kernel's: EROFS for the image, and over it an overlay that takes a file's bytes from the store, which
//! is its *data-only* layer (`Documentation/filesystems/overlayfs.rst`). What is mounted is read-only.
//!
//! The idea is that of [composefs](https://github.com/composefs/composefs); the images are not, byte for byte, those that it makes.
//!
//! Of a tree that records no fs-verity digests nothing proves the bytes of a file: whoever can write to the store can change what is seen. An
//! image is as it was made: it is mounted from a file without a name. Where the tree has digests, so has the image, and the kernel compares
//! them, if it is told to; what vouches for the image is a [`Seal`].

mod erofs;
mod error;
mod image;
mod mount;
mod root_tree;
mod seal;
mod verify;
mod walk;
mod write;

pub use crate::repo::MountId;
pub use error::ComposefsError;
pub use image::{Image, ImageReport, image};
pub use mount::{FilesAre, is_mounted, mount, mounted, unmount};
pub(crate) use mount::{Upper, overlay};
pub(crate) use root_tree::RootTree;
pub(crate) use seal::{MAX_SEAL, add_image};
pub use seal::{SEAL_KEY, SEAL_TYPE, Seal, SealedImage, VERITY_KEY, image_verity};
pub(crate) use verify::{FilesToVerify, Unknown, files_to_verify, unverified_files};
pub(crate) use write::write_image;
