//! Large blobs that are put together piece by piece, over several runs if need be.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::digest::BlobId;
use crate::failpoint::fault::call;
use crate::format::Metadata;
use crate::fs::{Dir, FsError};

use super::super::{ObjectKind, RepoError};
use super::blobs::Place;
use super::{Scratch, Transaction, hash_into};

/// Directory of large blobs that are being put together.
const PARTIAL: &str = "partial";

/// A large blob that is being put together. Bytes are appended.
#[derive(Debug)]
pub(crate) struct Partial {
    dir: Dir,
    name: String,
    file: File,
    len: u64,
}

impl Partial {
    /// Returns how many bytes there are.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Appends bytes. Where that fails, some of them may be there.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), FsError> {
        let written = self.write_all(bytes);
        written.map_err(FsError::at("write", self.dir.path(), &self.name))
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = call("write", || rustix::io::write(&self.file, bytes))?;
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Transaction<'_> {
    /// Returns how many bytes of a large blob an interrupted run has put together.
    pub(crate) fn partial_len(&self, id: &BlobId) -> Result<u64, RepoError> {
        let file = self.staging.dir.open_file_optional(format!("{PARTIAL}/{id}"))?;
        Ok(match file {
            Some(file) => file
                .metadata()
                .map_err(|error| FsError::new("look at", self.staging.dir.path(), error))?
                .len(),
            None => 0,
        })
    }

    /// Throws away what was put together of a large blob.
    pub(crate) fn discard_partial(&self, partial: &Partial) -> Result<(), RepoError> {
        Ok(partial.dir.remove_file(&partial.name)?)
    }

    /// Opens the file in which a large blob is put together; an interrupted run may have begun it.
    pub(crate) fn open_partial(&self, id: &BlobId) -> Result<Partial, RepoError> {
        let dir = self.staging.dir.ensure_dir(PARTIAL, 0o700)?;
        let name = id.to_string();
        let mut file = dir.open_or_create_file(&name, 0o600)?;
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(|error| FsError::new("look at", dir.path().join(&name), error))?;
        Ok(Partial { dir, name, file, len })
    }

    /// Stores a blob that was put together, as every one of `inodes`, if its bytes are those of `id`; returns whether
    /// they are. If they are not, the file is removed.
    pub(crate) fn store_partial(
        &self,
        partial: Partial,
        id: &BlobId,
        size: u64,
        inodes: &[Metadata],
    ) -> Result<bool, RepoError> {
        let path = partial.dir.path().join(&partial.name);
        let mut scratch = Scratch::new();
        (&mut &partial.file)
            .seek(SeekFrom::Start(0))
            .map_err(|error| FsError::new("read", &path, error))?;
        let hashed = hash_into(&partial.file, size, &path, &mut scratch)?;
        let good = hashed.blob == *id && hashed.size == size;
        if good {
            let mut moved = false;
            for metadata in inodes {
                // The first new inode is this very file; a second one is a copy of it.
                if !moved && let Some(place) = self.claim(&hashed, metadata)? {
                    self.noting_failure(self.place_partial(&partial, id, &place, metadata, &path))?;
                    let (count, bytes) = if place.variant {
                        (&self.counters.variants, &self.counters.variant_bytes)
                    } else {
                        (&self.counters.blobs, &self.counters.bytes)
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(size, Ordering::Relaxed);
                    moved = true;
                    continue;
                }
                self.store_hashed(&partial.file, &path, metadata, &hashed, &scratch)?;
            }
            if moved {
                return Ok(true);
            }
        }
        partial.dir.remove_file(&partial.name)?;
        Ok(good)
    }

    fn place_partial(
        &self,
        partial: &Partial,
        id: &BlobId,
        place: &Place,
        metadata: &Metadata,
        path: &Path,
    ) -> Result<(), RepoError> {
        self.set_inode(&partial.file, id, metadata, path)?;
        let name = format!("{}/{}", ObjectKind::Blob.dir(), place.path);
        let shard = Path::new(&name).parent().expect("a staged name has a shard");
        self.staging.dir.ensure_dir_all(shard, 0o755)?;
        self.staging.dir.remove_file_optional(&name)?;
        Ok(partial.dir.rename(&partial.name, &self.staging.dir, &name)?)
    }
}
