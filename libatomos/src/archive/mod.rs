//! tar archives: reading them without trusting them, and writing them so that one tree is one archive.
//!
//! [`TarReader`] gives the members of a stream one after the other and is itself what a member's bytes are read from, so no
//! member is ever in memory. It knows the formats that are about: V7, ustar, PAX (times, large numbers, long names, extended
//! attributes as `SCHILY.xattr`, `LIBARCHIVE.xattr` and `RHT.security.selinux`), GNU's long names and numbers, and sparse files as GNU
//! has stored them over the years. What it does not know, it refuses and says which member that is: an archive that is
//! half understood is a tree that is half there. [`Decompressed`] finds out how a stream is compressed.
//!
//! [`TarWriter`] writes PAX records only where ustar has no room, in one order, without any time or name of its own.
//!
//! This module reads and writes bytes, and knows nothing of trees: whether a path leads outside is for who places members.

pub(crate) mod acl;
mod base64;
mod header;
mod pax;
mod reader;
mod sparse;
mod stream;
mod writer;

pub use reader::{Member, MemberKind, TarReader};
pub use stream::{Compression, Decompressed};
pub use writer::TarWriter;

/// Bytes of a block, of which an archive is made.
pub(crate) const BLOCK: usize = 512;

/// The PAX record that says that a name means itself, though it looks like a whiteout.
pub(crate) const LITERAL: &[u8] = b"ATOMOS.literal";

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream failed, or what compressed it is damaged.
    #[error("cannot read the archive {}", Place { member, offset: *offset })]
    Read {
        /// The member that was being read.
        member: Option<String>,
        /// How many bytes of the archive, uncompressed, were read.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A member is not as it must be.
    #[error("the archive is not acceptable {}: {rule}", Place { member, offset: *offset })]
    Member {
        /// The member, where its name was read.
        member: Option<String>,
        /// How many bytes of the archive, uncompressed, were read.
        offset: u64,
        /// What it breaks.
        rule: String,
    },
}

/// Where in an archive something is.
struct Place<'a> {
    member: &'a Option<String>,
    offset: u64,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.member {
            Some(member) => write!(f, "at its member {member}"),
            None => write!(f, "at its byte {}", self.offset),
        }
    }
}
