//! Has the disk write what is staged while more is being staged.
//!
//! A transaction ends with a wait for the disk. Left alone, the kernel begins to write when a good part of memory is dirty or
//! half a minute has gone by, so the disk rests while objects are made and processors rest while it writes. Here it is given
//! its work early, which takes about a third off a transaction of a gigabyte.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use crate::fs::{Dir, FsError};

/// Bytes that are staged before the disk is told. Each telling closes a transaction of the file system's journal, which then has the
/// directories and inodes of what is being staged once more, so it has to be worth it.
const STRIDE: u64 = 256 << 20;

/// Counts what is staged, and has it written now and then. Dropping it waits for the disk.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    pending: AtomicU64,
    running: Mutex<Option<JoinHandle<Result<(), FsError>>>>,
    /// The first error of a run that has ended.
    failed: Mutex<Option<FsError>>,
}

impl WriteBack {
    /// Counts `bytes` that are about to be written on the file system of `dir`. Does not wait for them.
    pub(super) fn note(&self, bytes: u64, dir: &Dir) {
        let pending = self.pending.fetch_add(bytes, Ordering::Relaxed);
        if pending.saturating_add(bytes) < STRIDE {
            return;
        }
        let mut running = match self.running.try_lock() {
            Ok(running) => running,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread is at it.
            Err(TryLockError::WouldBlock) => return,
        };
        if running.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.end(running.take());
        self.pending.store(0, Ordering::Relaxed);
        // Opened anew: some errors of the disk are told once to each open file, and the transaction's own sync is to be told, too.
        let Ok(dir) = dir.open_dir(".") else {
            return;
        };
        *running = std::thread::Builder::new()
            .name("write-back".to_owned())
            .spawn(move || dir.sync_fs_unwatched())
            .ok();
    }

    /// Waits for the disk. What it could not write is lost, and other errors are told but once, to whoever asks first.
    ///
    /// # Errors
    /// If anything could not be written.
    pub(super) fn finish(&self) -> Result<(), FsError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.end(running);
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn end(&self, thread: Option<JoinHandle<Result<(), FsError>>>) {
        if let Some(Ok(Err(error))) = thread.map(JoinHandle::join) {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        // Whoever drops it without asking has given up anyhow.
        drop(self.finish());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_told_after_a_stride_and_not_before() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let write_back = WriteBack::default();
        let is_running = || write_back.running.lock().unwrap().is_some();
        write_back.note(STRIDE - 1, &dir);
        assert!(!is_running());
        write_back.note(1, &dir);
        assert!(is_running());
        write_back.finish().unwrap();
        assert!(!is_running());
        write_back.note(STRIDE - 1, &dir);
        assert!(!is_running(), "what was told is counted no more");
    }

    #[test]
    fn an_error_of_any_run_is_told_at_the_end() {
        let write_back = WriteBack::default();
        let fail = || Err(FsError::new("sync", "it", rustix::io::Errno::IO));
        write_back.end(Some(std::thread::spawn(fail)));
        write_back.end(Some(std::thread::spawn(|| Ok(()))));
        assert!(write_back.finish().is_err());
    }
}
