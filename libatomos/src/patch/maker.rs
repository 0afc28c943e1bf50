//! Making the patches of a release, on all processors, in an order that depends on the blobs alone.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::cancel::Cancel;
use crate::compress::Compressor;
use crate::digest::BlobId;
use crate::fs::FsError;
use crate::parallel::Budget;

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
    /// The old blob, and its bytes, if there is one that is worth a try.
    pub base: Option<(BlobId, u64)>,
    /// Bytes that the new blob takes in a pack: a patch has to be smaller.
    pub plain_len: u64,
    /// Whether it is to go along as it is where no patch is worth it. Whoever gets the patches then gets it with them, and needs
    /// no range of a pack for it.
    pub along: bool,
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
    /// Some jobs are done with, whatever came of them.
    Done {
        /// The jobs' numbers.
        jobs: Vec<usize>,
    },
}

/// A stream in a group.
#[derive(Debug, Clone, Copy)]
pub struct MadeTarget {
    /// The job's number.
    pub job: usize,
    /// Bytes of the stream.
    pub stream_len: u64,
    /// Whether the stream is the blob as it is, and needs no base.
    pub plain: bool,
}

/// Something to be made: found to be worth it, or not.
enum Made {
    Nothing,
    Windows(Vec<Vec<u8>>),
    Stream(Vec<u8>),
    Plain(Vec<u8>),
}

/// Larger blobs do not go along: a range of their own costs little beside what they have.
const MAX_ALONG: u64 = 1024 * 1024;

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
/// A thread takes some jobs that lie together, whose streams become one group, so that compressing groups, which is much of the
/// work, is shared like the rest. Memory, for each thread: a group's streams; and over all threads 260 MB for groups that are being
/// compressed and for large blobs: a window and its base (24 MiB) with zstd's tables, or two blobs of at most 16 MiB with bsdiff's
/// suffix array (8 bytes for each byte of the base).
pub fn make(
    jobs: &[Job],
    making: &dyn Making,
    options: &MakerOptions,
    cancel: &Cancel,
    sink: &mut dyn FnMut(MadeFrame) -> Result<(), PatchError>,
) -> Result<(), PatchError> {
    let batches = batches(jobs);
    let memory = Budget::new(MEMORY);
    crate::parallel::in_order(
        batches.len(),
        options.threads,
        options.threads * 4,
        |index| {
            let mut batch = Batch::default();
            for &job in &batches[index] {
                cancel.check()?;
                let _share = memory.take(weight(&jobs[job], options));
                batch.add(job, make_one(&jobs[job], making, options)?, options.level)?;
            }
            let _share = memory.take(batch.weight(options));
            batch.flush(options.level)?;
            Ok::<_, PatchError>(batch.frames)
        },
        |index, frames| {
            frames.into_iter().try_for_each(&mut *sink)?;
            sink(MadeFrame::Done {
                jobs: batches[index].clone(),
            })
        },
    )
}

/// Bytes that patches of large blobs, and groups of streams that are being compressed, may take at once, over all threads.
const MEMORY: u64 = 260_000_000;

/// The levels above this one have large tables.
const MODEST: i32 = 12;

/// Blobs up to this size go into batches together.
const LARGE: u64 = 2 * 1024 * 1024;

/// Returns about how many bytes a job takes: little at a modest level, where it is small.
fn weight(job: &Job, options: &MakerOptions) -> u64 {
    let base = job.base.map_or(0, |(_, len)| len);
    if job.size.max(base) <= LARGE {
        return if options.level > MODEST { 60_000_000 } else { 0 };
    }
    // A window, its base, the frame, and zstd's tables, which the highest levels have large.
    let windows = if options.level > MODEST {
        130_000_000
    } else {
        60_000_000
    };
    match options.bsdiff && job.size <= MAX_BSDIFF && base <= MAX_BSDIFF {
        // First the base with its suffix array, the blob, and the stream; when those are gone, windows.
        true => windows.max(9 * base + 2 * job.size),
        false => windows,
    }
}

