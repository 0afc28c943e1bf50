//! Commits: a root dirtree with its own metadata, a parent, and what people and programs say of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::{CommitId, Digest, DirTreeId};

use super::cursor::Cursor;
use super::metadata::{Metadata, within};
use super::{FormatError, HeaderKind, limits};

/// A value of a commit's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MetadataValue {
    /// Text.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Bool(bool),
    /// Uninterpreted bytes.
    Bytes(Vec<u8>),
}

impl MetadataValue {
    const fn tag(&self) -> u8 {
        match self {
            Self::Text(_) => b's',
            Self::Number(_) => b'u',
            Self::Bool(_) => b'b',
            Self::Bytes(_) => b'y',
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Number(number) => number.to_le_bytes().to_vec(),
            Self::Bool(yes) => vec![u8::from(*yes)],
            Self::Bytes(bytes) => bytes.clone(),
        }
    }

    fn from_bytes(tag: u8, bytes: &[u8], offset: usize) -> Result<Self, FormatError> {
        let invalid = FormatError::Invalid {
            field: "a metadata value",
            offset,
            rule: "has the form of its type",
        };
        match (tag, bytes) {
            (b's', _) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Self::Text(text.to_owned())),
                Err(_) => Err(invalid),
            },
            (b'u', _) => match bytes.try_into() {
                Ok(number) => Ok(Self::Number(u64::from_le_bytes(number))),
                Err(_) => Err(invalid),
            },
            (b'b', [0]) => Ok(Self::Bool(false)),
            (b'b', [1]) => Ok(Self::Bool(true)),
            (b'y', _) => Ok(Self::Bytes(bytes.to_vec())),
            _ => Err(invalid),
        }
    }
}

/// A snapshot of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The root directory's entries. The digest is the identity of the tree.
    pub root: DirTreeId,
    /// The root directory's own metadata.
    pub root_metadata: Metadata,
    /// The commit that this one follows.
    pub parent: Option<CommitId>,
    /// When it was made, in seconds since 1970, UTC.
    pub time: i64,
    /// One line for people.
    pub subject: String,
    /// More lines for people.
    pub body: String,
    /// The version of the operating system in the tree; empty where it has none.
    pub version: String,
    /// For programs; keys by convention `owner.name`.
    pub metadata: BTreeMap<String, MetadataValue>,
}

impl Commit {
    /// Returns the canonical bytes and the digest that names them.
    pub fn encode(&self) -> Result<(CommitId, Vec<u8>), FormatError> {
        let mut out = Vec::with_capacity(256 + self.body.len());
        HeaderKind::Commit.write(&mut out);
        out.extend_from_slice(self.root.digest().as_bytes());
        self.root_metadata.encode_fixed(&mut out)?;
        self.root_metadata.encode_xattrs(&mut out)?;
        match &self.parent {
            None => out.push(0),
            Some(parent) => {
                out.push(1);
                out.extend_from_slice(parent.digest().as_bytes());
            }
        }
        out.extend_from_slice(&self.time.to_le_bytes());
        line("the subject", &self.subject, &mut out)?;
        line("the version", &self.version, &mut out)?;
        within("the body", self.body.len(), limits::MAX_COMMIT)?;
        out.extend_from_slice(&(self.body.len() as u32).to_le_bytes());
        out.extend_from_slice(self.body.as_bytes());
        within("the metadata", self.metadata.len(), limits::MAX_COMMIT_METADATA)?;
        out.extend_from_slice(&(self.metadata.len() as u32).to_le_bytes());
        for (key, value) in &self.metadata {
            line("a metadata key", key, &mut out)?;
            let bytes = value.to_bytes();
            within("a metadata value", bytes.len(), limits::MAX_COMMIT)?;
            out.push(value.tag());
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        within("a commit", out.len(), limits::MAX_COMMIT)?;
        Ok((CommitId::new(Digest::of(&out)), out))
    }

    /// Reads canonical bytes; refuses any other.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        within("a commit", bytes.len(), limits::MAX_COMMIT)?;
        let mut cursor = Cursor::new(bytes);
        HeaderKind::Commit.read(&mut cursor)?;
        let root = DirTreeId::new(cursor.digest("the root's digest")?);
        let (mut root_metadata, xattrs_len) = Metadata::decode_fixed(&mut cursor)?;
        root_metadata.decode_xattrs(&mut cursor, xattrs_len)?;
        let offset = cursor.offset();
        let parent = match cursor.u8("whether there is a parent")? {
            0 => None,
            1 => Some(CommitId::new(cursor.digest("the parent's digest")?)),
            _ => {
                return Err(FormatError::Invalid {
                    field: "whether there is a parent",
                    offset,
                    rule: "is 0 or 1",
                });
            }
        };
        let time = cursor.i64("the time")?;
        let subject = take_line("the subject", &mut cursor)?.to_owned();
        let version = take_line("the version", &mut cursor)?.to_owned();
        let body_len = cursor.u32("the body's length")? as usize;
        let body = cursor.text(body_len, "the body")?.to_owned();
        let count = cursor.u32("the number of metadata entries")? as usize;
        within("the metadata", count, limits::MAX_COMMIT_METADATA)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..count {
            let key = take_line("a metadata key", &mut cursor)?;
            if metadata
                .last_key_value()
                .is_some_and(|(last, _): (&String, _)| last.as_str() >= key)
            {
                return Err(FormatError::Unsorted {
                    name: key.as_bytes().to_vec(),
                });
            }
            let offset = cursor.offset();
            let tag = cursor.u8("a metadata value's type")?;
            let len = cursor.u32("a metadata value's length")? as usize;
            let value = MetadataValue::from_bytes(tag, cursor.bytes(len, "a metadata value")?, offset)?;
            metadata.insert(key.to_owned(), value);
        }
        cursor.finish()?;
        Ok(Self {
            root,
            root_metadata,
            parent,
            time,
            subject,
            body,
            version,
            metadata,
        })
    }
}

fn line(field: &'static str, text: &str, out: &mut Vec<u8>) -> Result<(), FormatError> {
    within(field, text.len(), limits::MAX_COMMIT_LINE)?;
    if text.contains(['\n', '\0']) {
        return Err(FormatError::Invalid {
            field,
            offset: out.len(),
            rule: "is one line",
        });
    }
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn take_line<'a>(field: &'static str, cursor: &mut Cursor<'a>) -> Result<&'a str, FormatError> {
    let offset = cursor.offset();
    let len = usize::from(cursor.u16(field)?);
    within(field, len, limits::MAX_COMMIT_LINE)?;
    let text = cursor.text(len, field)?;
    if text.contains(['\n', '\0']) {
        return Err(FormatError::Invalid {
            field,
            offset,
            rule: "is one line",
        });
    }
    Ok(text)
}
