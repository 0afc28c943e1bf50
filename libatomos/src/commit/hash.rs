//! The second and third pass: files to blobs, then directories to dirtrees.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Seek;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::digest::{BlobId, Digest, DirTreeId};
use crate::format::{DirTree, Entry, Metadata, Node, Xattrs};
use crate::fs::{Dir, FileKind, FsError, Stat, hash_file_and_verity, read_xattrs};
use crate::progress::PhaseGuard;
use crate::repo::{ObjectKind, Repo, RepoError, Scratch, Transaction, Verity, hash_into, hash_stream};
use crate::unpack::{Codec, Unpacker};
use crate::verity::VerityDigest;

use super::memory::MemoryTrees;
use super::mtime::{only_time_differs, recompiled_stems, stem_of_source};
use super::source::{Content, ModeChange, SourceKind, SourceTree};
use super::stat_cache::StatCache;
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

/// A file's outcome: its entry without the name.
struct FileResult {
    node: u32,
    metadata: Metadata,
    kind: Node,
}

/// The files of one directory, or a part of them.
struct Group {
    parent: Option<Arc<DirTree>>,
    files: Vec<u32>,
    bytes: u64,
}

/// More files than this in one directory are shared between threads.
const GROUP: usize = 64;

pub(super) type FileTable = HashMap<u32, (Metadata, Node)>;

/// The parent commit's dirtree of each directory node.
pub(super) type ParentTrees = HashMap<u32, Arc<DirTree>>;

