//! Adding objects and moving refs, so that a crash at any moment leaves the old state or the new.
//!
//! Objects are written into a staging directory of the transaction's own, sharded as the store is. Committing makes
//! them durable, gives them their names, makes the names durable, and only then replaces `refs`, which is the visible
//! step. Nothing is ever linked into the store before its bytes are down: a name made early has been seen to survive a
//! power cut as a file of no bytes. One `syncfs` per step costs milliseconds where an `fsync` per object costs minutes.
//!
//! What an interrupted run staged is taken over by the next one, and believed only after it was hashed again. A file that has other names,
//! of a tree that was being adopted or a repository that was being pulled from, is taken by whoever would link it and nobody else.

mod adopted;
mod blobs;
mod hash;
mod loose;
mod partial;
mod staging;
mod write_back;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{Commit, DirTree, Metadata, limits};
use crate::fs::{Dir, FileLock, FsError, hash_file};

use super::object::{damaged, encode_error, inode_matches, inode_metadata};
use super::{
    ObjectKind, RefUpdate, Repo, RepoError, RepoMode, Room, Taken, TreeSource, object_path, parse_object_name,
};

pub(crate) use blobs::Shared;
pub(super) use hash::copy_hashing;
pub(crate) use hash::{Scratch, Verity, hash_into, hash_stream};
pub(crate) use loose::{BlobFiles, LooseError};
pub(crate) use partial::Partial;
pub(super) use staging::Staging;
use write_back::WriteBack;

/// What storing an object did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreOutcome {
    /// The bytes are new.
    Added,
    /// The bytes were there, and an inode variant with other metadata is new.
    AddedVariant,
    /// Nothing had to be written.
    AlreadyPresent,
}

/// A stored blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its name.
    pub id: BlobId,
    /// Its bytes.
    pub size: u64,
    /// What storing it did.
    pub outcome: StoreOutcome,
}

/// What a committed transaction wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TransactionStats {
    /// New blobs.
    pub blobs_added: u64,
    /// Bytes in the new blobs.
    pub bytes_added: u64,
    /// New inode variants of blobs that were there.
    pub variants_added: u64,
    /// Bytes written for new inode variants; none where the file system shares blocks.
    pub variant_bytes_added: u64,
    /// New dirtrees.
    pub dirtrees_added: u64,
    /// New commits.
    pub commits_added: u64,
    /// Objects taken over from an interrupted run.
    pub resumed: u64,
}

/// A running transaction. Holds the repository's shared lock. Dropping it leaves the store as it was.
#[derive(Debug)]
pub struct Transaction<'r> {
    repo: &'r Repo,
    _shared: FileLock,
    staging: Staging,
    claims: Vec<Mutex<Claims>>,
    /// Files of blobs, beneath their directory, that were found to be whole.
    verified: Mutex<HashSet<String>>,
    refs: Mutex<Vec<RefUpdate>>,
    counters: Counters,
    room: Room,
    write_back: WriteBack,
    /// Set when an object was claimed and not written whole: other threads may rely on it.
    failed: AtomicBool,
}

/// What this transaction has decided about names.
#[derive(Debug, Default)]
struct Claims {
    /// What lies in the staging directory under its digest; in mode `bare` with the 128 bits of the inode that a blob has there. The
    /// kind takes part because a file may hold a dirtree's very bytes.
    staged: HashMap<(ObjectKind, Digest), [u8; 16]>,
    /// Further inodes of blobs, by the 128 bits of their names.
    variants: HashMap<(Digest, [u8; 16]), Claim>,
}

impl Claims {
    /// Returns whether nobody has claimed the object's own name; now somebody has.
    fn stage(&mut self, kind: ObjectKind, digest: &Digest, bits: [u8; 16]) -> bool {
        let entry = self.staged.entry((kind, *digest));
        let is_new = matches!(entry, Entry::Vacant(_));
        entry.or_insert(bits);
        is_new
    }

