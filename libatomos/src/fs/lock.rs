//! Advisory locks on whole files, with a timeout and the holder's name.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Dir, FsError};

/// Whether a lock admits others of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Any number at once; no exclusive one.
    Shared,
    /// One alone.
    Exclusive,
}

/// Who holds a lock, as far as the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The process that took it.
    pub pid: u32,
    /// The command line of that process, where it can be read.
    pub command: String,
}

/// A lock that somebody else holds, and that is being waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockWait {
    /// What the lock is for.
    pub what: &'static str,
    /// Who holds it.
    pub holders: Vec<LockHolder>,
}

impl std::fmt::Display for LockWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Waiting for the lock of {}, {}",
            self.what,
            describe(&self.holders)
        )
    }
}

type Notice = dyn Fn(&LockWait) + Send + Sync;

/// Told, once for each lock, when it has to be waited for.
#[derive(Clone, Default)]
pub struct LockNotice(Option<Arc<Notice>>);

impl LockNotice {
    /// Calls `notice`, from whichever thread waits.
    pub fn new(notice: impl Fn(&LockWait) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(notice)))
    }

    pub(crate) fn waiting(&self, what: &'static str, holders: &[LockHolder]) {
        if let Some(notice) = &self.0 {
            notice(&LockWait {
                what,
                holders: holders.to_vec(),
            });
        }
    }
}

impl std::fmt::Debug for LockNotice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LockNotice").field(&self.0.is_some()).finish()
    }
}

/// How a lock is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For how long.
    pub timeout: Duration,
    /// Who is told.
    pub notice: LockNotice,
}

impl Default for Patience {
    /// A minute, and nobody is told.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            notice: LockNotice::default(),
        }
    }
}

/// A held lock: an open file with a `flock(2)` on it, released when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl Drop for FileLock {
    /// Closing would do, but for a process that another thread is starting just now: until it executes its program it has a
    /// copy of the descriptor, and with it the lock.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else held it all the time.
    #[error("cannot lock {what} ({}) after waiting {} s: {}", path.display(), waited.as_secs(), describe(holders))]
    Held {
        /// What the lock is for.
        what: &'static str,
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
        /// Who holds it.
        holders: Vec<LockHolder>,
    },
    /// The lock file could not be used.
    #[error(transparent)]
    Fs(#[from] FsError),
}

fn describe(holders: &[LockHolder]) -> String {
    if holders.is_empty() {
        return "another process holds it".to_owned();
    }
    let list: Vec<_> = holders
        .iter()
        .map(|holder| format!("process {} ({})", holder.pid, holder.command))
        .collect();
    format!("held by {}", list.join(", "))
}

/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

impl FileLock {
    /// Takes the lock file `name` in `dir`, waiting at most `timeout`. `waiting` is called once, with the holders,
    /// when it has to wait. A file that is missing is made with `permissions`: whoever may read it may take any lock on it.
    pub fn acquire(
        dir: &Dir,
        name: &str,
        permissions: u32,
        what: &'static str,
        mode: LockMode,
        timeout: Duration,
        waiting: impl FnOnce(&[LockHolder]),
    ) -> Result<Self, LockError> {
        let file = match dir.open_or_create_file(name, permissions) {
            // A reader of a repository that it cannot write may still keep a pruner out.
            Err(error) if error.is_denied() && mode == LockMode::Shared => dir.open_file(name)?,
            other => other?,
        };
        Self::wait_for(file, dir.path().join(name), what, mode, timeout, waiting)
    }

    /// Takes the directory's own lock, as [`acquire`](Self::acquire) takes that of a file, exclusively.
    pub(crate) fn acquire_dir(
        dir: &Dir,
        what: &'static str,
        timeout: Duration,
        waiting: impl FnOnce(&[LockHolder]),
    ) -> Result<Self, LockError> {
        let file = File::from(dir.open_dir(".")?.into_fd());
        let path = dir.path().to_owned();
        Self::wait_for(file, path, what, LockMode::Exclusive, timeout, waiting)
    }

