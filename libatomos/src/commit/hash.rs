//! One file: read, hashed and stored, or known without that.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Seek;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::digest::{BlobId, Digest, DirTreeId};
use crate::format::{Entry, Metadata, Node, Xattrs};
use crate::fs::{Dir, FileKind, FsError, Stat, hash_file_and_verity, read_xattrs};
use crate::repo::{
    ObjectKind, RepoError, Scratch, StoreOutcome, Transaction, Verity, hash_into, hash_stream,
};
use crate::unpack::{Codec, Unpacker};
use crate::verity::VerityDigest;

use super::memory::MemoryTrees;
use super::mtime::only_time_differs;
use super::source::{Content, ModeChange, SourceKind, SourceTree};
use super::stat_cache::{Stamp, StatCache};
use super::store_inodes::StoreInodes;
use super::{CommitError, MtimePolicy};

/// Where objects go.
#[derive(Clone, Copy)]
pub(super) enum Sink<'a> {
    Store(&'a Transaction<'a>),
    /// Digests are wanted, and dirtrees; no blob is kept.
    Memory(&'a MemoryTrees),
}

/// What the recorded metadata depends on besides the source.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recording {
    pub(super) mtime: MtimePolicy,
    pub(super) epoch: Option<i64>,
    pub(super) owner: Option<(u32, u32)>,
}

pub(super) struct Hasher<'a> {
    pub(super) tree: &'a SourceTree,
    pub(super) sink: Sink<'a>,
    pub(super) recording: Recording,
    /// What is known of files without reading them.
    pub(super) hints: Hints<'a>,
    /// Makes the source's files the store's own, as far as that is safe.
    pub(super) adopt: bool,
    /// Whether fs-verity digests are recorded.
    pub(super) verity: Verity,
    pub(super) cancel: &'a Cancel,
}

/// What may be believed instead of reading a file.
#[derive(Clone, Copy, Default)]
pub(super) struct Hints<'a> {
    /// What files held when they were last read.
    pub(super) cache: Option<&'a StatCache>,
    /// The store's own inodes: a checkout has them, too.
    pub(super) inodes: Option<&'a StoreInodes<'a>>,
}

impl<'a> Hasher<'a> {
    /// One that keeps dirtrees in memory, and records everything as it is listed.
    pub(super) fn in_memory(tree: &'a SourceTree, trees: &'a MemoryTrees, cancel: &'a Cancel) -> Self {
        Self {
            tree,
            sink: Sink::Memory(trees),
            recording: Recording::default(),
            hints: Hints::default(),
            adopt: false,
            verity: Verity::No,
            cancel,
        }
    }
}

