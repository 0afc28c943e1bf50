//! File contents: copying, hashing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::digest::BlobId;
use crate::failpoint::fault::call;
use crate::verity::{VerityDigest, VerityHasher};

/// How a file's bytes came to be in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMethod {
    /// Both share the same blocks until one is written.
    Reflinked,
    /// The bytes were copied.
    Copied,
}

/// Bytes read at a time. Larger than the CPU's second-level cache helps nobody; smaller costs system calls.
pub(crate) const CHUNK: usize = 256 * 1024;

/// Bytes that are read first, to where no memory has to be asked for.
const SMALL: usize = 16 * 1024;

/// Fills the empty file `to` with the bytes of `from`: sharing blocks where the file system can, else in the kernel,
/// else through memory. Both positions must be at the start.
pub fn copy_file_data(from: &File, to: &File) -> io::Result<CopyMethod> {
    if rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd()).is_ok() {
        return Ok(CopyMethod::Reflinked);
    }
    let mut copied = 0u64;
    loop {
        match call("copy_file_range", || {
            rustix::fs::copy_file_range(from, None, to, None, 1 << 30)
        }) {
            Ok(0) => break,
            Ok(len) => copied += len as u64,
            // Not between these two file systems, or not for this kind of file.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM)
                if copied == 0 =>
            {
                break;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    // Some file systems of the kernel's own (proc, sysfs) say 0 where there are bytes: ask for the rest by reading.
    in_chunks(from, |bytes| write_all(to, bytes))?;
    Ok(CopyMethod::Copied)
}

/// Writes all of `bytes` at the file's position.
pub(crate) fn write_all(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match call("write", || rustix::io::write(file, bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            len => bytes = &bytes[len..],
        }
    }
    Ok(())
}

/// Returns the digest of the file's bytes from its position on, and how many they are.
pub fn hash_file(file: &File) -> io::Result<(BlobId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    in_chunks(file, |bytes| {
        hasher.update(bytes);
        size += bytes.len() as u64;
        Ok(())
    })?;
    Ok((BlobId::new(hasher.finalize().into()), size))
}

/// Gives the file's bytes from its position on to `each`, in order.
fn in_chunks(file: &File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    // Most files end in here, and a large buffer costs more to get than they cost to read.
    let mut small = [0; SMALL];
    let len = read_up_to(file, &mut small)?;
    each(&small[..len])?;
    if len < SMALL {
        return Ok(());
    }
    let mut large = vec![0; CHUNK];
    loop {
        let len = read_up_to(file, &mut large)?;
        each(&large[..len])?;
        if len < CHUNK {
            return Ok(());
        }
    }
}

/// As [`hash_file`], and returns the digest by which the kernel would verify the file, of the same reading.
pub(crate) fn hash_file_and_verity(file: &File) -> io::Result<(BlobId, u64, VerityDigest)> {
    let mut hasher = blake3::Hasher::new();
    let mut verity = VerityHasher::new();
    let mut size = 0;
    in_chunks(file, |bytes| {
        hasher.update(bytes);
        verity.update(bytes);
        size += bytes.len() as u64;
        Ok(())
    })?;
    Ok((BlobId::new(hasher.finalize().into()), size, verity.finalize()))
}

/// Reads until `buffer` is full or the file ends; returns how many bytes were read.
pub fn read_up_to(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
