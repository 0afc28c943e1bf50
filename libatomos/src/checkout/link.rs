//! The ladder: hardlink, reflink, copy.
//!
//! What the two file systems cannot do is found out at the first file and remembered for the operation.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::digest::BlobId;
use crate::failpoint::fault::call;
use crate::format::{Metadata, Node};
use crate::fs::{CopyMethod, Dir, FsError, apply_to_file, copy_file_data};
use crate::repo::{Likely, ObjectKind, Repo, RepoError, RepoMode, Room};

use super::metadata::apply_user_to_file;
use super::{CheckoutError, CheckoutReport, LinkMode, Ownership};

/// A file of the store.
#[derive(Debug)]
pub(super) struct Inode {
    /// Beneath the directory of blobs.
    pub(super) path: String,
    /// Device and number.
    pub(super) id: (u64, u64),
}

/// Puts files into place, and counts how.
pub(super) struct Ladder<'a> {
    repo: &'a Repo,
    mode: LinkMode,
    ownership: Ownership,
    room: Room,
    hardlinks: AtomicBool,
    hardlinked: AtomicU64,
    reflinked: AtomicU64,
    copied: AtomicU64,
    bytes_copied: AtomicU64,
}

impl<'a> Ladder<'a> {
    pub(super) fn new(repo: &'a Repo, mode: LinkMode, ownership: Ownership, room: Room) -> Self {
        let can_link = repo.mode() == RepoMode::Bare && ownership == Ownership::Exact;
        let hardlinks = can_link && matches!(mode, LinkMode::Auto | LinkMode::Hardlink);
        Self {
            repo,
            mode,
            ownership,
            room,
            hardlinks: AtomicBool::new(hardlinks),
            hardlinked: AtomicU64::new(0),
            reflinked: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            bytes_copied: AtomicU64::new(0),
        }
    }

    /// Adds what was put into place to a report.
    pub(super) fn count(&self, report: &mut CheckoutReport) {
        report.hardlinked += self.hardlinked.load(Ordering::Relaxed);
        report.reflinked += self.reflinked.load(Ordering::Relaxed);
        report.copied += self.copied.load(Ordering::Relaxed);
        report.bytes_copied += self.bytes_copied.load(Ordering::Relaxed);
    }

    /// Makes the file `name` in `dir`.
    pub(super) fn place(
        &self,
        dir: &Dir,
        name: &Path,
        blob: &BlobId,
        size: u64,
        metadata: &Metadata,
    ) -> Result<(), CheckoutError> {
        if size == 0 {
            // Empty files are everywhere: one inode for all of them runs into the file system's limit of links.
            let file = dir.create_file(name, 0o600)?;
            self.copied.fetch_add(1, Ordering::Relaxed);
            return self.apply(&file, metadata, dir, name);
        }
        if let Some(inode) = self.inode(dir, name, (blob, size), metadata, Likely::Blob)?
            && self.link(&inode.path, dir, name)?
        {
            return Ok(());
        }
        self.copy(dir, name, blob, size, metadata)
    }

    /// Whether files may be linked: so it is hoped, until one cannot.
    pub(super) fn links(&self) -> bool {
        self.hardlinks.load(Ordering::Relaxed)
    }

    /// Whether what is there already, and is no link to the store, may stay as it is.
    pub(super) const fn may_keep(&self, node: &Node) -> bool {
        let is_any = matches!(self.mode, LinkMode::Auto | LinkMode::Copy);
        is_any || matches!(node, Node::File { size: 0, .. }) || !matches!(node, Node::File { .. })
    }

    /// Looks for the store's inode of the file that is to be `name` in `dir`, first where it is `likely` to be. `None` where the file is
    /// to be a copy.
    pub(super) fn inode(
        &self,
        dir: &Dir,
        name: &Path,
        (blob, size): (&BlobId, u64),
        metadata: &Metadata,
        likely: Likely,
    ) -> Result<Option<Inode>, CheckoutError> {
        if size == 0 || !self.links() {
            return Ok(None);
        }
        let Some((path, stat)) = self.repo.find_likely(blob, metadata, likely)? else {
            if !self.repo.has_object(ObjectKind::Blob, blob.digest())? {
                return Err(RepoError::ObjectMissing {
                    kind: ObjectKind::Blob,
                    digest: *blob.digest(),
                }
                .into());
            }
            return match self.mode {
                LinkMode::Hardlink => {
                    let reason = "the store has no inode of it with this owner, mode, time and attributes";
                    Err(refuse_link(dir, name, reason.to_owned()))
                }
                _ => Ok(None),
            };
        };
        check_size(blob, size, stat.size)?;
        Ok(Some(Inode {
            path,
            id: (stat.dev, stat.ino),
        }))
    }

