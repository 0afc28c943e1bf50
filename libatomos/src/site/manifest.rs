//! Manifests: a tree, and where everything that it needs lies.
//!
//! A whole manifest serves everybody. A relative one serves whoever has a certain commit: its TREE section takes that
//! commit's as prefix, it has the places of only those blobs that the commit lacks, and only those patches that the
//! commit has bases for.

use crate::compress;
use crate::digest::CommitId;
use crate::format::{Cursor, FormatError};

use super::limits::{MAX_MANIFEST, MAX_SECTION};
use super::{BlobList, Index, SiteError, TreeTable};

const MAGIC: [u8; 8] = *b"atomosM\x01";

/// The commit that a relative manifest builds on, with the bytes of its TREE section.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// The commit.
    pub commit: CommitId,
    /// [`TreeTable::encode`] of it.
    pub table: &'a [u8],
}

/// What can be read of a manifest without its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestHead {
    /// The commit.
    pub commit: CommitId,
    /// The commit that one must have; `None` for a whole manifest.
    pub base: Option<CommitId>,
}

/// A decoded manifest.
#[derive(Debug)]
pub struct Manifest {
    /// The commit and its dirtrees.
    pub tree: TreeTable,
    /// Its blobs in order.
    pub blobs: BlobList,
    /// Where they are.
    pub index: Index,
    /// Whether it is relative.
    pub base: Option<CommitId>,
}

impl Manifest {
    /// Returns the bytes of a manifest. `table` is [`TreeTable::encode`] of `commit`.
    pub fn encode(
        commit: &CommitId,
        table: &[u8],
        index: &Index,
        base: Option<Base<'_>>,
        level: i32,
    ) -> Result<Vec<u8>, SiteError> {
        let section = |table| move |source| SiteError::Section { table, source };
        let tree = match base {
            None => compress::Compressor::new(level).compress(table),
            Some(base) => compress::compress_with_prefix(table, base.table, level),
        }
        .map_err(section("tree"))?;
        let raw_index = index.encode();
        let index = compress::Compressor::new(level)
            .compress(&raw_index)
            .map_err(section("index"))?;
        let mut out = Vec::with_capacity(MAGIC.len() + 97 + tree.len() + index.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(commit.digest().as_bytes());
        match base {
            None => out.push(0),
            Some(base) => {
                out.push(1);
                out.extend_from_slice(base.commit.digest().as_bytes());
            }
        }
        for (raw_len, bytes) in [(table.len(), tree), (raw_index.len(), index)] {
            out.extend_from_slice(&(raw_len as u64).to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        Ok(out)
    }

    /// Reads what the manifest is of.
    pub fn head(bytes: &[u8]) -> Result<ManifestHead, SiteError> {
        head(&mut Cursor::new(bytes)).map_err(SiteError::table("head"))
    }

    /// Reads a manifest of `commit`. `base_table` is [`TreeTable::encode`] of the base, and unused in a whole manifest.
    pub fn decode(bytes: &[u8], commit: &CommitId, base_table: &[u8]) -> Result<Self, SiteError> {
        let tree = |table: &[u8]| TreeTable::decode(table, commit);
        Self::read(bytes, commit, base_table, &tree)
    }

    /// Reads a manifest of which no digest is asked for: a mutation would never get past that. For fuzzing.
    #[cfg(feature = "testing")]
    pub(crate) fn decode_unverified(bytes: &[u8], base_table: &[u8]) -> Result<Self, SiteError> {
        let commit = Self::head(bytes)?.commit;
        Self::read(bytes, &commit, base_table, &TreeTable::decode_unverified)
    }

    fn read(
        bytes: &[u8],
        commit: &CommitId,
        base_table: &[u8],
        decode_tree: &dyn Fn(&[u8]) -> Result<TreeTable, SiteError>,
    ) -> Result<Self, SiteError> {
        let mut cursor = Cursor::new(bytes);
        let head = head(&mut cursor).map_err(SiteError::table("head"))?;
        if head.commit != *commit {
            return Err(SiteError::OtherTree {
                what: "commit",
                expected: *commit.digest(),
                found: *head.commit.digest(),
            });
        }
        let failed = |table| move |source| SiteError::Section { table, source };
        let (raw_len, frame) = section(&mut cursor).map_err(SiteError::table("tree"))?;
        let table = match head.base {
            None => compress::decompress(frame, raw_len),
            Some(_) => compress::decompress_with_prefix(frame, base_table, raw_len),
        }
        .map_err(failed("tree"))?;
        let tree = decode_tree(&table)?;
        drop(table);
        let blobs = BlobList::of_tree(&tree, &tree.commit.root)?;
        let (raw_len, frame) = section(&mut cursor).map_err(SiteError::table("index"))?;
        cursor.finish().map_err(SiteError::table("index"))?;
        let raw = compress::decompress(frame, raw_len).map_err(failed("index"))?;
        let index = Index::decode(&raw, &blobs).map_err(SiteError::table("index"))?;
        if head.base.is_none() && index.places.len() != blobs.len() as usize {
            return Err(SiteError::table("index")(FormatError::Invalid {
                field: "the places of a whole manifest",
                offset: 0,
                rule: "have every blob",
            }));
        }
        Ok(Self {
            tree,
            blobs,
            index,
            base: head.base,
        })
    }
}

fn head(cursor: &mut Cursor<'_>) -> Result<ManifestHead, FormatError> {
    if cursor.remaining() > MAX_MANIFEST {
        return Err(FormatError::TooLarge {
            field: "a manifest",
            found: cursor.remaining(),
            limit: MAX_MANIFEST,
        });
    }
    if cursor.bytes(MAGIC.len(), "the magic")? != MAGIC {
        return Err(FormatError::WrongMagic { expected: "manifest" });
    }
    let commit = CommitId::new(cursor.digest("the commit")?);
    let offset = cursor.offset();
    let base = match cursor.u8("whether there is a base")? {
        0 => None,
        1 => Some(CommitId::new(cursor.digest("the base")?)),
        _ => {
            return Err(FormatError::Invalid {
                field: "whether there is a base",
                offset,
                rule: "is 0 or 1",
            });
        }
    };
    Ok(ManifestHead { commit, base })
}

fn section<'a>(cursor: &mut Cursor<'a>) -> Result<(usize, &'a [u8]), FormatError> {
    let offset = cursor.offset();
    let raw_len = cursor.u64("a section's length")?;
    if raw_len > MAX_SECTION as u64 {
        return Err(FormatError::Invalid {
            field: "a section's length",
            offset,
            rule: "is at most 512 MiB",
        });
    }
    let len = usize::try_from(cursor.u64("a section's compressed length")?).unwrap_or(usize::MAX);
    Ok((raw_len as usize, cursor.bytes(len, "a section")?))
}