/// Cuts the jobs into batches. Large ones come first, each by itself and the largest before all others, so that no thread is left with
/// one at the end; then those that lie together, as many as have streams for about a group. A stream is about as long as what it makes.
fn batches(jobs: &[Job]) -> Vec<Vec<usize>> {
    let (mut large, small): (Vec<usize>, Vec<usize>) =
        (0..jobs.len()).partition(|index| jobs[*index].size > LARGE);
    large.sort_by_key(|index| (std::cmp::Reverse(jobs[*index].size), *index));
    let mut batches: Vec<Vec<usize>> = large.into_iter().map(|index| vec![index]).collect();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for index in small {
        bytes += jobs[index].size;
        batch.push(index);
        if bytes >= GROUP {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// What a thread makes of a batch.
#[derive(Default)]
struct Batch {
    frames: Vec<MadeFrame>,
    streams: Group,
    /// By themselves: they are of use to those, too, who have no bases.
    plain: Group,
}

impl Batch {
    fn add(&mut self, job: usize, made: Made, level: i32) -> Result<(), PatchError> {
        match made {
            Made::Nothing => Ok(()),
            Made::Windows(frames) => {
                self.frames.push(MadeFrame::Windows { job, frames });
                Ok(())
            }
            Made::Stream(stream) => self.streams.add(job, &stream, false, level, &mut self.frames),
            Made::Plain(bytes) => self.plain.add(job, &bytes, true, level, &mut self.frames),
        }
    }

    fn flush(&mut self, level: i32) -> Result<(), PatchError> {
        self.streams.flush(level, &mut self.frames)?;
        self.plain.flush(level, &mut self.frames)
    }

    /// Returns about how many bytes it takes to compress what is there: a frame that is no larger, and zstd's tables, which are made
    /// for what is compressed.
    fn weight(&self, options: &MakerOptions) -> u64 {
        let len = self.streams.raw.len().max(self.plain.raw.len()) as u64;
        let tables = match (options.level > MODEST, len > GROUP) {
            (true, true) => 100_000_000,
            (true, false) => 85_000_000,
            (false, _) => 16_000_000,
        };
        if len == 0 { 0 } else { 2 * len + tables }
    }
}

/// Streams that will be one frame.
#[derive(Default)]
struct Group {
    raw: Vec<u8>,
    targets: Vec<MadeTarget>,
}

impl Group {
    fn add(
        &mut self,
        job: usize,
        stream: &[u8],
        plain: bool,
        level: i32,
        frames: &mut Vec<MadeFrame>,
    ) -> Result<(), PatchError> {
        if self.raw.len() + stream.len() > MAX_STREAM {
            self.flush(level, frames)?;
        }
        self.targets.push(MadeTarget {
            job,
            stream_len: stream.len() as u64,
            plain,
        });
        self.raw.extend_from_slice(stream);
        Ok(())
    }

    /// Makes a frame of the streams so far.
    fn flush(&mut self, level: i32, frames: &mut Vec<MadeFrame>) -> Result<(), PatchError> {
        if self.targets.is_empty() {
            return Ok(());
        }
        let frame = Compressor::new(level).compress(&self.raw)?;
        self.raw.clear();
        frames.push(MadeFrame::Group {
            frame,
            targets: std::mem::take(&mut self.targets),
        });
        Ok(())
    }
}

fn make_one(job: &Job, making: &dyn Making, options: &MakerOptions) -> Result<Made, PatchError> {
    let new = making.open(&job.blob)?;
    if let Some((base, base_len)) = &job.base {
        let patch = make_patch(job, &new, (&making.open(base)?, *base_len), options)?;
        if !matches!(patch, Made::Nothing) {
            return Ok(patch);
        }
    }
    Ok(if job.along && job.size <= MAX_ALONG {
        Made::Plain(read(&new, job.size)?)
    } else {
        Made::Nothing
    })
}

fn make_patch(
    job: &Job,
    new: &File,
    (base, base_len): (&File, u64),
    options: &MakerOptions,
) -> Result<Made, PatchError> {
    let small = job.size <= MAX_BSDIFF && base_len <= MAX_BSDIFF;
    if options.bsdiff && small && !is_compressed(new)? {
        let stream = make_stream(&read(base, base_len)?, &read(new, job.size)?)?;
        if stream.len() <= MAX_STREAM {
            // A quick look at what the stream will take; in a group it takes less.
            let stream_len = Compressor::new(ESTIMATE_LEVEL).compress(&stream)?.len() as u64;
            let windows = all_windows(job, new, (base, base_len), ESTIMATE_LEVEL)?;
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
    let frames = all_windows(job, new, (base, base_len), options.level)?;
    let len: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
    Ok(if len + WORTH < job.plain_len {
        Made::Windows(frames)
    } else {
        Made::Nothing
    })
}

/// The level at which streams and windows are compared: fast, and in the same order as at the highest.
const ESTIMATE_LEVEL: i32 = 6;

fn all_windows(
    job: &Job,
    new: &File,
    (base, base_len): (&File, u64),
    level: i32,
) -> Result<Vec<Vec<u8>>, PatchError> {
    (0..windows(job.size))
        .map(|index| make_window(new, base, &window(job.size, base_len, index as u32), level))
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
