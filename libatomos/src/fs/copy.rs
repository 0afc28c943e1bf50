//! File contents: copying, hashing.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom as Seek, seek};
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
/// else through memory. Holes stay holes. Both positions must be at the start.
pub fn copy_file_data(from: &File, to: &File) -> io::Result<CopyMethod> {
    if rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd()).is_ok() {
        return Ok(CopyMethod::Reflinked);
    }
    copy_all_but_holes(from, to)?;
    copy_in_kernel(from, to, u64::MAX)?;
    // Some file systems of the kernel's own (proc, sysfs) say 0 where there are bytes: ask for the rest by reading.
    in_chunks(from, |bytes| write_all(to, bytes))?;
    Ok(CopyMethod::Copied)
}

/// Copies what is stored of a file that has holes, and leaves both positions at its end; of another, and where the file system cannot
/// say what is stored, nothing.
fn copy_all_but_holes(mut from: &File, mut to: &File) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let size = stat.st_size as u64;
    if stat.st_blocks as u64 * 512 >= size {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let start = match seek(from, Seek::Data(at)) {
            Ok(start) => start.min(size),
            // There is nothing but a hole from here on.
            Err(Errno::NXIO) => size,
            Err(_) if at == 0 => break,
            Err(errno) => return Err(errno.into()),
        };
        if start < size {
            let end = match seek(from, Seek::Hole(start)) {
                Ok(end) => end.min(size),
                // It is shorter by now.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            from.seek(io::SeekFrom::Start(start))?;
            to.seek(io::SeekFrom::Start(start))?;
            let copied = copy_in_kernel(from, to, end - start)?;
            let rest = io::copy(&mut from.take(end - start - copied), &mut to)?;
            at = start + copied + rest;
            // It is shorter by now; and what the kernel's own file systems say of sizes is not so.
            if at < end {
                return Ok(());
            }
        } else {
            at = size;
        }
    }
    // Also where there was nothing to copy: a hole at the end is there only by the size.
    if at == size {
        call("ftruncate", || rustix::fs::ftruncate(to, size))?;
    }
    from.seek(io::SeekFrom::Start(at))?;
    to.seek(io::SeekFrom::Start(at))?;
    Ok(())
}

/// Copies up to `most` bytes from one position to the other, as far as the kernel does that; returns how many it has copied.
fn copy_in_kernel(from: &File, to: &File, most: u64) -> io::Result<u64> {
    let mut copied = 0;
    while copied < most {
        let len = usize::try_from(most - copied).unwrap_or(usize::MAX).min(1 << 30);
        match call("copy_file_range", || {
            rustix::fs::copy_file_range(from, None, to, None, len)
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
    Ok(copied)
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
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn holes_stay_holes_and_bytes_bytes() {
        let mebi = 1u64 << 20;
        for stored in [
            &[][..],
            &[(0, 5)],
            &[(8 * mebi, 70_000)],
            &[(mebi, 4096), (5 * mebi + 4096, 9000)],
            &[(0, 4096), (32 * mebi - 10, 10)],
        ] {
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            for (at, len) in stored {
                from.write_all_at(&vec![7; *len], *at).unwrap();
            }
            from.set_len(32 * mebi).unwrap();
            copy_file_data(&from, &to).unwrap();
            let all = |mut file: &File| {
                file.rewind().unwrap();
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                bytes
            };
            assert!(all(&from) == all(&to), "{stored:?}");
            let space = to.metadata().unwrap().blocks() * 512;
            assert!(space < mebi, "{stored:?}: {space}");
        }
    }

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
