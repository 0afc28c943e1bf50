//! Patches by bsdiff, as streams that zstd compresses well.
//!
//! A stream is the number of steps (u32), then the steps, then the differences of all, then the new bytes of all. A step is
//! three numbers: so many bytes are the base's plus differences (u32), so many are new (u32), and then the position in the
//! base moves by so many (i32). Steps, differences and new bytes lie apart because each compresses best among its like.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::format::Cursor;
use crate::fs::FsError;

use super::PatchError;

/// The most bytes that a base, or a blob made of it, may have.
pub const MAX_BSDIFF: u64 = 16 * 1024 * 1024;

/// Bytes of a step in a stream.
const STEP: usize = 12;

/// Makes the stream that turns `old` into `new`; both at most [`MAX_BSDIFF`].
pub fn make_stream(old: &[u8], new: &[u8]) -> Result<Vec<u8>, PatchError> {
    let mut raw = Vec::new();
    ::bsdiff::diff(old, new, &mut raw).map_err(|error| FsError::new("compare", "two blobs", error))?;
    // The crate's form: steps of three 64-bit numbers (sign and magnitude), each followed by its bytes.
    let (mut steps, mut differences, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    let mut cursor = Cursor::new(&raw);
    let mut count = 0u32;
    let wrong = |_| PatchError::Damaged("its maker made no steps");
    while cursor.remaining() > 0 {
        let mut number = || cursor.u64("a step").map(sign_and_magnitude).map_err(wrong);
        let (add, copy, seek) = (number()?, number()?, number()?);
        let fits = (u32::try_from(add), u32::try_from(copy), i32::try_from(seek));
        let (Ok(add), Ok(copy), Ok(seek)) = fits else {
            return Err(PatchError::Damaged("a step is too large"));
        };
        steps.extend_from_slice(&add.to_le_bytes());
        steps.extend_from_slice(&copy.to_le_bytes());
        steps.extend_from_slice(&seek.to_le_bytes());
        differences.extend_from_slice(cursor.bytes(add as usize, "differences").map_err(wrong)?);
        fresh.extend_from_slice(cursor.bytes(copy as usize, "new bytes").map_err(wrong)?);
        count += 1;
    }
    let mut out = Vec::with_capacity(4 + steps.len() + differences.len() + fresh.len());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&steps);
    out.extend_from_slice(&differences);
    out.extend_from_slice(&fresh);
    Ok(out)
}

fn sign_and_magnitude(bits: u64) -> i64 {
    let magnitude = (bits & !(1 << 63)) as i64;
    if bits >> 63 == 1 { -magnitude } else { magnitude }
}

/// Returns the `size` bytes that a stream makes of `base`. Nothing of the stream is believed.
pub fn apply_stream(stream: &[u8], base: &File, size: u64) -> Result<Vec<u8>, PatchError> {
    let len = base
        .metadata()
        .map_err(|error| FsError::new("look at", "a base", error))?
        .len();
    if len > MAX_BSDIFF || size > MAX_BSDIFF {
        return Err(PatchError::Damaged("it is for smaller files"));
    }
    let mut old = vec![0; len as usize];
    base.read_exact_at(&mut old, 0)
        .map_err(|error| FsError::new("read", "a base", error))?;
    apply(stream, &old, size as usize)
}

fn apply(stream: &[u8], old: &[u8], size: usize) -> Result<Vec<u8>, PatchError> {
    let short = |_| PatchError::Damaged("it ends early");
    let mut cursor = Cursor::new(stream);
    let count = cursor.u32("the number of steps").map_err(short)? as usize;
    let table = count
        .checked_mul(STEP)
        .ok_or(PatchError::Damaged("it has too many steps"))?;
    let mut steps = Cursor::new(cursor.bytes(table, "the steps").map_err(short)?);
    let mut walk = steps.clone();
    let mut total = 0usize;
    for _ in 0..count {
        let add = walk.u32("a step").map_err(short)?;
        walk.bytes(8, "a step").map_err(short)?;
        total = total.saturating_add(add as usize);
    }
    let mut differences = Cursor::new(cursor.bytes(total, "the differences").map_err(short)?);
    let mut out = Vec::with_capacity(size);
    let mut position = 0i64;
    for _ in 0..count {
        let add = steps.u32("a step").map_err(short)? as usize;
        let copy = steps.u32("a step").map_err(short)? as usize;
        let seek = steps.u32("a step").map_err(short)? as i32;
        if out.len() + add + copy > size {
            return Err(PatchError::Damaged("it makes more than the blob has"));
        }
        let from = usize::try_from(position)
            .ok()
            .and_then(|start| old.get(start..start.checked_add(add)?))
            .ok_or(PatchError::Damaged("it reads beyond its base"))?;
        let difference = differences.bytes(add, "differences").map_err(short)?;
        out.extend(
            from.iter()
                .zip(difference)
                .map(|(old, difference)| old.wrapping_add(*difference)),
        );
        out.extend_from_slice(cursor.bytes(copy, "new bytes").map_err(short)?);
        position += add as i64 + i64::from(seek);
    }
    if out.len() != size || cursor.remaining() != 0 {
        return Err(PatchError::Damaged("it makes another number of bytes"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blob() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..2000),
            (prop::collection::vec(any::<u8>(), 1..40), 0usize..60)
                .prop_map(|(part, times)| part.repeat(times)),
        ]
    }

    proptest! {
        #[test]
        fn a_stream_makes_the_new_of_the_old(old in blob(), new in blob(), shift in 0usize..100) {
            let mut moved = vec![7; shift];
            moved.extend_from_slice(&old);
            moved.extend_from_slice(&new);
            for target in [&new, &moved] {
                let stream = make_stream(&old, target).unwrap();
                prop_assert_eq!(&apply(&stream, &old, target.len()).unwrap(), target);
                // Another base, or another size, is an error or another result, and never more than was asked for.
                if let Ok(other) = apply(&stream, &new, target.len()) {
                    prop_assert_eq!(other.len(), target.len());
                }
                prop_assert!(apply(&stream, &old, target.len() + 1).is_err());
            }
        }

        #[test]
        fn no_stream_panics(stream in prop::collection::vec(any::<u8>(), 0..200), flips in prop::collection::vec((0usize..4000, any::<u8>()), 1..5)) {
            let old: Vec<u8> = (0..1000u32).map(|n| (n * 7) as u8).collect();
            let _ = apply(&stream, &old, 500);
            let mut good = make_stream(&old, &old[100..900]).unwrap();
            for (at, value) in flips {
                let at = at % good.len();
                good[at] = value;
            }
            if let Ok(out) = apply(&good, &old, 800) {
                prop_assert_eq!(out.len(), 800);
            }
        }
    }
}
