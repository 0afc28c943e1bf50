//! Digests of a directory without a repository to keep them in.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::format::{DirTree, Metadata};
use crate::fs::Dir;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{ObjectKind, RepoError, TreeSource};

use super::dirtrees::{self, ParentTrees};
use super::hash::{Hasher, lock};
use super::{CommitError, ScanOptions, SourceTree};

/// Dirtrees held in memory.
#[derive(Debug, Default)]
pub struct MemoryTrees(Mutex<HashMap<DirTreeId, DirTree>>);

impl MemoryTrees {
    pub(super) fn insert(&self, tree: DirTree) -> Result<DirTreeId, RepoError> {
        let (id, _) = tree.encode().map_err(|source| RepoError::Encode {
            what: "a directory".to_owned(),
            source,
        })?;
        lock(&self.0).insert(id, tree);
        Ok(id)
    }
}

impl TreeSource for MemoryTrees {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        lock(&self.0).get(id).cloned().ok_or(RepoError::ObjectMissing {
            kind: ObjectKind::DirTree,
            digest: *id.digest(),
        })
    }
}

/// Returns the digest and the dirtrees that committing `root` would have, and the root's metadata.
pub fn hash_directory(
    root: Dir,
    options: &ScanOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<(DirTreeId, Metadata, MemoryTrees), CommitError> {
    let trees = MemoryTrees::default();
    crate::parallel::pool(None).install(|| {
        let tree = SourceTree::scan(root, options, cancel)?;
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(tree.totals().1), Unit::Bytes);
        let hasher = Hasher::in_memory(&tree, &trees, cancel);
        let id = dirtrees::store(&hasher, &ParentTrees::new(), &phase)?.root;
        Ok((id, hasher.root_metadata(id, None), trees))
    })
}
