//! Adding objects and moving refs, so that a crash at any moment leaves the old state or the new.
//!
//! Objects are written into a staging directory of the transaction's own, sharded as the store is. Committing makes
//! them durable, gives them their names, makes the names durable, and only then replaces `refs`, which is the visible
//! step. Nothing is ever linked into the store before its bytes are down: a name made early has been seen to survive a
//! power cut as a file of no bytes. One `syncfs` per step costs milliseconds where an `fsync` per object costs minutes.
//!
//! What an interrupted run staged is taken over by the next one, and believed only after it was hashed again.

mod loose;
mod write_back;

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::failpoint::fault::call;
use crate::format::{Commit, DirTree, Metadata};
use crate::fs::{Dir, FileLock, FsError, Stat, hash_file, read_up_to, stat_file};

use super::layout::TMP;
use super::object::{encode_error, inode_matches, inode_metadata};
use super::{
    ObjectKind, RefUpdate, Repo, RepoError, RepoMode, Room, object_path, parse_object_name, variant_path,
};

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
    refs: Mutex<Vec<RefUpdate>>,
    counters: Counters,
    room: Room,
    write_back: WriteBack,
    /// Set when an object was claimed and not written whole: other threads may rely on it.
    failed: AtomicBool,
}

/// What this transaction has decided about names, by kind, digest and the 128 bits of an inode variant. The kind
/// takes part because a file may hold a dirtree's very bytes.
type Claims = HashMap<(ObjectKind, Digest, [u8; 16]), Claim>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It lies in the staging directory under this name.
    Staged,
    /// It lies in the store, or in the staging directory as the blob's base.
    Elsewhere,
}

/// Stands for an object's base name, which has no variant's bits.
const BASE: [u8; 16] = [0; 16];

/// A transaction's own directory. Its lock says that its owner lives.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) parent: Dir,
    pub(super) name: String,
    pub(super) dir: Dir,
    _owner: FileLock,
    adopted: bool,
}

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

/// Files up to this size are read once, into memory, and written from there; larger ones are hashed as they stream.
const WHOLE: usize = 1024 * 1024;

/// What is read at once of a stream.
const PIECE: usize = 64 * 1024;

/// A power of two that keeps threads out of each other's way.
const CLAIM_SHARDS: usize = 64;

/// Directory of large blobs that are being put together.
const PARTIAL: &str = "partial";

/// Directory of blobs whose inodes are not known yet.
const LOOSE: &str = "loose";

pub(crate) use loose::{BlobFiles, LooseError};
use write_back::WriteBack;

/// A large blob that is being put together. Bytes are appended.
#[derive(Debug)]
pub(crate) struct Partial {
    dir: Dir,
    name: String,
    file: File,
    len: u64,
}

impl Partial {
    /// Returns how many bytes there are.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = call("write", || rustix::io::write(&self.file, bytes))?;
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A buffer that a thread reuses from file to file.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(vec![0; WHOLE])
    }
}

impl Repo {
    /// Starts a transaction. Waits for a pruner to finish.
    pub fn begin(&self) -> Result<Transaction<'_>, RepoError> {
        self.check_writable()?;
        let shared = self.lock_shared()?;
        let room = self.room()?;
        room.take(0)?;
        let staging = Staging::open(self)?;
        Ok(Transaction {
            repo: self,
            _shared: shared,
            staging,
            claims: (0..CLAIM_SHARDS).map(|_| Mutex::default()).collect(),
            refs: Mutex::default(),
            counters: Counters::default(),
            room,
            write_back: WriteBack::default(),
            failed: AtomicBool::new(false),
        })
    }
}

impl Staging {
    /// Takes over a directory whose owner is gone, or makes a new one. The directory's own lock says who lives.
    fn open(repo: &Repo) -> Result<Self, RepoError> {
        let parent = repo.dir().ensure_dir(TMP, 0o700)?;
        for entry in parent.entries()? {
            let Some(name) = entry.name.to_str().filter(|name| name.starts_with("txn-")) else {
                continue;
            };
            let Some(dir) = parent.open_dir_optional(name)? else {
                continue;
            };
            if let Some(owner) = FileLock::try_acquire_dir(&dir)?
                && parent.exists(name)?
            {
                return Self::prepare(parent, name.to_owned(), dir, owner, true);
            }
        }
        Self::make(parent)
    }

