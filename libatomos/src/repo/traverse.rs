//! Walking what objects refer to.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::{DirTree, Metadata, Node, limits};

use super::{Repo, RepoError};

/// Something that dirtrees can be read from: a repository, or trees held in memory.
pub trait TreeSource: Sync {
    /// Returns the dirtree called `id`.
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError>;

    /// Opens the blob called `id`; `None` where there are dirtrees and no blobs.
    fn open_blob_optional(&self, id: &BlobId) -> Result<Option<File>, RepoError> {
        let _ = id;
        Ok(None)
    }
}

impl TreeSource for Repo {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        self.load_dirtree(id)
    }

    fn open_blob_optional(&self, id: &BlobId) -> Result<Option<File>, RepoError> {
        match self.open_blob(id) {
            Ok(file) => Ok(Some(file)),
            Err(RepoError::ObjectMissing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Every object that some roots lead to.
#[derive(Debug, Default, Clone)]
pub struct Reachable {
    /// Commits that exist. A parent that was pruned is no error, and is not among them.
    pub commits: HashSet<CommitId>,
    /// Dirtrees.
    pub dirtrees: HashSet<DirTreeId>,
    /// Blobs.
    pub blobs: HashSet<BlobId>,
    /// The inode variants that files of the trees need, by blob and the 128 bits of their name.
    pub variants: HashSet<(BlobId, [u8; 16])>,
}

/// Whether a walk from a commit goes on to its parents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ancestry {
    Follow,
    Stop,
}

impl Reachable {
    /// Adds a commit with its tree, without its parents.
    pub(crate) fn add_commit(
        &mut self,
        repo: &Repo,
        id: &CommitId,
        cancel: &Cancel,
    ) -> Result<(), RepoError> {
        let commit = repo.load_commit(id)?;
        self.commits.insert(*id);
        self.add_tree(repo, &commit.root, cancel)
    }

    /// An explicit stack: the depth of a tree is the tree's owner's choice.
    pub(crate) fn add_tree(
        &mut self,
        source: &dyn TreeSource,
        root: &DirTreeId,
        cancel: &Cancel,
    ) -> Result<(), RepoError> {
        let mut stack = vec![*root];
        while let Some(id) = stack.pop() {
            if !self.dirtrees.insert(id) {
                continue;
            }
            cancel.check()?;
            for entry in source.dirtree(&id)?.entries() {
                match &entry.node {
                    Node::Dir { tree } => stack.push(*tree),
                    Node::File { blob, .. } => {
                        self.blobs.insert(*blob);
                        self.variants.insert((*blob, variant_bits(&entry.metadata)?));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The 128 bits that an inode variant's name spells.
pub(crate) fn variant_bits(metadata: &Metadata) -> Result<[u8; 16], RepoError> {
    let mut bits = metadata
        .variant_hash()
        .map_err(|source| super::object::encode_error("inode metadata", source))?;
    bits.reverse();
    Ok(bits)
}

/// What [`variant_bits`] says, for whoever asks of one file after another: most of them have the owner, mode and time of one that was
/// there a moment ago.
pub(crate) struct VariantBits {
    recent: Vec<Option<(Metadata, [u8; 16])>>,
}

impl VariantBits {
    const RECENT: usize = 256;

    pub(crate) fn new() -> Self {
        Self {
            recent: vec![None; Self::RECENT],
        }
    }

    pub(crate) fn of(&mut self, metadata: &Metadata) -> Result<[u8; 16], RepoError> {
        if !metadata.xattrs.is_empty() {
            return variant_bits(metadata);
        }
        let number = metadata.mtime.cast_unsigned() ^ u64::from(metadata.mode.rotate_left(16) ^ metadata.uid);
        let place = &mut self.recent[number as usize % Self::RECENT];
        if let Some((recent, bits)) = place
            && recent == metadata
        {
            return Ok(*bits);
        }
        let bits = variant_bits(metadata)?;
        *place = Some((metadata.clone(), bits));
        Ok(bits)
    }
}

/// Returns the name of a variant that has these bits.
pub(crate) fn variant_name(bits: [u8; 16]) -> String {
    format!("{:032x}", u128::from_le_bytes(bits))
}

/// Reads a variant's name, 32 hexadecimal digits, as its 128 bits.
pub(crate) fn parse_variant_bits(name: &str) -> [u8; 16] {
    u128::from_str_radix(name, 16)
        .expect("32 hexadecimal digits are 128 bits")
        .to_le_bytes()
}

/// Says where in the tree `root` the file lies that was not kept; whoever stores blobs does not know it. Another error, and one of a
/// tree that cannot be read, stays as it is.
pub(crate) fn name_unkept(mut error: RepoError, source: &dyn TreeSource, root: &DirTreeId) -> RepoError {
    if let RepoError::NotKept(not_kept) = &mut error
        && let Ok(Some(path)) = find_file(source, root, &not_kept.blob, &not_kept.metadata)
    {
        not_kept.path = path;
    }
    error
}

/// Returns the path of a file with these bytes and this metadata.
fn find_file(
    source: &dyn TreeSource,
    root: &DirTreeId,
    blob: &BlobId,
    metadata: &Metadata,
) -> Result<Option<PathBuf>, RepoError> {
    let mut seen = HashSet::new();
    let mut stack = vec![(*root, PathBuf::new())];
    while let Some((id, path)) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        for entry in source.dirtree(&id)?.entries() {
            let path = || path.join(OsStr::from_bytes(&entry.name));
            match &entry.node {
                Node::Dir { tree } => stack.push((*tree, path())),
                Node::File { blob: found, .. } if found == blob && entry.metadata == *metadata => {
                    return Ok(Some(path()));
                }
                _ => {}
            }
        }
    }
    Ok(None)
}

/// Has each of the directories of a level stand once, with how often it does in all. Equal subtrees let a few kilobytes name any number of
/// directories: whoever walks a whole tree counts them, and does not list them.
pub(crate) fn merge_equal(level: &mut Vec<(DirTreeId, u64)>) {
    level.sort_unstable_by_key(|(id, _)| *id);
    level.dedup_by(|(id, count), (kept, sum)| {
        let is_equal = id == kept;
        if is_equal {
            *sum = sum.saturating_add(*count);
        }
        is_equal
    });
}

/// Refuses a tree deeper than any path that the kernel accepts.
pub(crate) fn check_depth(depth: usize, path: &str) -> Result<(), RepoError> {
    if depth > limits::MAX_DEPTH {
        return Err(RepoError::PathInTree {
            rev: "the tree".to_owned(),
            path: path.chars().take(200).collect(),
            reason: "it is nested more than 2048 directories deep",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn equal_directories_are_counted_without_a_limit() {
        let id = |byte| DirTreeId::new(Digest::from_bytes([byte; 32]));
        let mut level = vec![(id(2), 1), (id(1), u64::MAX), (id(2), 3), (id(1), 5)];
        merge_equal(&mut level);
        assert_eq!(level, [(id(1), u64::MAX), (id(2), 4)]);
    }

    #[test]
    fn what_is_remembered_of_a_variant_is_what_its_name_spells() {
        let mut remembered = VariantBits::new();
        // Many of these take one another's place.
        for (number, mode) in (0..3000i64).zip([0o644, 0o755, 0o4755].into_iter().cycle()) {
            let mut metadata = Metadata {
                mtime: number % 700 - 100,
                uid: (number % 3) as u32,
                gid: (number % 2) as u32,
                ..Metadata::with_mode(mode)
            };
            let check = |remembered: &mut VariantBits, metadata: &Metadata| {
                let name = metadata.variant_name().unwrap();
                let bits = remembered.of(metadata).unwrap();
                assert_eq!(bits, parse_variant_bits(&name));
                assert_eq!(variant_name(bits), name);
            };
            check(&mut remembered, &metadata);
            metadata.xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
            check(&mut remembered, &metadata);
        }
    }
}
