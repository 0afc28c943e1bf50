//! From frames to verified blobs in the transaction.

use std::collections::HashMap;
use std::fs::File;

use crate::compress::Decompressor;
use crate::digest::{BlobId, Digest};
use crate::format::Metadata;
use crate::fs::FsError;
use crate::parallel::Budget;
use crate::repo::{Partial, Repo, Transaction};
use crate::site::{BlobList, Frame};

use super::PullError;
use super::plan::{Content, GroupMember};

/// Bytes of frames and their contents that may be in memory at once.
pub(super) const BUDGET: u64 = 40 * 1024 * 1024;

/// Why a frame is not what it should be. Another mirror, or another way, may help.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The bytes are wrong.
    Bad { blob: Digest, reason: String },
    /// The bytes may be right, and what an interrupted pull left of the blob was wrong. That is gone now.
    Stale { blob: u32 },
    /// This machine failed.
    Failed(PullError),
}

impl<E: Into<PullError>> From<E> for FrameError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Where blobs go.
pub(super) struct Receiver<'a> {
    pub(super) repo: &'a Repo,
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) blobs: &'a BlobList,
    /// The inodes that each missing blob is needed as.
    pub(super) wanted: &'a HashMap<u32, Vec<Metadata>>,
    /// Blobs whose first parts are an interrupted pull's.
    pub(super) begun: &'a HashMap<u32, u64>,
    pub(super) budget: &'a Budget,
}

/// A large blob that is being put together. Frames come in order.
#[derive(Default)]
pub(super) struct Assembly {
    current: Option<(u32, Partial)>,
    buffer: Vec<u8>,
    decompressor: Decompressor,
}

impl Receiver<'_> {
    /// Takes one frame: decompresses it, verifies what it holds, and stages it.
    pub(super) fn take(
        &self,
        frame: &[u8],
        content: &Content,
        assembly: &mut Assembly,
    ) -> Result<(), FrameError> {
        match content {
            Content::Plain(Frame::Blobs(range)) => {
                let raw_len: u64 = range.clone().map(|index| self.blobs.size(index)).sum();
                let mut buffer = std::mem::take(&mut assembly.buffer);
                let result = assembly
                    .decompressor
                    .decompress_into(frame, raw_len as usize, &mut buffer)
                    .map_err(|error| self.bad(range.start, &error))
                    .and_then(|()| self.take_blobs(range.clone(), &buffer));
                assembly.buffer = buffer;
                result
            }
            Content::Plain(Frame::Segment { blob, bytes }) => {
                let mut buffer = std::mem::take(&mut assembly.buffer);
                let result = assembly
                    .decompressor
                    .decompress_into(frame, (bytes.end - bytes.start) as usize, &mut buffer)
                    .map_err(|error| self.bad(*blob, &error))
                    .and_then(|()| self.take_part(*blob, bytes.start, &buffer, assembly));
                assembly.buffer = buffer;
                result
            }
            Content::Window { blob, base, index } => {
                let size = self.blobs.size(*blob);
                let base_file = self.repo.open_blob(base)?;
                let window = crate::patch::window(size, base_size(&base_file)?, *index);
                let raw = crate::patch::apply_window(frame, &base_file, &window)
                    .map_err(|error| self.bad(*blob, &error))?;
                if window.target.start == 0 && window.target.end == size {
                    return self.take_blob(*blob, &raw);
                }
                self.take_part(*blob, window.target.start, &raw, assembly)
            }
            Content::Group(members) => self.take_group(frame, members),
        }
    }

    fn take_group(&self, frame: &[u8], members: &[GroupMember]) -> Result<(), FrameError> {
        let raw_len: u64 = members.iter().map(|member| member.stream_len).sum();
        // Of what is not in this tree there is no digest to name.
        let Some(first) = members.iter().find(|member| member.use_it) else {
            return Ok(());
        };
        let raw = crate::compress::decompress(frame, raw_len as usize)
            .map_err(|error| self.bad(first.blob, &error))?;
        let mut rest = raw.as_slice();
        for member in members {
            let (stream, after) = rest.split_at(member.stream_len as usize);
            rest = after;
            if !member.use_it {
                continue;
            }
            match &member.base {
                None => self.take_blob(member.blob, stream)?,
                Some(base) => {
                    let base_file = self.repo.open_blob(base)?;
                    let bytes = crate::patch::apply_stream(stream, &base_file, self.blobs.size(member.blob))
                        .map_err(|error| self.bad(member.blob, &error))?;
                    self.take_blob(member.blob, &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn take_blobs(&self, range: std::ops::Range<u32>, bytes: &[u8]) -> Result<(), FrameError> {
        let mut rest = bytes;
        for index in range {
            let (blob, after) = rest.split_at(self.blobs.size(index) as usize);
            rest = after;
            if self.wanted.contains_key(&index) {
                self.take_blob(index, blob)?;
            }
        }
        Ok(())
    }

    fn take_blob(&self, index: u32, bytes: &[u8]) -> Result<(), FrameError> {
        let Some(wanted) = self.wanted.get(&index) else {
            return Ok(());
        };
        let id = self.id(index);
        let found = BlobId::new(Digest::of(bytes));
        if found != id {
            return Err(self.bad(index, &format!("its bytes have the digest {found}")));
        }
        for metadata in wanted {
            self.transaction.store_verified(&id, bytes, metadata)?;
        }
        Ok(())
    }

    /// Appends to a large blob; with the last part it is verified.
    fn take_part(
        &self,
        index: u32,
        start: u64,
        bytes: &[u8],
        assembly: &mut Assembly,
    ) -> Result<(), FrameError> {
        let Some(wanted) = self.wanted.get(&index) else {
            return Ok(());
        };
        let id = self.id(index);
        if assembly.current.as_ref().is_none_or(|(blob, _)| *blob != index) {
            assembly.current = Some((index, self.transaction.open_partial(&id)?));
        }
        let (_, partial) = assembly.current.as_mut().expect("it was opened just now");
        if partial.len() < start {
            return Err(self.bad(index, &"an earlier part of it is missing"));
        }
        let end = start + bytes.len() as u64;
        // What an interrupted run left is verified with the whole.
        if partial.len() < end {
            let skip = (partial.len() - start) as usize;
            let _taken = self.transaction.will_write(end - partial.len())?;
            partial.append(&bytes[skip..])?;
        }
        if end < self.blobs.size(index) {
            return Ok(());
        }
        let (_, partial) = assembly.current.take().expect("it was there a moment ago");
        match self
            .transaction
            .store_partial(partial, &id, self.blobs.size(index), wanted)?
        {
            true => Ok(()),
            false if self.begun.contains_key(&index) => Err(FrameError::Stale { blob: index }),
            false => Err(self.bad(index, &"its parts do not make what its digest says")),
        }
    }

    /// Forgets the parts of the large blob that is being put together.
    pub(super) fn discard(&self, assembly: &mut Assembly) -> Result<(), PullError> {
        if let Some((_, partial)) = assembly.current.take() {
            self.transaction.discard_partial(&partial)?;
        }
        Ok(())
    }

    fn id(&self, index: u32) -> BlobId {
        self.blobs.blobs()[index as usize].id
    }

    fn bad(&self, index: u32, reason: &dyn std::fmt::Display) -> FrameError {
        FrameError::Bad {
            blob: *self.id(index).digest(),
            reason: reason.to_string(),
        }
    }
}

fn base_size(file: &File) -> Result<u64, FsError> {
    Ok(file
        .metadata()
        .map_err(|error| FsError::new("look at", "a blob", error))?
        .len())
}
