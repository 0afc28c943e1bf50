//! The lock that account tools take.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::etc_merge::error::EtcMergeError;
use crate::fs::{Dir, FsError};

/// The lock file of `lckpwdf(3)`, in `/etc`.
pub(in crate::etc_merge) const LOCK_FILE: &str = ".pwd.lock";

/// Keeps `passwd`, `useradd` and the like from changing accounts: the lock that `lckpwdf(3)` takes, on the `/etc` of
/// the system that is running. Hold it while a merge from that `/etc` is applied.
///
/// It is a record lock, which the kernel keeps for the process and drops when the process closes *any* descriptor of
/// the file; the merge therefore never opens `.pwd.lock`. Two of these in one process do not exclude each other.
#[derive(Debug)]
pub struct AccountsLock {
    _file: File,
}

/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(50);

impl AccountsLock {
    /// Takes the lock in `etc`, waiting at most `timeout` (`lckpwdf` itself waits 15 s).
    pub fn acquire(etc: &Dir, timeout: Duration, cancel: &Cancel) -> Result<Self, EtcMergeError> {
        let file = etc.open_or_create_file(LOCK_FILE, 0o600)?;
        let started = Instant::now();
        loop {
            cancel.check()?;
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => {}
                Err(errno) => {
                    return Err(FsError::new("lock", etc.path().join(LOCK_FILE), errno).into());
                }
            }
            let waited = started.elapsed();
            if waited >= timeout {
                return Err(EtcMergeError::AccountsLocked {
                    path: etc.path().join(LOCK_FILE),
                    seconds: waited.as_secs(),
                });
            }
            std::thread::sleep(RETRY.min(timeout - waited));
        }
    }
}
