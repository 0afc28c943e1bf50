//! Writing packs and images: frames of blobs, compressed on all processors and written in order.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::compress::Compressor;
use crate::digest::{BlobId, Digest};
use crate::fs::{FsError, begin_write_back, hash_file};
use crate::progress::PhaseGuard;
use crate::repo::{ObjectKind, Repo, RepoError};
use crate::site::{Artifact, BlobList, FileRef, Frame};

use super::PublishError;
use super::site_writer::SiteWriter;

/// Frames that wait to be written, for each thread. A frame of an image holds at most 12 MiB.
const AHEAD: usize = 3;

/// Writes frames one after another into a file of kind `kind`, and returns it with their lengths.
#[expect(clippy::too_many_arguments, reason = "they are what a file is made of")]
pub(super) fn write_frames(
    repo: &Repo,
    blobs: &BlobList,
    frames: &[Frame],
    kind: Artifact,
    level: i32,
    threads: usize,
    writer: &SiteWriter,
    phase: &PhaseGuard<'_>,
    cancel: &Cancel,
) -> Result<(FileRef, Vec<u64>), PublishError> {
    let mut output = Output::create(writer)?;
    let mut lens = Vec::with_capacity(frames.len());
    // Most frames are a few kilobytes, and a context's tables some megabytes: one for each thread, not for each frame.
    let idle = Mutex::new(Vec::new());
    crate::parallel::in_order(
        frames.len(),
        threads,
        threads * AHEAD,
        |index| {
            cancel.check()?;
            let compressor = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut compressor = compressor.unwrap_or_else(|| Compressor::new(level));
            let frame = compress_frame(repo, blobs, &frames[index], &mut compressor);
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(compressor);
            frame
        },
        |index, bytes| {
            output.write(&bytes)?;
            lens.push(bytes.len() as u64);
            phase.advance(frames[index].raw_len(blobs));
            Ok(())
        },
    )?;
    Ok((output.finish(kind, writer)?, lens))
}

/// Bytes after which the disk is given something to do: whoever syncs in the end does not wait for all of it.
const WRITE_BACK: u64 = 16 * 1024 * 1024;

/// A file that is hashed as it is written.
pub(super) struct Output {
    name: String,
    /// Where it is, for messages.
    path: PathBuf,
    file: std::io::BufWriter<File>,
    hasher: blake3::Hasher,
    size: u64,
    /// How much of it the disk has been told of.
    given: u64,
}

impl Output {
    pub(super) fn create(writer: &SiteWriter) -> Result<Self, PublishError> {
        let (name, file) = writer.create()?;
        Ok(Self {
            path: writer.staged_path(&name),
            name,
            file: std::io::BufWriter::with_capacity(1 << 20, file),
            hasher: blake3::Hasher::new(),
            size: 0,
            given: 0,
        })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| FsError::new("write", &self.path, error))?;
        if self.size - self.given >= WRITE_BACK {
            begin_write_back(self.file.get_ref(), self.given, self.size - self.given);
            self.given = self.size;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, kind: Artifact, writer: &SiteWriter) -> Result<FileRef, PublishError> {
        self.file
            .flush()
            .map_err(|error| FsError::new("write", &self.path, error))?;
        let digest: Digest = self.hasher.finalize().into();
        writer.add(kind, &self.name, digest)?;
        Ok(FileRef {
            digest,
            size: self.size,
        })
    }

    pub(super) fn discard(self, writer: &SiteWriter) -> Result<(), PublishError> {
        writer.discard(&self.name)
    }
}

fn compress_frame(
    repo: &Repo,
    blobs: &BlobList,
    frame: &Frame,
    compressor: &mut Compressor,
) -> Result<Vec<u8>, PublishError> {
    let raw_len = frame.raw_len(blobs) as usize;
    let mut raw = vec![0; raw_len];
    let first = blobs.blobs()[frame.blobs().start as usize].id;
    match frame {
        Frame::Blobs(range) => {
            let mut filled = 0;
            for blob in &blobs.blobs()[range.start as usize..range.end as usize] {
                let part = &mut raw[filled..filled + blob.size as usize];
                read_exact(repo, &blob.id, part, 0)?;
                // What is published must be what its name says: a client could only refuse it.
                if Digest::of(part) != *blob.id.digest() {
                    return Err(damaged(&blob.id).into());
                }
                filled += part.len();
            }
        }
        Frame::Segment { blob, bytes } => {
            let blob = blobs.blobs()[*blob as usize];
            if bytes.start == 0 {
                let file = repo.open_blob(&blob.id)?;
                let (found, _) = hash_file(&file).map_err(|error| FsError::new("read", "a blob", error))?;
                if found != blob.id {
                    return Err(damaged(&blob.id).into());
                }
            }
            read_exact(repo, &blob.id, &mut raw, bytes.start)?;
        }
    }
    compressor
        .compress(&raw)
        .map_err(|source| PublishError::Compress {
            blob: *first.digest(),
            source,
        })
}

fn read_exact(repo: &Repo, id: &BlobId, buffer: &mut [u8], offset: u64) -> Result<(), RepoError> {
    let file = repo.open_blob(id)?;
    file.read_exact_at(buffer, offset).map_err(|error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return damaged(id);
        }
        FsError::new(
            "read",
            Path::new("objects").join(crate::repo::object_path(id.digest())),
            error,
        )
        .into()
    })
}

pub(super) fn damaged(id: &BlobId) -> RepoError {
    RepoError::ObjectDamaged {
        kind: ObjectKind::Blob,
        digest: *id.digest(),
        reason: "its bytes are not those of its name; fsck says more".to_owned(),
    }
}
