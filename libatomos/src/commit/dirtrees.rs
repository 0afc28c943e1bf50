//! The second pass: files to blobs, and each directory to its dirtree as soon as everything in it is known.
//!
//! So what is known of files is in memory for as long as their directory is not done, and no longer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rayon::prelude::*;

use crate::digest::{BlobId, DirTreeId};
use crate::format::{DirTree, Entry, Node};
use crate::progress::PhaseGuard;
use crate::repo::{Repo, RepoError, Scratch};

use super::hash::{Hasher, Sink, lock};
use super::mtime::{recompiled_stems, stem_of_source};
use super::source::{SourceKind, SourceTree};
use super::{CommitError, MtimePolicy};

/// More files than this in one directory are shared between threads.
const GROUP: usize = 64;

/// Bytes from which on a group is begun early, so that no thread begins a long piece when the others are done.
const LARGE: u64 = 4 << 20;

/// Where Python keeps what it has compiled.
const PYCACHE: &[u8] = b"__pycache__";

/// The files of one directory, or a part of them.
struct Group {
    dir: u32,
    parent: Option<Arc<DirTree>>,
    files: Vec<u32>,
    bytes: u64,
}

/// The parent commit's dirtree of each directory node.
pub(super) type ParentTrees = HashMap<u32, Arc<DirTree>>;

/// Loads the parent commit's dirtrees beside the source's directories.
pub(super) fn parent_trees(
    source: &SourceTree,
    repo: &Repo,
    root: &DirTreeId,
) -> Result<ParentTrees, CommitError> {
    let mut trees = ParentTrees::new();
    let mut stack = vec![(0, *root)];
    while let Some((node, id)) = stack.pop() {
        let tree = Arc::new(repo.load_dirtree(&id)?);
        for child in source.children(node) {
            let child_node = source.node(*child);
            if let SourceKind::Dir { .. } = &child_node.kind
                && let Some(entry) = tree.get(&child_node.name)
                && let Node::Dir { tree } = &entry.node
            {
                stack.push((*child, *tree));
            }
        }
        trees.insert(node, tree);
    }
    Ok(trees)
}

/// A tree that was given to the sink.
pub(super) struct Stored {
    pub(super) root: DirTreeId,
    /// Bytes in its files. What is unpacked on the way is larger than what was listed.
    pub(super) bytes: u64,
}

/// Gives every file and every directory of the hasher's tree to its sink.
pub(super) fn store(
    hasher: &Hasher<'_>,
    parents: &ParentTrees,
    phase: &PhaseGuard<'_>,
) -> Result<Stored, CommitError> {
    let assembly = Assembly::new(hasher, parents);
    assembly.begin()?;
    let buffers = Mutex::new(Vec::new());
    // Python sources come last where one may take an old time: whether it does depends on its compiled file.
    let passes: &[bool] = match hasher.recording.mtime {
        MtimePolicy::Parent => &[false, true],
        _ => &[false],
    };
    let late = |node: u32| passes.len() > 1 && stem_of_source(&hasher.tree.node(node).name).is_some();
    for wanted in passes {
        assembly
            .groups(|node| late(node) == *wanted)
            .into_par_iter()
            .with_max_len(1)
            .try_for_each(|group| {
                // A buffer is a megabyte: as many are made as threads work, not as there are groups.
                let mut scratch = lock(&buffers)
                    .pop()
                    .unwrap_or_else(|| Scratch::with(hasher.verity));
                let stored = assembly.store(&group, &mut scratch, phase);
                lock(&buffers).push(scratch);
                stored
            })?;
    }
    Ok(Stored {
        root: *assembly.root.get().expect("every directory was done"),
        bytes: assembly.bytes.into_inner(),
    })
}

/// A directory that lacks something.
struct Open {
    /// The directory that it is in; `None` for the root.
    within: Option<u32>,
    /// Files and directories in it of which it is not known yet what becomes of them.
    missing: AtomicUsize,
    /// Those of which it is.
    known: Mutex<Vec<Entry>>,
}

struct Assembly<'a> {
    hasher: &'a Hasher<'a>,
    parents: &'a ParentTrees,
    open: HashMap<u32, Open>,
    root: OnceLock<DirTreeId>,
    bytes: AtomicU64,
    /// What Python compiled, where that decides on times.
    compiled: Mutex<HashMap<u32, BlobId>>,
}

