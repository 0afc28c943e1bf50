//! Bytes whose inode is not known yet: members of archives, and the like.
//!
//! A stream gives its bytes once, and what a file of it will be called, who owns it and whether it stays in the tree is known
//! when all of it was read. So its bytes are staged under their digest, without a name in the store. Storing them is a rename for
//! the first inode, and a copy for every other; what nobody stores goes with the staging directory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use crate::cancel::Cancel;
use crate::digest::{BlobId, Digest};
use crate::format::Metadata;
use crate::fs::{Dir, FsError};

use super::super::{ObjectKind, RepoError, object_path};
use super::hash::{Hashed, Scratch, WHOLE, copy_from_start, write_whole};
use super::{LOOSE, Link, StoredBlob, Transaction, lock};

/// The file that bytes are written to until their digest is known.
const STREAM: &str = "stream";

/// Why bytes were not staged.
#[derive(Debug)]
pub(crate) enum LooseError {
    /// They could not be read.
    Read(io::Error),
    /// They could not be kept.
    Store(RepoError),
}

impl From<RepoError> for LooseError {
    fn from(error: RepoError) -> Self {
        Self::Store(error)
    }
}

impl From<FsError> for LooseError {
    fn from(error: FsError) -> Self {
        Self::Store(error.into())
    }
}

/// Where the bytes of blobs are that a transaction has staged or found.
#[derive(Debug)]
pub(crate) struct BlobFiles {
    loose: Dir,
    staged: Dir,
    store: Dir,
    /// What went from the first place to the second. Anything else that is staged may be an interrupted run's, or half written.
    taken: Mutex<HashSet<BlobId>>,
}

impl BlobFiles {
    /// Opens a blob. It may move from the first place to the last meanwhile, and not back.
    pub(crate) fn open(&self, blob: &BlobId) -> Result<File, RepoError> {
        let name = object_path(blob.digest());
        for dir in [&self.loose, &self.store] {
            if let Some(file) = dir.open_file_optional(&name)? {
                return Ok(file);
            }
        }
        if lock(&self.taken).contains(blob)
            && let Some(file) = self.staged.open_file_optional(&name)?
        {
            return Ok(file);
        }
        Err(RepoError::ObjectMissing {
            kind: ObjectKind::Blob,
            digest: *blob.digest(),
        })
    }
}