    /// Returns whether the blob's inode with these bits is staged, or was found in the store.
    fn has_inode(&self, blob: &Digest, bits: [u8; 16]) -> bool {
        self.staged.get(&(ObjectKind::Blob, *blob)) == Some(&bits)
            || self.variants.contains_key(&(*blob, bits))
    }
}

/// What is to become of a staged name, where a blob may be an inode that somebody else made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It is free: the inode gets it.
    Make,
    /// An interrupted run gave it to an inode that has other names: it stays if this operation would link that very inode.
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It lies in the staging directory under this name.
    Staged,
    /// It lies in the store.
    Elsewhere,
}

/// Stands for the inode of an object that has one alone.
const ONLY: [u8; 16] = [0; 16];

#[derive(Debug, Default)]
struct Counters {
    blobs: AtomicU64,
    bytes: AtomicU64,
    variants: AtomicU64,
    variant_bytes: AtomicU64,
    dirtrees: AtomicU64,
    commits: AtomicU64,
    resumed: AtomicU64,
}

/// A power of two that keeps threads out of each other's way.
const CLAIM_SHARDS: usize = 64;

/// Directory of blobs whose inodes are not known yet.
const LOOSE: &str = "loose";

impl Repo {
    /// Starts a transaction. Waits for a pruner to finish.
    pub fn begin(&self) -> Result<Transaction<'_>, RepoError> {
        self.check_writable()?;
        let shared = self.lock_shared()?;
        let room = self.room()?;
        drop(room.take(0)?);
        let staging = Staging::open(self)?;
        Ok(Transaction {
            repo: self,
            _shared: shared,
            staging,
            claims: (0..CLAIM_SHARDS).map(|_| Mutex::default()).collect(),
            verified: Mutex::default(),
            refs: Mutex::default(),
            counters: Counters::default(),
            room,
            write_back: WriteBack::default(),
            failed: AtomicBool::new(false),
        })
    }
}

