//! What is in the way of the next run is put aside, and removed at the end.
//!
//! ext4 does not use the inode of a removed file again for one to six minutes (`recently_deleted`, fs/ext4/ialloc.c), and whoever makes a file
//! there passes all of those first: after 200,000 files were removed, making as many others was seen to take thirty seconds instead of
//! six. That would be measured, and not what was to be measured.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::contest::remove;

/// How long ext4 keeps away from a removed file's inode.
pub const RECENT: Duration = Duration::from_secs(360);

/// A directory of things that nobody needs any more.
#[derive(Debug)]
pub struct Discards {
    directory: PathBuf,
    count: Cell<u32>,
    /// Bytes that were free when the run began, and the most that a run has taken.
    free: Cell<u64>,
    most: Cell<u64>,
}

impl Discards {
    /// They are put beside what they are made of, into `parent`.
    #[must_use]
    pub fn beneath(parent: &Path) -> Self {
        Self {
            directory: parent.join("discarded"),
            count: Cell::new(0),
            free: Cell::new(0),
            most: Cell::new(0),
        }
    }

    /// Puts a file or a tree aside, if it is there.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn put(&self, path: &Path) -> Result<()> {
        if std::fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        self.count.set(self.count.get() + 1);
        let to = self.directory.join(self.count.get().to_string());
        std::fs::rename(path, &to)
            .with_context(|| format!("cannot rename {} to {}", path.display(), to.display()))
    }

    /// Removes everything if another run would not find room beside it. To be called before each.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn make_room(&self, parent: &Path) -> Result<()> {
        let free = || -> Result<u64> {
            let found = rustix::fs::statvfs(parent).context("cannot look at the file system")?;
            Ok(found.f_bavail * found.f_frsize)
        };
        let now = free()?;
        self.most
            .set(self.most.get().max(self.free.get().saturating_sub(now)));
        // Half as much again, as others use the disk, too.
        if self.count.get() > 0 && now < self.most.get() + self.most.get() / 2 {
            eprintln!("what earlier runs left is removed: the next would not find room");
            self.empty()?;
        }
        self.free.set(free()?);
        Ok(())
    }

    /// Removes everything.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn empty(&self) -> Result<()> {
        remove(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_is_out_of_the_way_and_goes_in_the_end() {
        let scratch = tempfile::tempdir().unwrap();
        let discards = Discards::beneath(scratch.path());
        let path = scratch.path().join("tree");
        for _ in 0..2 {
            std::fs::create_dir(&path).unwrap();
            discards.put(&path).unwrap();
            assert!(!path.exists());
        }
        discards.put(&path).unwrap();
        assert_eq!(
            std::fs::read_dir(scratch.path().join("discarded"))
                .unwrap()
                .count(),
            2
        );
        discards.make_room(scratch.path()).unwrap();
        discards.empty().unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
