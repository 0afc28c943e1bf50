//! Files that become the store's own, or go because the store has what they hold.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use crate::digest::BlobId;
use crate::format::Metadata;
use crate::fs::{Dir, FsError, Stat, hash_file};

use super::super::{ObjectKind, RepoError, RepoMode, object_path};
use super::hash::{Hashed, Scratch, copy_verified, write_whole};
use super::{Link, StoreOutcome, Transaction, lock};

impl Transaction<'_> {
    /// Stores a file by making it the store's own, where that is safe: nobody else has a name for it or has it open for writing,
    /// and it is as it was in `before`, when it was hashed. Its owner, mode, attributes and time become what is recorded. Otherwise
    /// it is copied. Returns whether the file is the store's own now; its name in the source must go before anybody writes to it.
    pub(crate) fn store_adopted(
        &self,
        file: &File,
        before: &Stat,
        (dir, from): (&Dir, &OsStr),
        metadata: &Metadata,
        hashed: &Hashed,
        scratch: &Scratch,
    ) -> Result<bool, RepoError> {
        let path = Path::new(from);
        let adopted = Cell::new(false);
        let unchanged = |stat: &Stat, links: u64| {
            let of = |stat: &Stat| {
                (
                    stat.dev,
                    stat.ino,
                    stat.size,
                    stat.mtime,
                    stat.mtime_nsec,
                    stat.mode,
                    stat.uid,
                    stat.gid,
                )
            };
            of(stat) == of(before) && stat.nlink == links
        };
        let try_link = |name: &str, what: Link| -> Result<bool, RepoError> {
            // The name in the source; and one that an interrupted run gave it here.
            let links = if what == Link::Keep { 2 } else { 1 };
            // In mode `bare-user` an object's owner is whoever may write to it.
            let is_ours =
                self.repo.mode() == RepoMode::Bare || before.uid == rustix::process::geteuid().as_raw();
            let safe = hashed.size > 0
                && is_ours
                && before.nlink == links
                && crate::fs::nobody_writes(file)
                && crate::fs::has_no_other_xattrs(file, &metadata.xattrs);
            if !safe || (what == Link::Make && !self.staging.link(dir, from, name)?) {
                return Ok(false);
            }
            // What was hashed, and not what took its name meanwhile; nor has anybody written to it since, or given it a name.
            let linked = self.staging.dir.stat(name)?;
            if !unchanged(&linked, 2) {
                if what == Link::Make {
                    self.staging.dir.remove_file(name)?;
                }
                return Ok(false);
            }
            self.set_inode_of(file, &linked, &hashed.blob, metadata, path)?;
            adopted.set(true);
            Ok(true)
        };
        let write = |target: &File, name: &Path| {
            if hashed.in_scratch {
                return write_whole(target, name, &scratch.0[..hashed.size as usize]);
            }
            copy_verified(file, target, path, hashed)
        };
        let stored = self.store_by(metadata, hashed, try_link, write)?;
        if stored.outcome == StoreOutcome::AlreadyPresent {
            self.check_duplicate(&hashed.blob, metadata, |stat| {
                (stat.dev, stat.ino) == (before.dev, before.ino)
            })?;
        }
        Ok(adopted.get())
    }

    /// Fails unless the store's own file of a blob has its bytes: the source's, which is about to go, may be the last good copy. What
    /// this transaction has staged was written from such bytes. `is_source` tells a file that is no copy, but the source's inode.
    pub(crate) fn check_duplicate(
        &self,
        blob: &BlobId,
        metadata: &Metadata,
        is_source: impl Fn(&Stat) -> bool,
    ) -> Result<(), RepoError> {
        let path = match self.repo.mode() {
            RepoMode::Bare => self.repo.find_variant(blob, metadata)?.map(|(path, _)| path),
            RepoMode::BareUser => Some(object_path(blob.digest())),
        };
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        let Some(path) = path.filter(|path| !lock(&self.verified).contains(path)) else {
            return Ok(());
        };
        let Some(file) = objects.open_file_optional(&path)? else {
            return Ok(());
        };
        if is_source(&objects.stat_opened(&file, path.as_ref())?) {
            return Ok(());
        }
        let (found, _) =
            hash_file(&file).map_err(|error| FsError::new("read", objects.path().join(&path), error))?;
        if found != *blob {
            return Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason: format!("its bytes have the digest {found}"),
            });
        }
        lock(&self.verified).insert(path);
        Ok(())
    }
}