    /// Makes `name` in `dir` a link to the store's `inode`. Returns whether it is one, for it may have to be a copy.
    pub(super) fn link(&self, inode: &str, dir: &Dir, name: &Path) -> Result<bool, CheckoutError> {
        let is_linked = self.try_link(inode, dir, name)?;
        self.hardlinked.fetch_add(u64::from(is_linked), Ordering::Relaxed);
        Ok(is_linked)
    }

    /// As [`link`](Self::link), not counted.
    pub(super) fn try_link(&self, inode: &str, dir: &Dir, name: &Path) -> Result<bool, CheckoutError> {
        let must = self.mode == LinkMode::Hardlink;
        if !self.links() {
            return Ok(false);
        }
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        match call("link", || {
            rustix::fs::linkat(objects, inode, dir, name, AtFlags::empty())
        }) {
            Ok(()) => Ok(true),
            // One file has too many names; the others may still be linked.
            Err(Errno::MLINK) if !must => Ok(false),
            Err(errno @ (Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP)) if !must => {
                if errno == Errno::XDEV {
                    self.hardlinks.store(false, Ordering::Relaxed);
                }
                Ok(false)
            }
            Err(errno) if must => Err(refuse_link(dir, name, io::Error::from(errno).to_string())),
            Err(errno) => Err(FsError::new("link", dir.path().join(name), errno).into()),
        }
    }

    /// Makes `name` in `dir` a file of its own, which may share the blob's blocks.
    pub(super) fn copy(
        &self,
        dir: &Dir,
        name: &Path,
        blob: &BlobId,
        size: u64,
        metadata: &Metadata,
    ) -> Result<(), CheckoutError> {
        let refuse = |wanted, reason: String| CheckoutError::LinkMode {
            wanted,
            path: dir.path().join(name),
            reason,
        };
        if self.mode == LinkMode::Hardlink {
            let reason = "only a bare repository has inodes to link to, and only for exact ownership";
            return Err(refuse("hardlink", reason.to_owned()));
        }
        let fail = |error| FsError::new("copy to", dir.path().join(name), error);
        let source = self.repo.open_blob(blob)?;
        check_size(blob, size, source.metadata().map_err(fail)?.len())?;
        // Shared blocks take no room, but whether they can be shared is known only afterwards.
        let _taken = match self.mode {
            LinkMode::Reflink => None,
            _ => Some(self.room.take(size)?),
        };
        let file = dir.create_file(name, 0o600)?;
        if self.mode == LinkMode::Reflink {
            rustix::fs::ioctl_ficlone(&file, &source)
                .map_err(|errno| refuse("reflink", io::Error::from(errno).to_string()))?;
            self.reflinked.fetch_add(1, Ordering::Relaxed);
        } else {
            match copy_file_data(&source, &file).map_err(fail)? {
                CopyMethod::Reflinked => self.reflinked.fetch_add(1, Ordering::Relaxed),
                CopyMethod::Copied => {
                    self.bytes_copied.fetch_add(size, Ordering::Relaxed);
                    self.copied.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        self.apply(&file, metadata, dir, name)
    }

    fn apply(&self, file: &File, metadata: &Metadata, dir: &Dir, name: &Path) -> Result<(), CheckoutError> {
        let path = dir.path().join(name);
        match self.ownership {
            Ownership::Exact => apply_to_file(file, metadata, &path)?,
            Ownership::User => apply_user_to_file(file, metadata, &path)?,
        }
        Ok(())
    }
}

fn refuse_link(dir: &Dir, name: &Path, reason: String) -> CheckoutError {
    CheckoutError::LinkMode {
        wanted: "hardlink",
        path: dir.path().join(name),
        reason,
    }
}

/// A blob of another size than its entry says is damaged; linking it into an operating system would spread that.
fn check_size(blob: &BlobId, recorded: u64, found: u64) -> Result<(), CheckoutError> {
    if recorded == found {
        return Ok(());
    }
    let reason = format!("it has {found} bytes, and the tree records {recorded}");
    Err(RepoError::ObjectDamaged {
        kind: ObjectKind::Blob,
        digest: *blob.digest(),
        reason,
    }
    .into())
}