impl<'a> Assembly<'a> {
    fn new(hasher: &'a Hasher<'a>, parents: &'a ParentTrees) -> Self {
        let mut open = HashMap::new();
        let mut stack = vec![(0, None)];
        while let Some((dir, within)) = stack.pop() {
            let mut missing = 0;
            for child in hasher.tree.children(dir) {
                match &hasher.tree.node(*child).kind {
                    SourceKind::Dir { .. } => {
                        stack.push((*child, Some(dir)));
                        missing += 1;
                    }
                    SourceKind::File { .. } => missing += 1,
                    _ => {}
                }
            }
            let slot = Open {
                within,
                missing: missing.into(),
                known: Mutex::default(),
            };
            open.insert(dir, slot);
        }
        Self {
            hasher,
            parents,
            open,
            root: OnceLock::new(),
            bytes: AtomicU64::new(0),
            compiled: Mutex::default(),
        }
    }

    /// Finishes the directories that lack nothing to begin with.
    fn begin(&self) -> Result<(), CommitError> {
        let lacks_nothing =
            |(dir, open): (&u32, &Open)| (open.missing.load(Ordering::Relaxed) == 0).then_some(*dir);
        // All of them are found before the first one is finished, which may be the last that another one lacks.
        let whole: Vec<u32> = self.open.iter().filter_map(lacks_nothing).collect();
        whole.into_par_iter().try_for_each(|dir| self.finish(dir))
    }

    fn groups(&self, wanted: impl Fn(u32) -> bool) -> Vec<Group> {
        let tree = self.hasher.tree;
        let mut groups = Vec::new();
        let mut stack = vec![0];
        while let Some(dir) = stack.pop() {
            let parent = self.parents.get(&dir);
            let recompiled = self.recompiled(dir);
            let mut files = Vec::new();
            for child in tree.children(dir) {
                match &tree.node(*child).kind {
                    SourceKind::Dir { .. } => stack.push(*child),
                    SourceKind::File { .. } if wanted(*child) => files.push(*child),
                    _ => {}
                }
            }
            let keeps_time = |file: &u32| {
                stem_of_source(&tree.node(*file).name)
                    .is_some_and(|stem| recompiled.iter().any(|other| other == stem))
            };
            let (fresh, files): (Vec<u32>, Vec<u32>) = files.into_iter().partition(keeps_time);
            for (parent, files) in [(None, fresh), (parent, files)] {
                groups.extend(files.chunks(GROUP).map(|files| Group {
                    dir,
                    parent: parent.cloned(),
                    files: files.to_vec(),
                    bytes: files.iter().map(|file| self.size(*file)).sum(),
                }));
            }
        }
        // The order of the tree among the small ones: directories are done one after the other, and the disk is read in its order.
        groups.sort_by_key(|group| match group.bytes {
            LARGE.. => std::cmp::Reverse(group.bytes),
            _ => std::cmp::Reverse(0),
        });
        groups
    }

    /// Returns the stems of the Python sources in `dir` that must keep their own time.
    fn recompiled(&self, dir: u32) -> Vec<Vec<u8>> {
        if self.hasher.recording.mtime != MtimePolicy::Parent {
            return Vec::new();
        }
        let tree = self.hasher.tree;
        let Some(cache) = tree.child(dir, PYCACHE) else {
            return Vec::new();
        };
        let done = lock(&self.compiled);
        let compiled: HashMap<Vec<u8>, BlobId> = tree
            .children(cache)
            .iter()
            .filter_map(|file| Some((tree.node(*file).name.to_vec(), *done.get(file)?)))
            .collect();
        recompiled_stems(&compiled, self.parents.get(&cache))
    }

