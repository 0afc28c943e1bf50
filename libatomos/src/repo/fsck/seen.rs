//! What is whole, by name.

use std::collections::{HashMap, HashSet};

use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{Commit, DirTree, Node};
use crate::verity::VerityDigest;

use super::super::traverse::variant_bits;
use super::super::{RepoError, RepoMode};
use super::listing::{Stored, first_bits};

/// Gives a dirtree that is whole.
pub(in crate::repo) type Load<'l> = dyn Fn(&DirTreeId) -> Result<DirTree, RepoError> + Sync + 'l;

/// What is whole. Of a dirtree the name alone is kept: what it refers to is read again, since a history has each of its files many times.
#[derive(Default)]
pub(in crate::repo) struct Seen {
    pub(in crate::repo) commits: HashMap<CommitId, Commit>,
    pub(in crate::repo) dirtrees: HashSet<DirTreeId>,
    inodes: Inodes,
    /// What came later: blobs with their sizes, and inodes by the 128 bits of their variants' names.
    new_blobs: HashMap<BlobId, u64>,
    new_inodes: HashSet<(BlobId, [u8; 16])>,
    /// The fs-verity digests of blobs of which some dirtree records one, sorted.
    verity: Vec<(BlobId, VerityDigest)>,
}

/// The files of blobs, found by their digests.
#[derive(Default)]
struct Inodes {
    /// Sorted as [`Stored::order`] says.
    files: Vec<Stored>,
    /// Where the digests that begin with the same bits begin in the list, and at the end its length.
    starts: Vec<usize>,
    /// How many bits these are, at most 32.
    bits: u32,
    /// What else a tree may want that has an inode, sorted: one with a label stands for one without, too.
    others: Vec<(BlobId, [u8; 16])>,
}

impl Seen {
    /// Takes the files of blobs as they were found, sorted as [`Stored::order`] says, and what else has these inodes.
    pub(super) fn set_blobs(
        &mut self,
        files: Vec<Stored>,
        mut others: Vec<(BlobId, [u8; 16])>,
        mut verity: Vec<(BlobId, VerityDigest)>,
    ) {
        others.sort_unstable();
        verity.sort_unstable();
        self.inodes = Inodes::new(files, others);
        self.verity = verity;
    }

    /// Returns what is here of a blob.
    pub(in crate::repo) fn blob(&self, blob: &BlobId) -> SeenBlob<'_> {
        SeenBlob {
            seen: self,
            blob: *blob,
            files: self.inodes.of(blob.digest()),
        }
    }

    /// Returns the fs-verity digest of a blob, if it is whole and some dirtree records one.
    pub(super) fn verity(&self, blob: &BlobId) -> Option<VerityDigest> {
        let index = self.verity.binary_search_by_key(blob, |(blob, _)| *blob).ok()?;
        Some(self.verity[index].1)
    }

    pub(in crate::repo) fn add_blob(&mut self, blob: BlobId, size: u64) {
        self.new_blobs.insert(blob, size);
    }

    pub(in crate::repo) fn add_inode(&mut self, blob: BlobId, bits: [u8; 16]) {
        self.new_inodes.insert((blob, bits));
    }

    /// Returns whether everything of a commit's tree is here.
    pub(in crate::repo) fn is_complete(&self, commit: &CommitId, mode: RepoMode, load: &Load<'_>) -> bool {
        let Some(commit) = self.commits.get(commit) else {
            return false;
        };
        let (mut trees, mut met) = (vec![commit.root], HashSet::new());
        while let Some(tree) = trees.pop() {
            if !met.insert(tree) {
                continue;
            }
            let Some(tree) = Some(tree).filter(|tree| self.dirtrees.contains(tree)) else {
                return false;
            };
            let Ok(tree) = load(&tree) else { return false };
            for entry in tree.entries() {
                match &entry.node {
                    Node::Dir { tree } => trees.push(*tree),
                    Node::File { blob, size, .. } => {
                        let blob = self.blob(blob);
                        let has_inode = || {
                            mode == RepoMode::BareUser
                                || variant_bits(&entry.metadata).is_ok_and(|bits| blob.has_inode(&bits))
                        };
                        if blob.size() != Some(*size) || (*size > 0 && !has_inode()) {
                            return false;
                        }
                    }
                    _ => {}
                }
            }
        }
        true
    }
}

