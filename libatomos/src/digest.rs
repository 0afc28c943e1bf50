//! Digests and the three kinds of object id.
//!
//! Every object is named by the BLAKE3-256 of its canonical bytes (<https://github.com/BLAKE3-team/BLAKE3-specs>).
//! [`Digest`] is the bare value; [`BlobId`], [`DirTreeId`] and [`CommitId`] say what it names, so that one cannot
//! be passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in a digest.
pub const DIGEST_LEN: usize = 32;

/// Hexadecimal digits in a digest's text form.
pub const HEX_LEN: usize = 2 * DIGEST_LEN;

/// A BLAKE3-256 digest. Prints as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; DIGEST_LEN]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest: it takes {HEX_LEN} lower-case hexadecimal digits")]
pub struct InvalidDigest {
    text: String,
}

impl Digest {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Takes 32 bytes that already are a digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; DIGEST_LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }

    /// Returns the text form, 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Returns `bytes` as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    push_hex(&mut text, bytes);
    String::from_utf8(text).expect("digits are ASCII")
}

/// Appends `bytes` as [`hex`] has them.
pub(crate) fn push_hex(text: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        text.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest {
            text: text.chars().take(80).collect(),
        };
        parse_hex([text.as_bytes()]).map(Self).ok_or_else(invalid)
    }
}

/// Reads lower-case hexadecimal digits, which may come in several parts of an even length; `None` for anything else, and where there are
/// not exactly `N` bytes.
pub(crate) fn parse_hex<const N: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> Option<[u8; N]> {
    if parts.iter().map(|part| part.len()).sum::<usize>() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let pairs = parts.into_iter().flat_map(|part| part.chunks(2));
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair else { return None };
        *byte = hex_value(*high)? << 4 | hex_value(*low)?;
    }
    Some(bytes)
}

/// Upper-case digits are refused: one digest has one spelling.
const fn hex_value(digit: u8) -> Option<u8> {
    /// What each digit stands for; 16 for what is none.
    const VALUES: [u8; 256] = {
        let (mut values, mut value) = ([16; 256], 0);
        while value < 16 {
            values[DIGITS[value as usize] as usize] = value;
            value += 1;
        }
        values
    };
    match VALUES[digit as usize] {
        16 => None,
        value => Some(value),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Says that `digest` names this kind of object.
            #[must_use]
            pub const fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// Returns the digest.
            #[must_use]
            pub const fn digest(&self) -> &Digest {
                &self.0
            }

            /// Returns the first 12 hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                hex(&self.0.as_bytes()[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                text.parse().map(Self)
            }
        }
    };
}

object_id! {
    /// Names a blob: the digest of a regular file's bytes.
    BlobId
}
object_id! {
    /// Names a dirtree: the digest of its encoding.
    DirTreeId
}
object_id! {
    /// Names a commit: the digest of its encoding.
    CommitId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest::of(b"atomos");
        assert_eq!(digest.to_hex().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn the_empty_blob_has_the_published_blake3_digest() {
        assert_eq!(
            Digest::of(b"").to_hex(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        let text = Digest::of(b"").to_hex();
        assert!(text.to_uppercase().parse::<Digest>().is_err());
        assert!(text[1..].parse::<Digest>().is_err());
        assert!(format!("{text}0").parse::<Digest>().is_err());
        assert!("".parse::<Digest>().is_err());
        assert!("g".repeat(64).parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }
}
