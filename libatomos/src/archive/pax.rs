//! PAX records: what has no room in a header, as lines of a length, a keyword and a value.

use std::collections::BTreeMap;

use crate::format::{Xattrs, limits};

use super::acl;
use super::base64;

/// Bytes of one extended header. An entry's attributes take up to 256 KiB, and may stand in it twice, in two spellings.
pub(super) const MAX_EXTENDED: u64 = 1024 * 1024;

/// Bytes of all extended headers of one member.
pub(super) const MAX_RECORDS: usize = 4 * 1024 * 1024;

/// Bytes of all extended headers that are said of all members, and copied for each.
pub(super) const MAX_GLOBALS: usize = 64 * 1024;

/// The records of extended headers. An empty value takes back what a header further up has said.
#[derive(Debug, Default, Clone)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offsets and lengths of a sparse file's pieces, in the one form that repeats keywords.
    pub(super) pieces: Vec<Vec<u8>>,
    /// Bytes that were read, those of replaced values too.
    read: usize,
}

impl Records {
    /// Reads an extended header's bytes over what is there.
    pub(super) fn read(&mut self, mut bytes: &[u8], limit: usize) -> Result<(), String> {
        self.read += bytes.len();
        if self.read > limit {
            return Err(format!("its extended headers have more than {limit} bytes"));
        }
        while !bytes.is_empty() {
            let (record, rest) = split(bytes).ok_or("its extended header is damaged")?;
            bytes = rest;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or("its extended header has a record without a value")?;
            let (keyword, value) = (&record[..equals], &record[equals + 1..]);
            if keyword == b"GNU.sparse.offset" || keyword == b"GNU.sparse.numbytes" {
                self.pieces.push(value.to_vec());
            } else {
                self.values.insert(keyword.to_vec(), value.to_vec());
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.pieces.is_empty()
    }

    /// Puts `other` over these.
    pub(super) fn overlay(&self, other: Self) -> Self {
        let mut values = self.values.clone();
        values.extend(other.values);
        Self {
            values,
            pieces: other.pieces,
            read: other.read,
        }
    }

    /// Returns a value that says something.
    pub(super) fn get(&self, keyword: &[u8]) -> Option<&[u8]> {
        self.values
            .get(keyword)
            .map(Vec::as_slice)
            .filter(|value| !value.is_empty())
    }

    /// Returns a number; `None` where there is none.
    pub(super) fn number(&self, keyword: &str) -> Result<Option<i64>, String> {
        self.get(keyword.as_bytes())
            .map(|value| decimal(value).ok_or_else(|| format!("its {keyword} is no number that can be kept")))
            .transpose()
    }

    /// Returns a time in whole seconds, rounded down; `None` where there is none.
    pub(super) fn time(&self, keyword: &str) -> Result<Option<i64>, String> {
        self.get(keyword.as_bytes())
            .map(|value| seconds(value).ok_or_else(|| format!("its {keyword} is no time that can be kept")))
            .transpose()
    }

    /// Returns the extended attributes, in whichever way they are recorded.
    pub(super) fn xattrs(&self) -> Result<Xattrs, String> {
        let mut xattrs = Xattrs::new();
        // The forms come in the order of their keywords; where two have the same attribute, they have the same value.
        for (keyword, value) in &self.values {
            if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                let value = base64::decode(value)
                    .ok_or("its extended header has an attribute that is not in base 64")?;
                set(&mut xattrs, percent_decoded(name, |_| true), value)?;
            } else if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                // GNU tar hides these two in an attribute's name, which star does not.
                let name = percent_decoded(name, |byte| matches!(byte, b'=' | b'%'));
                set(&mut xattrs, name, value.clone())?;
            } else if keyword == b"RHT.security.selinux" && !value.is_empty() {
                // The kernel's value ends with a NUL, which GNU tar leaves out.
                let mut label = value.clone();
                if label.last() != Some(&0) {
                    label.push(0);
                }
                if xattrs.get(b"security.selinux").is_none() {
                    set(&mut xattrs, b"security.selinux".to_vec(), label)?;
                }
            } else if let Some((name, is_default)) = match keyword.as_slice() {
                b"SCHILY.acl.access" => Some((&b"system.posix_acl_access"[..], false)),
                b"SCHILY.acl.default" => Some((&b"system.posix_acl_default"[..], true)),
                _ => None,
            } && let Some(binary) = acl::from_text(value, is_default)?
                && xattrs.get(name).is_none()
            {
                set(&mut xattrs, name.to_vec(), binary)?;
            }
        }
        Ok(xattrs)
    }
}

