//! File contents: copying, hashing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::digest::{BlobId, Digest};
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

/// Hashes one file after another, with memory that is asked for once.
pub(crate) struct FileHasher {
    buffer: Vec<u8>,
}

impl FileHasher {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; CHUNK],
        }
    }

    /// Returns the digest of the file's bytes from its position on, and how many they are. `size` is how many its inode says: where a single
    /// reading gives as many and had room for more, it has met the end, and is not asked for it again.
    pub(crate) fn hash(&mut self, file: &File, size: u64) -> io::Result<(BlobId, u64)> {
        let len = self.fill(file, size)?;
        if len < CHUNK {
            return Ok((BlobId::new(Digest::of(&self.buffer[..len])), len as u64));
        }
        let mut hasher = blake3::Hasher::new();
        let size = self.rest(file, len, |bytes| {
            hasher.update(bytes);
        })?;
        Ok((BlobId::new(hasher.finalize().into()), size))
    }

    /// The same, with the digest by which the kernel would verify the file.
    pub(crate) fn hash_and_verity(
        &mut self,
        file: &File,
        size: u64,
    ) -> io::Result<(BlobId, u64, VerityDigest)> {
        let (mut hasher, mut verity) = (blake3::Hasher::new(), VerityHasher::new());
        let len = self.fill(file, size)?;
        let size = self.rest(file, len, |bytes| {
            hasher.update(bytes);
            verity.update(bytes);
        })?;
        Ok((BlobId::new(hasher.finalize().into()), size, verity.finalize()))
    }

    /// Fills the buffer, or as much of it as the file has.
    fn fill(&mut self, mut file: &File, size: u64) -> io::Result<usize> {
        let len = loop {
            match file.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                len => break len?,
            }
        };
        match len as u64 == size && len < CHUNK {
            true => Ok(len),
            false => Ok(len + read_up_to(file, &mut self.buffer[len..])?),
        }
    }

    /// Gives what was filled to `each`, and the rest of the file; returns how many bytes they are.
    fn rest(&mut self, file: &File, filled: usize, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
        let (mut len, mut size) = (filled, 0);
        loop {
            each(&self.buffer[..len]);
            size += len as u64;
            if len < CHUNK {
                return Ok(size);
            }
            len = read_up_to(file, &mut self.buffer)?;
        }
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn a_file_is_hashed_whole_whatever_its_size_was_said_to_be() {
        let mut hasher = FileHasher::new();
        for len in [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5] {
            let bytes: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            for said in [0, 1, len as u64, len as u64 + 1, CHUNK as u64, u64::MAX] {
                let wanted = (BlobId::new(Digest::of(&bytes)), len as u64);
                file.rewind().unwrap();
                assert_eq!(hasher.hash(&file, said).unwrap(), wanted, "{len} {said}");
                file.rewind().unwrap();
                let (blob, size, verity) = hasher.hash_and_verity(&file, said).unwrap();
                assert_eq!((blob, size), wanted);
                assert_eq!(verity, VerityDigest::of(&bytes));
            }
        }
    }
}
