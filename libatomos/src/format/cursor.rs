//! A reader over bytes that checks every bound.
//!
//! Integers are little endian, as everywhere in the format. A length is compared with what remains before anything
//! is sliced, so a hostile length costs nothing.

use super::FormatError;

/// Reads fields from the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            total: bytes.len(),
        }
    }

    /// Returns how many bytes have been read.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.total - self.rest.len()
    }

    /// Returns how many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Takes `len` bytes for `field`, which an error names.
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], FormatError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(FormatError::Truncated {
                field,
                offset: self.offset(),
            }),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FormatError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N, field)?);
        Ok(out)
    }

    /// Takes one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, FormatError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Takes a 16-bit unsigned integer.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Takes a 32-bit unsigned integer.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Takes a 64-bit unsigned integer.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Takes a 64-bit signed integer.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, FormatError> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    /// Takes a digest.
    pub fn digest(&mut self, field: &'static str) -> Result<crate::digest::Digest, FormatError> {
        Ok(crate::digest::Digest::from_bytes(self.array(field)?))
    }

    /// Takes UTF-8 text of `len` bytes.
    pub fn text(&mut self, len: usize, field: &'static str) -> Result<&'a str, FormatError> {
        let offset = self.offset();
        std::str::from_utf8(self.bytes(len, field)?).map_err(|_| FormatError::Invalid {
            field,
            offset,
            rule: "is UTF-8",
        })
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::TrailingBytes {
                count: self.rest.len(),
            })
        }
    }
}
