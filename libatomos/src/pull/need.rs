//! What of a tree is not here.

use std::collections::{HashMap, HashSet};

use crate::digest::{BlobId, DirTreeId};
use crate::format::{Entry, Metadata, Node};
use crate::repo::{Repo, RepoError, RepoMode, TreeSource};
use crate::site::{BlobList, TreeTable};

/// What has to be fetched or made.
#[derive(Debug, Default)]
pub(super) struct Need {
    /// Blobs of which there are no bytes here, by index, with the inodes that they are needed as.
    pub(super) blobs: HashMap<u32, Vec<Metadata>>,
    /// Inodes of blobs whose bytes are here.
    pub(super) variants: Vec<(BlobId, u64, Metadata)>,
    /// How many bytes there are of large blobs that an interrupted pull began. They are verified with the whole.
    pub(super) begun: HashMap<u32, u64>,
    /// Inodes of the empty blob.
    pub(super) empty: Vec<Metadata>,
}

impl Need {
    /// Looks for every file of `tree` beneath `path` (from its root, `/` between parts; everything where `None`).
    /// Returns `None` if there is no such path.
    pub(super) fn of(
        repo: &Repo,
        tree: &TreeTable,
        blobs: &BlobList,
        path: Option<&str>,
    ) -> Result<Option<Self>, RepoError> {
        let mut need = Self::default();
        let mut seen = HashSet::new();
        let mut look = |entry: &Entry| need.look_at(repo, blobs, &mut seen, entry);
        let mut stack: Vec<DirTreeId> = Vec::new();
        match path {
            None => stack.push(tree.commit.root),
            Some(path) => {
                let mut at = Node::Dir {
                    tree: tree.commit.root,
                };
                for part in path.split('/').filter(|part| !part.is_empty()) {
                    let Node::Dir { tree: id } = at else {
                        return Ok(None);
                    };
                    let Some(entry) = tree.dirtree(&id)?.get(part.as_bytes()).cloned() else {
                        return Ok(None);
                    };
                    look(&entry)?;
                    at = entry.node;
                }
                if let Node::Dir { tree: id } = at {
                    stack.push(id);
                }
            }
        }
        let mut met = HashSet::new();
        while let Some(id) = stack.pop() {
            if !met.insert(id) {
                continue;
            }
            for entry in tree.dirtree(&id)?.entries() {
                look(entry)?;
                if let Node::Dir { tree } = &entry.node {
                    stack.push(*tree);
                }
            }
        }
        Ok(Some(need))
    }

    fn look_at(
        &mut self,
        repo: &Repo,
        blobs: &BlobList,
        seen: &mut HashSet<(BlobId, [u8; 16])>,
        entry: &Entry,
    ) -> Result<(), RepoError> {
        let Node::File { blob, size, .. } = &entry.node else {
            return Ok(());
        };
        let bits = match repo.mode() {
            RepoMode::BareUser => [0; 16],
            RepoMode::Bare => crate::repo::variant_bits(&entry.metadata)?,
        };
        if !seen.insert((*blob, bits)) {
            return Ok(());
        }
        let here = repo.has_bytes(blob, *size)?;
        let complete = match repo.mode() {
            RepoMode::BareUser => here,
            RepoMode::Bare => here && repo.has_blob(blob, *size, &entry.metadata)?,
        };
        if complete {
            return Ok(());
        }
        if *size == 0 {
            self.empty.push(entry.metadata.clone());
        } else if here {
            self.variants.push((*blob, *size, entry.metadata.clone()));
        } else if let Some(index) = blobs.index_of(blob) {
            self.blobs.entry(index).or_default().push(entry.metadata.clone());
        }
        Ok(())
    }

    /// Returns how many inodes are missing.
    pub(super) fn len(&self) -> usize {
        let fetched: usize = self.blobs.values().map(Vec::len).sum();
        fetched + self.variants.len() + self.empty.len()
    }

    /// Returns the indices of the missing blobs, ascending.
    pub(super) fn missing(&self) -> Vec<u32> {
        let mut missing: Vec<u32> = self.blobs.keys().copied().collect();
        missing.sort_unstable();
        missing
    }

    /// Returns the bytes that will be written.
    pub(super) fn bytes(&self, blobs: &BlobList) -> u64 {
        let fetched = self
            .blobs
            .iter()
            .map(|(index, inodes)| blobs.size(*index).saturating_mul(inodes.len() as u64));
        // What a tree says may be more than there can be; then there is no space for it.
        let here = self.variants.iter().map(|(_, size, _)| *size);
        fetched.chain(here).fold(0, u64::saturating_add)
    }
}
