//! The header of a member: one block of fixed fields.

use super::BLOCK;

/// A header's bytes, whose checksum was right.
pub(super) struct Header([u8; BLOCK]);

/// Bytes of a field.
const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const MAJOR: std::ops::Range<usize> = 329..337;
const MINOR: std::ops::Range<usize> = 337..345;
const PREFIX: std::ops::Range<usize> = 345..500;

/// The magic of POSIX, with its version, and GNU's.
const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

impl Header {
    /// Takes a block.
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Self, String> {
        let header = Self(block);
        let wanted = header.number("checksum", CHECKSUM)?;
        let sum = |as_number: fn(u8) -> i64| -> i64 {
            header
                .0
                .iter()
                .enumerate()
                .map(|(at, byte)| as_number(if CHECKSUM.contains(&at) { b' ' } else { *byte }))
                .sum()
        };
        // Some old programs took bytes for signed.
        if wanted == sum(i64::from) || wanted == sum(|byte| i64::from(byte as i8)) {
            Ok(header)
        } else {
            Err("its header has a wrong checksum: this is no tar archive, or it is damaged".to_owned())
        }
    }

    pub(super) const fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// Returns the name, with ustar's prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = text(&self.0[PREFIX]);
        // GNU has other things where POSIX has the prefix.
        if self.0[MAGIC].starts_with(&USTAR[..6]) && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[LINK]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64, String> {
        self.number("mode", MODE)
    }

    pub(super) fn uid(&self) -> Result<i64, String> {
        self.number("uid", UID)
    }

    pub(super) fn gid(&self) -> Result<i64, String> {
        self.number("gid", GID)
    }

    pub(super) fn size(&self) -> Result<i64, String> {
        self.number("size", SIZE)
    }

    pub(super) fn mtime(&self) -> Result<i64, String> {
        self.number("mtime", MTIME)
    }

    pub(super) fn device(&self) -> Result<(i64, i64), String> {
        Ok((
            self.number("device's major number", MAJOR)?,
            self.number("device's minor number", MINOR)?,
        ))
    }

    /// Returns the part of GNU's header that describes a sparse file: four pieces, whether more follow, and the size.
    pub(super) fn gnu_sparse(&self) -> Result<(&[u8], bool, i64), String> {
        if self.0[MAGIC] != *GNU {
            return Err("it is sparse as GNU has it, and its header is not GNU's".to_owned());
        }
        Ok((
            &self.0[386..482],
            self.0[482] != 0,
            number("size", &self.0[483..495])?,
        ))
    }

    fn number(&self, what: &str, range: std::ops::Range<usize>) -> Result<i64, String> {
        number(what, &self.0[range])
    }
}

/// Returns the bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits, or GNU's base 256, which the first bit tells from it.
pub(super) fn number(what: &str, field: &[u8]) -> Result<i64, String> {
    let wrong = || format!("its {what} is no number that can be kept");
    if field[0] & 0x80 != 0 {
        // The first bit is the mark, the next one the sign.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let mut value: i128 = if negative { -1 } else { 0 };
        for byte in std::iter::once(first).chain(field[1..].iter().copied()) {
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| wrong());
    }
    let digits: &[u8] = {
        let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
        let field = &field[start..];
        let end = field
            .iter()
            .position(|byte| matches!(byte, b' ' | 0))
            .unwrap_or(field.len());
        &field[..end]
    };
    let mut value = 0i64;
    for digit in digits {
        if !matches!(digit, b'0'..=b'7') {
            return Err(wrong());
        }
        value = value
            .checked_mul(8)
            .map(|value| value + i64::from(digit - b'0'))
            .ok_or_else(wrong)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_of_base_256_of_either_sign() {
        assert_eq!(number("size", b"0000644\0"), Ok(0o644));
        assert_eq!(number("size", b"  644 \0\0"), Ok(0o644));
        assert_eq!(number("size", b"77777777"), Ok(0o77_777_777));
        assert_eq!(number("size", &[0; 8]), Ok(0));
        assert_eq!(number("size", b"        "), Ok(0));
        assert_eq!(number("size", &[0x80, 0, 0, 0, 0, 0, 1, 2]), Ok(258));
        assert_eq!(number("mtime", &[0xff; 12]), Ok(-1));
        assert_eq!(
            number(
                "mtime",
                &[
                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0
                ]
            ),
            Ok(-256)
        );
        number("size", b"0000648\0").unwrap_err();
        number("size", b"-0000001").unwrap_err();
        number("size", &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_err();
        number(
            "size",
            &[
                0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        )
        .unwrap_err();
    }
}
