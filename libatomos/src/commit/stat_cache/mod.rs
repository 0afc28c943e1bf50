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
//! The cache belongs to the repository, is a hint alone, and can be deleted at any time. One that is damaged is no cache. It says what a
//! file holds, and not that the store has that.
//! It is bounded: [`MAX_RECORDS`] files, those that no commit of late has come across dropped first.

mod fresh;
mod record;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{BlobId, DIGEST_LEN};
use crate::format::Xattrs;
use crate::fs::{Dir, FsError, Stat, nobody_writes};
use crate::repo::{CACHE as DIR, Repo};
use crate::verity::VerityDigest;

use super::hash::lock;
use fresh::Fresh;
use record::{NoCache, Reader, Record, Writer, XattrTable};
#[cfg(feature = "testing")]
pub(crate) use record::{check_bytes, seed};

/// Files that are remembered at most: 240 MiB.
pub(super) const MAX_RECORDS: usize = 2 * 1024 * 1024;

/// Commits after which a file that none of them came across is forgotten.
const MAX_IDLE: u32 = 16;

/// How the cache is called among what saves work.
const FILE: &str = "stat";

/// What tells a state of a file from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    ino: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
    mtime_nsec: u32,
    ctime_nsec: u32,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            ino: stat.ino,
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
            mtime_nsec: stat.mtime_nsec as u32,
            ctime_nsec: stat.ctime_nsec as u32,
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
        let last = (self.ctime, self.ctime_nsec).max((self.mtime, self.mtime_nsec));
        if self.ctime_nsec == 0 {
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
    old: Old,
    /// One bit for each record of `old` that this commit came across.
    seen: Vec<AtomicU64>,
    new: Mutex<New>,
    /// The repository, where runs of new records are kept meanwhile.
    repo: Dir,
}

/// What was remembered.
#[derive(Debug, Default)]
struct Old {
    /// The cache, as long as it is one: those records are copied that this commit has nothing newer than.
    file: Option<File>,
    /// Of the source's device, sorted by inode.
    records: Vec<Brief>,
    /// The fs-verity digests of as many of them as have one or come before one that has; zeros where one has none.
    verity: Vec<[u8; DIGEST_LEN]>,
    xattrs: XattrTable,
}

/// A record without what all of one device have in common, and most have not.
#[derive(Debug, Clone, Copy)]
struct Brief {
    stamp: Stamp,
    xattrs: u32,
    blob: BlobId,
}

/// What this commit has learnt.
#[derive(Debug, Default)]
struct New {
    records: Fresh,
    xattrs: XattrTable,
    /// Set when records could not be kept: what there is of them is written, and no more is added.
    full: bool,
}

impl Old {
    /// Reads the records of `device`, if this is a cache.
    fn read(file: File, device: u64) -> Result<Self, NoCache> {
        let (mut reader, xattrs) = Reader::new(buffered(&file))?;
        let mut old = Self {
            xattrs,
            ..Self::default()
        };
        while let Some(record) = reader.record()? {
            if record.device == device {
                if let Some(verity) = record.verity {
                    old.verity.resize(old.records.len(), [0; DIGEST_LEN]);
                    old.verity.push(*verity.as_bytes());
                }
                old.records.push(Brief {
                    stamp: record.stamp,
                    xattrs: record.xattrs,
                    blob: record.blob,
                });
            }
        }
        drop(reader);
        old.file = Some(file);
        Ok(old)
    }

    fn find(&self, inode: u64) -> Option<usize> {
        self.records
            .binary_search_by_key(&inode, |brief| brief.stamp.ino)
            .ok()
    }

    fn find_unchanged(&self, stamp: &Stamp) -> Option<usize> {
        let found = self.find(stamp.ino);
        found.filter(|index| self.records[*index].stamp == *stamp)
    }

    fn verity(&self, index: usize) -> Option<VerityDigest> {
        let digest = *self.verity.get(index)?;
        (digest != [0; DIGEST_LEN]).then(|| VerityDigest::from_bytes(digest))
    }
}

fn buffered(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(256 * 1024, file)
}

