//! Good copies, until all are here.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use rustix::fs::Mode;

use crate::digest::Digest;
use crate::failpoint::fault::call;
use crate::format::{Metadata, limits};
use crate::fs::{FsError, hash_file, write_all};

use super::super::object::{encode_error, inode_metadata};
use super::super::transaction::{Staging, copy_hashing};
use super::super::{ObjectKind, Repo, RepoError, RepoMode, object_path, variant_path};
use super::{Candidate, Need};

/// A file that is ready to be given its name.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) kind: ObjectKind,
    pub(super) digest: Digest,
    /// The name of the inode variant; `None` for the object's own file.
    pub(super) variant: Option<String>,
}

impl Placed {
    /// Where it goes, beneath its kind's directory.
    pub(super) fn path(&self) -> String {
        match &self.variant {
            Some(variant) => variant_path(&self.digest, variant),
            None => object_path(&self.digest),
        }
    }

    /// Where it lies, beneath the staging directory.
    pub(super) fn staged(&self) -> String {
        format!("{}/{}", self.kind.dir(), self.path())
    }
}

/// What became of a blob's bytes.
pub(super) struct StagedBlob {
    pub(super) size: u64,
    /// The inodes that it is staged as, of those that were missing.
    pub(super) inodes: Vec<[u8; 16]>,
    /// Whether the store has the blob then, as whatever inode.
    pub(super) has_base: bool,
}

/// Verifies what it is given, and keeps it in a staging directory; in a dry run it only verifies.
pub(super) struct Stage<'r> {
    repo: &'r Repo,
    dry_run: bool,
    staging: Option<Staging>,
    pub(super) placed: Vec<Placed>,
}

impl<'r> Stage<'r> {
    pub(super) const fn new(repo: &'r Repo, dry_run: bool) -> Self {
        Self {
            repo,
            dry_run,
            staging: None,
            placed: Vec::new(),
        }
    }

    /// Gives the staging directory away, if there is one.
    pub(super) const fn take(&mut self) -> Option<Staging> {
        self.staging.take()
    }

    fn create(&mut self, placed: &Placed) -> Result<File, RepoError> {
        if self.staging.is_none() {
            self.staging = Some(Staging::fresh(self.repo)?);
        }
        let staging = self.staging.as_ref().expect("it was made just now");
        Ok(staging.create(&placed.staged(), 0o644)?)
    }

    /// Takes a dirtree or a commit, and returns its bytes if they are the object's.
    pub(super) fn encoded(
        &mut self,
        kind: ObjectKind,
        digest: &Digest,
        candidate: &Candidate,
    ) -> Result<Option<Vec<u8>>, RepoError> {
        let limit = match kind {
            ObjectKind::Commit => limits::MAX_COMMIT,
            _ => limits::MAX_DIRTREE,
        };
        let bytes = match candidate {
            Candidate::Bytes(bytes) => bytes.clone(),
            Candidate::File(file, _) => match read(file, limit) {
                Ok(bytes) => bytes,
                // A source that cannot be read has nothing to give.
                Err(_) => return Ok(None),
            },
        };
        if bytes.len() > limit || Digest::of(&bytes) != *digest {
            return Ok(None);
        }
        if !self.dry_run {
            let placed = Placed {
                kind,
                digest: *digest,
                variant: None,
            };
            let file = self.create(&placed)?;
            write_all(&file, &bytes).map_err(|error| FsError::new("write", placed.staged(), error))?;
            self.placed.push(placed);
        }
        Ok(Some(bytes))
    }

    /// Takes a blob, as every inode that it lacks, if the bytes are the blob's.
    pub(super) fn blob(
        &mut self,
        digest: &Digest,
        need: &Need,
        has_base: bool,
        missing: &[([u8; 16], Metadata)],
        candidate: &Candidate,
    ) -> Result<Option<StagedBlob>, RepoError> {
        let Some(size) = verify(digest, need.size, candidate) else {
            return Ok(None);
        };
        let mut staged = StagedBlob {
            size,
            inodes: Vec::new(),
            has_base,
        };
        if self.dry_run || self.repo.mode() == RepoMode::BareUser {
            staged.inodes.extend(missing.iter().map(|(bits, _)| *bits));
        } else {
            for (bits, metadata) in missing {
                let variant = match staged.has_base {
                    false => None,
                    true => Some(
                        metadata
                            .variant_name()
                            .map_err(|source| encode_error("inode metadata", source))?,
                    ),
                };
                if self.inode(digest, variant, metadata, candidate, size)? {
                    staged.inodes.push(*bits);
                    staged.has_base = true;
                }
            }
        }
        // A tree for which it is not the right inode has found its own, or has none here.
        if !staged.has_base && !self.dry_run {
            let metadata = match need.inodes.values().next() {
                Some(metadata) if missing.is_empty() => metadata.clone(),
                _ => self.own_metadata(digest)?,
            };
            staged.has_base = self.inode(digest, None, &metadata, candidate, size)?;
        }
        staged.has_base |= self.dry_run;
        Ok(Some(staged))
    }

