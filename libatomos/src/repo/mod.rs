//! The content-addressed store.
//!
//! A repository is a directory: `objects/` holds blobs, `dirtrees/` and `commits/` the objects that refer to them,
//! `refs` names commits, `roots/` says what else must be kept, `tmp/` holds what is not yet visible. The invariant is
//! that an object that exists under its name is whole. It is kept by the order of writes in [`Transaction::commit`].
//!
//! Readers and writers hold a shared lock, pruning an exclusive one. `repo-format.md` has the layout and the order.

mod aliases;
mod config;
mod error;
mod follow;
mod free_space;
mod fsck;
mod holders;
mod init;
mod layout;
mod mounts;
mod object;
mod partial;
mod prune;
mod pull_local;
mod refs;
mod repair;
mod rev;
mod roots;
mod stats;
mod transaction;
mod traverse;

use std::time::Duration;

use crate::fs::{Dir, FileLock, LockError, LockMode, LockNotice, Patience};

pub use aliases::Aliases;
#[cfg(feature = "testing")]
pub(crate) use aliases::{format as format_aliases, parse as parse_aliases};
pub use config::{Config, FORMAT, Features, RepoMode};
pub use error::{NotKept, RepoError};
pub use follow::LastLink;
pub use free_space::MinFreeSpace;
pub(crate) use free_space::{Room, Taken};
pub use fsck::{FileFinding, Finding, FsckOptions, FsckReport, ObjectUse, Problem};
pub use holders::{HolderStats, Share};
pub(crate) use init::random_hex;
pub use layout::ObjectKind;
pub(crate) use layout::{CACHE, object_path, parse_object_name, variant_path};
pub use mounts::MountId;
pub(crate) use object::Likely;
pub use partial::PartialCommits;
pub use prune::{PruneOptions, PruneReport};
pub use pull_local::{LocalPullOptions, LocalPullReport};
pub use refs::{RefUpdate, Refs};
#[cfg(feature = "testing")]
pub(crate) use refs::{format as format_refs, parse as parse_refs};
pub use repair::{
    Aborted, Candidate, RepairOptions, RepairReport, RepairSource, RepairedObject, RepoSource, SharedFile,
    SourceError, SourceReport, Take, WantedObject,
};
pub use rev::{Located, Resolved};
pub use roots::{RootName, RootRecord};
pub use stats::{RefStats, RepoStats};
pub(crate) use transaction::{BlobFiles, LooseError, Partial, Scratch, Verity, hash_into, hash_stream};
pub use transaction::{StoreOutcome, StoredBlob, Transaction, TransactionStats};
pub use traverse::{Reachable, TreeSource};
pub(crate) use traverse::{check_depth, merge_equal, name_unkept, variant_bits, variant_name};

/// An open repository.
///
/// The value is cheap to share between threads. Methods that read take no lock unless they say so; an object that
/// is being read cannot change, and only pruning removes one.
#[derive(Debug)]
pub struct Repo {
    dir: Dir,
    objects: Dir,
    dirtrees: Dir,
    commits: Dir,
    config: Config,
    lock_timeout: Duration,
    lock_notice: LockNotice,
}

/// How long a lock is waited for unless the caller says otherwise.
pub const DEFAULT_LOCK_TIMEOUT: Duration = Duration::from_secs(30);

impl Repo {
    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns how the repository keeps files.
    #[must_use]
    pub fn mode(&self) -> RepoMode {
        self.config.mode
    }

    /// Returns the repository's directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Sets how long a lock is waited for.
    pub fn set_lock_timeout(&mut self, timeout: Duration) {
        self.lock_timeout = timeout;
    }

    /// Sets who is told when a lock has to be waited for.
    pub fn set_lock_notice(&mut self, notice: LockNotice) {
        self.lock_notice = notice;
    }

    /// Returns how locks are waited for.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            timeout: self.lock_timeout,
            notice: self.lock_notice.clone(),
        }
    }

    /// Keeps pruning away for as long as the guard lives.
    pub fn lock_shared(&self) -> Result<FileLock, RepoError> {
        self.lock(LockMode::Shared)
    }

    /// Keeps every reader and writer away for as long as the guard lives.
    pub(crate) fn lock_exclusive(&self) -> Result<FileLock, RepoError> {
        self.lock(LockMode::Exclusive)
    }

    fn lock(&self, mode: LockMode) -> Result<FileLock, RepoError> {
        let permissions = layout::lock_permissions(self.mode());
        self.acquire(&self.dir, layout::LOCK, permissions, "the repository", mode)
    }

    /// Locks a file of a layer above, exclusively, with this repository's patience. `what` is for messages.
    pub(crate) fn lock_other(
        &self,
        dir: &Dir,
        name: &str,
        what: &'static str,
    ) -> Result<FileLock, RepoError> {
        self.acquire(dir, name, 0o600, what, LockMode::Exclusive)
    }

    /// Locks a directory that is not the repository's, exclusively, with its patience.
    pub(crate) fn lock_dir(&self, dir: &Dir, what: &'static str) -> Result<FileLock, LockError> {
        FileLock::acquire_dir(dir, what, self.lock_timeout, |holders| {
            self.lock_notice.waiting(what, holders);
        })
    }

    fn acquire(
        &self,
        dir: &Dir,
        name: &str,
        permissions: u32,
        what: &'static str,
        mode: LockMode,
    ) -> Result<FileLock, RepoError> {
        Ok(FileLock::acquire(
            dir,
            name,
            permissions,
            what,
            mode,
            self.lock_timeout,
            |holders| self.lock_notice.waiting(what, holders),
        )?)
    }

    pub(crate) fn kind_dir(&self, kind: ObjectKind) -> &Dir {
        match kind {
            ObjectKind::Blob => &self.objects,
            ObjectKind::DirTree => &self.dirtrees,
            ObjectKind::Commit => &self.commits,
        }
    }
}
