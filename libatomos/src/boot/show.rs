//! Replacing a small file that a boot loader reads.
//!
//! A loader does not replay a journal: it sees each block as it was last written to its final place, and the kernel writes
//! changed blocks there in any order. After an ordinary replacement, with only some of them written, the directory may name the
//! new file whose inode is not there yet, and that is an empty file; or the old one, whose inode is gone already. Cut
//! the power then, and GRUB shows an empty menu. So there are three steps, with the file system flushed between them:
//!
//! 1. [`Staged::stage`]: the new file is there, whole, under a name that no loader looks at;
//! 2. [`Staged::show`]: **the visible step.** The two names are exchanged. One block of the directory changes, and whichever
//!    version of it is read leads to a file that is whole;
//! 3. [`Staged::forget`]: the old file goes.
//!
//! An interruption between them leaves a name that [`super::reconcile`] removes.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::fs::{Dir, FsError};

/// A file that is written and not shown yet.
#[derive(Debug)]
pub(super) struct Staged {
    dir: Dir,
    name: String,
    temporary: PathBuf,
}

impl Staged {
    /// Writes `bytes` beside the file `name` of `dir`. The flush that comes before [`Staged::show`] makes them last.
    pub(super) fn stage(dir: Dir, name: &str, bytes: &[u8]) -> Result<Self, FsError> {
        let (temporary, _) = dir.write_beside(name, bytes, 0o644)?;
        Ok(Self {
            dir,
            name: name.to_owned(),
            temporary,
        })
    }

    /// Gives the file its name. What was staged must have been flushed.
    pub(super) fn show(&self) -> Result<(), FsError> {
        if self.dir.exists(&self.name)? {
            match self.dir.exchange(&self.temporary, &self.name) {
                // A file system that cannot exchange.
                Err(error) if error.source.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
                other => return other,
            }
        }
        self.dir.rename(&self.temporary, &self.dir, &self.name)
    }

    /// Removes what the file has replaced. That it was shown must have been flushed.
    pub(super) fn forget(&self) -> Result<(), FsError> {
        self.dir.remove_file_optional(&self.temporary).map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_old_file_is_whole_until_it_is_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        std::fs::write(path("menu"), "old").unwrap();
        let inode = |name: &str| std::fs::metadata(path(name)).unwrap().ino();
        let old = inode("menu");
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let staged = Staged::stage(dir, "menu", b"new").unwrap();
        assert_eq!(std::fs::read(path("menu")).unwrap(), b"old");
        let new = inode(".menu.new");
        staged.show().unwrap();
        // Neither inode is gone: a loader that still sees the old directory finds what it names.
        assert_eq!((inode("menu"), inode(".menu.new")), (new, old));
        assert_eq!(std::fs::read(path("menu")).unwrap(), b"new");
        assert_eq!(std::fs::read(path(".menu.new")).unwrap(), b"old");
        staged.forget().unwrap();
        assert!(!path(".menu.new").exists());
    }

    #[test]
    fn a_file_that_is_the_first_of_its_name_replaces_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let staged = Staged::stage(dir, "menu", b"new").unwrap();
        staged.show().unwrap();
        staged.forget().unwrap();
        assert_eq!(std::fs::read(scratch.path().join("menu")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
