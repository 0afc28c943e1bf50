//! Integers of as many bytes as they need (LEB128), one spelling each.

use crate::format::{Cursor, FormatError};

pub(super) fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn write_signed(value: i64, out: &mut Vec<u8>) {
    write(((value << 1) ^ (value >> 63)) as u64, out);
}

pub(super) fn read(cursor: &mut Cursor<'_>, field: &'static str) -> Result<u64, FormatError> {
    let offset = cursor.offset();
    let invalid = |rule| FormatError::Invalid { field, offset, rule };
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = cursor.u8(field)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(invalid("fits into 64 bits"));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            if byte == 0 && shift > 0 {
                return Err(invalid("takes no more bytes than it needs"));
            }
            return Ok(value);
        }
    }
    Err(invalid("fits into 64 bits"))
}

pub(super) fn read_signed(cursor: &mut Cursor<'_>, field: &'static str) -> Result<i64, FormatError> {
    let value = read(cursor, field)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// Reads how many things follow, each of at least `least` bytes: a count cannot exceed what is there.
pub(super) fn read_count(
    cursor: &mut Cursor<'_>,
    least: usize,
    field: &'static str,
) -> Result<usize, FormatError> {
    let offset = cursor.offset();
    let count = read(cursor, field)?;
    match usize::try_from(count) {
        Ok(count) if count <= cursor.remaining() / least => Ok(count),
        _ => Err(FormatError::Truncated { field, offset }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_integer_has_one_spelling_and_comes_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            write(value, &mut bytes);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(read(&mut cursor, "x").unwrap(), value);
            cursor.finish().unwrap();
            let signed = value as i64;
            let mut bytes = Vec::new();
            write_signed(signed, &mut bytes);
            assert_eq!(read_signed(&mut Cursor::new(&bytes), "x").unwrap(), signed);
        }
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0x80], &[0xff; 11]] {
            assert!(read(&mut Cursor::new(bad), "x").is_err(), "{bad:?}");
        }
    }
}
