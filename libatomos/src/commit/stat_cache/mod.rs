//! What files held when they were last read, so that one which has not changed since need not be read again.
//!
//! A file is known by its device, its inode, its size and both of its times, to the nanosecond. That is sound as long as
//! whatever changes a file's bytes, owner, mode or attributes changes its `ctime`, which no program can set. Three things
//! could get around that, and are kept out when an entry is *made*, as nothing can be told later:
//!
//! - **A write within the same tick of the clock** leaves the same time. So the file's times must lie before the present
//!   one, as git asks of its index ("racy git").
//! - **A writer that has the file open**, or mapped: pages that are dirty already can be written through a mapping without the
//!   inode's times changing until they are cleaned. So nobody may have the file open for writing ([`nobody_writes`]);
//!   who opens it later leaves a later time.
//! - **A clock that is set back** to the very nanosecond of an earlier change. This is not defended against.
//!
//! An inode number that is used again comes with a later `ctime`. What another file system with the same device number has is
//! told apart by that file system's own identity, which is mixed into the device.
//!
//! The cache belongs to the repository, is a hint alone, and can be deleted at any time. One that is damaged is no cache.
//! It is bounded: [`MAX_RECORDS`] files, those that no commit of late has come across dropped first.

mod record;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::BlobId;
use crate::format::Xattrs;
use crate::fs::{Dir, FsError, Stat, nobody_writes};
use crate::repo::Repo;
use crate::verity::VerityDigest;

use super::hash::lock;
use record::{Record, XattrTable};
#[cfg(feature = "testing")]
pub(crate) use record::{check_bytes, seed};

/// Files that are remembered at most: 240 MiB.
pub(super) const MAX_RECORDS: usize = 2 * 1024 * 1024;

/// Commits after which a file that none of them came across is forgotten.
const MAX_IDLE: u32 = 16;

/// Where the cache lies in the repository.
const DIR: &str = "cache";
const FILE: &str = "stat";

/// What tells a state of a file from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            ino: stat.ino,
            size: stat.size,
            mtime: (stat.mtime, stat.mtime_nsec as u32),
            ctime: (stat.ctime, stat.ctime_nsec as u32),
        }
    }

    pub(super) fn inode(&self) -> u64 {
        self.ino
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns whether a write at `now` would leave another time. File systems that keep whole seconds, or pairs of them, are
    /// known by the nanoseconds that they lack.
    fn is_before(&self, now: (i64, u32)) -> bool {
        let last = self.ctime.max(self.mtime);
        if self.ctime.1 == 0 {
            return last.0 + 2 < now.0;
        }
        last < now
    }
}

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) blob: BlobId,
    pub(super) size: u64,
    /// Its fs-verity digest, where somebody wanted that.
    pub(super) verity: Option<VerityDigest>,
    pub(super) xattrs: Xattrs,
}

/// The cache, for one commit of one source.
#[derive(Debug)]
pub(super) struct StatCache {
    /// The source's device, with its file system's identity.
    device: u64,
    /// Sorted by device and inode.
    records: Vec<Record>,
    xattrs: XattrTable,
    /// One bit for each record that this commit came across.
    seen: Vec<AtomicU64>,
    fresh: Mutex<Fresh>,
}

#[derive(Debug, Default)]
struct Fresh {
    records: Vec<Record>,
    xattrs: XattrTable,
}

