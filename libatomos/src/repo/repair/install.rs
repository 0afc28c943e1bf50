//! Good copies get their names; what nobody has is set aside.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fs::{Dir, FileKind, FileLock, is_verity, protect};

use super::super::fsck::{BadFile, FileState};
use super::super::layout::DAMAGED;
use super::super::object::{encode_error, inode_metadata};
use super::super::transaction::Staging;
use super::super::{ObjectKind, PartialCommits, Repo, RepoError, RepoMode, object_path, variant_path};
use super::stage::Placed;
use super::{Repair, RepairOptions, RepairReport, RepairedObject, SharedFile};

impl Repair<'_> {
    /// Puts everything in its place. `shared` is the lock under which the store was read.
    pub(super) fn finish(
        mut self,
        shared: FileLock,
        options: &RepairOptions,
        partial: &PartialCommits,
        report: &mut RepairReport,
    ) -> Result<(), RepoError> {
        for (&(kind, digest), restored) in &self.restored {
            let placed = |placed: &&Placed| (placed.kind, placed.digest) == (kind, digest);
            let mut repaired = RepairedObject {
                kind,
                digest,
                from: restored.from.clone(),
                files: self.stage.placed.iter().filter(placed).count() as u64,
                shared: Vec::new(),
                other_names: 0,
            };
            for bad in self.bad.iter().filter(|bad| bad.object() == (kind, digest)) {
                self.note_shared(bad, &restored.paths, options, &mut repaired)?;
            }
            report.repaired.push(repaired);
        }
        let stale: Vec<BadFile> = self
            .bad
            .iter()
            .filter(|bad| {
                // Nothing is staged for a look; what a source has would be.
                let would_be = options.dry_run && self.restored.contains_key(&bad.object());
                bad.problem.is_curable() && !self.is_replaced(bad) && !would_be
            })
            .cloned()
            .collect();
        if options.dry_run || (self.stage.placed.is_empty() && stale.is_empty()) {
            report.set_aside = stale.len() as u64;
            return Ok(());
        }
        crate::failpoint::hit("repair.staged")?;
        let staging = self.stage.take();
        if let Some(staging) = &staging {
            // No power cut shows this sync: a copy of which only the name lasts takes the place of what was bad, too. It is for a pull,
            // which takes a name that is there for an object.
            staging.dir.sync_fs()?;
        }
        crate::failpoint::hit("repair.synced")?;
        // A transaction that runs may rely on what it has found, and a checkout may be half done.
        drop(shared);
        let _lock = self.repo.lock_exclusive()?;
        if let Some(staging) = &staging {
            for kind in ObjectKind::ALL {
                for placed in self.stage.placed.iter().filter(|placed| placed.kind == kind) {
                    self.repo.replace(staging, placed)?;
                }
                crate::failpoint::hit("repair.replaced")?;
            }
            // No power cut shows this sync: what is not replaced yet is found and replaced by the next repair. It is for whoever is
            // told of the end of this one.
            self.repo.dir().sync_fs()?;
        }
        crate::failpoint::hit("repair.durable")?;
        for bad in &stale {
            if self.repo.set_aside(bad)? {
                report.set_aside += 1;
            }
        }
        // No power cut shows this sync: the same, for what is not set aside yet.
        self.repo.dir().sync_fs()?;
        crate::failpoint::hit("repair.set-aside")?;
        let load = |id: &_| self.repo.load_dirtree(id);
        let whole = |commit: &_| self.seen.is_complete(commit, self.repo.mode(), &load);
        self.repo
            .forget_partial(|commit| partial.contains_key(commit) && whole(commit))?;
        if let Some(staging) = staging {
            staging.parent.remove_tree(&staging.name)?;
        }
        Ok(())
    }

    fn is_replaced(&self, bad: &BadFile) -> bool {
        self.stage
            .placed
            .iter()
            .any(|placed| (placed.kind, placed.digest) == bad.object() && placed.variant == bad.variant)
    }

    /// Finds the names that a damaged inode has elsewhere.
    fn note_shared(
        &self,
        bad: &BadFile,
        paths: &[Vec<u8>],
        options: &RepairOptions,
        repaired: &mut RepairedObject,
    ) -> Result<(), RepoError> {
        let Some(stat) = self.repo.kind_dir(bad.kind).stat_optional(path_of(bad))? else {
            return Ok(());
        };
        let others = stat.nlink.saturating_sub(1);
        if others == 0 {
            return Ok(());
        }
        repaired.other_names += others;
        for (name, dir) in &options.checkouts {
            for path in paths {
                let file = Path::new(OsStr::from_bytes(path));
                let Some((parent, file_name)) = file.parent().zip(file.file_name()) else {
                    continue;
                };
                if has_inode(dir, parent, file_name, (stat.dev, stat.ino)) {
                    repaired.shared.push(SharedFile {
                        checkout: name.clone(),
                        path: format!("/{}", String::from_utf8_lossy(path)),
                    });
                }
            }
        }
        Ok(())
    }
}

