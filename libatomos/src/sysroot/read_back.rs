//! Reading back what an upgrade has written.
//!
//! What was written to a disk, and what the disk gives back, are not always the same: a worn flash chip, a cable, a cache
//! that lies. Digests were checked as the data came; that was in memory. So before anything can boot a new deployment, the
//! files that it has and the running one has not are read from the disk itself, past the page cache, and compared. Equal
//! subtrees are skipped by their digests, so it costs what is new.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::Advice;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::diff::{Diff, DiffOptions, DiffSide};
use crate::digest::{BlobId, DirTreeId};
use crate::format::{DirTree, Node};
use crate::fs::{Dir, FsError, hash_file};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{RepoError, TreeSource};

use super::decide::Decision;
use super::{ReadBack, Sysroot, SysrootError};

/// What was read back, and was what it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReadBackReport {
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A tree without anything in it, whatever it is called.
struct Nothing;

impl TreeSource for Nothing {
    fn dirtree(&self, _id: &DirTreeId) -> Result<DirTree, RepoError> {
        Ok(DirTree::default())
    }
}

struct NewFile {
    path: Vec<u8>,
    size: u64,
    blob: BlobId,
}

impl Sysroot {
    /// Reads from the disk what `root`, the tree of `decision`, has and the running deployment has not, and compares it.
    pub(super) fn read_back(
        &self,
        decision: &Decision,
        root: &Dir,
        when: ReadBack,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<ReadBackReport>, SysrootError> {
        let booted = self.booted()?;
        match (when, &booted) {
            (ReadBack::Never, _) | (ReadBack::WhereBooted, None) => return Ok(None),
            (ReadBack::WhereBooted | ReadBack::Always, _) => {}
        }
        // A commit that is not here any more has nothing that need not be read.
        let running = booted.and_then(|id| self.repo.load_commit(&id.commit).ok());
        let nothing = DiffSide {
            source: &Nothing,
            root: DirTreeId::new(crate::digest::Digest::of(b"")),
            metadata: None,
        };
        let side = |root| DiffSide {
            source: &self.repo,
            root,
            metadata: None,
        };
        let before = running.map_or(nothing, |commit| side(commit.root));
        let files = self.new_files(&before, &side(decision.commit.root), cancel)?;
        let report = ReadBackReport {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
        };
        // What is not on disk yet cannot be dropped from the cache.
        // No power cut shows this sync: the marker, or the record of what is staged, comes after another one.
        root.sync_fs()?;
        crate::failpoint::hit("deploy.read-back")?;
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(report.bytes), Unit::Bytes);
        crate::parallel::pool(None).install(|| {
            files.par_iter().try_for_each(|file| {
                cancel.check()?;
                compare(root, file)?;
                phase.advance(file.size);
                Ok::<(), SysrootError>(())
            })
        })?;
        Ok(Some(report))
    }

    fn new_files(
        &self,
        before: &DiffSide<'_>,
        after: &DiffSide<'_>,
        cancel: &Cancel,
    ) -> Result<Vec<NewFile>, SysrootError> {
        let mut files = Vec::new();
        // Another time makes another inode of the same bytes.
        for change in Diff::new(before, after, DiffOptions { mtime: true }, cancel) {
            let change = change?;
            let Some(entry) = &change.after else {
                continue;
            };
            let Node::File { size, blob, .. } = entry.node else {
                continue;
            };
            if size > 0 {
                files.push(NewFile {
                    path: change.path,
                    size,
                    blob,
                });
            }
        }
        Ok(files)
    }
}

fn compare(root: &Dir, file: &NewFile) -> Result<(), SysrootError> {
    let relative = file.path.strip_prefix(b"/").unwrap_or(&file.path);
    let path = Path::new(OsStr::from_bytes(relative));
    let full = || -> PathBuf { root.path().join(path) };
    let opened = root.open_file(path)?;
    // Advice: a kernel that does not take it leaves a reading of the cache, which is what there was before.
    let _ = rustix::fs::fadvise(&opened, 0, None, Advice::DontNeed);
    let (found, _) = hash_file(&opened).map_err(|error| FsError::new("read back", full(), error))?;
    match found == file.blob {
        true => Ok(()),
        false => Err(SysrootError::ReadBackDiffers {
            path: full(),
            expected: file.blob,
            found,
        }),
    }
}