/// Dirtrees that are staged, and those of the store.
impl TreeSource for Transaction<'_> {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        let (kind, digest) = (ObjectKind::DirTree, id.digest());
        let name = format!("{}/{}", kind.dir(), object_path(digest));
        match self.staging.dir.read_optional(&name, limits::MAX_DIRTREE)? {
            // What an interrupted run left half written is not what the store has.
            Some(bytes) if Digest::of(&bytes) == *digest => {
                DirTree::decode(&bytes).map_err(|error| damaged(kind, digest, &error))
            }
            _ => self.repo.load_dirtree(id),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The sets are consistent between any two statements, so a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'r> Transaction<'r> {
    /// Returns the repository.
    #[must_use]
    pub fn repo(&self) -> &'r Repo {
        self.repo
    }

    /// Returns whether nothing was stored that was not here before.
    pub(crate) fn is_empty(&self) -> bool {
        let counters = &self.counters;
        [
            &counters.blobs,
            &counters.variants,
            &counters.dirtrees,
            &counters.commits,
        ]
        .iter()
        .all(|counter| counter.load(Ordering::Relaxed) == 0)
    }

    /// Announces that `bytes` are about to be staged; what is returned is kept until they are. Fails where they would leave less free
    /// than is to stay free.
    pub(crate) fn will_write(&self, bytes: u64) -> Result<Taken<'_>, RepoError> {
        let taken = self.room.take(bytes)?;
        self.write_back.note(bytes, &self.staging.dir);
        Ok(taken)
    }

    /// Returns whether there is what an interrupted run staged.
    pub(crate) fn has_adopted(&self) -> bool {
        self.staging.adopted
    }

    fn noting_failure<T>(&self, result: Result<T, RepoError>) -> Result<T, RepoError> {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn claims_of(&self, digest: &Digest) -> MutexGuard<'_, Claims> {
        lock(&self.claims[usize::from(digest.as_bytes()[0]) % CLAIM_SHARDS])
    }

    /// Returns whether an interrupted run left this object whole; removes it where it did not. `is_own` is asked of an inode that has
    /// other names: a tree that was being adopted, or the repository that was being pulled from, has one, and writes to it.
    fn reuse_staged(
        &self,
        name: &str,
        metadata: Option<&Metadata>,
        digest: &Digest,
        is_own: impl FnOnce() -> Result<bool, RepoError>,
    ) -> Result<bool, RepoError> {
        let dir = &self.staging.dir;
        let Some(file) = dir.open_file_optional(name)? else {
            return Ok(false);
        };
        if dir.stat(name)?.nlink > 1 && !is_own()? {
            dir.remove_file(name)?;
            return Ok(false);
        }
        let (found, _) = hash_file(&file).map_err(|error| FsError::new("read", name, error))?;
        let inode_is_right = match metadata {
            Some(metadata) if self.repo.mode() == RepoMode::Bare => {
                inode_matches(dir, name, &dir.stat(name)?, metadata)?
            }
            _ => true,
        };
        if found.digest() == digest && inode_is_right {
            return Ok(true);
        }
        dir.remove_file(name)?;
        Ok(false)
    }

    /// Stores a dirtree. What it refers to must be stored by the same transaction or be there.
    pub fn store_dirtree(&self, tree: &DirTree) -> Result<DirTreeId, RepoError> {
        let (id, bytes) = tree
            .encode()
            .map_err(|source| encode_error("a directory", source))?;
        if self.store_encoded(ObjectKind::DirTree, id.digest(), &bytes)? {
            self.counters.dirtrees.fetch_add(1, Ordering::Relaxed);
        }
        Ok(id)
    }

    /// Stores a commit, whose root must be stored by the same transaction or be there.
    pub fn store_commit(&self, commit: &Commit) -> Result<CommitId, RepoError> {
        let (id, bytes) = commit
            .encode()
            .map_err(|source| encode_error("a commit", source))?;
        if self.store_encoded(ObjectKind::Commit, id.digest(), &bytes)? {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(id)
    }

    fn store_encoded(&self, kind: ObjectKind, digest: &Digest, bytes: &[u8]) -> Result<bool, RepoError> {
        let path = object_path(digest);
        if self.repo.kind_dir(kind).exists(&path)? {
            return Ok(false);
        }
        let name = format!("{}/{path}", kind.dir());
        if !self.claims_of(digest).stage(kind, digest, ONLY) {
            return Ok(false);
        }
        self.noting_failure(self.stage_encoded(&name, digest, bytes))?;
        Ok(true)
    }

    fn stage_encoded(&self, name: &str, digest: &Digest, bytes: &[u8]) -> Result<(), RepoError> {
        if !(self.staging.adopted && self.reuse_staged(name, None, digest, || Ok(false))?) {
            let _taken = self.will_write(bytes.len() as u64)?;
            let file = self.staging.create(name, 0o644)?;
            crate::fs::write_all(&file, bytes).map_err(|error| FsError::new("write", name, error))?;
        }
        Ok(())
    }

    /// Moves a ref when the transaction commits.
    pub fn set_ref(&self, update: RefUpdate) {
        lock(&self.refs).push(update);
    }

    /// Makes everything durable, and then visible: objects, `syncfs`, their names, `syncfs`, refs, `syncfs`.
    ///
    /// # Errors
    /// Among others [`RepoError::IncompleteTransaction`] where storing an object has failed before, whatever the
    /// caller made of that: the object may be half written, and its name would say that it is whole.
    pub fn commit(self) -> Result<TransactionStats, RepoError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(RepoError::IncompleteTransaction);
        }
        crate::failpoint::hit("store.staged")?;
        if self.staging.adopted {
            self.drop_unclaimed()?;
        }
        self.staging.dir.remove_tree(LOOSE)?;
        self.write_back.finish()?;
        self.staging.dir.sync_fs()?;
        crate::failpoint::hit("store.synced")?;
        for kind in ObjectKind::ALL {
            self.publish(kind)?;
            crate::failpoint::hit("store.renamed")?;
        }
        // Even when nothing was written: an object that was found here may be another process's, renamed a moment
        // ago, and its name must be down before a ref leads to it.
        self.repo.dir().sync_fs()?;
        crate::failpoint::hit("store.durable")?;
        let updates = std::mem::take(&mut *lock(&self.refs));
        if !updates.is_empty() {
            self.repo.move_refs(&updates)?;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = TransactionStats {
            blobs_added: count(&self.counters.blobs),
            bytes_added: count(&self.counters.bytes),
            variants_added: count(&self.counters.variants),
            variant_bytes_added: count(&self.counters.variant_bytes),
            dirtrees_added: count(&self.counters.dirtrees),
            commits_added: count(&self.counters.commits),
            resumed: count(&self.counters.resumed),
        };
        self.staging.parent.remove_tree(&self.staging.name)?;
        Ok(stats)
    }

    /// Removes what an interrupted run staged and this one did not ask for.
    fn drop_unclaimed(&self) -> Result<(), RepoError> {
        for kind in ObjectKind::ALL {
            let staged = self.staging.dir.open_dir(kind.dir())?;
            for shard in staged.entries()? {
                let dir = staged.open_dir(&shard.name)?;
                for entry in dir.entries()? {
                    let parsed = match (shard.name.to_str(), entry.name.to_str()) {
                        (Some(shard), Some(name)) => parse_object_name(shard, name),
                        _ => None,
                    };
                    let claimed = parsed.is_some_and(|(digest, variant)| {
                        let claims = self.claims_of(&digest);
                        match variant.map(|name| super::traverse::parse_variant_bits(&name)) {
                            None => claims.staged.contains_key(&(kind, digest)),
                            Some(bits) => claims.variants.get(&(digest, bits)) == Some(&Claim::Staged),
                        }
                    });
                    if !claimed {
                        dir.remove_tree(&entry.name)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives staged objects their names. A shard that the store does not have yet moves whole.
    fn publish(&self, kind: ObjectKind) -> Result<(), RepoError> {
        let staged = self.staging.dir.open_dir(kind.dir())?;
        let store = self.repo.kind_dir(kind);
        for shard in staged.entries()? {
            match staged.rename_new(&shard.name, store, &shard.name) {
                Ok(()) => continue,
                Err(error) if error.is_already_exists() => {}
                Err(error) => return Err(error.into()),
            }
            let (from, to) = (staged.open_dir(&shard.name)?, store.open_dir(&shard.name)?);
            for entry in from.entries()? {
                match from.rename_new(&entry.name, &to, &entry.name) {
                    Ok(()) => {}
                    // Another process was faster.
                    Err(error) if error.is_already_exists() => {
                        self.publish_beside(kind, &shard.name.to_string_lossy(), &from, &to, &entry.name)?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The name is taken. That is the same object; but the inode under a blob's base name may have other metadata,
    /// and then ours becomes a variant.
    fn publish_beside(
        &self,
        kind: ObjectKind,
        shard: &str,
        from: &Dir,
        to: &Dir,
        name: &std::ffi::OsStr,
    ) -> Result<(), RepoError> {
        let parsed = name.to_str().and_then(|name| parse_object_name(shard, name));
        if let (ObjectKind::Blob, RepoMode::Bare, Some((_, None))) = (kind, self.repo.mode(), &parsed) {
            let stat = from.stat(name)?;
            let ours = inode_metadata(from, name, &stat)?;
            let theirs = to.stat(name)?;
            if inode_metadata(to, name, &theirs)? != ours {
                let variant = ours
                    .variant_name()
                    .map_err(|source| encode_error("inode metadata", source))?;
                match from.rename_new(name, to, format!("{}.{variant}", name.to_string_lossy())) {
                    Err(error) if error.is_already_exists() => {}
                    other => return Ok(other?),
                }
            }
        }
        Ok(from.remove_file(name)?)
    }
}