impl Transaction<'_> {
    /// Returns where blobs are.
    pub(crate) fn blob_files(&self) -> Result<BlobFiles, RepoError> {
        Ok(BlobFiles {
            loose: self.staging.dir.ensure_dir(LOOSE, 0o700)?,
            staged: self.staging.dir.open_dir(ObjectKind::Blob.dir())?,
            store: self.repo.kind_dir(ObjectKind::Blob).try_clone()?,
            taken: Mutex::default(),
        })
    }

    /// Stages everything that `reader` gives, if the store lacks it; returns digest and size. One thread at a time.
    pub(crate) fn stage_loose(
        &self,
        files: &BlobFiles,
        reader: &mut dyn Read,
        scratch: &mut Scratch,
        cancel: &Cancel,
    ) -> Result<(BlobId, u64), LooseError> {
        let staged = self.stage_stream(files, reader, scratch, cancel);
        if staged.is_err() {
            // A file may be half there under its whole name.
            self.failed.store(true, Ordering::Relaxed);
        }
        staged
    }

    fn stage_stream(
        &self,
        files: &BlobFiles,
        reader: &mut dyn Read,
        scratch: &mut Scratch,
        cancel: &Cancel,
    ) -> Result<(BlobId, u64), LooseError> {
        let mut filled = fill(reader, &mut scratch.0)?;
        if filled < WHOLE {
            let bytes = &scratch.0[..filled];
            let blob = BlobId::new(Digest::of(bytes));
            if !self.has_loose(files, &blob)? {
                let _taken = self.will_write(filled as u64)?;
                let file = create(&files.loose, &object_path(blob.digest()))?;
                write_whole(&file, Path::new("a member"), bytes)?;
            }
            return Ok((blob, filled as u64));
        }
        files.loose.remove_file_optional(STREAM)?;
        let mut file = files.loose.create_file(STREAM, 0o600)?;
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        while filled > 0 {
            cancel.check().map_err(RepoError::from)?;
            let bytes = &scratch.0[..filled];
            hasher.update(bytes);
            self.write_sparse(&mut file, bytes, &files.loose)?;
            size += filled as u64;
            filled = fill(reader, &mut scratch.0)?;
        }
        // A hole at the end is none before the size says so.
        file.set_len(size)
            .map_err(|error| FsError::new("write", files.loose.path().join(STREAM), error))?;
        let blob = BlobId::new(hasher.finalize().into());
        if self.has_loose(files, &blob)? {
            files.loose.remove_file(STREAM)?;
        } else {
            let name = object_path(blob.digest());
            ensure_shard(&files.loose, &name)?;
            files.loose.rename(STREAM, &files.loose, &name)?;
        }
        Ok((blob, size))
    }

    /// Writes to the stream, leaving holes where there are zeros: an archive may have said that a file of terabytes has a few bytes. How
    /// long it will be is known at its end, so room is asked for piece by piece.
    fn write_sparse(&self, file: &mut File, bytes: &[u8], loose: &Dir) -> Result<(), RepoError> {
        let fail = |error| FsError::new("write", loose.path().join(STREAM), error);
        for piece in bytes.chunks(ZEROS.len()) {
            if *piece == ZEROS[..piece.len()] {
                file.seek(SeekFrom::Current(piece.len() as i64)).map_err(fail)?;
            } else {
                let _taken = self.will_write(piece.len() as u64)?;
                crate::fs::write_all(file, piece).map_err(fail)?;
            }
        }
        Ok(())
    }

    fn has_loose(&self, files: &BlobFiles, blob: &BlobId) -> Result<bool, RepoError> {
        let name = object_path(blob.digest());
        Ok(files.store.exists(&name)? || files.loose.exists(&name)?)
    }

    /// Stores a blob that was staged loose, or that the store has, with `metadata`.
    pub(crate) fn store_loose(
        &self,
        files: &BlobFiles,
        blob: &BlobId,
        size: u64,
        metadata: &Metadata,
    ) -> Result<StoredBlob, RepoError> {
        let hashed = Hashed {
            blob: *blob,
            size,
            verity: None,
            in_scratch: false,
        };
        let base = format!("{}/{}", ObjectKind::Blob.dir(), object_path(blob.digest()));
        // The first inode is the staged file itself; another one is a copy of it.
        let take = |name: &str, what: Link| match what == Link::Make && name == base {
            true => self.take_loose(files, blob, name, metadata),
            false => Ok(false),
        };
        self.store_by(metadata, &hashed, take, |target, path| {
            let (found, len) = copy_from_start(&files.open(blob)?, target, path)?;
            if (found, len) == (*blob, size) {
                return Ok(());
            }
            // Nobody writes to these files: it is a disk that has lost something.
            Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason: format!("it has {len} bytes with the digest {found}"),
            })
        })
    }

    /// Gives the staged `name` to the loose file, if there is one.
    fn take_loose(
        &self,
        files: &BlobFiles,
        blob: &BlobId,
        name: &str,
        metadata: &Metadata,
    ) -> Result<bool, RepoError> {
        let from = object_path(blob.digest());
        let Some(file) = files.loose.open_file_optional(&from)? else {
            return Ok(false);
        };
        self.set_inode(&file, blob, metadata, &files.loose.path().join(&from))?;
        ensure_shard(&self.staging.dir, name)?;
        // Before it moves: whoever misses it in the one place looks in the other.
        lock(&files.taken).insert(*blob);
        files.loose.rename(&from, &self.staging.dir, name)?;
        Ok(true)
    }
}

fn ensure_shard(dir: &Dir, name: &str) -> Result<(), FsError> {
    let shard = Path::new(name).parent().expect("an object's path has a shard");
    dir.ensure_dir_all(shard, 0o755)?;
    Ok(())
}

/// Makes a file, and its shard if it is missing.
fn create(dir: &Dir, name: &str) -> Result<File, FsError> {
    match dir.create_file(name, 0o600) {
        Err(error) if error.is_not_found() => {
            ensure_shard(dir, name)?;
            dir.create_file(name, 0o600)
        }
        other => other,
    }
}

/// Zeros, as many as are left out at once.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Reads until the buffer is full or there is no more.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, LooseError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(LooseError::Read(error)),
        }
    }
    Ok(filled)
}
