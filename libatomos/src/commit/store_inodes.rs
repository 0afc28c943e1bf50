//! The store's own inodes, by which a checkout's hardlinks are recognised without reading them.
//!
//! Whoever writes into such a file writes into the store, and its digest is wrong from then on. That leaves a trace that is
//! looked for: the store's inodes have times of whole seconds, and a write sets one of nanoseconds.

use std::collections::HashMap;

use crate::digest::{BlobId, Digest};
use crate::fs::{Stat, read_xattrs_at};
use crate::repo::{ObjectKind, Repo, RepoMode, object_path, variant_path};

use super::CommitError;
use super::source::SourceTree;
use super::stat_cache::{Known, Stamp};

/// Which blob each inode of the store is.
pub(super) struct StoreInodes<'r> {
    repo: &'r Repo,
    by_number: HashMap<u64, (Digest, Option<[u8; 16]>)>,
}

impl<'r> StoreInodes<'r> {
    /// Lists the store, if the tree may have files of it. In mode `bare-user` an inode's times are not the file's, so that nothing
    /// would tell a file that was written to.
    pub(super) fn load(repo: &'r Repo, tree: &SourceTree) -> Result<Option<Self>, CommitError> {
        let objects = repo.kind_dir(ObjectKind::Blob);
        let device = objects.stat_self().map_err(crate::repo::RepoError::from)?.dev;
        if repo.mode() != RepoMode::Bare || !tree.has_links_on(device)? {
            return Ok(None);
        }
        let mut by_number = HashMap::new();
        repo.visit_inodes(|number, digest, variant| {
            by_number.insert(number, (digest, variant));
        })?;
        Ok(Some(Self { repo, by_number }))
    }

    /// Returns what the file holds, if it is one of the store's.
    pub(super) fn get(&self, stamp: &Stamp) -> Result<Option<Known>, CommitError> {
        let Some((digest, variant)) = self.by_number.get(&stamp.inode()) else {
            return Ok(None);
        };
        let path = match variant {
            None => object_path(digest),
            Some(bits) => variant_path(digest, &format!("{:032x}", u128::from_le_bytes(*bits))),
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
