//! Patches by prefix, in windows, so that no file is too large for the memory.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::compress;
use crate::fs::FsError;

use super::PatchError;

/// Bytes of the new blob in one window.
pub const WINDOW: u64 = 8 * 1024 * 1024;

/// Bytes of the base that a window sees.
pub const BASE_WINDOW: u64 = 16 * 1024 * 1024;

/// Which bytes a patch makes, and of which bytes of the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Bytes of the new blob.
    pub target: Range<u64>,
    /// Bytes of the base.
    pub base: Range<u64>,
}

/// Returns how many windows a blob of `size` bytes has.
#[must_use]
pub const fn windows(size: u64) -> u64 {
    size.div_ceil(WINDOW)
}

/// Returns window `index` of a blob of `new` bytes over a base of `old` bytes: both sides compute it. The part of the
/// base lies where the window lies in proportion.
pub fn window(new: u64, old: u64, index: u32) -> Window {
    let start = u64::from(index).saturating_mul(WINDOW).min(new);
    let end = start.saturating_add(WINDOW).min(new);
    if old <= BASE_WINDOW {
        return Window {
            target: start..end,
            base: 0..old,
        };
    }
    let middle = u128::from(start + (end - start) / 2) * u128::from(old) / u128::from(new.max(1));
    let first = u64::try_from(middle)
        .unwrap_or(old)
        .saturating_sub(BASE_WINDOW / 2)
        .min(old - BASE_WINDOW);
    Window {
        target: start..end,
        base: first..first + BASE_WINDOW,
    }
}

fn read(file: &File, range: &Range<u64>) -> Result<Vec<u8>, FsError> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)
        .map_err(|error| FsError::new("read", "a base", error))?;
    Ok(bytes)
}

/// Makes the frame of a window.
pub fn make_window(new: &File, base: &File, window: &Window, level: i32) -> Result<Vec<u8>, PatchError> {
    let (raw, prefix) = (read(new, &window.target)?, read(base, &window.base)?);
    Ok(compress::compress_with_prefix(&raw, &prefix, level)?)
}

/// Returns the bytes that a window's frame makes.
pub fn apply_window(frame: &[u8], base: &File, window: &Window) -> Result<Vec<u8>, PatchError> {
    let prefix = read(base, &window.base)?;
    let len = (window.target.end - window.target.start) as usize;
    Ok(compress::decompress_with_prefix(frame, &prefix, len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    proptest! {
        #[test]
        fn windows_cover_the_new_blob_once_and_see_only_what_the_base_has(new in 1u64..200_000_000, old in 0u64..200_000_000) {
            let mut next = 0;
            for index in 0..windows(new) {
                let window = window(new, old, index as u32);
                prop_assert_eq!(window.target.start, next);
                prop_assert!(window.target.end - window.target.start <= WINDOW);
                prop_assert!(window.base.start <= window.base.end && window.base.end <= old);
                prop_assert!(window.base.end - window.base.start <= BASE_WINDOW);
                next = window.target.end;
            }
            prop_assert_eq!(next, new);
            let beyond = window(new, old, u32::MAX);
            prop_assert!(beyond.target.start <= beyond.target.end && beyond.target.end <= new);
        }
    }

    #[test]
    fn a_window_makes_the_new_of_the_old_and_of_nothing_else() {
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let old: Vec<u8> = (0..18_000_000).map(|_| noise()).collect();
        let mut new = old.clone();
        new.splice(1000..1000, b"inserted".iter().copied());
        let (old_file, new_file) = (file(&old), file(&new));
        let (mut made, mut bytes) = (0, Vec::new());
        for index in 0..windows(new.len() as u64) {
            let window = window(new.len() as u64, old.len() as u64, index as u32);
            let frame = make_window(&new_file, &old_file, &window, 3).unwrap();
            made += frame.len();
            let out = apply_window(&frame, &old_file, &window).unwrap();
            bytes.extend(out);
            assert!(apply_window(&frame[..frame.len() - 1], &old_file, &window).is_err());
        }
        assert!(bytes == new);
        assert!(made < 40_000, "{made} bytes for eight new ones");
    }
}