    fn wait_for(
        file: File,
        path: PathBuf,
        what: &'static str,
        mode: LockMode,
        timeout: Duration,
        waiting: impl FnOnce(&[LockHolder]),
    ) -> Result<Self, LockError> {
        let started = Instant::now();
        let mut waiting = Some(waiting);
        loop {
            if Self::try_flock(&file, mode).map_err(|errno| FsError::new("lock", &path, errno))? {
                return Ok(Self { file });
            }
            let waited = started.elapsed();
            let holders = || holders(&file);
            if waited >= timeout {
                return Err(LockError::Held {
                    what,
                    path,
                    waited,
                    holders: holders(),
                });
            }
            if waited > RETRY * 5
                && let Some(waiting) = waiting.take()
            {
                waiting(&holders());
            }
            std::thread::sleep(RETRY.min(timeout - waited));
        }
    }

    /// Takes the directory's own lock if it is free.
    pub fn try_acquire_dir(dir: &Dir) -> Result<Option<Self>, FsError> {
        let fail = |error: std::io::Error| FsError::new("lock", dir.path(), error);
        let file = File::from(dir.open_dir(".")?.into_fd());
        Ok(Self::try_flock(&file, LockMode::Exclusive)
            .map_err(|errno| fail(errno.into()))?
            .then(|| Self { file }))
    }

    /// Takes the lock of a file that is open if it is free.
    pub(crate) fn try_acquire_file(file: &File, path: &Path) -> Result<Option<Self>, FsError> {
        let file = file
            .try_clone()
            .map_err(|error| FsError::new("lock", path, error))?;
        Ok(Self::try_flock(&file, LockMode::Exclusive)
            .map_err(|errno| FsError::new("lock", path, errno))?
            .then(|| Self { file }))
    }

    fn try_flock(file: &File, mode: LockMode) -> Result<bool, Errno> {
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            match rustix::fs::flock(file, operation) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Looks the inode up in `/proc/locks`, which names the process that took each lock: exact, never stale, for shared
/// locks too. Where it cannot be read there are no names.
fn holders(file: &File) -> Vec<LockHolder> {
    let Ok(inode) = file.metadata().map(|metadata| metadata.ino()) else {
        return Vec::new();
    };
    let Ok(proc) = Dir::open_ambient("/proc") else {
        return Vec::new();
    };
    let Ok(table) = proc.read("locks", 4 * 1024 * 1024) else {
        return Vec::new();
    };
    let own = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let mut holders: Vec<LockHolder> = String::from_utf8_lossy(&table)
        .lines()
        .filter_map(|line| parse_lock_line(line, inode))
        .filter(|pid| *pid != own)
        .map(|pid| LockHolder {
            pid,
            command: command_of(&proc, pid),
        })
        .collect();
    holders.dedup();
    holders
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF`; a line of a waiter has `->` second. The device is left
/// unread: btrfs shows another one there than `stat` does.
fn parse_lock_line(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else {
        return None;
    };
    (place.rsplit(':').next()?.parse::<u64>().ok()? == inode).then_some(())?;
    pid.parse().ok()
}

fn command_of(proc: &Dir, pid: u32) -> String {
    let bytes = proc.read(format!("{pid}/cmdline"), 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes)
        .trim_end_matches('\0')
        .replace('\0', " ");
    let text: String = text.chars().filter(|c| !c.is_control()).take(120).collect();
    if text.is_empty() {
        "unknown command".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_line_gives_its_process() {
        assert_eq!(
            parse_lock_line("1: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF", 12345),
            Some(1234)
        );
        assert_eq!(
            parse_lock_line("1: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF", 1),
            None
        );
        assert_eq!(
            parse_lock_line("1: -> FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF", 12345),
            None
        );
        assert_eq!(
            parse_lock_line("1: POSIX  ADVISORY  WRITE 1234 fe:00:12345 0 EOF", 12345),
            None
        );
        assert_eq!(parse_lock_line("", 0), None);
    }

    #[test]
    fn the_compatibility_table_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let take = |mode| FileLock::acquire(&dir, "lock", 0o600, "the test", mode, Duration::ZERO, |_| ());
        for (held, wanted, granted) in [
            (LockMode::Shared, LockMode::Shared, true),
            (LockMode::Shared, LockMode::Exclusive, false),
            (LockMode::Exclusive, LockMode::Shared, false),
            (LockMode::Exclusive, LockMode::Exclusive, false),
        ] {
            let first = take(held).unwrap();
            assert_eq!(take(wanted).is_ok(), granted, "{held:?} then {wanted:?}");
            drop(first);
            assert!(take(wanted).is_ok());
        }
    }
}
