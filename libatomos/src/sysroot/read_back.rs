//! Reading back what an upgrade has written.
//!
//! What was written to a disk, and what the disk gives back, are not always the same: a worn flash chip, a cable, a cache
//! that lies. Digests were checked as the data came; that was in memory. So before anything can boot a new deployment, the
//! files that it has and the running one has not are read from the disk itself, past the page cache, and compared. Equal
//! subtrees are skipped by their digests, so it costs what is new.
//!
//! Where the root is an image, files are read by nobody but through it: from the repository's objects. So these are read, and the image. What
//! runs vouches for objects only where it is an image, too: a deployment of files may have other inodes of the same bytes. The first
//! deployment that is an image therefore reads all that it has.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rayon::prelude::*;
use rustix::fs::Advice;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::diff::{Diff, DiffOptions, DiffSide};
use crate::digest::{BlobId, DirTreeId};
use crate::format::{DirTree, Node};
use crate::fs::{Dir, FsError, hash_file};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{ObjectKind, RepoError, TreeSource, object_path};

use super::build::LaidOut;
use super::decide::Decision;
use super::skeleton::DerivedTree;
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

/// A file that is to be read.
struct NewFile<'a> {
    /// The directory that `path` begins in.
    dir: &'a Dir,
    path: PathBuf,
    size: u64,
    blob: BlobId,
}

impl Sysroot {
    /// Reads from the disk what `laid_out`, the tree of `decision`, has and the running deployment has not, and compares it.
    pub(super) fn read_back(
        &self,
        decision: &Decision,
        laid_out: &LaidOut,
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
        let running = running.map(|commit| commit.root);
        let files = self.files_to_read(decision, laid_out, running, cancel)?;
        let mut report = ReadBackReport {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
        };
        // What is not on disk yet cannot be dropped from the cache.
        // No power cut shows this sync: the marker, or the record of what is staged, comes after another one.
        laid_out.root.sync_fs()?;
        crate::failpoint::hit("deploy.read-back")?;
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(report.bytes), Unit::Bytes);
        crate::parallel::pool(None).install(|| {
            files.par_iter().try_for_each(|file| {
                cancel.check()?;
                compare(file)?;
                phase.advance(file.size);
                Ok::<(), SysrootError>(())
            })
        })?;
        if let Some(bytes) = self.read_back_image(&decision.id, &laid_out.deployments)? {
            report.files += 1;
            report.bytes += bytes;
        }
        Ok(Some(report))
    }

    /// Lists what is new in the deployment's directory, and of the objects that its image leads to. What is both is listed once.
    fn files_to_read<'a>(
        &'a self,
        decision: &Decision,
        laid_out: &'a LaidOut,
        running: Option<DirTreeId>,
        cancel: &Cancel,
    ) -> Result<Vec<NewFile<'a>>, SysrootError> {
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        let side = |root| DiffSide {
            source: &self.repo as &dyn TreeSource,
            root,
            metadata: None,
        };
        let nothing = DiffSide {
            source: &Nothing,
            root: DirTreeId::new(crate::digest::Digest::of(b"")),
            metadata: None,
        };
        let before = |root: Option<DirTreeId>| root.map_or_else(|| nothing.clone(), side);
        let after = side(decision.commit.root);
        let mut files = Vec::new();
        let mut inodes = HashSet::new();
        if laid_out.image.is_some() {
            let mut blobs = BTreeMap::new();
            let vouched = running.filter(|_| self.running.image);
            for new in new_files(&before(vouched), &after, cancel) {
                let (_, blob, size) = new?;
                blobs.insert(blob, size);
            }
            for (blob, size) in blobs {
                let path = PathBuf::from(object_path(blob.digest()));
                let stat = objects.stat(&path)?;
                inodes.insert((stat.dev, stat.ino));
                files.push(NewFile {
                    dir: objects,
                    path,
                    size,
                    blob,
                });
            }
        }
        let skeleton = match decision.root.has_files() {
            true => None,
            false => Some(DerivedTree::skeleton(&self.repo, decision.commit.root)?),
        };
        let after = skeleton.as_ref().map_or(after, |skeleton| DiffSide {
            source: skeleton,
            root: skeleton.root,
            metadata: None,
        });
        for new in new_files(&before(running), &after, cancel) {
            let (path, blob, size) = new?;
            let path = PathBuf::from(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(&path)));
            let stat = laid_out.root.stat(&path)?;
            if inodes.insert((stat.dev, stat.ino)) {
                files.push(NewFile {
                    dir: &laid_out.root,
                    path,
                    size,
                    blob,
                });
            }
        }
        Ok(files)
    }
}

/// Returns path, blob and size of every file in `after` that `before` has not like that.
fn new_files<'a>(
    before: &DiffSide<'a>,
    after: &DiffSide<'a>,
    cancel: &'a Cancel,
) -> impl Iterator<Item = Result<(Vec<u8>, BlobId, u64), RepoError>> + 'a {
    // Another time makes another inode of the same bytes.
    let changes = Diff::new(before, after, DiffOptions { mtime: true }, cancel);
    changes.filter_map(|change| {
        let change = match change {
            Ok(change) => change,
            Err(error) => return Some(Err(error)),
        };
        match change.after?.node {
            Node::File { size, blob, .. } if size > 0 => Some(Ok((change.path, blob, size))),
            _ => None,
        }
    })
}

fn compare(file: &NewFile<'_>) -> Result<(), SysrootError> {
    let full = || file.dir.path().join(&file.path);
    let opened = file.dir.open_file(&file.path)?;
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
