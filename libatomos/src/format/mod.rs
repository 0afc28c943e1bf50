//! The bytes of objects: pure functions between values and their canonical encoding.
//!
//! Nothing here opens a file. A decoder takes a slice and returns a value or a [`FormatError`]; it refuses whatever
//! the encoder would not have written, so that every value has exactly one encoding and one digest. The authority
//! for the bytes is `repo-format.md`, whose test vectors a test reads.

mod commit;
mod cursor;
mod dirtree;
pub mod limits;
mod metadata;

pub use commit::{Commit, MetadataValue};
pub use cursor::Cursor;
pub use dirtree::{DirTree, Entry, Node};
pub use metadata::{Metadata, Xattrs};

/// The six bytes that every encoded object starts with.
pub const MAGIC: [u8; 6] = *b"atomos";

/// The version of the encodings that this library writes.
pub const ENCODING_VERSION: u8 = 1;

/// Why bytes are not an object, or a value cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end inside a field.
    #[error("the bytes end inside {field}, at offset {offset}")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A field breaks its rule.
    #[error("{field} at offset {offset} breaks the rule that it {rule}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// The rule, as the end of a sentence.
        rule: &'static str,
    },
    /// A name cannot stand in a directory.
    #[error("the name {} is not allowed in a directory", name.escape_ascii())]
    ForbiddenName {
        /// The name's bytes.
        name: Vec<u8>,
    },
    /// Names are out of order, or one stands twice.
    #[error("the name {} does not sort after the one before it", name.escape_ascii())]
    Unsorted {
        /// The second of the two names.
        name: Vec<u8>,
    },
    /// The bytes start with something else.
    #[error("the bytes do not start as a {expected} does")]
    WrongMagic {
        /// The kind of object that was expected.
        expected: &'static str,
    },
    /// The encoding is of a version that this library does not know.
    #[error("the {kind} is of encoding version {found}, and this program reads version {ENCODING_VERSION}")]
    UnknownVersion {
        /// The kind of object.
        kind: &'static str,
        /// The version found.
        found: u8,
    },
    /// There are bytes after the last field.
    #[error("{count} bytes follow the last field")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A value exceeds its cap.
    #[error("{field} has {found} bytes, and the format allows {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its size.
        found: usize,
        /// The cap, from [`limits`].
        limit: usize,
    },
}

/// The kinds of encoded object. A blob has no header: its bytes are the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderKind {
    DirTree,
    Commit,
}

impl HeaderKind {
    const fn tag(self) -> u8 {
        match self {
            Self::DirTree => b'T',
            Self::Commit => b'C',
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::DirTree => "dirtree",
            Self::Commit => "commit",
        }
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(self.tag());
        out.push(ENCODING_VERSION);
    }

    pub(crate) fn read(self, cursor: &mut Cursor<'_>) -> Result<(), FormatError> {
        let wrong = FormatError::WrongMagic {
            expected: self.name(),
        };
        if cursor.remaining() < MAGIC.len() + 2 {
            return Err(wrong);
        }
        if cursor.bytes(MAGIC.len(), "the magic")? != MAGIC || cursor.u8("the kind")? != self.tag() {
            return Err(wrong);
        }
        match cursor.u8("the version")? {
            ENCODING_VERSION => Ok(()),
            found => Err(FormatError::UnknownVersion {
                kind: self.name(),
                found,
            }),
        }
    }
}