    /// Makes a new one, and leaves alone what interrupted runs have staged.
    pub(super) fn fresh(repo: &Repo) -> Result<Self, RepoError> {
        Self::make(repo.dir().ensure_dir(TMP, 0o700)?)
    }

    fn make(parent: Dir) -> Result<Self, RepoError> {
        loop {
            let name = format!("txn-{}", super::init::random_hex(8)?);
            parent.create_dir(&name, 0o700)?;
            let dir = parent.open_dir(&name)?;
            // Somebody may take over the directory between these two lines; then it is theirs.
            if let Some(owner) = FileLock::try_acquire_dir(&dir)? {
                return Self::prepare(parent, name, dir, owner, false);
            }
        }
    }

    fn prepare(
        parent: Dir,
        name: String,
        dir: Dir,
        owner: FileLock,
        adopted: bool,
    ) -> Result<Self, RepoError> {
        // The repository may lie where files are given a group or an access control list; an object has its own.
        crate::fs::disinherit(&dir)?;
        for kind in ObjectKind::ALL {
            dir.ensure_dir(kind.dir(), 0o700)?;
        }
        // Whoever reads a stream reads it from its start, and does not know what another one held.
        dir.remove_tree(LOOSE)?;
        Ok(Self {
            parent,
            name,
            dir,
            _owner: owner,
            adopted,
        })
    }

    /// Makes the file `name` (`<kind>/ab/…`), and its shard if it is missing.
    /// Gives the staged `name` to a file elsewhere; returns `false` where that cannot be.
    fn link(&self, dir: &Dir, from: impl AsRef<Path>, name: &str) -> Result<bool, FsError> {
        let shard = Path::new(name).parent().expect("a staged name has a shard");
        self.dir.ensure_dir_all(shard, 0o755)?;
        match call("link", || {
            rustix::fs::linkat(dir, from.as_ref(), &self.dir, name, AtFlags::empty())
        }) {
            Ok(()) => Ok(true),
            // Another file system, one that has no links, a file that the kernel keeps for its owner, or too many names.
            Err(
                Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOENT,
            ) => Ok(false),
            Err(errno) => Err(FsError::new("link", self.dir.path().join(name), errno)),
        }
    }

