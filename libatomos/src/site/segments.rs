//! How blobs are cut into frames. Both sides compute this from sizes, so that only lengths are sent.

use std::ops::Range;

use super::BlobList;
use super::limits::{GROUP, SEGMENT, WHOLE_BLOB};

/// What one frame of a pack or an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Whole blobs, one after another, by their indices. In a pack it is one.
    Blobs(Range<u32>),
    /// A part of a large blob.
    Segment {
        /// The blob.
        blob: u32,
        /// Which of its bytes.
        bytes: Range<u64>,
    },
}

impl Frame {
    /// Returns how many bytes the frame holds.
    #[must_use]
    pub fn raw_len(&self, blobs: &BlobList) -> u64 {
        match self {
            Self::Blobs(range) => range.clone().map(|index| blobs.size(index)).sum(),
            Self::Segment { bytes, .. } => bytes.end - bytes.start,
        }
    }

    /// Returns the blobs that the frame holds, or holds a part of.
    #[must_use]
    pub fn blobs(&self) -> Range<u32> {
        match self {
            Self::Blobs(range) => range.clone(),
            Self::Segment { blob, .. } => *blob..*blob + 1,
        }
    }
}

/// Returns the frames that a blob of `size` bytes takes in a pack: one, or its segments.
pub fn blob_frames(index: u32, size: u64) -> impl Iterator<Item = Frame> {
    let segments = if size > WHOLE_BLOB {
        size.div_ceil(SEGMENT)
    } else {
        1
    };
    (0..segments).map(move |segment| {
        if segments == 1 {
            return Frame::Blobs(index..index + 1);
        }
        let start = segment * SEGMENT;
        Frame::Segment {
            blob: index,
            bytes: start..start.saturating_add(SEGMENT).min(size),
        }
    })
}

/// Returns the frames of the image of a tree.
#[must_use]
pub fn image_frames(blobs: &BlobList) -> Vec<Frame> {
    let mut frames = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    let close = |range: Range<u32>, frames: &mut Vec<Frame>| {
        if !range.is_empty() {
            frames.push(Frame::Blobs(range));
        }
    };
    for index in 0..blobs.len() {
        let size = blobs.size(index);
        if size > WHOLE_BLOB {
            close(first..index, &mut frames);
            frames.extend(blob_frames(index, size));
            (first, bytes) = (index + 1, 0);
            continue;
        }
        bytes += size;
        if bytes >= GROUP {
            close(first..index + 1, &mut frames);
            (first, bytes) = (index + 1, 0);
        }
    }
    close(first..blobs.len(), &mut frames);
    frames
}