fn set(xattrs: &mut Xattrs, name: Vec<u8>, value: Vec<u8>) -> Result<(), String> {
    if name.is_empty() || name.len() > limits::MAX_XATTR_NAME || name.contains(&0) {
        return Err("it has an extended attribute whose name is empty, too long, or has a NUL".to_owned());
    }
    if value.len() > limits::MAX_XATTR_VALUE {
        return Err(format!(
            "its extended attribute {} is longer than 64 KiB",
            name.escape_ascii()
        ));
    }
    xattrs.insert(name, value);
    Ok(())
}

/// Splits off the first record, without its length and its line's end.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(21).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    Some((record, &bytes[len..]))
}

fn decimal(text: &[u8]) -> Option<i64> {
    // `parse` takes a plus.
    if text.first() == Some(&b'+') {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads seconds with a fraction, and rounds down, as a file system without fractions would.
fn seconds(text: &[u8]) -> Option<i64> {
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = parts.next()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let negative = whole.first() == Some(&b'-');
    let whole = match whole {
        b"" => 0,
        b"-" => 0,
        digits => decimal(digits)?,
    };
    if negative && fraction.iter().any(|digit| *digit != b'0') {
        whole.checked_sub(1)
    } else {
        Some(whole)
    }
}

/// Replaces `%xx` where `wanted` says that the byte was written so.
fn percent_decoded(text: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let hidden = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(|byte| wanted(*byte));
        match hidden {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Appends a record.
pub(super) fn write(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = keyword.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() > len {
        len += 1;
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Returns the record's keyword and value for an extended attribute.
pub(super) fn xattr(name: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let plain = name
        .iter()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'=' | b'%'));
    if plain {
        return ([b"SCHILY.xattr.", name].concat(), value.to_vec());
    }
    // A keyword has no `=`, and GNU tar and star do not agree on how to hide one. libarchive's form leaves no doubt.
    let mut keyword = b"LIBARCHIVE.xattr.".to_vec();
    for byte in name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            keyword.push(*byte);
        } else {
            keyword.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    (keyword, base64::encode(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            pairs in prop::collection::btree_map(
                prop::collection::vec(prop::num::u8::ANY.prop_filter("no =", |byte| *byte != b'='), 1..120),
                prop::collection::vec(any::<u8>(), 1..300),
                0..5,
            ),
        ) {
            let mut bytes = Vec::new();
            for (keyword, value) in &pairs {
                write(&mut bytes, keyword, value);
            }
            let mut records = Records::default();
            records.read(&bytes, MAX_RECORDS).unwrap();
            prop_assert_eq!(records.values, pairs);
        }

        #[test]
        fn an_attribute_is_read_as_it_was_written(
            name in prop::collection::vec(1u8..=255, 1..200),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let (keyword, text) = xattr(&name, &value);
            let mut bytes = Vec::new();
            write(&mut bytes, &keyword, &text);
            let mut records = Records::default();
            records.read(&bytes, MAX_RECORDS).unwrap();
            let found = records.xattrs().unwrap();
            prop_assert_eq!(found.get(&name), Some(value.as_slice()));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut records = Records::default();
            if records.read(&bytes, MAX_RECORDS).is_ok() {
                let _ = records.xattrs();
                let _ = records.time("mtime");
            }
        }
    }

    #[test]
    fn a_record_whose_length_is_wrong_is_refused() {
        for bytes in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 a=b ",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"+6 a=b\n",
            b"99999999999999999999 a=b\n",
            b"a=b\n",
            b"6 abc\n",
        ] {
            Records::default().read(bytes, 100).unwrap_err();
        }
        Records::default().read(b"6 a=b\n", 100).unwrap();
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("12.9", Some(12)),
            ("-1", Some(-1)),
            ("-1.5", Some(-2)),
            ("-0.5", Some(-1)),
            ("-1.0", Some(-1)),
            (".5", Some(0)),
            ("1e3", None),
            ("1.x", None),
            ("9223372036854775808", None),
            ("-9223372036854775808.5", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn an_attribute_is_read_in_every_spelling() {
        let read = |keyword: &str, value: &[u8]| {
            let mut bytes = Vec::new();
            write(&mut bytes, keyword.as_bytes(), value);
            let mut records = Records::default();
            records.read(&bytes, MAX_RECORDS).unwrap();
            let xattrs = records.xattrs().unwrap();
            let first = xattrs.iter().next().unwrap();
            (first.0.to_vec(), first.1.to_vec())
        };
        assert_eq!(read("SCHILY.xattr.user.a%3Db", b"x=y\n").0, b"user.a=b");
        assert_eq!(read("SCHILY.xattr.user.a%41", b"").0, b"user.a%41");
        assert_eq!(
            read("LIBARCHIVE.xattr.user.a%41", b"AAE"),
            (b"user.aA".to_vec(), vec![0, 1])
        );
        assert_eq!(
            read("RHT.security.selinux", b"system_u:object_r:etc_t:s0").1,
            b"system_u:object_r:etc_t:s0\0"
        );
    }
}
