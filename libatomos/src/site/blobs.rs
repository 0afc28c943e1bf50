//! The blob order of a tree.

use std::collections::{HashMap, HashSet};

use crate::digest::{BlobId, DirTreeId};
use crate::format::{DirTree, Entry, Node, limits};
use crate::repo::{ObjectKind, RepoError, TreeSource};

/// A blob of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedBlob {
    /// Its name.
    pub id: BlobId,
    /// Its bytes.
    pub size: u64,
}

/// The different blobs of a tree that are not empty, in the order in which a walk in path order meets them.
#[derive(Debug, Default, Clone)]
pub struct BlobList {
    blobs: Vec<ListedBlob>,
    index: HashMap<BlobId, u32>,
    files: u64,
    dirtrees: u64,
}

impl BlobList {
    /// Walks the tree under `root`.
    pub fn of_tree(source: &dyn TreeSource, root: &DirTreeId) -> Result<Self, RepoError> {
        let mut list = Self::default();
        walk(source, root, &mut |step| {
            match step {
                Step::Tree(_) => list.dirtrees += 1,
                Step::Entry(entry) => {
                    if let Node::File { size, blob, .. } = &entry.node {
                        list.files += 1;
                        list.add(*blob, *size)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(list)
    }

    fn add(&mut self, id: BlobId, size: u64) -> Result<(), RepoError> {
        if size == 0 {
            return Ok(());
        }
        let next = self.blobs.len() as u32;
        let index = *self.index.entry(id).or_insert(next);
        if index == next {
            self.blobs.push(ListedBlob { id, size });
        } else if self.blobs[index as usize].size != size {
            // One of the two entries lies, and no file will ever show which.
            return Err(RepoError::ObjectDamaged {
                kind: ObjectKind::Blob,
                digest: *id.digest(),
                reason: format!(
                    "its tree says that it has {size} bytes, and that it has {}",
                    self.blobs[index as usize].size
                ),
            });
        }
        Ok(())
    }

    /// Returns how many blobs there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.blobs.len() as u32
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Returns the blobs in order.
    #[must_use]
    pub fn blobs(&self) -> &[ListedBlob] {
        &self.blobs
    }

    /// Returns the size of the blob at `index`, which must be in range.
    #[must_use]
    pub fn size(&self, index: u32) -> u64 {
        self.blobs[index as usize].size
    }

    /// Returns the place of `id`.
    #[must_use]
    pub fn index_of(&self, id: &BlobId) -> Option<u32> {
        self.index.get(id).copied()
    }

    /// Returns how many files the different directories have.
    #[must_use]
    pub const fn files(&self) -> u64 {
        self.files
    }

    /// Returns how many different directories there are.
    #[must_use]
    pub const fn dirtrees(&self) -> u64 {
        self.dirtrees
    }

    /// Returns the bytes of all blobs; what a tree says of them may be more than there can be.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs
            .iter()
            .fold(0, |sum, blob| u64::saturating_add(sum, blob.size))
    }
}

/// What a walk meets.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A directory that was not met before.
    Tree(&'a DirTree),
    /// An entry of such a directory.
    Entry(&'a Entry),
}

/// Walks in path order; a directory that was met before is not entered again.
pub(super) fn walk(
    source: &dyn TreeSource,
    root: &DirTreeId,
    visit: &mut dyn FnMut(Step<'_>) -> Result<(), RepoError>,
) -> Result<(), RepoError> {
    let mut met = HashSet::from([*root]);
    let tree = source.dirtree(root)?;
    visit(Step::Tree(&tree))?;
    // An explicit stack: the depth of a tree is its owner's choice.
    let mut stack = vec![tree.into_entries().into_iter()];
    while let Some(entries) = stack.last_mut() {
        let Some(entry) = entries.next() else {
            stack.pop();
            continue;
        };
        visit(Step::Entry(&entry))?;
        if let Node::Dir { tree: id } = &entry.node
            && met.insert(*id)
        {
            if stack.len() > limits::MAX_DEPTH {
                crate::repo::check_depth(stack.len(), &String::from_utf8_lossy(&entry.name))?;
            }
            let tree = source.dirtree(id)?;
            visit(Step::Tree(&tree))?;
            stack.push(tree.into_entries().into_iter());
        }
    }
    Ok(())
}

/// Names every file of a tree to `visit`: its path from the root, without a leading slash, its blob and its size. A
/// directory that occurs twice is entered once, and empty files are left out.
pub fn for_each_file(
    source: &dyn TreeSource,
    root: &DirTreeId,
    visit: &mut dyn FnMut(&[u8], BlobId, u64),
) -> Result<(), RepoError> {
    let mut met = HashSet::from([*root]);
    let mut stack = vec![(Vec::new(), *root)];
    while let Some((prefix, id)) = stack.pop() {
        for entry in source.dirtree(&id)?.entries() {
            let path = || {
                let mut path = prefix.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&entry.name);
                path
            };
            match &entry.node {
                Node::File { size, blob, .. } if *size > 0 => visit(&path(), *blob, *size),
                Node::Dir { tree } if met.insert(*tree) => stack.push((path(), *tree)),
                _ => {}
            }
        }
    }
    Ok(())
}
