//! Single objects: whether one is there, its verified bytes, lists of all.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{Commit, DirTree, FormatError, Metadata, limits};
use crate::fs::{Dir, FileKind, FsError, SELINUX, Stat, read_xattrs_at};

use super::{ObjectKind, Repo, RepoError, RepoMode, object_path, parse_object_name, variant_path};

/// Which inode of a blob is the likelier to have some metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Likely {
    /// The first that there was.
    Blob,
    /// One that was made since.
    Variant,
}

impl Repo {
    /// Returns whether the object is there; its bytes are not looked at.
    pub fn has_object(&self, kind: ObjectKind, digest: &Digest) -> Result<bool, RepoError> {
        Ok(self.kind_dir(kind).exists(object_path(digest))?)
    }

    /// Reads, verifies and decodes a commit.
    pub fn load_commit(&self, id: &CommitId) -> Result<Commit, RepoError> {
        let bytes = self.load_bytes(ObjectKind::Commit, id.digest(), limits::MAX_COMMIT)?;
        Commit::decode(&bytes).map_err(|error| damaged(ObjectKind::Commit, id.digest(), &error))
    }

    /// Reads, verifies and decodes a dirtree.
    pub fn load_dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        let bytes = self.load_bytes(ObjectKind::DirTree, id.digest(), limits::MAX_DIRTREE)?;
        DirTree::decode(&bytes).map_err(|error| damaged(ObjectKind::DirTree, id.digest(), &error))
    }

    /// Names every blob to `visit`, once.
    pub fn for_each_blob(&self, visit: &mut dyn FnMut(BlobId)) -> Result<(), RepoError> {
        let objects = self.kind_dir(ObjectKind::Blob);
        for shard in objects.entries()? {
            let Some(prefix) = shard.name.to_str() else {
                continue;
            };
            for entry in objects.open_dir(&shard.name)?.entries()? {
                let parsed = entry
                    .name
                    .to_str()
                    .and_then(|name| parse_object_name(prefix, name));
                if let Some((digest, None)) = parsed {
                    visit(BlobId::new(digest));
                }
            }
        }
        Ok(())
    }

    /// Calls `visit` with every blob's inode, as the directories have them: number, digest, and the bits of a variant.
    pub(crate) fn visit_inodes(
        &self,
        mut visit: impl FnMut(u64, Digest, Option<[u8; 16]>),
    ) -> Result<(), RepoError> {
        let objects = self.kind_dir(ObjectKind::Blob);
        for shard in objects.entries()? {
            let (Some(prefix), Some(dir)) = (
                shard.name.to_str(),
                self.open_shard(ObjectKind::Blob, &shard.name)?,
            ) else {
                continue;
            };
            for entry in dir.entries()? {
                let parsed = entry
                    .name
                    .to_str()
                    .and_then(|name| parse_object_name(prefix, name));
                if let Some((digest, variant)) = parsed {
                    visit(
                        entry.ino,
                        digest,
                        variant.map(|name| super::traverse::parse_variant_bits(&name)),
                    );
                }
            }
        }
        Ok(())
    }

    /// Opens a blob for reading. Its bytes are not verified: an object that exists is whole unless the disk failed,
    /// which [`Repo::fsck`] finds.
    pub fn open_blob(&self, id: &BlobId) -> Result<File, RepoError> {
        match self
            .kind_dir(ObjectKind::Blob)
            .open_file_optional(object_path(id.digest()))?
        {
            Some(file) => Ok(file),
            None => Err(RepoError::ObjectMissing {
                kind: ObjectKind::Blob,
                digest: *id.digest(),
            }),
        }
    }

    fn load_bytes(&self, kind: ObjectKind, digest: &Digest, limit: usize) -> Result<Vec<u8>, RepoError> {
        let Some(bytes) = self.kind_dir(kind).read_optional(object_path(digest), limit)? else {
            return Err(RepoError::ObjectMissing {
                kind,
                digest: *digest,
            });
        };
        let found = Digest::of(&bytes);
        if found != *digest {
            let reason = format!("its bytes have the digest {found}");
            return Err(RepoError::ObjectDamaged {
                kind,
                digest: *digest,
                reason,
            });
        }
        Ok(bytes)
    }

    /// Returns the path beneath `objects/` of the inode that has exactly `metadata`, and what it is; or `None`
    /// where there is none.
    pub(crate) fn find_variant(
        &self,
        blob: &BlobId,
        metadata: &Metadata,
    ) -> Result<Option<(String, Stat)>, RepoError> {
        self.find_likely(blob, metadata, Likely::Blob)
    }

    /// As [`find_variant`](Self::find_variant), looking first where it is `likely` to be.
    pub(crate) fn find_likely(
        &self,
        blob: &BlobId,
        metadata: &Metadata,
        likely: Likely,
    ) -> Result<Option<(String, Stat)>, RepoError> {
        let objects = self.kind_dir(ObjectKind::Blob);
        let at = |path: String| -> Result<(bool, Option<(String, Stat)>), RepoError> {
            match objects.stat_optional(&path)? {
                None => Ok((false, None)),
                // The name alone is not believed: 128 bits can be collided, and a setuid inode is worth it.
                Some(stat) if inode_matches(objects, &path, &stat, metadata)? => {
                    Ok((true, Some((path, stat))))
                }
                Some(_) => Ok((true, None)),
            }
        };
        let variant = || -> Result<_, RepoError> {
            let name = metadata
                .variant_name()
                .map_err(|source| encode_error("inode metadata", source))?;
            Ok(at(variant_path(blob.digest(), &name))?.1)
        };
        let base = || at(object_path(blob.digest()));
        match likely {
            Likely::Blob => match base()? {
                (true, None) => variant(),
                (_, found) => Ok(found),
            },
            Likely::Variant => match variant()? {
                None => Ok(base()?.1),
                found => Ok(found),
            },
        }
    }

    /// Returns whether there is a blob of `size` bytes, in mode `bare` as an inode with exactly `metadata`. One of another size
    /// is damaged, or whoever says what size it has does not tell the truth: to fetch it once more shows which.
    pub(crate) fn has_blob(&self, id: &BlobId, size: u64, metadata: &Metadata) -> Result<bool, RepoError> {
        match self.mode() {
            RepoMode::Bare => {
                let found = self.find_variant(id, metadata)?;
                Ok(found.is_some_and(|(_, found)| found.size == size))
            }
            RepoMode::BareUser => self.has_bytes(id, size),
        }
    }

    /// Returns whether there is a blob of `size` bytes, as whatever inode.
    pub(crate) fn has_bytes(&self, id: &BlobId, size: u64) -> Result<bool, RepoError> {
        let found = self
            .kind_dir(ObjectKind::Blob)
            .stat_optional(object_path(id.digest()))?;
        Ok(found.is_some_and(|found| found.size == size))
    }

    /// Returns whether the inode is what lies at `path` beneath the blobs' directory.
    fn is_inode_at(&self, (dev, ino): (u64, u64), path: &str) -> Result<bool, RepoError> {
        let found = self.kind_dir(ObjectKind::Blob).stat_optional(path)?;
        Ok(found.is_some_and(|found| (found.dev, found.ino) == (dev, ino)))
    }

    /// Returns whether the inode, which has `metadata`, is the blob's own or its variant's.
    pub(crate) fn is_inode_of(
        &self,
        (dev, ino): (u64, u64),
        blob: &BlobId,
        metadata: &Metadata,
    ) -> Result<bool, RepoError> {
        if self.is_inode_at((dev, ino), &object_path(blob.digest()))? {
            return Ok(true);
        }
        let name = metadata
            .variant_name()
            .map_err(|source| encode_error("inode metadata", source))?;
        self.is_inode_at((dev, ino), &variant_path(blob.digest(), &name))
    }

    /// Calls `visit` with every object of `kind`: digest, name beneath the kind's directory, and the variant's name.
    /// What no writer of ours has named is passed with `None`.
    pub(crate) fn visit_objects(
        &self,
        kind: ObjectKind,
        mut visit: impl FnMut(&Dir, &OsStr, Option<(Digest, Option<String>)>) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        for shard in self.kind_dir(kind).entries()? {
            let Some(dir) = self.open_shard(kind, &shard.name)? else {
                visit(self.kind_dir(kind), &shard.name, None)?;
                continue;
            };
            for entry in dir.entries()? {
                let parsed = match (shard.name.to_str(), entry.name.to_str()) {
                    (Some(shard), Some(name)) => parse_object_name(shard, name),
                    _ => None,
                };
                visit(&dir, &entry.name, parsed)?;
            }
        }
        Ok(())
    }

    /// Opens a shard; `None` for a name that is none.
    pub(crate) fn open_shard(&self, kind: ObjectKind, name: &OsStr) -> Result<Option<Dir>, RepoError> {
        let is_shard = name.len() == 2
            && name
                .as_bytes()
                .iter()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && self.kind_dir(kind).stat(name)?.kind == FileKind::Dir;
        Ok(if is_shard {
            self.kind_dir(kind).open_dir_optional(name)?
        } else {
            None
        })
    }

    /// Fails where this program may not write: on features it does not know.
    pub(crate) fn check_writable(&self) -> Result<(), RepoError> {
        let unknown = self.config().unknown_write_features();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(RepoError::UnsupportedRepository {
            path: self.dir().path().to_owned(),
            reason: format!(
                "can only be read by this program: to write it needs {}",
                unknown.join(", ")
            ),
        })
    }
}