/// What is here of one blob.
pub(in crate::repo) struct SeenBlob<'s> {
    seen: &'s Seen,
    blob: BlobId,
    files: &'s [Stored],
}

impl SeenBlob<'_> {
    /// Returns how many bytes it has; `None` where it is not here.
    pub(in crate::repo) fn size(&self) -> Option<u64> {
        let mut files = self.files.iter();
        match files.find(|stored| !stored.is_variant && stored.has_bytes) {
            Some(own) => Some(own.size),
            None => self.seen.new_blobs.get(&self.blob).copied(),
        }
    }

    /// Returns whether it is here as the inode whose variant's name has these bits.
    pub(in crate::repo) fn has_inode(&self, bits: &[u8; 16]) -> bool {
        let mut files = self.files.iter();
        files.any(|stored| stored.has_inode && stored.bits == *bits)
            || self.seen.inodes.others.binary_search(&(self.blob, *bits)).is_ok()
            || self.seen.new_inodes.contains(&(self.blob, *bits))
    }
}

impl Inodes {
    fn new(files: Vec<Stored>, others: Vec<(BlobId, [u8; 16])>) -> Self {
        // About two files for each start.
        let bits = (files.len() / 2).max(1).ilog2().clamp(1, 32);
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (index, stored) in files.iter().enumerate() {
            let first = start_of(&stored.digest, bits);
            while starts.len() <= first {
                starts.push(index);
            }
        }
        starts.resize((1 << bits) + 1, files.len());
        Self {
            files,
            starts,
            bits,
            others,
        }
    }

    /// Returns every file of a blob.
    fn of(&self, digest: &Digest) -> &[Stored] {
        if self.starts.is_empty() {
            return &[];
        }
        let first = start_of(digest, self.bits);
        let near = &self.files[self.starts[first]..self.starts[first + 1]];
        // Unless somebody has made blobs whose digests begin alike, these are few.
        let begin = match near.len() {
            ..FEW => near.iter().position(|stored| stored.digest == *digest),
            _ => Some(near.partition_point(|stored| stored.digest < *digest)),
        };
        let near = &near[begin.unwrap_or(near.len())..];
        let end = near.iter().position(|stored| stored.digest != *digest);
        &near[..end.unwrap_or(near.len())]
    }
}

/// Which of the starts is a digest's.
const fn start_of(digest: &Digest, bits: u32) -> usize {
    (first_bits(digest) >> (32 - bits)) as usize
}

/// Fewer files than these are looked at one by one, as they lie in memory.
const FEW: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn every_file_is_found_by_its_digest_and_no_other() {
        for count in [0, 1, 2, 3, 7, 8, 100, 3000] {
            let mut files: Vec<Stored> = (0..count)
                .flat_map(|number| {
                    let own = Stored::new(digest(number), None, 1);
                    // One in three has variants.
                    let variants = (1..=(number % 3) as u8 * 2)
                        .map(move |bits| Stored::new(digest(number), Some([bits; 16]), 1));
                    std::iter::once(own).chain(variants)
                })
                .collect();
            files.sort_unstable_by(Stored::order);
            let inodes = Inodes::new(files, Vec::new());
            for number in 0..count {
                let found = inodes.of(&digest(number));
                assert_eq!(found.len(), 1 + (number % 3) as usize * 2);
                assert!(found.iter().all(|stored| stored.digest == digest(number)));
                assert!(!found[0].is_variant && found[1..].iter().all(|stored| stored.is_variant));
            }
            assert!(inodes.of(&digest(count)).is_empty());
        }
    }

    #[test]
    fn digests_that_begin_alike_are_told_apart() {
        // Whoever wants to can make some of these.
        let alike = |last: u8| {
            let mut bytes = [0xff; 32];
            bytes[31] = last;
            Digest::from_bytes(bytes)
        };
        let files = (0..=99).map(|last| Stored::new(alike(last), None, 0)).collect();
        let inodes = Inodes::new(files, Vec::new());
        assert!((0..=99).all(|last| inodes.of(&alike(last)).len() == 1));
        assert!(inodes.of(&alike(100)).is_empty());
        assert!(inodes.of(&Digest::from_bytes([0; 32])).is_empty());
    }
}