impl Hasher<'_> {
    /// Stores a file, or finds that the store has it. `open` is the directory that was opened last.
    pub(super) fn one(
        &self,
        node: u32,
        parent: Option<&Entry>,
        open: &mut Option<(u32, Dir)>,
        scratch: &mut Scratch,
    ) -> Result<(Metadata, Node), CommitError> {
        self.one_unnamed(node, parent, open, scratch)
            .map_err(|mut error| {
                if let CommitError::Repo(RepoError::NotKept(not_kept)) = &mut error {
                    not_kept.path = self.tree.path_of(node);
                }
                error
            })
    }

    fn one_unnamed(
        &self,
        node: u32,
        parent: Option<&Entry>,
        open: &mut Option<(u32, Dir)>,
        scratch: &mut Scratch,
    ) -> Result<(Metadata, Node), CommitError> {
        let source = self.tree.node(node);
        let SourceKind::File { content, size } = &source.kind else {
            unreachable!("only files are hashed");
        };
        let (directory, name, codec) = match content {
            Content::Bytes(bytes) => return self.made_up(bytes, &source.metadata, parent),
            Content::Stored(blob) => return self.stored(*blob, *size, &source.metadata, parent),
            Content::UnpackedBlob { blob, codec } => {
                return self.unpacked(blob, *codec, &source.name, &source.metadata, parent, scratch);
            }
            Content::Disk { directory, name } => (*directory, name, None),
            Content::Unpacked {
                directory,
                name,
                codec,
            } => (*directory, name, Some(*codec)),
        };
        if let Some(known) = self.known(node, parent)? {
            return Ok(known);
        }
        let dir = match open {
            Some((opened, dir)) if *opened == directory => &*dir,
            _ => &open.insert((directory, self.tree.open_directory(directory)?)).1,
        };
        let name = OsStr::from_bytes(name.as_deref().unwrap_or(&source.name));
        self.on_disk(dir, name, codec, self.tree.mode_change(node), parent, scratch)
    }

    /// Returns what a file holds that has not changed since it was last read, if it is in the store.
    fn known(&self, node: u32, parent: Option<&Entry>) -> Result<Option<(Metadata, Node)>, CommitError> {
        let Some((stamp, is_linked)) = self.tree.listed(node) else {
            return Ok(None);
        };
        let cached = self.hints.cache.and_then(|cache| cache.get(stamp));
        let known = match (cached, self.hints.inodes) {
            (None, Some(inodes)) if is_linked => inodes.get(stamp)?,
            (cached, _) => cached,
        };
        let Some(known) = known else {
            return Ok(None);
        };
        let lacks_verity = known.verity.is_none() && known.size > 0;
        if self.verity == Verity::Wanted && lacks_verity {
            return Ok(None);
        }
        let kind = self.file(known.blob, known.size, known.verity);
        let metadata = self.record(&self.tree.node(node).metadata, known.xattrs, &kind, parent);
        let is_kept = match self.sink {
            Sink::Store(transaction) => transaction.repo().has_blob(&known.blob, known.size, &metadata)?,
            Sink::Memory(_) => true,
        };
        if let Sink::Store(transaction) = self.sink
            && self.adopt
            && is_kept
        {
            let is_source = |stat: &Stat| Stamp::of(stat) == *stamp;
            transaction.check_duplicate(&known.blob, &metadata, is_source)?;
        }
        Ok(is_kept.then_some((metadata, kind)))
    }

    fn made_up(
        &self,
        bytes: &[u8],
        metadata: &Metadata,
        parent: Option<&Entry>,
    ) -> Result<(Metadata, Node), CommitError> {
        let blob = BlobId::new(Digest::of(bytes));
        let verity = (self.verity == Verity::Wanted && !bytes.is_empty()).then(|| VerityDigest::of(bytes));
        let node = self.file(blob, bytes.len() as u64, verity);
        let metadata = self.record(metadata, metadata.xattrs.clone(), &node, parent);
        if let Sink::Store(transaction) = self.sink {
            transaction.store_bytes(bytes, &metadata)?;
        }
        Ok((metadata, node))
    }

    /// The entry of a file. A digest that nobody wants may be known all the same.
    fn file(&self, blob: BlobId, size: u64, verity: Option<VerityDigest>) -> Node {
        let verity = verity.filter(|_| self.verity == Verity::Wanted);
        Node::File {
            size,
            blob,
            verity: verity.map(|verity| *verity.as_bytes()),
        }
    }

    /// Reads a blob that is staged already, or in the store, once more.
    fn verity_of(&self, blob: &BlobId, size: u64) -> Result<VerityDigest, CommitError> {
        let file = self.tree.blob_files().open(blob)?;
        let (found, len, verity) = hash_file_and_verity(&file)
            .map_err(|error| FsError::new("read the blob", blob.to_string(), error))?;
        if (found, len) != (*blob, size) {
            return Err(CommitError::Repo(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *blob.digest(),
                reason: format!("it has {len} bytes with the digest {found}"),
            }));
        }
        Ok(verity)
    }

    /// A blob that is staged already, or in the store.
    fn stored(
        &self,
        blob: BlobId,
        size: u64,
        metadata: &Metadata,
        parent: Option<&Entry>,
    ) -> Result<(Metadata, Node), CommitError> {
        let verity = match self.verity {
            Verity::Wanted if size > 0 => Some(self.verity_of(&blob, size)?),
            _ => None,
        };
        let node = self.file(blob, size, verity);
        let metadata = self.record(metadata, metadata.xattrs.clone(), &node, parent);
        if let Sink::Store(transaction) = self.sink {
            transaction.store_loose(self.tree.blob_files(), &blob, size, &metadata)?;
        }
        Ok((metadata, node))
    }

    /// Unpacks a blob that is staged already, or in the store.
    fn unpacked(
        &self,
        blob: &BlobId,
        codec: Codec,
        name: &[u8],
        metadata: &Metadata,
        parent: Option<&Entry>,
        scratch: &mut Scratch,
    ) -> Result<(Metadata, Node), CommitError> {
        let path = PathBuf::from(OsStr::from_bytes(name));
        let packed = self.tree.blob_files().open(blob)?;
        let len = stat(&packed, &|| path.clone())?.size;
        let unpack = || {
            (&packed).rewind()?;
            Unpacker::new(codec, &packed, len)
        };
        let hashed = unpack()
            .and_then(|mut unpacker| hash_stream(&mut unpacker, scratch))
            .map_err(|source| CommitError::Unpack {
                path: path.clone(),
                source,
            })?;
        let node = self.file(hashed.blob, hashed.size, hashed.verity);
        let metadata = self.record(metadata, metadata.xattrs.clone(), &node, parent);
        if let Sink::Store(transaction) = self.sink {
            transaction.store_stream(&path, &metadata, &hashed, scratch, unpack)?;
        }
        Ok((metadata, node))
    }

    /// Takes metadata and bytes from the same open file: one that replaced what was listed must not get a setuid bit or
    /// an owner that was another's. A compressed file is unpacked as it streams, and keeps its metadata.
    fn on_disk(
        &self,
        dir: &Dir,
        name: &OsStr,
        codec: Option<Codec>,
        change: Option<ModeChange>,
        parent: Option<&Entry>,
        scratch: &mut Scratch,
    ) -> Result<(Metadata, Node), CommitError> {
        let path = PathBuf::from(name);
        let full = || dir.path().join(name);
        let file = dir.open_file(name)?;
        let before = stat(&file, &full)?;
        if before.kind != FileKind::File {
            return Err(CommitError::SourceChanged { path: full() });
        }
        let unpack = |codec| {
            (&file).rewind()?;
            Unpacker::new(codec, &file, before.size)
        };
        let hashed = match codec {
            None => hash_into(&file, before.size, &path, scratch).map_err(|error| in_dir(error, dir))?,
            Some(codec) => unpack(codec)
                .and_then(|mut unpacker| hash_stream(&mut unpacker, scratch))
                .map_err(|source| CommitError::Unpack { path: full(), source })?,
        };
        let node = self.file(hashed.blob, hashed.size, hashed.verity);
        let mut listed = super::source::metadata_of(&before);
        if let Some(change) = change {
            listed.mode = change.apply(listed.mode);
        }
        let xattrs = read_xattrs(&file, &path)?;
        let metadata = self.record(&listed, xattrs.clone(), &node, parent);
        let mut adopted = false;
        if let Sink::Store(transaction) = self.sink {
            match codec {
                None if self.adopt => transaction
                    .store_adopted(&file, &before, (dir, name), &metadata, &hashed, scratch)
                    .map(|is_adopted| adopted = is_adopted),
                None => transaction
                    .store_hashed(&file, &path, &metadata, &hashed, scratch)
                    .map(drop),
                Some(codec) => transaction
                    .store_stream(&path, &metadata, &hashed, scratch, || unpack(codec))
                    .and_then(|stored| match stored.outcome {
                        StoreOutcome::AlreadyPresent if self.adopt => {
                            transaction.check_duplicate(&stored.id, &metadata, |_| false)
                        }
                        _ => Ok(()),
                    }),
            }
            .map_err(|error| in_dir(error, dir))?;
        }
        if adopted {
            // It was looked at before it was taken, and has the recorded metadata now.
            return Ok((metadata, node));
        }
        let after = stat(&file, &full)?;
        let identity = |stat: &Stat| {
            let time = (stat.mtime, stat.mtime_nsec);
            (stat.size, time, stat.mode, stat.uid, stat.gid)
        };
        if identity(&before) != identity(&after) || (codec.is_none() && hashed.size != after.size) {
            return Err(CommitError::SourceChanged { path: full() });
        }
        // Another name for the file changes its `ctime` and nothing that is committed; but then it is not the state that was read.
        let untouched = (before.ctime, before.ctime_nsec) == (after.ctime, after.ctime_nsec);
        if let (Some(cache), None, true) = (self.hints.cache, codec, untouched) {
            cache.put(&file, &after, hashed.blob, hashed.verity, &xattrs);
        }
        Ok((metadata, node))
    }

    /// Returns metadata as it is recorded.
    pub(super) fn record(
        &self,
        listed: &Metadata,
        xattrs: Xattrs,
        node: &Node,
        parent: Option<&Entry>,
    ) -> Metadata {
        let (uid, gid) = self.recording.owner.unwrap_or((listed.uid, listed.gid));
        let mut metadata = Metadata {
            mode: listed.mode,
            uid,
            gid,
            mtime: self.recording.mtime.clamp(listed.mtime, self.recording.epoch),
            xattrs,
        };
        if self.recording.mtime == MtimePolicy::Parent
            && let Some(parent) = parent
            && only_time_differs(parent, &metadata, node)
        {
            metadata.mtime = parent.metadata.mtime;
        }
        metadata
    }

    /// Returns the root's own metadata as it is recorded.
    pub(super) fn root_metadata(&self, root: DirTreeId, parent: Option<&Entry>) -> Metadata {
        let listed = &self.tree.node(0).metadata;
        self.record(listed, listed.xattrs.clone(), &Node::Dir { tree: root }, parent)
    }
}

fn stat(file: &File, path: &impl Fn() -> PathBuf) -> Result<Stat, FsError> {
    rustix::fs::fstat(file)
        .map(Stat::from)
        .map_err(|errno| FsError::new("look at", path(), errno))
}

/// Paths inside a group are names alone, for speed; a message needs the rest.
fn in_dir(error: RepoError, dir: &Dir) -> RepoError {
    match error {
        RepoError::Fs(mut error) if error.path.components().count() == 1 => {
            error.path = dir.path().join(&error.path);
            RepoError::Fs(error)
        }
        other => other,
    }
}

/// Takes a lock whose data no panic can spoil.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
