//! Which files there are to read.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::digest::{Digest, parse_hex};
use crate::fs::{Dir, DirEntry, FileKind};

use super::super::layout::{parse_object_bits, write_object_name};
use super::super::{ObjectKind, Repo, RepoError};

/// An object's file. There is one of these for each file of the store, so nothing else may be kept of it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    /// Of a variant what its name spells; of a blob's own file, once it was read, what the name of a variant with its metadata would.
    pub(super) bits: [u8; 16],
    pub(super) ino: u64,
    /// How many bytes it has, once it was read.
    pub(super) size: u64,
    pub(super) is_variant: bool,
    /// Its bytes are what its name says.
    pub(super) has_bytes: bool,
    /// Its inode is what a tree may want.
    pub(super) has_inode: bool,
}

const _: () = assert!(size_of::<Stored>() <= 72);

/// The files of one kind.
pub(super) struct Listing {
    pub(super) kind: ObjectKind,
    pub(super) files: Vec<Stored>,
    /// The directories that they are in, by the first byte of their digests.
    shards: Vec<Option<Dir>>,
    /// Names of other things.
    pub(super) strangers: u64,
}

/// A file's name in its shard, in memory that is used again.
#[derive(Default)]
pub(super) struct FileName(Vec<u8>);

impl FileName {
    pub(super) fn of(&mut self, stored: &Stored) -> &Path {
        write_object_name(&mut self.0, &stored.digest, stored.variant());
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl Stored {
    pub(super) const fn new(digest: Digest, variant: Option<[u8; 16]>, ino: u64) -> Self {
        Self {
            digest,
            bits: match variant {
                Some(bits) => bits,
                None => [0; 16],
            },
            ino,
            size: 0,
            is_variant: variant.is_some(),
            has_bytes: false,
            has_inode: false,
        }
    }

    pub(super) fn variant(&self) -> Option<[u8; 16]> {
        self.is_variant.then_some(self.bits)
    }

    /// Orders files by their digests: an object's own file, then its variants by their names.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        // Nearly always the first bits are enough, and numbers are faster to compare than bytes.
        let name = |stored: &Self| stored.variant().map(u128::from_le_bytes);
        (first_bits(&self.digest).cmp(&first_bits(&other.digest)))
            .then_with(|| self.digest.cmp(&other.digest))
            .then_with(|| name(self).cmp(&name(other)))
    }
}

/// The first 32 bits of a digest as a number, which orders as the digest does.
pub(super) const fn first_bits(digest: &Digest) -> u32 {
    let [a, b, c, d, ..] = *digest.as_bytes();
    (a as u32) << 24 | (b as u32) << 16 | (c as u32) << 8 | d as u32
}

impl Listing {
    /// The directory that a file is in.
    pub(super) fn shard(&self, digest: &Digest) -> &Dir {
        self.shards[usize::from(digest.as_bytes()[0])]
            .as_ref()
            .expect("it was found there")
    }
}

impl Repo {
    /// Lists the objects of one kind, on the threads of the pool that this is called in.
    pub(super) fn list_objects(&self, kind: ObjectKind) -> Result<Listing, RepoError> {
        let files = Mutex::new(Vec::new());
        let found = self
            .kind_dir(kind)
            .entries()?
            .par_iter()
            .map(|entry| self.list_shard(kind, entry, &files))
            .collect::<Result<Vec<_>, RepoError>>()?;
        let mut shards: Vec<_> = std::iter::repeat_with(|| None).take(256).collect();
        let mut strangers = 0;
        for (shard, strange) in found {
            strangers += strange;
            if let Some((number, dir)) = shard {
                shards[usize::from(number)] = Some(dir);
            }
        }
        Ok(Listing {
            kind,
            files: files.into_inner().unwrap_or_else(PoisonError::into_inner),
            shards,
            strangers,
        })
    }

    /// Adds the files of a shard to `files`; returns the shard by its number, and how many names are none of ours.
    fn list_shard(
        &self,
        kind: ObjectKind,
        entry: &DirEntry,
        files: &Mutex<Vec<Stored>>,
    ) -> Result<(Option<(u8, Dir)>, u64), RepoError> {
        let Some(dir) = self.open_shard(kind, &entry.name)? else {
            return Ok((None, 1));
        };
        let (mut list, mut unknown, mut strangers) = (Vec::new(), Vec::new(), 0);
        dir.visit_entries(|name, file_kind, ino| {
            let parsed = parse_object_bits(entry.name.as_bytes(), name.as_bytes());
            match (parsed, file_kind) {
                (Some((digest, variant)), FileKind::File) => list.push(Stored::new(digest, variant, ino)),
                (Some((digest, variant)), FileKind::Unknown) => {
                    unknown.push(Stored::new(digest, variant, ino));
                }
                _ => strangers += 1,
            }
        })?;
        // A file system that keeps no types in its directories has to be asked for each.
        for stored in unknown {
            match dir.stat(FileName::default().of(&stored))?.kind {
                FileKind::File => list.push(stored),
                _ => strangers += 1,
            }
        }
        // One list grows in place, where many would be there twice while they are put together.
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        files.append(&mut list);
        let [number] = parse_hex([entry.name.as_bytes()]).expect("a shard's name is two digits");
        Ok((Some((number, dir)), strangers))
    }
}