    /// Stages one inode of a blob. Returns whether the file system keeps it as it must be; if not, it is not staged.
    fn inode(
        &mut self,
        digest: &Digest,
        variant: Option<String>,
        metadata: &Metadata,
        candidate: &Candidate,
        size: u64,
    ) -> Result<bool, RepoError> {
        let placed = Placed {
            kind: ObjectKind::Blob,
            digest: *digest,
            variant,
        };
        let file = self.create(&placed)?;
        self.fill(&file, &placed, candidate, size)?;
        let path = placed.staged();
        let is_kept = match self.repo.mode() {
            RepoMode::BareUser => {
                call("fchmod", || rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)))
                    .map_err(|errno| FsError::new("set the mode of", &path, errno))?;
                true
            }
            RepoMode::Bare => match crate::fs::apply_to_file(&file, metadata, Path::new(&path)) {
                Ok(()) => crate::fs::find_unkept(&file, metadata, Path::new(&path))?.is_none(),
                Err(error) if error.is_unsupported() => false,
                Err(error) => return Err(error.into()),
            },
        };
        if is_kept {
            self.placed.push(placed);
        } else {
            let staging = self.staging.as_ref().expect("a file was made in it");
            staging.dir.remove_file(&path)?;
        }
        Ok(is_kept)
    }

    /// What nothing needs keeps the owner and the mode that it has.
    fn own_metadata(&self, digest: &Digest) -> Result<Metadata, RepoError> {
        let base = object_path(digest);
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        Ok(match objects.stat_optional(&base)? {
            Some(stat) => inode_metadata(objects, base.as_ref(), &stat)?,
            None => Metadata::with_mode(0o644),
        })
    }

    /// Writes the bytes, and checks that what was written is what was verified: somebody may write to the source.
    fn fill(
        &self,
        target: &File,
        placed: &Placed,
        candidate: &Candidate,
        size: u64,
    ) -> Result<(), RepoError> {
        let fail = |error| RepoError::from(FsError::new("write", placed.staged(), error));
        let (found, len) = match candidate {
            Candidate::Bytes(bytes) => {
                write_all(target, bytes).map_err(fail)?;
                return Ok(());
            }
            Candidate::File(source, _) => {
                (&mut &*source).seek(SeekFrom::Start(0)).map_err(fail)?;
                if rustix::fs::ioctl_ficlone(target, source).is_ok() {
                    hash_file(target)
                } else {
                    copy_hashing(source, target)
                }
                .map_err(fail)?
            }
        };
        if (found.digest(), len) != (&placed.digest, size) {
            return Err(fail(std::io::Error::other(
                "the source was changed while it was being read",
            )));
        }
        Ok(())
    }
}

/// Returns the size of the bytes if they are the blob's.
fn verify(digest: &Digest, size: Option<u64>, candidate: &Candidate) -> Option<u64> {
    let fits = |len: u64| size.is_none_or(|size| size == len);
    match candidate {
        Candidate::Bytes(bytes) => {
            let len = bytes.len() as u64;
            (fits(len) && Digest::of(bytes) == *digest).then_some(len)
        }
        Candidate::File(file, _) => {
            let metadata = file.metadata().ok()?;
            if !metadata.is_file() || !fits(metadata.len()) {
                return None;
            }
            (&mut &*file).seek(SeekFrom::Start(0)).ok()?;
            let (found, len) = hash_file(file).ok()?;
            (found.digest() == digest).then_some(len)
        }
    }
}

fn read(file: &File, limit: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    (&mut &*file).seek(SeekFrom::Start(0))?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
