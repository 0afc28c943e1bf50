//! The directory that a transaction writes to before anything has its name.

use std::fs::File;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::failpoint::fault::call;
use crate::fs::{Dir, FileLock, FsError};

use super::super::init::random_hex;
use super::super::layout::TMP;
use super::super::{ObjectKind, Repo, RepoError};
use super::LOOSE;

/// A transaction's own directory. Its lock says that its owner lives.
#[derive(Debug)]
pub(in crate::repo) struct Staging {
    pub(in crate::repo) parent: Dir,
    pub(in crate::repo) name: String,
    pub(in crate::repo) dir: Dir,
    _owner: FileLock,
    /// Whether an interrupted run has left something in it.
    pub(super) adopted: bool,
}

impl Drop for Staging {
    /// What is staged without an inode is never taken over, and where a run ended for want of room it takes what there is.
    fn drop(&mut self) {
        // It is removed by whoever takes the directory over, too.
        let _ = self.dir.remove_tree(LOOSE);
    }
}

impl Staging {
    /// Takes over a directory whose owner is gone, or makes a new one. The directory's own lock says who lives.
    pub(super) fn open(repo: &Repo) -> Result<Self, RepoError> {
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
    pub(in crate::repo) fn fresh(repo: &Repo) -> Result<Self, RepoError> {
        Self::make(repo.dir().ensure_dir(TMP, 0o700)?)
    }

    fn make(parent: Dir) -> Result<Self, RepoError> {
        loop {
            let name = format!("txn-{}", random_hex(8)?);
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

    /// Gives the staged `name` to a file elsewhere; returns `false` where that cannot be.
    pub(super) fn link(&self, dir: &Dir, from: impl AsRef<Path>, name: &str) -> Result<bool, FsError> {
        let link = || {
            call("link", || {
                rustix::fs::linkat(dir, from.as_ref(), &self.dir, name, AtFlags::empty())
            })
        };
        let linked = match link() {
            // The shard is missing, or what was to be linked: there is one of these for every file of a tree, and few shards.
            Err(Errno::NOENT) => {
                self.ensure_shard(name)?;
                link()
            }
            other => other,
        };
        match linked {
            Ok(()) => Ok(true),
            // Another file system, one that has no links, a file that the kernel keeps for its owner, or too many names.
            Err(
                Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::MLINK | Errno::NOENT,
            ) => Ok(false),
            Err(errno) => Err(FsError::new("link", self.dir.path().join(name), errno)),
        }
    }

    /// Makes the file `name` (`<kind>/ab/…`), and its shard if it is missing.
    pub(in crate::repo) fn create(&self, name: &str, mode: u32) -> Result<File, FsError> {
        match self.dir.create_file(name, mode) {
            Err(error) if error.is_not_found() => {
                self.ensure_shard(name)?;
                self.dir.create_file(name, mode)
            }
            other => other,
        }
    }

    fn ensure_shard(&self, name: &str) -> Result<(), FsError> {
        let shard = Path::new(name).parent().expect("a staged name has a shard");
        self.dir.ensure_dir_all(shard, 0o755).map(drop)
    }
}