    fn size(&self, node: u32) -> u64 {
        match &self.hasher.tree.node(node).kind {
            SourceKind::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// Stores the files of a group.
    fn store(&self, group: &Group, scratch: &mut Scratch, phase: &PhaseGuard<'_>) -> Result<(), CommitError> {
        let tree = self.hasher.tree;
        let decides =
            self.hasher.recording.mtime == MtimePolicy::Parent && *tree.node(group.dir).name == *PYCACHE;
        let mut open = None;
        let mut entries = Vec::with_capacity(group.files.len());
        for file in &group.files {
            self.hasher.cancel.check()?;
            let source = tree.node(*file);
            let parent = group.parent.as_ref().and_then(|tree| tree.get(&source.name));
            let (metadata, node) = self.hasher.one(*file, parent, &mut open, scratch)?;
            if let Node::File { blob, size, .. } = &node {
                self.bytes.fetch_add(*size, Ordering::Relaxed);
                if decides {
                    lock(&self.compiled).insert(*file, *blob);
                }
            }
            phase.advance(self.size(*file));
            entries.push(Entry {
                name: source.name.to_vec(),
                metadata,
                node,
            });
        }
        match self.add(group.dir, entries) {
            true => self.finish(group.dir),
            false => Ok(()),
        }
    }

    /// Adds what has become of files and directories of `dir`; returns whether it lacks nothing more.
    fn add(&self, dir: u32, mut entries: Vec<Entry>) -> bool {
        let open = &self.open[&dir];
        let count = entries.len();
        lock(&open.known).append(&mut entries);
        open.missing.fetch_sub(count, Ordering::AcqRel) == count
    }

    /// Gives a directory to the sink that lacks nothing, and so on upwards.
    fn finish(&self, mut dir: u32) -> Result<(), CommitError> {
        let hasher = self.hasher;
        loop {
            hasher.cancel.check()?;
            let open = &self.open[&dir];
            let mut entries = std::mem::take(&mut *lock(&open.known));
            self.add_others(dir, &mut entries);
            let source = hasher.tree.node(dir);
            let tree = DirTree::new(entries).map_err(|error| RepoError::Encode {
                what: String::from_utf8_lossy(&source.name).into_owned(),
                source: error,
            })?;
            let id = match hasher.sink {
                Sink::Store(transaction) => transaction.store_dirtree(&tree)?,
                Sink::Memory(trees) => trees.insert(tree)?,
            };
            let Some(within) = open.within else {
                self.root.set(id).expect("there is one root");
                return Ok(());
            };
            let entry = self.entry(within, dir, Node::Dir { tree: id });
            if !self.add(within, vec![entry]) {
                return Ok(());
            }
            dir = within;
        }
    }

    /// Adds what is neither file nor directory, of which all is known that will be.
    fn add_others(&self, dir: u32, entries: &mut Vec<Entry>) {
        for child in self.hasher.tree.children(dir) {
            let node = match &self.hasher.tree.node(*child).kind {
                SourceKind::File { .. } | SourceKind::Dir { .. } => continue,
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
            entries.push(self.entry(dir, *child, node));
        }
    }

    /// The entry of something in `dir` that is no file.
    fn entry(&self, dir: u32, child: u32, node: Node) -> Entry {
        let source = self.hasher.tree.node(child);
        let before = self.parents.get(&dir).and_then(|tree| tree.get(&source.name));
        let metadata = self
            .hasher
            .record(&source.metadata, source.metadata.xattrs.clone(), &node, before);
        Entry {
            name: source.name.to_vec(),
            metadata,
            node,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::{MemoryTrees, ScanOptions};
    use super::*;
    use crate::cancel::Cancel;
    use crate::fs::Dir;
    use crate::progress::{NoProgress, Phase, Unit};
    use crate::repo::TreeSource;

    #[test]
    fn a_file_that_replaced_the_listed_one_has_its_own_metadata() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("program");
        let set_mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(&path, "trusted").unwrap();
        set_mode(0o4755);
        let cancel = Cancel::new();
        let root = Dir::open_ambient(scratch.path()).unwrap();
        let tree = SourceTree::scan(root, &ScanOptions::default(), &cancel).unwrap();

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another").unwrap();
        set_mode(0o644);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
        let trees = MemoryTrees::default();
        let hasher = Hasher::in_memory(&tree, &trees, &cancel);
        let phase = PhaseGuard::begin(&NoProgress, Phase::Verify, None, Unit::Bytes);
        let stored = store(&hasher, &ParentTrees::new(), &phase).unwrap();
        let root = trees.dirtree(&stored.root).unwrap();
        let metadata = &root.get(b"program").unwrap().metadata;
        assert_eq!((metadata.mode, metadata.mtime), (0o644, 1_000_000));
        assert_eq!(metadata.uid, std::fs::metadata(&path).unwrap().uid());
    }
}
