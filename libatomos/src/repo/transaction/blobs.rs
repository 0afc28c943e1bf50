//! Storing blobs: under which name, by which means, and each only once however many threads have it.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::Mode;

use crate::digest::{BlobId, Digest};
use crate::failpoint::fault::call;
use crate::format::Metadata;
use crate::fs::{Dir, FsError, InodePart, Stat, hash_file, stat_file};

use super::super::object::{encode_error, inode_matches};
use super::super::traverse::variant_bits;
use super::super::{NotKept, ObjectKind, RepoError, RepoMode, object_path, variant_path};
use super::hash::{Hashed, Scratch, changed, copy_verified, hash_into, hash_reader, write_whole};
use super::{Claim, Link, ONLY, StoreOutcome, StoredBlob, Transaction};

/// The name that a blob gets in the staging directory, below its kind.
pub(super) struct Place {
    pub(super) path: String,
    pub(super) variant: bool,
}

/// How a file of another repository came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    /// It is the same inode.
    Hardlinked,
    /// It has the same blocks.
    Reflinked,
    /// It has blocks of its own.
    Copied,
}

impl Transaction<'_> {
    /// Stores the bytes of `file`, from its start, with `metadata` on the inode where the mode keeps it. `path` is
    /// for messages.
    pub fn store_file(&self, file: &File, path: &Path, metadata: &Metadata) -> Result<StoredBlob, RepoError> {
        let size = file
            .metadata()
            .map_err(|error| FsError::new("look at", path, error))?
            .len();
        let mut scratch = Scratch::new();
        let hashed = hash_into(file, size, path, &mut scratch)?;
        self.store_hashed(file, path, metadata, &hashed, &scratch)
    }

    /// Stores `bytes` as a blob.
    pub fn store_bytes(&self, bytes: &[u8], metadata: &Metadata) -> Result<StoredBlob, RepoError> {
        self.store_verified(&BlobId::new(Digest::of(bytes)), bytes, metadata)
    }

    pub(crate) fn store_hashed(
        &self,
        file: &File,
        path: &Path,
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
    ) -> Result<StoredBlob, RepoError> {
        self.store(metadata, hashed, |target, name| {
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            copy_verified(file, target, path, hashed)
        })
    }

    /// Stores what [`hash_stream`] has hashed; `reopen` gives the same bytes once more, where they were too many to keep.
    pub(crate) fn store_stream<R: Read>(
        &self,
        path: &Path,
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
        reopen: impl Fn() -> std::io::Result<R>,
    ) -> Result<StoredBlob, RepoError> {
        self.store(metadata, hashed, |target, name| {
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            let fail = |error| RepoError::from(FsError::new("read", path, error));
            let written =
                hash_reader(&mut reopen().map_err(fail)?, fail, |bytes| {
                    Ok(crate::fs::write_all(target, bytes)
                        .map_err(|error| FsError::new("write", name, error))?)
                })?;
            if written != (hashed.blob, hashed.size) {
                return Err(fail(changed()));
            }
            Ok(())
        })
    }

    /// Stores a file of another repository: as another name of the same inode where `link` says where that is, else
    /// sharing its blocks where the file system can, else as a copy. What of these came to be is `None` for what was here.
    pub(crate) fn store_shared(
        &self,
        file: &File,
        path: &Path,
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
        link: Option<(&Dir, &str)>,
    ) -> Result<Option<Shared>, RepoError> {
        let how = Cell::new(Shared::Copied);
        let inode = link.map(|_| stat_file(file, path)).transpose()?;
        let try_link = |name: &str, what: Link| -> Result<bool, RepoError> {
            let Some(((dir, from), inode)) = link.zip(inode.as_ref()) else {
                return Ok(false);
            };
            if what == Link::Make && !self.staging.link(dir, from, name)? {
                return Ok(false);
            }
            // What was hashed, and not what took its name meanwhile.
            let linked = self.staging.dir.stat(name)?;
            if (linked.dev, linked.ino) != (inode.dev, inode.ino) {
                if what == Link::Make {
                    self.staging.dir.remove_file(name)?;
                }
                return Ok(false);
            }
            how.set(Shared::Hardlinked);
            Ok(true)
        };
        let write = |target: &File, name: &Path| {
            if rustix::fs::ioctl_ficlone(target, file).is_ok() {
                how.set(Shared::Reflinked);
                let found = hash_file(target).map_err(|error| FsError::new("read", name, error))?;
                return if found == (hashed.blob, hashed.size) {
                    Ok(())
                } else {
                    Err(FsError::new("copy", path, changed()).into())
                };
            }
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            copy_verified(file, target, path, hashed)
        };
        let stored = self.store_by(metadata, hashed, try_link, write)?;
        Ok((stored.outcome != StoreOutcome::AlreadyPresent).then(|| how.get()))
    }

    /// Stores bytes whose digest the caller has found to be `id`.
    pub(crate) fn store_verified(
        &self,
        id: &BlobId,
        bytes: &[u8],
        metadata: &Metadata,
    ) -> Result<StoredBlob, RepoError> {
        let hashed = Hashed {
            blob: *id,
            size: bytes.len() as u64,
            verity: None,
            in_scratch: true,
        };
        self.store(metadata, &hashed, |target, name| write_whole(target, name, bytes))
    }

    /// Takes a blob that an interrupted run staged, if it is whole, as every one of `inodes`.
    pub(crate) fn take_staged(&self, id: &BlobId, size: u64, inodes: &[Metadata]) -> Result<bool, RepoError> {
        let name = format!("{}/{}", ObjectKind::Blob.dir(), object_path(id.digest()));
        let Some(file) = self.staging.dir.open_file_optional(&name)? else {
            return Ok(false);
        };
        let path = self.staging.dir.path().join(&name);
        let mut scratch = Scratch::new();
        let hashed = hash_into(&file, size, &path, &mut scratch)?;
        if hashed.blob != *id || hashed.size != size {
            self.staging.dir.remove_file(&name)?;
            return Ok(false);
        }
        for metadata in inodes {
            self.store_hashed(&file, &path, metadata, &hashed, &scratch)?;
        }
        Ok(true)
    }

    fn store(
        &self,
        metadata: &Metadata,
        hashed: &Hashed,
        write: impl Fn(&File, &Path) -> Result<(), RepoError>,
    ) -> Result<StoredBlob, RepoError> {
        self.store_by(metadata, hashed, |_, _| Ok(false), write)
    }

    /// Stores a blob: `link` gives the staged name to a finished inode, or lets it keep it, or says that it cannot, and then `write`
    /// fills a new file.
    pub(super) fn store_by(
        &self,
        metadata: &Metadata,
        hashed: &Hashed,
        link: impl Fn(&str, Link) -> Result<bool, RepoError>,
        write: impl Fn(&File, &Path) -> Result<(), RepoError>,
    ) -> Result<StoredBlob, RepoError> {
        let stored = |outcome| StoredBlob {
            id: hashed.blob,
            size: hashed.size,
            outcome,
        };
        let Some(place) = self.claim(hashed, metadata)? else {
            return Ok(stored(StoreOutcome::AlreadyPresent));
        };
        let resumed = self.noting_failure(self.stage_blob(&place, metadata, hashed, link, write))?;
        self.counters
            .resumed
            .fetch_add(u64::from(resumed), Ordering::Relaxed);
        let (count, bytes, outcome) = if place.variant {
            (
                &self.counters.variants,
                &self.counters.variant_bytes,
                StoreOutcome::AddedVariant,
            )
        } else {
            (&self.counters.blobs, &self.counters.bytes, StoreOutcome::Added)
        };
        count.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(hashed.size, Ordering::Relaxed);
        Ok(stored(outcome))
    }

    /// Writes a claimed blob, or finds it among what an interrupted run staged.
    fn stage_blob(
        &self,
        place: &Place,
        metadata: &Metadata,
        hashed: &Hashed,
        link: impl Fn(&str, Link) -> Result<bool, RepoError>,
        write: impl Fn(&File, &Path) -> Result<(), RepoError>,
    ) -> Result<bool, RepoError> {
        let name = format!("{}/{}", ObjectKind::Blob.dir(), place.path);
        let resumed = self.staging.adopted
            && self.reuse_staged(&name, Some(metadata), hashed.blob.digest(), || {
                link(&name, Link::Keep)
            })?;
        if !resumed && !link(&name, Link::Make)? {
            let _taken = self.will_write(hashed.size)?;
            let file = self.staging.create(&name, 0o600)?;
            let path = self.staging.dir.path().join(&name);
            write(&file, &path)?;
            self.set_inode(&file, &hashed.blob, metadata, &path)?;
        }
        Ok(resumed)
    }

    /// Decides under which name the blob has to be written, or that it need not be. Two threads that store the same
    /// blob are told apart here: the first one writes.
    pub(super) fn claim(&self, hashed: &Hashed, metadata: &Metadata) -> Result<Option<Place>, RepoError> {
        let blob = &hashed.blob;
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        let base = object_path(blob.digest());
        let mut claims = self.claims_of(blob.digest());
        let present = objects.stat_optional(&base)?;
        // A pull and a commit that know better must not go on as if this were the blob.
        let check_size = |stat: &Stat| {
            if stat.size == hashed.size {
                return Ok(());
            }
            Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason: format!("it has {} bytes instead of {}", stat.size, hashed.size),
            })
        };
        present.as_ref().map_or(Ok(()), check_size)?;
        if self.repo.mode() == RepoMode::BareUser {
            let new = present.is_none() && claims.stage(ObjectKind::Blob, blob.digest(), ONLY);
            return Ok(new.then_some(Place {
                path: base,
                variant: false,
            }));
        }
        if let Some(stat) = &present
            && inode_matches(objects, &base, stat, metadata)?
        {
            return Ok(None);
        }
        let variant = metadata
            .variant_name()
            .map_err(|source| encode_error("inode metadata", source))?;
        let bits = variant_bits(metadata)?;
        if claims.has_inode(blob.digest(), bits) {
            return Ok(None);
        }
        // The first variant of a new blob becomes its base.
        if present.is_none() && claims.stage(ObjectKind::Blob, blob.digest(), bits) {
            return Ok(Some(Place {
                path: base,
                variant: false,
            }));
        }
        let path = variant_path(blob.digest(), &variant);
        if let Some(stat) = objects.stat_optional(&path)?
            && inode_matches(objects, &path, &stat, metadata)?
        {
            check_size(&stat)?;
            claims.variants.insert((*blob.digest(), bits), Claim::Elsewhere);
            return Ok(None);
        }
        claims.variants.insert((*blob.digest(), bits), Claim::Staged);
        Ok(Some(Place { path, variant: true }))
    }

    /// Gives a file of `blob` what the mode keeps on an inode, and fails where the file system does not keep it.
    pub(super) fn set_inode(
        &self,
        file: &File,
        blob: &BlobId,
        metadata: &Metadata,
        path: &Path,
    ) -> Result<(), RepoError> {
        match self.repo.mode() {
            RepoMode::BareUser => Ok(make_readable(file, path)?),
            RepoMode::Bare => self.set_inode_of(file, &stat_file(file, path)?, blob, metadata, path),
        }
    }

    /// As [`set_inode`](Self::set_inode), of a file that was looked at just now.
    pub(super) fn set_inode_of(
        &self,
        file: &File,
        stat: &Stat,
        blob: &BlobId,
        metadata: &Metadata,
        path: &Path,
    ) -> Result<(), RepoError> {
        if self.repo.mode() == RepoMode::BareUser {
            return Ok(make_readable(file, path)?);
        }
        let unkept = match crate::fs::apply_to_known(file, stat, metadata, path) {
            Ok(()) => crate::fs::find_unkept(file, metadata, path)?,
            Err(error) if error.is_unsupported() => Some((InodePart::Attributes, error.source.to_string())),
            Err(error) => return Err(error.into()),
        };
        match unkept {
            None => Ok(()),
            Some((part, reason)) => Err(RepoError::NotKept(Box::new(NotKept {
                path: Path::new("objects").join(object_path(blob.digest())),
                blob: *blob,
                metadata: metadata.clone(),
                part,
                reason,
            }))),
        }
    }
}

fn make_readable(file: &File, path: &Path) -> Result<(), FsError> {
    call("fchmod", || rustix::fs::fchmod(file, Mode::from_raw_mode(0o644)))
        .map_err(|errno| FsError::new("set the mode of", path, errno))
}
