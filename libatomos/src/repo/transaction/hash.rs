//! Hashing files and streams, and copying what was hashed: a file may be written to between the one and the other.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::digest::{BlobId, Digest};
use crate::failpoint::fault::call;
use crate::fs::{FsError, hash_file, hash_file_and_verity, read_up_to};
use crate::verity::{VerityDigest, VerityHasher};

use super::super::RepoError;

/// Files up to this size are read once, into memory, and written from there; larger ones are hashed as they stream.
pub(super) const WHOLE: usize = 1024 * 1024;

/// What is read at once of a stream.
const PIECE: usize = 64 * 1024;

/// A buffer that a thread reuses from file to file.
#[derive(Debug)]
pub(crate) struct Scratch(pub(super) Vec<u8>, Verity);

/// Whether the fs-verity digest of what is hashed is wanted, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Verity {
    #[default]
    No,
    Wanted,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::with(Verity::No)
    }

    pub(crate) fn with(verity: Verity) -> Self {
        Self(vec![0; WHOLE], verity)
    }
}

/// A file's digests and size, and whether its bytes are in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    /// Where it was wanted, of a file that is not empty.
    pub(crate) verity: Option<VerityDigest>,
    pub(super) in_scratch: bool,
}

/// Returns the digest of the file's bytes, which stay in `scratch` where they fit.
pub(crate) fn hash_into(
    file: &File,
    size: u64,
    path: &Path,
    scratch: &mut Scratch,
) -> Result<Hashed, RepoError> {
    let fail = |error| FsError::new("read", path, error);
    // A file that grew meanwhile does not fit any more, and is streamed from its start.
    if size < WHOLE as u64 {
        let len = read_up_to(file, &mut scratch.0).map_err(fail)?;
        if len < WHOLE {
            let bytes = &scratch.0[..len];
            let wanted = scratch.1 == Verity::Wanted && len > 0;
            return Ok(Hashed {
                blob: BlobId::new(Digest::of(bytes)),
                size: len as u64,
                verity: wanted.then(|| VerityDigest::of(bytes)),
                in_scratch: true,
            });
        }
        (&mut &*file).seek(SeekFrom::Start(0)).map_err(fail)?;
    }
    let (blob, size, verity) = match scratch.1 {
        Verity::No => hash_file(file).map(|(blob, size)| (blob, size, None)),
        Verity::Wanted => hash_file_and_verity(file).map(|(blob, size, verity)| (blob, size, Some(verity))),
    }
    .map_err(fail)?;
    Ok(Hashed {
        blob,
        size,
        verity: verity.filter(|_| size > 0),
        in_scratch: false,
    })
}

/// Returns the digest of what `reader` gives, which stays in `scratch` where it fits.
pub(crate) fn hash_stream(reader: &mut impl Read, scratch: &mut Scratch) -> std::io::Result<Hashed> {
    let mut filled = 0;
    let mut verity = (scratch.1 == Verity::Wanted).then(VerityHasher::new);
    let (blob, size) = hash_reader(
        reader,
        |error| error,
        |bytes| {
            if let Some(verity) = &mut verity {
                verity.update(bytes);
            }
            if let Some(room) = scratch.0.get_mut(filled..filled + bytes.len()) {
                room.copy_from_slice(bytes);
            }
            filled += bytes.len();
            Ok(())
        },
    )?;
    Ok(Hashed {
        blob,
        size,
        verity: verity.filter(|_| size > 0).map(VerityHasher::finalize),
        in_scratch: size <= WHOLE as u64,
    })
}

/// Reads to the end, and gives each piece to `each`; `fail` says what it means that reading failed.
pub(super) fn hash_reader<E>(
    reader: &mut impl Read,
    fail: impl Fn(std::io::Error) -> E,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(BlobId, u64), E> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((BlobId::new(hasher.finalize().into()), size)),
            Ok(len) => {
                hasher.update(&buffer[..len]);
                size += len as u64;
                each(&buffer[..len])?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

pub(super) fn changed() -> std::io::Error {
    std::io::Error::other("the file was changed while it was being read")
}

pub(super) fn write_whole(target: &File, name: &Path, bytes: &[u8]) -> Result<(), RepoError> {
    crate::fs::write_all(target, bytes).map_err(|error| FsError::new("write", name, error).into())
}

/// Copies a large file, and checks that what was written is what was hashed: the source may be written meanwhile.
pub(super) fn copy_verified(
    source: &File,
    target: &File,
    path: &Path,
    hashed: &Hashed,
) -> Result<(), RepoError> {
    if copy_from_start(source, target, path)? != (hashed.blob, hashed.size) {
        return Err(FsError::new("copy", path, changed()).into());
    }
    Ok(())
}

/// Copies a file, and returns digest and size of what was written.
pub(super) fn copy_from_start(source: &File, target: &File, path: &Path) -> Result<(BlobId, u64), FsError> {
    let fail = |error| FsError::new("copy", path, error);
    (&mut &*source).seek(SeekFrom::Start(0)).map_err(fail)?;
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        hash_file(target).map_err(fail)
    } else {
        copy_hashing(source, target).map_err(fail)
    }
}

/// Copies, hashing; a block of zeros becomes a hole, so a sparse file stays one.
pub(in crate::repo) fn copy_hashing(source: &File, mut target: &File) -> std::io::Result<(BlobId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; crate::fs::CHUNK];
    let mut size = 0u64;
    let sparse = is_sparse(source)?;
    loop {
        let len = read_up_to(source, &mut buffer)?;
        hasher.update(&buffer[..len]);
        size += len as u64;
        if sparse && buffer[..len].iter().all(|byte| *byte == 0) {
            target.seek(SeekFrom::Current(len as i64))?;
        } else {
            crate::fs::write_all(target, &buffer[..len])?;
        }
        if len < buffer.len() {
            call("ftruncate", || rustix::fs::ftruncate(target, size))?;
            return Ok((BlobId::new(hasher.finalize().into()), size));
        }
    }
}

fn is_sparse(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    Ok(metadata.blocks() * 512 < metadata.len())
}
