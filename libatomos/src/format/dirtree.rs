//! Dirtrees: one directory's entries, sorted by name, with their metadata.
//!
//! A dirtree has all that `ls -lR`, a diff or a composefs image needs; blobs are read only for their bytes. The
//! directory's own metadata is in the entry that names it, and the root's in the commit.

use crate::digest::{BlobId, DIGEST_LEN, Digest, DirTreeId};

use super::cursor::Cursor;
use super::metadata::{Metadata, within};
use super::{FormatError, HeaderKind, limits};

/// What an entry is, with what only its kind has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file.
    File {
        /// Bytes in the file.
        size: u64,
        /// The file's bytes.
        blob: BlobId,
        /// The fs-verity digest (SHA-256, 4 KiB blocks) of the bytes, where it was recorded.
        verity: Option<[u8; DIGEST_LEN]>,
    },
    /// A directory.
    Dir {
        /// Its entries.
        tree: DirTreeId,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, any bytes but NUL.
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl Node {
    /// Returns the letter that `ls -l` shows for the kind, `-` for a file.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self {
            Self::File { .. } => '-',
            Self::Dir { .. } => 'd',
            Self::Symlink { .. } => 'l',
            Self::Char { .. } => 'c',
            Self::Block { .. } => 'b',
            Self::Fifo => 'p',
        }
    }

    const fn tag(&self) -> u8 {
        match self {
            Self::File { .. } => b'f',
            Self::Dir { .. } => b'd',
            Self::Symlink { .. } => b'l',
            Self::Char { .. } => b'c',
            Self::Block { .. } => b'b',
            Self::Fifo => b'p',
        }
    }
}

/// One entry of a dirtree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The name, 1 to 255 bytes of any encoding.
    pub name: Vec<u8>,
    /// Owner, mode, time, extended attributes.
    pub metadata: Metadata,
    /// What it is.
    pub node: Node,
}

/// The entries of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DirTree {
    entries: Vec<Entry>,
}

/// Entry flag: an fs-verity digest follows the blob's.
const FLAG_VERITY: u8 = 1;

/// A symbolic link's mode: Linux has no other, and one value keeps the encoding canonical.
const SYMLINK_MODE: u32 = 0o777;

/// The least bytes that an entry can take: fixed fields, a one-byte name, a fifo.
const MIN_ENTRY: usize = 29;

