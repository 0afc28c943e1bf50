//! Whether something on disk is what a tree says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::checkout::{CheckoutError, Ownership};
use crate::digest::BlobId;
use crate::format::{Entry, Metadata, Node};
use crate::fs::{Dir, FileKind, FsError, SELINUX, Stat, hash_file, read_xattrs_at};
use crate::repo::Repo;

use crate::checkout::metadata::user_mode;

/// How to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) repo: &'a Repo,
    pub(super) ownership: Ownership,
    /// Read every file, also one that is the store's own inode.
    pub(super) hash: bool,
}

impl Look<'_> {
    /// Returns whether `entry` lies in `dir` as a checkout makes it. Of a directory, only its own metadata is looked at.
    pub(super) fn is(&self, dir: &Dir, entry: &Entry) -> Result<bool, CheckoutError> {
        match dir.stat_optional(OsStr::from_bytes(&entry.name))? {
            Some(stat) => self.has(dir, entry, &stat),
            None => Ok(self.is_left_out(entry)),
        }
    }

    /// Returns whether a checkout does not make the entry: an ordinary user makes no devices.
    pub(super) fn is_left_out(&self, entry: &Entry) -> bool {
        let is_device = matches!(entry.node, Node::Char { .. } | Node::Block { .. });
        is_device && self.ownership == Ownership::User
    }

    /// Returns whether nobody loses anything when `entry`, which has `stat`, goes or is replaced: it is as a checkout makes it. The store's own inode
    /// keeps its attributes without this name, so they are not looked at.
    pub(super) fn may_go(&self, dir: &Dir, entry: &Entry, stat: &Stat) -> Result<bool, CheckoutError> {
        match &entry.node {
            Node::File { size, blob, .. }
                if !self.hash
                    && stat.nlink > 1
                    && (stat.kind, stat.size) == (FileKind::File, *size)
                    && self.has_plain_metadata(stat, &entry.metadata)
                    && self.is_the_stores(stat, blob, &entry.metadata)? =>
            {
                Ok(true)
            }
            _ => self.has(dir, entry, stat),
        }
    }

    /// As [`is`](Self::is), of what is known to have `stat`.
    pub(super) fn has(&self, dir: &Dir, entry: &Entry, stat: &Stat) -> Result<bool, CheckoutError> {
        let name = OsStr::from_bytes(&entry.name);
        let is_same = match &entry.node {
            Node::Dir { .. } => stat.kind == FileKind::Dir,
            Node::Fifo => stat.kind == FileKind::Fifo,
            Node::Char { major, minor } => stat.kind == FileKind::Char && stat.rdev == (*major, *minor),
            Node::Block { major, minor } => stat.kind == FileKind::Block && stat.rdev == (*major, *minor),
            Node::Symlink { target } => stat.kind == FileKind::Symlink && dir.read_link(name)? == *target,
            Node::File { size, .. } => stat.kind == FileKind::File && stat.size == *size,
        };
        if !is_same || !self.has_metadata(dir, name, stat, entry)? {
            return Ok(false);
        }
        match &entry.node {
            Node::File { blob, .. } => self.has_bytes(dir, name, stat, blob, &entry.metadata),
            _ => Ok(true),
        }
    }

    fn has_metadata(&self, dir: &Dir, name: &OsStr, stat: &Stat, entry: &Entry) -> Result<bool, FsError> {
        let metadata = &entry.metadata;
        if !self.has_plain_metadata(stat, metadata) {
            return Ok(false);
        }
        if self.ownership == Ownership::User {
            return Ok(true);
        }
        let mut found = read_xattrs_at(dir, name)?;
        if metadata.xattrs.get(SELINUX).is_none() {
            // A system with a policy labels whatever has no label.
            found.remove(SELINUX);
        }
        Ok(found == metadata.xattrs)
    }

    /// All but the extended attributes.
    fn has_plain_metadata(&self, stat: &Stat, metadata: &Metadata) -> bool {
        // Whatever is made or removed in a directory changes its time.
        let is_timely = stat.kind == FileKind::Dir || stat.mtime == metadata.mtime;
        let is_link = stat.kind == FileKind::Symlink;
        let is_owned = match self.ownership {
            Ownership::User => true,
            Ownership::Exact => (stat.uid, stat.gid) == (metadata.uid, metadata.gid),
        };
        let mode = match (self.ownership, stat.kind) {
            (Ownership::Exact, _) => metadata.mode,
            (Ownership::User, FileKind::Dir) => user_mode(metadata.mode) | 0o700,
            (Ownership::User, _) => user_mode(metadata.mode),
        };
        is_timely && is_owned && (is_link || stat.mode == mode)
    }

    fn has_bytes(
        &self,
        dir: &Dir,
        name: &OsStr,
        stat: &Stat,
        blob: &BlobId,
        metadata: &Metadata,
    ) -> Result<bool, CheckoutError> {
        // The store's own inode has the store's bytes: a write would have changed the time that was compared.
        if !self.hash && stat.nlink > 1 && self.is_the_stores(stat, blob, metadata)? {
            return Ok(true);
        }
        let file = dir.open_file(name)?;
        let (found, _) =
            hash_file(&file).map_err(|error| FsError::new("read", dir.path().join(name), error))?;
        Ok(found == *blob)
    }

    fn is_the_stores(&self, stat: &Stat, blob: &BlobId, metadata: &Metadata) -> Result<bool, CheckoutError> {
        Ok(self.repo.is_inode_of((stat.dev, stat.ino), blob, metadata)?)
    }
}