pub(crate) fn damaged(kind: ObjectKind, digest: &Digest, error: &FormatError) -> RepoError {
    RepoError::ObjectDamaged {
        kind,
        digest: *digest,
        reason: error.to_string(),
    }
}

pub(crate) fn encode_error(what: impl Into<String>, source: FormatError) -> RepoError {
    RepoError::Encode {
        what: what.into(),
        source,
    }
}

/// Returns whether the inode at `path` has exactly `metadata`.
pub(crate) fn inode_matches(
    dir: &Dir,
    path: &str,
    stat: &Stat,
    metadata: &Metadata,
) -> Result<bool, FsError> {
    let simple = stat.kind == FileKind::File
        && stat.mode == metadata.mode
        && stat.uid == metadata.uid
        && stat.gid == metadata.gid
        && stat.mtime == metadata.mtime;
    if !simple {
        return Ok(false);
    }
    let mut xattrs = read_xattrs_at(dir, OsStr::new(path))?;
    if metadata.xattrs.get(SELINUX).is_none() {
        xattrs.remove(SELINUX);
    }
    Ok(xattrs == metadata.xattrs)
}

/// Returns the metadata of an object's inode.
pub(crate) fn inode_metadata(dir: &Dir, name: &OsStr, stat: &Stat) -> Result<Metadata, FsError> {
    Ok(Metadata {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        mtime: stat.mtime,
        xattrs: read_xattrs_at(dir, name)?,
    })
}