/// A checkout that has not this path, or cannot be looked at, does not have the inode there.
fn has_inode(dir: &Dir, parent: &Path, name: &OsStr, inode: (u64, u64)) -> bool {
    let parent = match parent.as_os_str().is_empty() {
        true => dir.try_clone(),
        false => dir.open_dir(parent),
    };
    parent
        .and_then(|parent| parent.stat(name))
        .is_ok_and(|stat| (stat.dev, stat.ino) == inode)
}

fn path_of(bad: &BadFile) -> String {
    match &bad.variant {
        Some(variant) => variant_path(&bad.digest, variant),
        None => object_path(&bad.digest),
    }
}

impl Repo {
    /// Gives a staged file its name, in one step. If somebody else has put a whole one there meanwhile, that stays: a tree
    /// may rely on its owner and mode.
    fn replace(&self, staging: &Staging, placed: &Placed) -> Result<(), RepoError> {
        let (store, path) = (self.kind_dir(placed.kind), placed.path());
        let staged = placed.staged();
        let state = self.look_again(placed.kind, &placed.digest, placed.variant.as_deref())?;
        if state != FileState::Whole {
            let shard = &path[..2];
            let mode = match self.mode() {
                RepoMode::Bare => 0o700,
                RepoMode::BareUser => 0o755,
            };
            store.ensure_dir(shard, mode)?;
            // A file does not take the place of a directory.
            let in_the_way = store.stat_optional(&path)?;
            if in_the_way.is_some_and(|stat| stat.kind == FileKind::Dir) {
                let damaged = self.dir().ensure_dir(DAMAGED, 0o700)?;
                store.rename(&path, &damaged, format!("{}-{}", placed.kind, placed.digest))?;
            }
            if placed.kind == ObjectKind::Blob && placed.variant.is_none() {
                self.protect_like(store, &path, &staging.dir, &staged)?;
            }
            return Ok(staging.dir.rename(&staged, store, &path)?);
        }
        if placed.kind == ObjectKind::Blob && self.mode() == RepoMode::Bare && placed.variant.is_none() {
            let stat = staging.dir.stat(&staged)?;
            let ours = inode_metadata(&staging.dir, staged.as_ref(), &stat)?;
            let variant = ours
                .variant_name()
                .map_err(|source| encode_error("inode metadata", source))?;
            match staging
                .dir
                .rename_new(&staged, store, variant_path(&placed.digest, &variant))
            {
                Err(error) if !error.is_already_exists() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Has the kernel verify what takes the place of a file that it verifies: what boots reads nothing else. The good copy has been verified
    /// by its digest.
    fn protect_like(&self, store: &Dir, path: &str, staging: &Dir, staged: &str) -> Result<(), RepoError> {
        // One that cannot be opened, on a kernel without fs-verity, is verified nowhere here.
        let is_protected = store
            .open_file_optional(path)
            .ok()
            .flatten()
            .is_some_and(|file| is_verity(&file));
        if is_protected {
            protect(&staging.open_file(staged)?, &staging.path().join(staged))?;
        }
        Ok(())
    }

    /// Moves a damaged file out of the store, unless it is no longer what it was. Returns whether it did.
    fn set_aside(&self, bad: &BadFile) -> Result<bool, RepoError> {
        if self.look_again(bad.kind, &bad.digest, bad.variant.as_deref())? != FileState::Bad {
            return Ok(false);
        }
        let damaged = self.dir().ensure_dir(DAMAGED, 0o700)?;
        let mut name = format!("{}-{}", bad.kind, bad.digest);
        if let Some(variant) = &bad.variant {
            name = format!("{name}.{variant}");
        }
        self.kind_dir(bad.kind).rename(path_of(bad), &damaged, name)?;
        Ok(true)
    }
}
