//! Paths within `/etc`, and how bytes that need not be text are written as text.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A path within `/etc`: names with slashes between them, no slash in front; `/etc` itself is the empty path.
///
/// Its text form is exact for any bytes: what is not printable UTF-8 stands as `\xNN`, a backslash as `\\`.
/// Paths sort by their names, so that a directory comes directly before what is in it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EtcPath(Vec<u8>);

/// A text is not the text form of a path within `/etc`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a path within /etc: {rule}")]
pub struct InvalidEtcPath {
    text: String,
    rule: &'static str,
}

impl EtcPath {
    /// Returns the path of `/etc` itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes a path as the file system has it.
    ///
    /// # Errors
    /// A path that leads out of `/etc`, is absolute, or holds an empty name or a NUL.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidEtcPath> {
        let invalid = |rule| InvalidEtcPath {
            text: escape(bytes).chars().take(200).collect(),
            rule,
        };
        if bytes.contains(&0) {
            return Err(invalid("it holds a NUL"));
        }
        if !bytes.is_empty() {
            for name in bytes.split(|byte| *byte == b'/') {
                match name {
                    b"" => return Err(invalid("it starts or ends with a slash, or has two in a row")),
                    b"." | b".." => return Err(invalid("a name is `.` or `..`")),
                    _ => {}
                }
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Returns the bytes, as the file system has them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path to open beneath a descriptor of `/etc`; `.` for `/etc` itself.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        if self.0.is_empty() {
            Path::new(".")
        } else {
            Path::new(OsStr::from_bytes(&self.0))
        }
    }

    /// Returns whether this is `/etc` itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names on the path.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Returns the directory that the path is in and the last name, or `None` for `/etc` itself.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// Returns whether `other` is this path or lies beneath it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.is_root()
            || other
                .0
                .strip_prefix(self.0.as_slice())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// Returns the path of `name` in this directory. `name` comes from a directory, so it is one.
    pub(super) fn join(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }
}

impl Ord for EtcPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for EtcPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EtcPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for EtcPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcPath({})", escape(&self.0))
    }
}

impl FromStr for EtcPath {
    type Err = InvalidEtcPath;

    fn from_str(text: &str) -> Result<Self, InvalidEtcPath> {
        let bytes = unescape(text).ok_or_else(|| InvalidEtcPath {
            text: text.chars().take(200).collect(),
            rule: "a backslash stands before another or in \\xNN",
        })?;
        Self::from_bytes(&bytes)
    }
}

impl TryFrom<String> for EtcPath {
    type Error = InvalidEtcPath;

    fn try_from(text: String) -> Result<Self, InvalidEtcPath> {
        text.parse()
    }
}

impl From<EtcPath> for String {
    fn from(path: EtcPath) -> Self {
        escape(&path.0)
    }
}

/// Returns `bytes` as text that a terminal and a JSON reader survive; [`unescape`] gives the same bytes back.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if character.is_control() => {
                    let mut buffer = [0; 4];
                    push_bytes(&mut text, character.encode_utf8(&mut buffer).as_bytes());
                }
                _ => text.push(character),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str("\\x");
        text.push_str(&crate::digest::hex(&[*byte]));
    }
}

/// Returns the bytes that [`escape`] wrote, or `None` if it would not have written this.
pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                rest = tail;
            }
            (b'\\', [b'x', digits @ ..]) => {
                bytes.extend(unhex(digits.get(..2)?)?);
                rest = &digits[2..];
            }
            (b'\\', _) => return None,
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    Some(bytes)
}

/// Returns the bytes that hexadecimal digits stand for.
pub(super) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(value(*high)? << 4 | value(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_exact_for_any_bytes() {
        for bytes in [
            &b"passwd"[..],
            b"a/b c/\xff\xfe",
            b"back\\slash",
            b"\x1b[31m",
            "größe/ß".as_bytes(),
            b"\\x41",
            b"",
        ] {
            let path = EtcPath::from_bytes(bytes).unwrap();
            let text = path.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(text.parse::<EtcPath>().unwrap().as_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for text in [
            "..", "a/../b", "/a", "a/", "a//b", ".", "./a", "a/\\x00", "\\", "\\q", "\\x2",
        ] {
            assert!(text.parse::<EtcPath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_directory_comes_directly_before_what_is_in_it() {
        let mut paths: Vec<EtcPath> = ["a", "a.b", "a/c", "b", "a/b"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        paths.sort();
        let text: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["a", "a/b", "a/c", "a.b", "b"]);
        assert!(paths[0].contains(&paths[1]));
        assert!(!paths[0].contains(&paths[3]));
    }
}