impl StatCache {
    /// Reads the repository's cache, for files on the file system that `source` is on. A cache that is damaged, or of another
    /// version, is as good as none.
    pub(super) fn load(repo: &Repo, source: &Dir) -> Result<Self, FsError> {
        let device = device_of(source)?;
        let (records, xattrs) = match repo.dir().open_dir_optional(DIR)? {
            Some(dir) => record::read(&dir, FILE).unwrap_or_default(),
            None => Default::default(),
        };
        let seen = (0..records.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        Ok(Self {
            device,
            records,
            xattrs,
            seen,
            fresh: Mutex::default(),
        })
    }

    /// Returns what the file held, if it is as it was then.
    pub(super) fn get(&self, stamp: &Stamp) -> Option<Known> {
        let index = self
            .records
            .binary_search_by_key(&(self.device, stamp.ino), Record::key)
            .ok()?;
        let record = &self.records[index];
        if record.stamp != *stamp {
            return None;
        }
        let xattrs = self.xattrs.get(record.xattrs)?.clone();
        self.seen[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed);
        Some(Known {
            blob: record.blob,
            size: stamp.size,
            verity: record.verity,
            xattrs,
        })
    }

    /// Remembers what the open `file` holds, which has just been read whole, and of which `stat` is the latest news; if that
    /// is certain to be told from whatever it may hold later.
    pub(super) fn put(
        &self,
        file: &File,
        stat: &Stat,
        blob: BlobId,
        verity: Option<VerityDigest>,
        xattrs: &Xattrs,
    ) {
        // In this order: who opens the file for writing after the first line changes its times to `now` or later.
        if !nobody_writes(file) {
            return;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        let still = rustix::fs::fstat(file).map(Stat::from);
        let stamp = Stamp::of(stat);
        if !stamp.is_before((now.tv_sec, now.tv_nsec as u32))
            || !still.is_ok_and(|still| Stamp::of(&still) == stamp)
        {
            return;
        }
        let mut fresh = lock(&self.fresh);
        if fresh.records.len() >= MAX_RECORDS {
            return;
        }
        let Some(xattrs) = fresh.xattrs.intern(xattrs) else {
            return;
        };
        fresh.records.push(Record {
            device: self.device,
            stamp,
            idle: 0,
            xattrs,
            blob,
            verity,
        });
    }

    /// Writes what was learnt, if anything was.
    pub(super) fn save(self, repo: &Repo) -> Result<(), FsError> {
        let mut fresh = std::mem::take(&mut *lock(&self.fresh));
        if fresh.records.is_empty() {
            return Ok(());
        }
        let was_seen =
            |index: usize| self.seen[index / 64].load(Ordering::Relaxed) & (1 << (index % 64)) != 0;
        let Fresh {
            records: new,
            xattrs: table,
        } = &mut fresh;
        new.sort_unstable_by_key(Record::key);
        new.dedup_by_key(|record| record.key());
        let mut merged = Vec::with_capacity(self.records.len() + new.len());
        let mut new = new.iter().peekable();
        for (index, old) in self.records.iter().enumerate() {
            while let Some(record) = new.next_if(|record| record.key() < old.key()) {
                merged.push(*record);
            }
            if new.peek().is_some_and(|record| record.key() == old.key()) {
                continue;
            }
            let idle = if was_seen(index) { 0 } else { old.idle + 1 };
            let kept = (idle <= MAX_IDLE)
                .then(|| self.xattrs.get(old.xattrs))
                .flatten()
                .and_then(|xattrs| table.intern(xattrs));
            if let Some(xattrs) = kept {
                merged.push(Record { idle, xattrs, ..*old });
            }
        }
        merged.extend(new);
        for idle in (1..=MAX_IDLE).rev() {
            if merged.len() <= MAX_RECORDS {
                break;
            }
            merged.retain(|record| record.idle < idle);
        }
        merged.truncate(MAX_RECORDS);
        record::write(&repo.dir().ensure_dir(DIR, 0o700)?, FILE, &merged, table)
    }
}

/// A device's number may be another file system's tomorrow.
fn device_of(source: &Dir) -> Result<u64, FsError> {
    let stat = source.stat_self()?;
    let identity = rustix::fs::fstatvfs(source)
        .map_err(|errno| FsError::new("look at the file system of", source.path(), errno))?
        .f_fsid;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stat.dev.to_le_bytes());
    hasher.update(&identity.to_le_bytes());
    let mut key = [0; 8];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    Ok(u64::from_le_bytes(key))
}
