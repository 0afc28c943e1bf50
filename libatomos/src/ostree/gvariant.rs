//! As much of GVariant's serialisation as OSTree's objects need, bounds-checked.
//!
//! A container has no length of its own: it ends where its parent says. Members whose size is not fixed have their ends in offsets after
//! the last member, as wide as the container's size asks for. (<https://docs.gtk.org/glib/gvariant-format.html>)

/// Why bytes are not what they are read as.
pub(super) type Malformed = &'static str;

const CUT: Malformed = "it is cut, or an offset leads out of it";
const TEXT: Malformed = "a text in it has no end, or more than one";

/// A member of a tuple.
#[derive(Debug, Clone, Copy)]
pub(super) enum Member {
    /// Of so many bytes, aligned to as many.
    Fixed(usize),
    /// Of any number, aligned to this one.
    Variable(usize),
}

const fn offset_size(len: usize) -> usize {
    match len {
        0 => 0,
        1..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

fn align(at: usize, alignment: usize) -> Result<usize, Malformed> {
    at.checked_next_multiple_of(alignment).ok_or(CUT)
}

/// Reads the offset at `at`, `size` bytes wide.
fn offset(bytes: &[u8], at: usize, size: usize) -> Result<usize, Malformed> {
    let field = at
        .checked_add(size)
        .and_then(|end| bytes.get(at..end))
        .ok_or(CUT)?;
    let mut wide = [0; 8];
    wide[..size].copy_from_slice(field);
    usize::try_from(u64::from_le_bytes(wide)).map_err(|_| CUT)
}

/// Returns the bytes from `start` to `end`; what was left out for alignment must be zeros.
fn piece(bytes: &[u8], last: usize, start: usize, end: usize) -> Result<&[u8], Malformed> {
    let skipped = bytes.get(last..start).ok_or(CUT)?;
    if skipped.iter().any(|byte| *byte != 0) {
        return Err("what is between its members is not zeros");
    }
    bytes.get(start..end).ok_or(CUT)
}

/// Takes a tuple apart whose last member is of variable size.
pub(super) fn tuple<const N: usize>(bytes: &[u8], members: [Member; N]) -> Result<[&[u8]; N], Malformed> {
    let size = offset_size(bytes.len());
    let variable = members
        .iter()
        .filter(|member| matches!(member, Member::Variable(_)))
        .count();
    let frames = variable.saturating_sub(1) * size;
    let body = bytes.len().checked_sub(frames).ok_or(CUT)?;
    let mut found = [&bytes[..0]; N];
    let (mut at, mut frame) = (0, 0);
    for (index, member) in members.iter().enumerate() {
        let (start, end) = match *member {
            Member::Fixed(len) => {
                let start = align(at, len)?;
                (start, start.checked_add(len).ok_or(CUT)?)
            }
            Member::Variable(alignment) if index + 1 == N => (align(at, alignment)?, body),
            Member::Variable(alignment) => {
                frame += 1;
                let end = offset(bytes, bytes.len().checked_sub(frame * size).ok_or(CUT)?, size)?;
                (align(at, alignment)?, end)
            }
        };
        if end > body {
            return Err(CUT);
        }
        found[index] = piece(bytes, at, start, end)?;
        at = end;
    }
    if at != body {
        return Err(CUT);
    }
    Ok(found)
}

/// Takes an array apart whose elements are of variable size.
pub(super) fn array(bytes: &[u8], alignment: usize) -> Result<Vec<&[u8]>, Malformed> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let size = offset_size(bytes.len());
    let last = bytes.len().checked_sub(size).ok_or(CUT)?;
    let body = offset(bytes, last, size)?;
    let frames = bytes.len().checked_sub(body).ok_or(CUT)?;
    if frames == 0 || !frames.is_multiple_of(size) {
        return Err(CUT);
    }
    let mut found = Vec::with_capacity(frames / size);
    let mut at = 0;
    for frame in (body..bytes.len()).step_by(size) {
        let end = offset(bytes, frame, size)?;
        if end > body {
            return Err(CUT);
        }
        found.push(piece(bytes, at, align(at, alignment)?, end)?);
        at = end;
    }
    Ok(found)
}

/// Takes a variant apart: its type, and its bytes.
pub(super) fn variant(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().rposition(|byte| *byte == 0).ok_or(CUT)?;
    Ok((&bytes[end + 1..], &bytes[..end]))
}

/// Reads a text, which ends with its only NUL.
pub(super) fn text(bytes: &[u8]) -> Result<&[u8], Malformed> {
    match bytes.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(TEXT),
    }
}