impl Hasher<'_> {
    /// Loads the parent commit's dirtrees beside the source's directories.
    pub(super) fn parent_trees(&self, repo: &Repo, root: &DirTreeId) -> Result<ParentTrees, CommitError> {
        let mut trees = ParentTrees::new();
        let mut stack = vec![(0, *root)];
        while let Some((node, id)) = stack.pop() {
            let tree = Arc::new(repo.load_dirtree(&id)?);
            for child in self.tree.children(node) {
                let source = self.tree.node(*child);
                if let (
                    SourceKind::Dir { .. },
                    Some(Entry {
                        node: Node::Dir { tree },
                        ..
                    }),
                ) = (&source.kind, tree.get(&source.name))
                {
                    stack.push((*child, *tree));
                }
            }
            trees.insert(node, tree);
        }
        Ok(trees)
    }

    /// Hashes every file and gives it to the sink.
    pub(super) fn files(
        &self,
        parents: &ParentTrees,
        phase: &PhaseGuard<'_>,
    ) -> Result<FileTable, CommitError> {
        let mut table = FileTable::new();
        let buffers = Mutex::new(Vec::new());
        let late = |node: u32| {
            self.recording.mtime == MtimePolicy::Parent
                && stem_of_source(&self.tree.node(node).name).is_some()
        };
        // Python sources come last: whether one may take an old time depends on its compiled file.
        for wanted in [false, true] {
            let groups = self.groups(parents, &table, |node| late(node) == wanted);
            let results: Vec<Vec<FileResult>> = groups
                .into_par_iter()
                .with_max_len(1)
                .map(|group| {
                    // A buffer is a megabyte: as many are made as threads work, not as there are groups.
                    let mut scratch = lock(&buffers).pop().unwrap_or_else(|| Scratch::with(self.verity));
                    let results = self.group(&group, &mut scratch, phase);
                    lock(&buffers).push(scratch);
                    results
                })
                .collect::<Result<_, CommitError>>()?;
            table.extend(
                results
                    .into_iter()
                    .flatten()
                    .map(|file| (file.node, (file.metadata, file.kind))),
            );
        }
        Ok(table)
    }

    fn groups(&self, parents: &ParentTrees, done: &FileTable, wanted: impl Fn(u32) -> bool) -> Vec<Group> {
        let mut groups = Vec::new();
        let mut stack = vec![0];
        while let Some(dir) = stack.pop() {
            let parent = parents.get(&dir);
            let recompiled = self.recompiled(dir, parents, done);
            let mut files = Vec::new();
            for child in self.tree.children(dir) {
                match &self.tree.node(*child).kind {
                    SourceKind::Dir { .. } => stack.push(*child),
                    SourceKind::File { .. } if wanted(*child) => files.push(*child),
                    _ => {}
                }
            }
            let keeps_time = |file: &u32| {
                stem_of_source(&self.tree.node(*file).name)
                    .is_some_and(|stem| recompiled.iter().any(|other| other == stem))
            };
            let (fresh, files): (Vec<u32>, Vec<u32>) = files.into_iter().partition(keeps_time);
            for (parent, files) in [(None, fresh), (parent, files)] {
                groups.extend(files.chunks(GROUP).map(|files| Group {
                    parent: parent.cloned(),
                    files: files.to_vec(),
                    bytes: files.iter().map(|file| self.size(*file)).sum(),
                }));
            }
        }
        // The largest first, so that no thread begins a long piece when the others are done.
        groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
        groups
    }

    /// Returns the stems of the Python sources in `dir` that must keep their own time.
    fn recompiled(&self, dir: u32, parents: &ParentTrees, done: &FileTable) -> Vec<Vec<u8>> {
        if self.recording.mtime != MtimePolicy::Parent {
            return Vec::new();
        }
        let Some(cache) = self.tree.child(dir, b"__pycache__") else {
            return Vec::new();
        };
        let compiled: HashMap<Vec<u8>, BlobId> = self
            .tree
            .children(cache)
            .iter()
            .filter_map(|file| match done.get(file) {
                Some((_, Node::File { blob, .. })) => Some((self.tree.node(*file).name.to_vec(), *blob)),
                _ => None,
            })
            .collect();
        recompiled_stems(&compiled, parents.get(&cache))
    }

    fn size(&self, node: u32) -> u64 {
        match &self.tree.node(node).kind {
            SourceKind::File { size, .. } => *size,
            _ => 0,
        }
    }

    fn group(
        &self,
        group: &Group,
        scratch: &mut Scratch,
        phase: &PhaseGuard<'_>,
    ) -> Result<Vec<FileResult>, CommitError> {
        let mut open: Option<(u32, Dir)> = None;
        let mut results = Vec::with_capacity(group.files.len());
        for node in &group.files {
            self.cancel.check()?;
            let source = self.tree.node(*node);
            let SourceKind::File { content, size } = &source.kind else {
                continue;
            };
            let parent = group.parent.as_ref().and_then(|tree| tree.get(&source.name));
            let (metadata, kind) = match content {
                Content::Bytes(bytes) => self.made_up(bytes, &source.metadata, parent)?,
                Content::Stored(blob) => self.stored(*blob, *size, &source.metadata, parent)?,
                Content::UnpackedBlob { blob, codec } => {
                    self.unpacked(blob, *codec, &source.name, &source.metadata, parent, scratch)?
                }
                Content::Disk { directory, name } | Content::Unpacked { directory, name, .. } => {
                    if let Some((metadata, kind)) = self.known(*node, parent)? {
                        phase.advance(*size);
                        results.push(FileResult {
                            node: *node,
                            metadata,
                            kind,
                        });
                        continue;
                    }
                    let dir = match &open {
                        Some((opened, dir)) if opened == directory => dir,
                        _ => &open.insert((*directory, self.tree.open_directory(*directory)?)).1,
                    };
                    let codec = match content {
                        Content::Unpacked { codec, .. } => Some(*codec),
                        _ => None,
                    };
                    let change = self.tree.mode_change(*node);
                    self.on_disk(dir, OsStr::from_bytes(name), codec, change, parent, scratch)?
                }
            };
            phase.advance(*size);
            results.push(FileResult {
                node: *node,
                metadata,
                kind,
            });
        }
        Ok(results)
    }

    /// Returns what a file holds that has not changed since it was last read, if it is in the store.
    fn known(&self, node: u32, parent: Option<&Entry>) -> Result<Option<(Metadata, Node)>, CommitError> {
        let Some(listed) = self.tree.listed(node) else {
            return Ok(None);
        };
        let cached = self.hints.cache.and_then(|cache| cache.get(&listed.stamp));
        let known = match (cached, self.hints.inodes) {
            (None, Some(inodes)) if listed.is_linked => inodes.get(&listed.stamp)?,
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
                    .map(drop),
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

    fn record(&self, listed: &Metadata, xattrs: Xattrs, node: &Node, parent: Option<&Entry>) -> Metadata {
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

    /// Builds the dirtree of `dir` and everything beneath it; subdirectories in parallel.
    pub(super) fn dirtree(
        &self,
        dir: u32,
        files: &FileTable,
        parents: &ParentTrees,
    ) -> Result<DirTreeId, CommitError> {
        self.cancel.check()?;
        let parent = parents.get(&dir);
        let entries: Vec<Entry> = self
            .tree
            .children(dir)
            .par_iter()
            .map(|child| {
                let source = self.tree.node(*child);
                let name = source.name.to_vec();
                let node = match &source.kind {
                    SourceKind::File { .. } => {
                        let (metadata, node) = files.get(child).expect("every file was hashed").clone();
                        return Ok(Entry { name, metadata, node });
                    }
                    SourceKind::Dir { .. } => Node::Dir {
                        tree: self.dirtree(*child, files, parents)?,
                    },
                    SourceKind::Symlink(target) => Node::Symlink {
                        target: target.to_vec(),
                    },
                    SourceKind::Char(major, minor) => Node::Char {
                        major: *major,
                        minor: *minor,
                    },
                    SourceKind::Block(major, minor) => Node::Block {
                        major: *major,
                        minor: *minor,
                    },
                    SourceKind::Fifo => Node::Fifo,
                };
                let before = parent.and_then(|tree| tree.get(&name));
                let metadata = self.record(&source.metadata, source.metadata.xattrs.clone(), &node, before);
                Ok(Entry { name, metadata, node })
            })
            .collect::<Result<_, CommitError>>()?;
        let tree = DirTree::new(entries).map_err(|source| RepoError::Encode {
            what: String::from_utf8_lossy(&self.tree.node(dir).name).into_owned(),
            source,
        })?;
        Ok(match self.sink {
            Sink::Store(transaction) => transaction.store_dirtree(&tree)?,
            Sink::Memory(trees) => trees.insert(tree)?,
        })
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

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::progress::{NoProgress, Phase, Unit};

    #[test]
    fn a_file_that_replaced_the_listed_one_has_its_own_metadata() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("program");
        let set_mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(&path, "trusted").unwrap();
        set_mode(0o4755);
        let cancel = Cancel::new();
        let root = Dir::open_ambient(scratch.path()).unwrap();
        let tree = SourceTree::scan(root, &super::super::ScanOptions::default(), &cancel).unwrap();

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another").unwrap();
        set_mode(0o644);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        let trees = MemoryTrees::default();
        let hasher = Hasher {
            tree: &tree,
            sink: Sink::Memory(&trees),
            recording: Recording::default(),
            hints: Hints::default(),
            adopt: false,
            verity: Verity::No,
            cancel: &cancel,
        };
        let phase = PhaseGuard::begin(&NoProgress, Phase::Verify, None, Unit::Bytes);
        let files = hasher.files(&ParentTrees::new(), &phase).unwrap();
        let (metadata, _) = files.values().next().unwrap();
        assert_eq!((metadata.mode, metadata.mtime), (0o644, 1_000_000));
        assert_eq!(metadata.uid, std::fs::metadata(&path).unwrap().uid());
    }
}
