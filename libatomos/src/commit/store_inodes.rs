//! The store's own inodes, by which a checkout's hardlinks are recognised without reading them.
//!
//! Whoever writes into such a file writes into the store, and its digest is wrong from then on. That leaves a trace that is
//! looked for: the store's inodes have times of whole seconds, and a write sets one of nanoseconds.

use crate::digest::{BlobId, Digest};
use crate::fs::{Stat, read_xattrs_at};
use crate::repo::{ObjectKind, Repo, RepoMode, object_path, variant_name, variant_path};

use super::CommitError;
use super::source::SourceTree;
use super::stat_cache::{Known, Stamp, StatCache};

/// Which blob each inode of the store is.
pub(super) struct StoreInodes<'r> {
    repo: &'r Repo,
    /// By their numbers, sorted: there is one for each file of the store, and a table would be half empty.
    blobs: Vec<(u64, Digest)>,
    variants: Vec<(u64, Digest, [u8; 16])>,
}

impl<'r> StoreInodes<'r> {
    /// Lists the store, if the tree may have files of it that `cache` does not know. In mode `bare-user` an inode's times are not the
    /// file's, so that nothing would tell a file that was written to.
    pub(super) fn load(
        repo: &'r Repo,
        tree: &SourceTree,
        cache: Option<&StatCache>,
    ) -> Result<Option<Self>, CommitError> {
        let objects = repo.kind_dir(ObjectKind::Blob);
        let device = objects.stat_self().map_err(crate::repo::RepoError::from)?.dev;
        if repo.mode() != RepoMode::Bare || !tree.is_on(device)? {
            return Ok(None);
        }
        // Listing costs as much as looking at each of some thousand files, and a tree of an operating system has a few hard links.
        let is_news = |stamp| !cache.is_some_and(|cache| cache.knows(stamp));
        if !tree.linked().any(is_news) {
            return Ok(None);
        }
        let (mut blobs, mut variants) = (Vec::new(), Vec::new());
        repo.visit_inodes(|number, digest, variant| match variant {
            None => blobs.push((number, digest)),
            Some(bits) => variants.push((number, digest, bits)),
        })?;
        blobs.sort_unstable_by_key(|(number, _)| *number);
        variants.sort_unstable_by_key(|(number, ..)| *number);
        Ok(Some(Self {
            repo,
            blobs,
            variants,
        }))
    }

    /// Returns where the inode of this number is said to be, and of which blob it is.
    fn find(&self, number: u64) -> Option<(String, &Digest)> {
        if let Ok(index) = self.blobs.binary_search_by_key(&number, |(number, _)| *number) {
            let (_, digest) = &self.blobs[index];
            return Some((object_path(digest), digest));
        }
        let index = self
            .variants
            .binary_search_by_key(&number, |(number, ..)| *number)
            .ok()?;
        let (_, digest, bits) = &self.variants[index];
        Some((variant_path(digest, &variant_name(*bits)), digest))
    }

    /// Returns what the file holds, if it is one of the store's.
    pub(super) fn get(&self, stamp: &Stamp) -> Result<Option<Known>, CommitError> {
        let Some((path, digest)) = self.find(stamp.inode()) else {
            return Ok(None);
        };
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        // A directory's word for an inode's number is not the last one.
        let found = objects.stat_optional(&path)?;
        if !found.is_some_and(|found| Stamp::of(&found) == *stamp && has_whole_seconds(&found)) {
            return Ok(None);
        }
        Ok(Some(Known {
            blob: BlobId::new(*digest),
            size: stamp.size(),
            verity: None,
            xattrs: read_xattrs_at(objects, std::ffi::OsStr::new(&path))?,
        }))
    }
}

fn has_whole_seconds(stat: &Stat) -> bool {
    stat.mtime_nsec == 0
}
