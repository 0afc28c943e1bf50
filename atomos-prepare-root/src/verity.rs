//! The digest by which the kernel verifies a file as it is read.
//!
//! It is the kernel's own word: of a file that has fs-verity no block is read that does not belong to this digest. With `watchdog`, the only
//! module that may hold `unsafe` code: it is had by ioctl.
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use crate::error::{Doing, Error, Result};

/// Bytes of a SHA-256.
pub(crate) const DIGEST_LEN: usize = 32;

/// `struct fsverity_digest` of `linux/fsverity.h`, which the request is encoded with: its array has no length.
#[repr(C)]
struct Header {
    algorithm: u16,
    size: u16,
}

/// The same, with room for the longest.
#[repr(C)]
struct Measured {
    header: Header,
    digest: [u8; 64],
}

/// `FS_IOC_MEASURE_VERITY`.
const MEASURE: Opcode = opcode::read_write::<Header>(b'f', 134);

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA256: u16 = 1;

/// Returns the fs-verity digest of an open file.
pub(crate) fn measure(file: &OwnedFd) -> Result<[u8; DIGEST_LEN]> {
    let mut measured = Measured {
        header: Header {
            algorithm: 0,
            size: 64,
        },
        digest: [0; 64],
    };
    // SAFETY: the kernel reads and writes the header, and as many bytes behind it as `size` says that there is room for.
    let outcome = unsafe { ioctl(file, Updater::<MEASURE, Measured>::new(&mut measured)) };
    match outcome {
        Err(Errno::NODATA) => return Err(Error::new("it has lost its fs-verity")),
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => {
            return Err(Error::new("the kernel, or the file system, has no fs-verity"));
        }
        other => other.doing(|| "asking for its fs-verity digest".to_owned())?,
    }
    match (
        measured.header.algorithm,
        measured.header.size,
        measured.digest.first_chunk(),
    ) {
        (SHA256, 32, Some(digest)) => Ok(*digest),
        _ => Err(Error::new("its fs-verity digest is not of SHA-256")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nothing_verifies_has_no_digest() {
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        let error = measure(&file).unwrap_err().to_string();
        assert!(error.contains("fs-verity"), "{error}");
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
    fn the_request_is_the_kernel_s() {
        assert_eq!(MEASURE, 0xc004_6686);
    }
}