impl StatCache {
    /// Reads the repository's cache, for files on the file system that `source` is on. A cache that is damaged, or of another
    /// version, is as good as none.
    pub(super) fn load(repo: &Repo, source: &Dir) -> Result<Self, FsError> {
        let device = device_of(source)?;
        let file = match repo.dir().open_dir_optional(DIR)? {
            Some(dir) => dir.open_file(FILE).ok(),
            None => None,
        };
        let old = file
            .and_then(|file| Old::read(file, device).ok())
            .unwrap_or_default();
        let seen = (0..old.records.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        Ok(Self {
            device,
            old,
            seen,
            new: Mutex::default(),
            repo: repo.dir().try_clone()?,
        })
    }

    /// Returns whether the file is as it was then.
    pub(super) fn knows(&self, stamp: &Stamp) -> bool {
        self.old.find_unchanged(stamp).is_some()
    }

    /// Returns what the file held, if it is as it was then.
    pub(super) fn get(&self, stamp: &Stamp) -> Option<Known> {
        let index = self.old.find_unchanged(stamp)?;
        let record = &self.old.records[index];
        let xattrs = self.old.xattrs.get(record.xattrs)?.clone();
        self.seen[index / 64].fetch_or(1 << (index % 64), Ordering::Relaxed);
        Some(Known {
            blob: record.blob,
            size: stamp.size,
            verity: self.old.verity(index),
            xattrs,
        })
    }

    /// Returns whether this commit came across the old record of `inode` and found it as it was.
    fn was_seen(&self, inode: u64) -> bool {
        let is_set = |index: usize| self.seen[index / 64].load(Ordering::Relaxed) & (1 << (index % 64)) != 0;
        self.old.find(inode).is_some_and(is_set)
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
        let mut new = lock(&self.new);
        if new.full || new.records.len() >= MAX_RECORDS {
            return;
        }
        let Some(xattrs) = new.xattrs.intern(xattrs) else {
            return;
        };
        let record = Record {
            device: self.device,
            stamp,
            idle: 0,
            xattrs,
            blob,
            verity,
        };
        let open = || {
            let dir = self.repo.ensure_dir(DIR, 0o700)?;
            dir.create_unnamed(0o600)
        };
        // Nobody waits for a hint: a full disk is found by what must be written.
        new.full = new
            .records
            .push(record, || open().map_err(std::io::Error::other))
            .is_err();
    }

    /// Writes what was learnt, if anything was.
    pub(super) fn save(mut self) -> Result<(), FsError> {
        let mut new = std::mem::take(&mut *lock(&self.new));
        if new.records.len() == 0 {
            return Ok(());
        }
        new.records.sort();
        let mut table = std::mem::take(&mut new.xattrs);
        let dir = self.repo.ensure_dir(DIR, 0o700)?;
        let fail = |error| FsError::new("write", dir.path().join(FILE), error);
        // Once to see what there will be, since that comes before the records, and once to write it.
        let mut idle = [0; MAX_IDLE as usize + 1];
        let mut count = |cache: &Self, idle: &mut [usize]| {
            idle.fill(0);
            cache.merge(&new.records, &mut table, |record| {
                idle[record.idle as usize] += 1;
                Ok(())
            })
        };
        match count(&self, &mut idle) {
            // Whatever wrote into the old one: the new records are whole.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.old = Old::default();
                count(&self, &mut idle)
            }
            counted => counted,
        }
        .map_err(fail)?;
        let (mut oldest, mut count) = (MAX_IDLE, idle.iter().sum::<usize>());
        while count > MAX_RECORDS && oldest > 0 {
            count -= idle[oldest as usize];
            oldest -= 1;
        }
        let count = count.min(MAX_RECORDS);
        let temporary = format!(".{FILE}.{:08x}.new", std::process::id());
        dir.remove_file_optional(&temporary)?;
        let file = dir.create_file(&temporary, 0o600)?;
        let sets = table.clone();
        let mut write = || {
            let mut writer = Writer::new(&file, &sets, count)?;
            let mut left = count;
            self.merge(&new.records, &mut table, |record| {
                if record.idle > oldest || left == 0 {
                    return Ok(());
                }
                left -= 1;
                writer.put(record)
            })?;
            writer.finish()
        };
        // No power cut shows this order: nothing is synced, what is left of the cache is whole or is seen not to be, and it says of no
        // object that the store has it.
        match write() {
            Ok(()) => dir.rename(&temporary, &dir, FILE),
            Err(error) => {
                dir.remove_file_optional(&temporary)?;
                Err(fail(error))
            }
        }
    }

    /// Visits the records that the cache will have, in their order.
    fn merge(
        &self,
        new: &Fresh,
        table: &mut XattrTable,
        mut visit: impl FnMut(&Record) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let changed = |NoCache| std::io::Error::new(std::io::ErrorKind::InvalidData, "the old cache changed");
        let mut new = new.merged()?;
        let mut file = self.old.file.as_ref();
        if let Some(file) = &mut file {
            file.rewind()?;
        }
        let mut reader = file
            .map(|file| Reader::new(buffered(file)))
            .transpose()
            .map_err(changed)?;
        while let Some((reader, sets)) = &mut reader
            && let Some(old) = reader.record().map_err(changed)?
        {
            while new.key().is_some_and(|key| key < old.key()) {
                new.take()?.as_ref().map_or(Ok(()), &mut visit)?;
            }
            if new.key() == Some(old.key()) {
                continue;
            }
            let is_met = old.device == self.device && self.was_seen(old.stamp.ino);
            let idle = if is_met { 0 } else { old.idle.saturating_add(1) };
            let kept = (idle <= MAX_IDLE)
                .then(|| sets.get(old.xattrs))
                .flatten()
                .and_then(|xattrs| table.intern(xattrs));
            if let Some(xattrs) = kept {
                visit(&Record { idle, xattrs, ..old })?;
            }
        }
        while let Some(record) = new.take()? {
            visit(&record)?;
        }
        Ok(())
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