    pub(super) fn create(&self, name: &str, mode: u32) -> Result<File, FsError> {
        match self.dir.create_file(name, mode) {
            Err(error) if error.is_not_found() => {
                let shard = Path::new(name).parent().expect("a staged name has a shard");
                self.dir.ensure_dir_all(shard, 0o755)?;
                self.dir.create_file(name, mode)
            }
            other => other,
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

    /// Stores the bytes of `file`, from its start, with `metadata` on the inode where the mode keeps it. `path` is
    /// for messages.
    pub fn store_file(&self, file: &File, path: &Path, metadata: &Metadata) -> Result<StoredBlob, RepoError> {
        let size = file
            .metadata()
            .map_err(|error| FsError::new("look at", path, error))?
            .len();
        let mut scratch = Scratch::new();
        let hashed = hash_into(file, size, path, &mut scratch)?;
        self.store_hashed(file, path, metadata, &hashed, &scratch)
    }

    pub(crate) fn store_hashed(
        &self,
        file: &File,
        path: &Path,
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
    ) -> Result<StoredBlob, RepoError> {
        self.store(metadata, hashed, |target, name| {
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            copy_verified(file, target, path, hashed)
        })
    }

    /// Stores what [`hash_stream`] has hashed; `reopen` gives the same bytes once more, where they were too many to keep.
    pub(crate) fn store_stream<R: Read>(
        &self,
        path: &Path,
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
        reopen: impl Fn() -> std::io::Result<R>,
    ) -> Result<StoredBlob, RepoError> {
        self.store(metadata, hashed, |target, name| {
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            let fail = |error| RepoError::from(FsError::new("read", path, error));
            let written =
                hash_reader(&mut reopen().map_err(fail)?, fail, |bytes| {
                    Ok(crate::fs::write_all(target, bytes)
                        .map_err(|error| FsError::new("write", name, error))?)
                })?;
            if written != (hashed.blob, hashed.size) {
                return Err(fail(changed()));
            }
            Ok(())
        })
    }

    /// Stores a file of another repository: as another name of the same inode where `link` says where that is, else
    /// sharing its blocks where the file system can, else as a copy. What of these came to be is `None` for what was here.
    pub(crate) fn store_shared(
        &self,
        file: &File,
        path: &Path,
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
        link: Option<(&Dir, &str)>,
    ) -> Result<Option<Shared>, RepoError> {
        let how = Cell::new(Shared::Copied);
        let inode = link.map(|_| stat_file(file, path)).transpose()?;
        let try_link = |name: &str| -> Result<bool, RepoError> {
            let Some(((dir, from), inode)) = link.zip(inode.as_ref()) else {
                return Ok(false);
            };
            if !self.staging.link(dir, from, name)? {
                return Ok(false);
            }
            // What was hashed, and not what took its name meanwhile.
            let linked = self.staging.dir.stat(name)?;
            if (linked.dev, linked.ino) != (inode.dev, inode.ino) {
                self.staging.dir.remove_file(name)?;
                return Ok(false);
            }
            how.set(Shared::Hardlinked);
            Ok(true)
        };
        let write = |target: &File, name: &Path| {
            if rustix::fs::ioctl_ficlone(target, file).is_ok() {
                how.set(Shared::Reflinked);
                let found = hash_file(target).map_err(|error| FsError::new("read", name, error))?;
                return if found == (hashed.blob, hashed.size) {
                    Ok(())
                } else {
                    Err(FsError::new("copy", path, changed()).into())
                };
            }
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            copy_verified(file, target, path, hashed)
        };
        let stored = self.store_by(metadata, hashed, try_link, write)?;
        Ok((stored.outcome != StoreOutcome::AlreadyPresent).then(|| how.get()))
    }

    /// Stores bytes whose digest the caller has found to be `id`.
    pub(crate) fn store_verified(
        &self,
        id: &BlobId,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<StoredBlob, RepoError> {
        let hashed = Hashed {
            blob: *id,
            size: bytes.len() as u64,
            in_scratch: true,
        };
        self.store(metadata, &hashed, |target, name| write_whole(target, name, bytes))
    }

    /// Stores a file by making it the store's own, where that is safe: nobody else has a name for it or has it open for writing,
    /// and it is as it was in `before`, when it was hashed. Its owner, mode, attributes and time become what is recorded. Otherwise
    /// it is copied. Returns whether the file is the store's own now; its name in the source must go before anybody writes to it.
    pub(crate) fn store_adopted(
        &self,
        file: &File,
        before: &Stat,
        (dir, from): (&Dir, &OsStr),
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
    ) -> Result<bool, RepoError> {
        let path = Path::new(from);
        let adopted = Cell::new(false);
        let unchanged = |stat: &Stat, links: u64| {
            let of = |stat: &Stat| {
                (
                    stat.dev,
                    stat.ino,
                    stat.size,
                    stat.mtime,
                    stat.mtime_nsec,
                    stat.mode,
                    stat.uid,
                    stat.gid,
                )
            };
            of(stat) == of(before) && stat.nlink == links
        };
        let try_link = |name: &str| -> Result<bool, RepoError> {
            // In mode `bare-user` an object's owner is whoever may write to it.
            let is_ours =
                self.repo.mode() == RepoMode::Bare || before.uid == rustix::process::geteuid().as_raw();
            let safe = hashed.size > 0
                && is_ours
                && unchanged(&stat_file(file, path)?, 1)
                && crate::fs::nobody_writes(file)
                && crate::fs::has_no_other_xattrs(file, &metadata.xattrs);
            if !safe || !self.staging.link(dir, from, name)? {
                return Ok(false);
            }
            // What was hashed, and not what took its name meanwhile; nor has anybody written to it since.
            if !unchanged(&self.staging.dir.stat(name)?, 2) {
                self.staging.dir.remove_file(name)?;
                return Ok(false);
            }
            self.set_inode(file, metadata, path)?;
            adopted.set(true);
            Ok(true)
        };
        let write = |target: &File, name: &Path| {
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            copy_verified(file, target, path, hashed)
        };
        self.store_by(metadata, hashed, try_link, write)?;
        Ok(adopted.get())
    }

    /// Returns whether the store has the blob, in mode `bare` as an inode with exactly `metadata`.
    pub(crate) fn has_blob(&self, id: &BlobId, size: u64, metadata: &Metadata) -> Result<bool, RepoError> {
        let found = match self.repo.mode() {
            RepoMode::Bare => self.repo.find_variant(id, metadata)?.map(|(_, size)| size),
            RepoMode::BareUser => self
                .repo
                .kind_dir(ObjectKind::Blob)
                .stat_optional(object_path(id.digest()))?
                .map(|stat| stat.size),
        };
        Ok(found == Some(size))
    }

    /// Announces that `bytes` are about to be staged. Fails where they would leave less free than is to stay free.
    pub(crate) fn will_write(&self, bytes: u64) -> Result<(), RepoError> {
        self.room.take(bytes)?;
        self.write_back.note(bytes, &self.staging.dir);
        Ok(())
    }

    /// Returns whether there is what an interrupted run staged.
    pub(crate) fn has_adopted(&self) -> bool {
        self.staging.adopted
    }

    /// Takes a blob that an interrupted run staged, if it is whole, as every one of `inodes`.
    pub(crate) fn take_staged(&self, id: &BlobId, size: u64, inodes: &[Metadata]) -> Result<bool, RepoError> {
        let name = format!("{}/{}", ObjectKind::Blob.dir(), object_path(id.digest()));
        let Some(file) = self.staging.dir.open_file_optional(&name)? else {
            return Ok(false);
        };
        let path = self.staging.dir.path().join(&name);
        let mut scratch = Scratch::new();
        let hashed = hash_into(&file, size, &path, &mut scratch)?;
        if hashed.blob != *id || hashed.size != size {
            self.staging.dir.remove_file(&name)?;
            return Ok(false);
        }
        for metadata in inodes {
            self.store_hashed(&file, &path, metadata, &hashed, &scratch)?;
        }
        Ok(true)
    }

    /// Returns how many bytes of a large blob an interrupted run has put together.
    pub(crate) fn partial_len(&self, id: &BlobId) -> Result<u64, RepoError> {
        let file = self.staging.dir.open_file_optional(format!("{PARTIAL}/{id}"))?;
        Ok(match file {
            Some(file) => file
                .metadata()
                .map_err(|error| FsError::new("look at", self.staging.dir.path(), error))?
                .len(),
            None => 0,
        })
    }

    /// Throws away what was put together of a large blob.
    pub(crate) fn discard_partial(&self, partial: &Partial) -> Result<(), RepoError> {
        Ok(partial.dir.remove_file(&partial.name)?)
    }

    /// Opens the file in which a large blob is put together; an interrupted run may have begun it.
    pub(crate) fn open_partial(&self, id: &BlobId) -> Result<Partial, RepoError> {
        let dir = self.staging.dir.ensure_dir(PARTIAL, 0o700)?;
        let name = id.to_string();
        let mut file = dir.open_or_create_file(&name, 0o600)?;
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(|error| FsError::new("look at", dir.path().join(&name), error))?;
        Ok(Partial { dir, name, file, len })
    }

    /// Stores a blob that was put together, as every one of `inodes`, if its bytes are those of `id`; returns whether
    /// they are. If they are not, the file is removed.
    pub(crate) fn store_partial(
        &self,
        partial: Partial,
        id: &BlobId,
        size: u64,
        inodes: &[Metadata],
    ) -> Result<bool, RepoError> {
        let path = partial.dir.path().join(&partial.name);
        let mut scratch = Scratch::new();
        (&mut &partial.file)
            .seek(SeekFrom::Start(0))
            .map_err(|error| FsError::new("read", &path, error))?;
        let hashed = hash_into(&partial.file, size, &path, &mut scratch)?;
        let good = hashed.blob == *id && hashed.size == size;
        if good {
            let mut moved = false;
            for metadata in inodes {
                // The first new inode is this very file; a second one is a copy of it.
                if !moved && let Some(place) = self.claim(&hashed, metadata)? {
                    self.noting_failure(self.place_partial(&partial, &place, metadata, &path))?;
                    let (count, bytes) = if place.variant {
                        (&self.counters.variants, &self.counters.variant_bytes)
                    } else {
                        (&self.counters.blobs, &self.counters.bytes)
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(size, Ordering::Relaxed);
                    moved = true;
                    continue;
                }
                self.store_hashed(&partial.file, &path, metadata, &hashed, &scratch)?;
            }
            if moved {
                return Ok(true);
            }
        }
        partial.dir.remove_file(&partial.name)?;
        Ok(good)
    }

    fn place_partial(
        &self,
        partial: &Partial,
        place: &Place,
        metadata: &Metadata,
        path: &Path,
    ) -> Result<(), RepoError> {
        self.set_inode(&partial.file, metadata, path)?;
        let name = format!("{}/{}", ObjectKind::Blob.dir(), place.path);
        let shard = Path::new(&name).parent().expect("a staged name has a shard");
        self.staging.dir.ensure_dir_all(shard, 0o755)?;
        self.staging.dir.remove_file_optional(&name)?;
        Ok(partial.dir.rename(&partial.name, &self.staging.dir, &name)?)
    }

    /// Stores `bytes` as a blob.
    pub fn store_bytes(&self, bytes: &[u8], metadata: &Metadata) -> Result<StoredBlob, RepoError> {
        let hashed = Hashed {
            blob: BlobId::new(Digest::of(bytes)),
            size: bytes.len() as u64,
            in_scratch: true,
        };
        self.store(metadata, &hashed, |target, name| write_whole(target, name, bytes))
    }

    fn store(
        &self,
        metadata: &Metadata,
        hashed: &Hashed,
        write: impl Fn(&File, &Path) -> Result<(), RepoError>,
    ) -> Result<StoredBlob, RepoError> {
        self.store_by(metadata, hashed, |_| Ok(false), write)
    }

    /// Stores a blob: `link` gives the staged name to a finished inode, or says that it cannot, and then `write` fills a new
    /// file.
    fn store_by(
        &self,
        metadata: &Metadata,
        hashed: &Hashed,
        link: impl Fn(&str) -> Result<bool, RepoError>,
        write: impl Fn(&File, &Path) -> Result<(), RepoError>,
    ) -> Result<StoredBlob, RepoError> {
        let stored = |outcome| StoredBlob {
            id: hashed.blob,
            size: hashed.size,
            outcome,
        };
        let Some(place) = self.claim(hashed, metadata)? else {
            return Ok(stored(StoreOutcome::AlreadyPresent));
        };
        let resumed = self.noting_failure(self.stage_blob(&place, metadata, hashed, link, write))?;
        self.counters
            .resumed
            .fetch_add(u64::from(resumed), Ordering::Relaxed);
        let (count, bytes, outcome) = if place.variant {
            (
                &self.counters.variants,
                &self.counters.variant_bytes,
                StoreOutcome::AddedVariant,
            )
        } else {
            (&self.counters.blobs, &self.counters.bytes, StoreOutcome::Added)
        };
        count.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(hashed.size, Ordering::Relaxed);
        Ok(stored(outcome))
    }

    /// Writes a claimed blob, or finds it among what an interrupted run staged.
    fn stage_blob(
        &self,
        place: &Place,
        metadata: &Metadata,
        hashed: &Hashed,
        link: impl Fn(&str) -> Result<bool, RepoError>,
        write: impl Fn(&File, &Path) -> Result<(), RepoError>,
    ) -> Result<bool, RepoError> {
        let name = format!("{}/{}", ObjectKind::Blob.dir(), place.path);
        let resumed =
            self.staging.adopted && self.reuse_staged(&name, Some(metadata), hashed.blob.digest())?;
        if !resumed && !link(&name)? {
            self.will_write(hashed.size)?;
            let file = self.staging.create(&name, 0o600)?;
            let path = self.staging.dir.path().join(&name);
            write(&file, &path)?;
            self.set_inode(&file, metadata, &path)?;
        }
        Ok(resumed)
    }

    fn noting_failure<T>(&self, result: Result<T, RepoError>) -> Result<T, RepoError> {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Decides under which name the blob has to be written, or that it need not be. Two threads that store the same
    /// blob are told apart here: the first one writes.
    fn claim(&self, hashed: &Hashed, metadata: &Metadata) -> Result<Option<Place>, RepoError> {
        let blob = &hashed.blob;
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        let base = object_path(blob.digest());
        let mut claims = self.claims_of(blob.digest());
        let present = objects.stat_optional(&base)?;
        if let Some(stat) = &present
            && stat.size != hashed.size
        {
            let reason = format!("it has {} bytes instead of {}", stat.size, hashed.size);
            return Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason,
            });
        }
        if self.repo.mode() == RepoMode::BareUser {
            let new = present.is_none()
                && claims
                    .insert((ObjectKind::Blob, *blob.digest(), BASE), Claim::Staged)
                    .is_none();
            return Ok(new.then_some(Place {
                path: base,
                variant: false,
            }));
        }
        if let Some(stat) = &present
            && inode_matches(objects, &base, stat, metadata)?
        {
            return Ok(None);
        }
        let variant = metadata
            .variant_name()
            .map_err(|source| encode_error("inode metadata", source))?;
        let bits = super::traverse::variant_bits(metadata)?;
        if claims.contains_key(&(ObjectKind::Blob, *blob.digest(), bits)) {
            return Ok(None);
        }
        // The first variant of a new blob becomes its base.
        if present.is_none()
            && claims
                .insert((ObjectKind::Blob, *blob.digest(), BASE), Claim::Staged)
                .is_none()
        {
            claims.insert((ObjectKind::Blob, *blob.digest(), bits), Claim::Elsewhere);
            return Ok(Some(Place {
                path: base,
                variant: false,
            }));
        }
        let path = variant_path(blob.digest(), &variant);
        if let Some(stat) = objects.stat_optional(&path)?
            && inode_matches(objects, &path, &stat, metadata)?
        {
            claims.insert((ObjectKind::Blob, *blob.digest(), bits), Claim::Elsewhere);
            return Ok(None);
        }
        claims.insert((ObjectKind::Blob, *blob.digest(), bits), Claim::Staged);
        Ok(Some(Place { path, variant: true }))
    }

    fn claims_of(&self, digest: &Digest) -> MutexGuard<'_, Claims> {
        lock(&self.claims[usize::from(digest.as_bytes()[0]) % CLAIM_SHARDS])
    }

    fn set_inode(&self, file: &File, metadata: &Metadata, path: &Path) -> Result<(), FsError> {
        if self.repo.mode() == RepoMode::BareUser {
            return call("fchmod", || rustix::fs::fchmod(file, Mode::from_raw_mode(0o644)))
                .map_err(|errno| FsError::new("set the mode of", path, errno));
        }
        crate::fs::apply_to_file(file, metadata, path)
    }

    /// Returns whether an interrupted run left this object whole; removes it where it did not.
    fn reuse_staged(
        &self,
        name: &str,
        metadata: Option<&Metadata>,
        digest: &Digest,
    ) -> Result<bool, RepoError> {
        let dir = &self.staging.dir;
        let Some(file) = dir.open_file_optional(name)? else {
            return Ok(false);
        };
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
        if self
            .claims_of(digest)
            .insert((kind, *digest, BASE), Claim::Staged)
            .is_some()
        {
            return Ok(false);
        }
        self.noting_failure(self.stage_encoded(&name, digest, bytes))?;
        Ok(true)
    }

    fn stage_encoded(&self, name: &str, digest: &Digest, bytes: &[u8]) -> Result<(), RepoError> {
        if !(self.staging.adopted && self.reuse_staged(name, None, digest)?) {
            self.will_write(bytes.len() as u64)?;
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
            self.repo.update_refs(&updates)?;
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
                        let bits = variant.map_or(BASE, |name| super::traverse::parse_variant_bits(&name));
                        self.claims_of(&digest).get(&(kind, digest, bits)) == Some(&Claim::Staged)
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

struct Place {
    path: String,
    variant: bool,
}

/// How a file of another repository came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    /// It is the same inode.
    Hardlinked,
    /// It has the same blocks.
    Reflinked,
    /// It has blocks of its own.
    Copied,
}

/// A file's digest and size, and whether its bytes are in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    in_scratch: bool,
}

/// Returns the digest of the file's bytes, which stay in `scratch` where they fit.
pub(crate) fn hash_into(
    file: &File,
    size: u64,
    path: &Path,
    scratch: &mut Scratch,
) -> Result<Hashed, RepoError> {
    let fail = |error| FsError::new("read", path, error);
    // A file that grew meanwhile does not fit any more, and is streamed from its start.
    if size < WHOLE as u64 {
        let len = read_up_to(file, &mut scratch.0).map_err(fail)?;
        if len < WHOLE {
            let blob = BlobId::new(Digest::of(&scratch.0[..len]));
            return Ok(Hashed {
                blob,
                size: len as u64,
                in_scratch: true,
            });
        }
        (&mut &*file).seek(SeekFrom::Start(0)).map_err(fail)?;
    }
    let (blob, size) = hash_file(file).map_err(fail)?;
    Ok(Hashed {
        blob,
        size,
        in_scratch: false,
    })
}

/// Returns the digest of what `reader` gives, which stays in `scratch` where it fits.
pub(crate) fn hash_stream(reader: &mut impl Read, scratch: &mut Scratch) -> std::io::Result<Hashed> {
    let mut filled = 0;
    let (blob, size) = hash_reader(
        reader,
        |error| error,
        |bytes| {
            if let Some(room) = scratch.0.get_mut(filled..filled + bytes.len()) {
                room.copy_from_slice(bytes);
            }
            filled += bytes.len();
            Ok(())
        },
    )?;
    Ok(Hashed {
        blob,
        size,
        in_scratch: size <= WHOLE as u64,
    })
}

/// Reads to the end, and gives each piece to `each`; `fail` says what it means that reading failed.
fn hash_reader<E>(
    reader: &mut impl Read,
    fail: impl Fn(std::io::Error) -> E,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(BlobId, u64), E> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((BlobId::new(hasher.finalize().into()), size)),
            Ok(len) => {
                hasher.update(&buffer[..len]);
                size += len as u64;
                each(&buffer[..len])?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

fn changed() -> std::io::Error {
    std::io::Error::other("the file was changed while it was being read")
}

fn write_whole(target: &File, name: &Path, bytes: &[u8]) -> Result<(), RepoError> {
    crate::fs::write_all(target, bytes).map_err(|error| FsError::new("write", name, error).into())
}

/// Copies a large file, and checks that what was written is what was hashed: the source may be written meanwhile.
fn copy_verified(source: &File, target: &File, path: &Path, hashed: &Hashed) -> Result<(), RepoError> {
    let fail = |error| RepoError::from(FsError::new("copy", path, error));
    (&mut &*source).seek(SeekFrom::Start(0)).map_err(fail)?;
    let written = if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        hash_file(target).map_err(fail)?
    } else {
        copy_hashing(source, target).map_err(fail)?
    };
    if written != (hashed.blob, hashed.size) {
        return Err(fail(changed()));
    }
    Ok(())
}

/// Copies, hashing; a block of zeros becomes a hole, so a sparse file stays one.
pub(super) fn copy_hashing(source: &File, mut target: &File) -> std::io::Result<(BlobId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; crate::fs::CHUNK];
    let mut size = 0u64;
    let sparse = is_sparse(source)?;
    loop {
        let len = read_up_to(source, &mut buffer)?;
        hasher.update(&buffer[..len]);
        size += len as u64;
        if sparse && buffer[..len].iter().all(|byte| *byte == 0) {
            target.seek(SeekFrom::Current(len as i64))?;
        } else {
            crate::fs::write_all(target, &buffer[..len])?;
        }
        if len < buffer.len() {
            call("ftruncate", || rustix::fs::ftruncate(target, size))?;
            return Ok((BlobId::new(hasher.finalize().into()), size));
        }
    }
}

fn is_sparse(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    Ok(metadata.blocks() * 512 < metadata.len())
}
