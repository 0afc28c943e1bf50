//! Single zstd frames in memory, with or without a prefix that both sides have.
//!
//! A frame carries its content's size and no checksum: whatever is in one is verified by a digest. A decoder is told
//! how many bytes to expect, and gets exactly those or an error, so a frame cannot claim memory that was not signed for.
//! The format is RFC 8878; a prefix is what the `zstd` program calls `--patch-from`.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

/// Why bytes are not the frame that was expected, or cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// The library refused.
    #[error("zstd: {0}")]
    Zstd(&'static str),
    /// The frame holds another number of bytes than was signed.
    #[error("a frame was to hold {expected} bytes, and holds {found}")]
    Size {
        /// What was signed.
        expected: usize,
        /// What it holds.
        found: usize,
    },
}

fn zstd_error(code: usize) -> CompressError {
    CompressError::Zstd(zstd_safe::get_error_name(code))
}

/// The largest window that a frame may ask for: 128 MiB.
const MAX_WINDOW_LOG: u32 = 27;

/// The smallest that zstd has.
const MIN_WINDOW_LOG: u32 = 10;

/// The most bytes that a block of a frame makes, and the fewest that it takes.
const MAX_BLOCK: u64 = 128 * 1024;
const MIN_BLOCK: u64 = 4;

/// A reusable compressor.
pub struct Compressor {
    context: CCtx<'static>,
    level: i32,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Compressor {
    /// Makes one for `level`, 1 to 22.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self {
            context: CCtx::create(),
            level,
        }
    }

    /// Compresses `raw` into one frame.
    pub fn compress(&mut self, raw: &[u8]) -> Result<Vec<u8>, CompressError> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
        self.context
            .reset(zstd_safe::ResetDirective::SessionAndParameters)
            .and_then(|_| {
                self.context
                    .set_parameter(CParameter::CompressionLevel(self.level))
            })
            .and_then(|_| self.context.compress2(&mut out, raw))
            .map_err(zstd_error)?;
        out.shrink_to_fit();
        Ok(out)
    }
}

/// Compresses `raw` into one frame that can be read by whoever has `prefix`.
pub fn compress_with_prefix(raw: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>, CompressError> {
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    // The whole prefix must stay in reach from the last byte.
    let reach = (raw.len() + prefix.len()).max(1);
    let window = (usize::BITS - reach.leading_zeros()).clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG);
    let mut context = CCtx::create();
    context
        .set_parameter(CParameter::CompressionLevel(level))
        .and_then(|_| context.set_parameter(CParameter::WindowLog(window)))
        .and_then(|_| context.set_parameter(CParameter::EnableLongDistanceMatching(true)))
        .and_then(|_| context.ref_prefix(prefix))
        .and_then(|_| context.compress2(&mut out, raw))
        .map_err(zstd_error)?;
    out.shrink_to_fit();
    Ok(out)
}

/// A reusable decompressor.
pub struct Decompressor(DCtx<'static>);

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        Self(DCtx::create())
    }
}

impl Decompressor {
    /// Replaces the contents of `out` by those of `frame`, which must be `len` bytes.
    pub fn decompress_into(
        &mut self,
        frame: &[u8],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressError> {
        out.clear();
        check_frame(frame, len)?;
        out.reserve_exact(len);
        let found = self.0.decompress(out, frame).map_err(zstd_error)?;
        exactly(found, len)
    }
}

/// Returns the contents of `frame`, which must be `len` bytes.
pub fn decompress(frame: &[u8], len: usize) -> Result<Vec<u8>, CompressError> {
    let mut out = Vec::new();
    Decompressor::default().decompress_into(frame, len, &mut out)?;
    Ok(out)
}

/// Returns the contents of a frame that was made with `prefix`, which must be `len` bytes.
pub fn decompress_with_prefix(frame: &[u8], prefix: &[u8], len: usize) -> Result<Vec<u8>, CompressError> {
    check_frame(frame, len)?;
    let mut out = Vec::with_capacity(len);
    let mut context = DCtx::create();
    context.ref_prefix(prefix).map_err(zstd_error)?;
    let found = context.decompress(&mut out, frame).map_err(zstd_error)?;
    exactly(found, len)?;
    Ok(out)
}

/// One frame and nothing after it, which says the size that was signed.
fn check_frame(frame: &[u8], len: usize) -> Result<(), CompressError> {
    if zstd_safe::find_frame_compressed_size(frame).map_err(zstd_error)? != frame.len() {
        return Err(CompressError::Zstd("bytes follow the frame"));
    }
    match zstd_safe::get_frame_content_size(frame) {
        // So that a few bytes cannot ask for much memory.
        Ok(Some(found)) if found / MAX_BLOCK > frame.len() as u64 / MIN_BLOCK => {
            Err(CompressError::Zstd("the frame is too short for what it says"))
        }
        Ok(Some(found)) if found == len as u64 => Ok(()),
        Ok(Some(found)) => Err(CompressError::Size {
            expected: len,
            found: usize::try_from(found).unwrap_or(usize::MAX),
        }),
        _ => Err(CompressError::Zstd("the frame does not say its size")),
    }
}

fn exactly(found: usize, expected: usize) -> Result<(), CompressError> {
    if found == expected {
        Ok(())
    } else {
        Err(CompressError::Size { expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_bytes_cannot_ask_for_much_memory() {
        // A frame's header that says 512 MiB, and one last block of nothing.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
        frame.extend_from_slice(&(512u32 << 20).to_le_bytes());
        frame.extend_from_slice(&[1, 0, 0]);
        for result in [
            decompress(&frame, 512 << 20),
            decompress_with_prefix(&frame, b"prefix", 512 << 20),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("too short"), "{error}");
        }
    }

    #[test]
    fn what_compresses_best_is_still_read() {
        for len in [0, 1, 1000, 128 * 1024, 128 * 1024 + 1, 3_000_000, 20_000_000] {
            for level in [1, 19] {
                let raw = vec![7; len];
                let frame = Compressor::new(level).compress(&raw).unwrap();
                assert!(
                    decompress(&frame, len).unwrap() == raw,
                    "{len} bytes at level {level}"
                );
                let frame = compress_with_prefix(&raw, &raw, level).unwrap();
                assert!(
                    decompress_with_prefix(&frame, &raw, len).unwrap() == raw,
                    "{len} bytes at level {level}"
                );
            }
        }
    }
}
