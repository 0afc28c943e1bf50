//! Making the patches of a release, on all processors, in the order of the blobs.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cancel::Cancel;
use crate::compress::Compressor;
use crate::digest::BlobId;
use crate::fs::FsError;

use super::PatchError;
use super::bsdiff::{MAX_BSDIFF, make_stream};
use super::window::{make_window, window, windows};

/// How to make patches.
#[derive(Debug, Clone)]
pub struct MakerOptions {
    /// zstd's level.
    pub level: i32,
    /// Whether to try bsdiff, too.
    pub bsdiff: bool,
    /// Threads.
    pub threads: usize,
}

/// A blob to be made of another.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// The new blob's index.
    pub target: u32,
    /// The new blob.
    pub blob: BlobId,
    /// Its bytes.
    pub size: u64,
    /// The old blob, and its bytes.
    pub base: (BlobId, u64),
    /// Bytes that the new blob takes in a pack: a patch has to be smaller.
    pub plain_len: u64,
}

/// A frame of a patch file.
#[derive(Debug)]
pub enum MadeFrame {
    /// Windows of one blob.
    Windows {
        /// The job's number.
        job: usize,
        /// One frame for each window.
        frames: Vec<Vec<u8>>,
    },
    /// Streams of several.
    Group {
        /// The frame.
        frame: Vec<u8>,
        /// What it holds.
        targets: Vec<MadeTarget>,
    },
}

/// A stream in a group.
#[derive(Debug, Clone, Copy)]
pub struct MadeTarget {
    /// The job's number.
    pub job: usize,
    /// Bytes of the stream.
    pub stream_len: u64,
}

/// Something to be made: found to be worth it, or not.
enum Made {
    Nothing,
    Windows(Vec<Vec<u8>>),
    Stream(Vec<u8>),
}

/// Bytes of streams that make a group.
const GROUP: u64 = 4 * 1024 * 1024;

/// A stream of more is not put into memory with others. Together with a frame's cap this bounds a group.
const MAX_STREAM: usize = 12 * 1024 * 1024;

/// What a patch must save to be worth its place in the index.
const WORTH: u64 = 64;

/// Opens blobs.
pub trait Making: Sync {
    /// Opens a blob.
    fn open(&self, blob: &BlobId) -> Result<File, PatchError>;
}

/// Makes what is worth making of `jobs`, and gives the frames to `sink` in order.
///
/// Memory, for each thread: a window and its base (24 MiB) with zstd's tables, or two blobs of at most 16 MiB with bsdiff's
/// suffix array (8 bytes for each byte of the base); groups of streams besides.
pub fn make(
    jobs: &[Job],
    making: &dyn Making,
    options: &MakerOptions,
    cancel: &Cancel,
    sink: &mut dyn FnMut(MadeFrame) -> Result<(), PatchError>,
) -> Result<(), PatchError> {
    let mut group = Group::default();
    let large = std::sync::Mutex::new(());
    crate::parallel::in_order(
        jobs.len(),
        options.threads,
        options.threads * 4,
        |index| {
            cancel.check()?;
            let job = &jobs[index];
            // One large blob at a time.
            let _one = (job.size.max(job.base.1) > 2 * 1024 * 1024)
                .then(|| large.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            make_one(job, making, options)
        },
        |index, made| match made {
            Made::Nothing => Ok(()),
            Made::Windows(frames) => sink(MadeFrame::Windows { job: index, frames }),
            Made::Stream(stream) => {
                if group.raw.len() + stream.len() > MAX_STREAM {
                    group.flush(options.level, sink)?;
                }
                group.targets.push(MadeTarget {
                    job: index,
                    stream_len: stream.len() as u64,
                });
                group.raw.extend_from_slice(&stream);
                if group.raw.len() as u64 >= GROUP {
                    group.flush(options.level, sink)?;
                }
                Ok(())
            }
        },
    )?;
    group.flush(options.level, sink)
}

#[derive(Default)]
struct Group {
    raw: Vec<u8>,
    targets: Vec<MadeTarget>,
}

impl Group {
    fn flush(
        &mut self,
        level: i32,
        sink: &mut dyn FnMut(MadeFrame) -> Result<(), PatchError>,
    ) -> Result<(), PatchError> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let frame = Compressor::new(level).compress(&self.raw)?;
        self.raw.clear();
        sink(MadeFrame::Group {
            frame,
            targets: std::mem::take(&mut self.targets),
        })
    }
}

fn make_one(job: &Job, making: &dyn Making, options: &MakerOptions) -> Result<Made, PatchError> {
    let (new, base) = (making.open(&job.blob)?, making.open(&job.base.0)?);
    let small = job.size <= MAX_BSDIFF && job.base.1 <= MAX_BSDIFF;
    if options.bsdiff && small && !is_compressed(&new)? {
        let stream = make_stream(&read(&base, job.base.1)?, &read(&new, job.size)?)?;
        if stream.len() <= MAX_STREAM {
            // A quick look at what the stream will take; in a group it takes less.
            let stream_len = Compressor::new(ESTIMATE_LEVEL).compress(&stream)?.len() as u64;
            let windows = all_windows(job, &new, &base, ESTIMATE_LEVEL)?;
            let windows_len: u64 = windows.iter().map(|frame| frame.len() as u64).sum();
            if stream_len <= windows_len {
                return Ok(if stream_len + WORTH < job.plain_len {
                    Made::Stream(stream)
                } else {
                    Made::Nothing
                });
            }
        }
    }
    let frames = all_windows(job, &new, &base, options.level)?;
    let len: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
    Ok(if len + WORTH < job.plain_len {
        Made::Windows(frames)
    } else {
        Made::Nothing
    })
}

/// The level at which streams and windows are compared: fast, and in the same order as at the highest.
const ESTIMATE_LEVEL: i32 = 6;

fn all_windows(job: &Job, new: &File, base: &File, level: i32) -> Result<Vec<Vec<u8>>, PatchError> {
    (0..windows(job.size))
        .map(|index| make_window(new, base, &window(job.size, job.base.1, index as u32), level))
        .collect()
}

fn read(file: &File, size: u64) -> Result<Vec<u8>, FsError> {
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| FsError::new("read", "a blob", error))?;
    Ok(bytes)
}

/// Whether a file says that it is compressed: bsdiff would take long and find nothing.
fn is_compressed(file: &File) -> Result<bool, FsError> {
    let mut magic = [0; 6];
    let len = file
        .read_at(&mut magic, 0)
        .map_err(|error| FsError::new("read", "a blob", error))?;
    let starts = |with: &[u8]| magic[..len].starts_with(with);
    Ok(starts(b"\xfd7zXZ\0") || starts(b"\x1f\x8b") || starts(b"\x28\xb5\x2f\xfd") || starts(b"BZh"))
}