/// Reads a number of 4 bytes, the highest first, as OSTree writes them.
pub(super) fn u32_be(bytes: &[u8]) -> Result<u32, Malformed> {
    let bytes = bytes.try_into().map_err(|_| CUT)?;
    Ok(u32::from_be_bytes(bytes))
}

/// Reads a number of 8 bytes, the highest first.
pub(super) fn u64_be(bytes: &[u8]) -> Result<u64, Malformed> {
    let bytes = bytes.try_into().map_err(|_| CUT)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Appends offsets to a container of `out[start..]`, as wide as its size with them asks for.
pub(super) fn write_offsets(out: &mut Vec<u8>, start: usize, offsets: impl ExactSizeIterator<Item = usize>) {
    let (body, count) = (out.len() - start, offsets.len());
    let size = [1, 2, 4, 8]
        .into_iter()
        .find(|size| offset_size(body + size * count) <= *size)
        .expect("eight bytes are enough for any");
    for offset in offsets {
        out.extend_from_slice(&(offset as u64).to_le_bytes()[..size]);
    }
}

/// Writes extended attributes, `a(ayay)`: names with a NUL at their end, and values.
pub(super) fn write_xattrs<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut ends = Vec::new();
    for (name, value) in pairs {
        let start = out.len();
        out.extend_from_slice(name);
        out.push(0);
        let end = out.len() - start;
        out.extend_from_slice(value);
        write_offsets(&mut out, start, std::iter::once(end));
        ends.push(out.len());
    }
    write_offsets(&mut out, 0, ends.into_iter());
    out
}

/// Writes a file's header, `(uuuusa(ayay))`, as it is hashed.
pub(super) fn write_file_header(uid: u32, gid: u32, mode: u32, target: &[u8], xattrs: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // The fourth is a device's number, which OSTree has no files of.
    for number in [uid, gid, mode, 0] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(target);
    out.push(0);
    let end = out.len();
    out.extend_from_slice(xattrs);
    write_offsets(&mut out, 0, std::iter::once(end));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn attributes_are_read_as_they_were_written(
            pairs in prop::collection::vec(
                (prop::collection::vec(1u8..=255, 1..40), prop::collection::vec(any::<u8>(), 0..400)),
                0..6,
            ),
        ) {
            let bytes = write_xattrs(pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
            let read: Vec<(Vec<u8>, Vec<u8>)> = array(&bytes, 1)
                .unwrap()
                .into_iter()
                .map(|pair| {
                    let [name, value] = tuple(pair, [Member::Variable(1), Member::Variable(1)]).unwrap();
                    (text(name).unwrap().to_vec(), value.to_vec())
                })
                .collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            use Member::{Fixed, Variable};
            let _ = array(&bytes, 1);
            let _ = array(&bytes, 8);
            let _ = variant(&bytes);
            let _ = tuple(&bytes, [Variable(8), Variable(1), Fixed(8), Variable(1)]);
            let _ = tuple(&bytes, [Fixed(4), Fixed(4), Fixed(4), Variable(1)]);
        }
    }

    #[test]
    fn the_attributes_of_ostree_are_read() {
        // What ostree 2022.7 has in `user.ostreemeta`, after three numbers.
        let bytes = b"user.x\0y\x07\x09";
        let pairs = array(bytes, 1).unwrap();
        let [name, value] = tuple(pairs[0], [Member::Variable(1), Member::Variable(1)]).unwrap();
        assert_eq!((text(name).unwrap(), value), (&b"user.x"[..], &b"y"[..]));
        assert_eq!(write_xattrs(std::iter::once((&b"user.x"[..], &b"y"[..]))), bytes);
    }
}