impl DirTree {
    /// Sorts `entries` by the bytes of their names.
    ///
    /// # Errors
    /// A name that is not allowed, or stands twice.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, FormatError> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for entry in &entries {
            check_name(&entry.name)?;
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(FormatError::Unsorted {
                name: pair[1].name.clone(),
            });
        }
        Ok(Self { entries })
    }

    /// Returns the entries, sorted by name.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Gives the entries away, sorted by name.
    #[must_use]
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Returns the entry called `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        let index = self
            .entries
            .binary_search_by(|entry| entry.name.as_slice().cmp(name))
            .ok()?;
        Some(&self.entries[index])
    }

    /// Returns the canonical bytes and the digest that names them.
    pub fn encode(&self) -> Result<(DirTreeId, Vec<u8>), FormatError> {
        let mut out = Vec::with_capacity(12 + self.entries.len() * 96);
        HeaderKind::DirTree.write(&mut out);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            encode_entry(entry, &mut out)?;
        }
        within("a dirtree", out.len(), limits::MAX_DIRTREE)?;
        Ok((DirTreeId::new(Digest::of(&out)), out))
    }

    /// Reads canonical bytes; refuses any other.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        within("a dirtree", bytes.len(), limits::MAX_DIRTREE)?;
        let mut cursor = Cursor::new(bytes);
        HeaderKind::DirTree.read(&mut cursor)?;
        let count = cursor.u32("the number of entries")? as usize;
        if count > cursor.remaining() / MIN_ENTRY {
            return Err(FormatError::Truncated {
                field: "the entries",
                offset: cursor.offset(),
            });
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = decode_entry(&mut cursor)?;
            if entries.last().is_some_and(|last| last.name >= entry.name) {
                return Err(FormatError::Unsorted { name: entry.name });
            }
            entries.push(entry);
        }
        cursor.finish()?;
        Ok(Self { entries })
    }
}

/// Refuses what cannot name a directory's entry: nothing, `.`, `..`, a slash, NUL, more than 255 bytes.
fn check_name(name: &[u8]) -> Result<(), FormatError> {
    let forbidden = name.is_empty()
        || name.len() > limits::MAX_NAME
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0);
    if forbidden {
        Err(FormatError::ForbiddenName { name: name.to_vec() })
    } else {
        Ok(())
    }
}

fn check_node(entry: &Entry, offset: usize) -> Result<(), FormatError> {
    match &entry.node {
        // Files of no bytes are made anew at checkout, so their digest must say the same as their size.
        Node::File { size, blob, .. } if (*size == 0) != (blob.digest() == &Digest::of(b"")) => {
            Err(FormatError::Invalid {
                field: "a file's size",
                offset,
                rule: "is 0 for the empty blob alone",
            })
        }
        Node::Symlink { target }
            if target.is_empty() || target.len() > limits::MAX_LINK_TARGET || target.contains(&0) =>
        {
            Err(FormatError::Invalid {
                field: "a link's target",
                offset,
                rule: "has 1 to 4095 bytes and no NUL",
            })
        }
        Node::Symlink { .. } if entry.metadata.mode != SYMLINK_MODE => Err(FormatError::Invalid {
            field: "a link's mode",
            offset,
            rule: "is 0777",
        }),
        _ => Ok(()),
    }
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), FormatError> {
    check_name(&entry.name)?;
    check_node(entry, out.len())?;
    let verity = match &entry.node {
        Node::File { verity, .. } => verity.as_ref(),
        _ => None,
    };
    out.push(entry.node.tag());
    out.push(if verity.is_some() { FLAG_VERITY } else { 0 });
    out.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
    entry.metadata.encode_fixed(out)?;
    out.extend_from_slice(&entry.name);
    entry.metadata.encode_xattrs(out)?;
    match &entry.node {
        Node::File { size, blob, .. } => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(blob.digest().as_bytes());
            if let Some(verity) = verity {
                out.extend_from_slice(verity);
            }
        }
        Node::Dir { tree } => out.extend_from_slice(tree.digest().as_bytes()),
        Node::Symlink { target } => {
            out.extend_from_slice(&(target.len() as u16).to_le_bytes());
            out.extend_from_slice(target);
        }
        Node::Char { major, minor } | Node::Block { major, minor } => {
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        Node::Fifo => {}
    }
    Ok(())
}

fn decode_entry(cursor: &mut Cursor<'_>) -> Result<Entry, FormatError> {
    let offset = cursor.offset();
    let tag = cursor.u8("an entry's kind")?;
    let flags = cursor.u8("an entry's flags")?;
    let name_len = usize::from(cursor.u16("a name's length")?);
    let (mut metadata, xattrs_len) = Metadata::decode_fixed(cursor)?;
    let name = cursor.bytes(name_len, "a name")?;
    check_name(name)?;
    metadata.decode_xattrs(cursor, xattrs_len)?;
    if flags != 0 && (flags != FLAG_VERITY || tag != b'f') {
        return Err(FormatError::Invalid {
            field: "an entry's flags",
            offset,
            rule: "has only the flags that its kind knows",
        });
    }
    let node = match tag {
        b'f' => {
            let size = cursor.u64("a file's size")?;
            let blob = BlobId::new(cursor.digest("a blob's digest")?);
            let verity = match flags {
                FLAG_VERITY => Some(*cursor.digest("an fs-verity digest")?.as_bytes()),
                _ => None,
            };
            Node::File { size, blob, verity }
        }
        b'd' => Node::Dir {
            tree: DirTreeId::new(cursor.digest("a dirtree's digest")?),
        },
        b'l' => {
            let len = usize::from(cursor.u16("a link target's length")?);
            Node::Symlink {
                target: cursor.bytes(len, "a link's target")?.to_vec(),
            }
        }
        b'c' => Node::Char {
            major: cursor.u32("a device number")?,
            minor: cursor.u32("a device number")?,
        },
        b'b' => Node::Block {
            major: cursor.u32("a device number")?,
            minor: cursor.u32("a device number")?,
        },
        b'p' => Node::Fifo,
        _ => {
            return Err(FormatError::Invalid {
                field: "an entry's kind",
                offset,
                rule: "is one of f d l c b p",
            });
        }
    };
    let entry = Entry {
        name: name.to_vec(),
        metadata,
        node,
    };
    check_node(&entry, offset)?;
    Ok(entry)
}
