//! The digest by which the kernel knows a file that it verifies as it is read.
//!
//! With fs-verity (`Documentation/filesystems/fsverity.rst`) a file has a tree of hashes, each block of 4096 bytes of it a leaf. Every
//! block that is read is compared, whoever has written to the disk; and what names the file is one digest, of a descriptor with the
//! tree's root and the file's length. The kernel makes that tree when it is told to; here it is computed from the bytes, so that the
//! digest is known before, and elsewhere. Always with SHA-256, blocks of 4096 bytes and no salt.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::digest::{DIGEST_LEN, Digest, InvalidDigest};

/// Bytes of a block, of data and of the tree.
const BLOCK: usize = 4096;

/// Digests in a block of the tree.
const FAN_OUT: u64 = (BLOCK / DIGEST_LEN) as u64;

/// `FS_VERITY_HASH_ALG_SHA256`.
pub(crate) const SHA256: u8 = 1;

/// The fs-verity digest of a file: SHA-256, blocks of 4096 bytes, no salt. Prints as 64 lower-case hexadecimal digits, as
/// `fsverity digest` does behind `sha256:`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerityDigest([u8; DIGEST_LEN]);

impl VerityDigest {
    /// Returns the digest of a file of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = VerityHasher::new();
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Takes 32 bytes that already are a digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; DIGEST_LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }
}

impl fmt::Display for VerityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::hex(&self.0))
    }
}

impl fmt::Debug for VerityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerityDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        // One spelling, as for every digest.
        text.parse().map(|digest: Digest| Self(*digest.as_bytes()))
    }
}

impl Serialize for VerityDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for VerityDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Digest::deserialize(deserializer).map(|digest| Self(*digest.as_bytes()))
    }
}

/// Computes a digest from bytes as they come. Whatever their number, it takes some blocks of memory: one for each level of the tree,
/// of which the largest file has eight.
#[derive(Debug, Default)]
pub struct VerityHasher {
    /// The block of data that is not full yet.
    block: Vec<u8>,
    size: u64,
    /// Of each level, the lowest first, the block that is not closed yet. One that is full is closed when the next digest comes.
    levels: Vec<Vec<u8>>,
}

impl VerityHasher {
    /// Begins with a file without bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes that come next.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if !self.block.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(head);
            bytes = rest;
            if self.block.len() < BLOCK {
                return;
            }
            let digest = Sha256::digest(&self.block).into();
            self.block.clear();
            self.push(0, &digest);
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        for block in blocks {
            self.push(0, &Sha256::digest(block).into());
        }
        self.block.extend_from_slice(rest);
    }

    fn push(&mut self, level: usize, digest: &[u8; DIGEST_LEN]) {
        if level == self.levels.len() {
            self.levels.push(Vec::with_capacity(BLOCK));
        }
        if self.levels[level].len() == BLOCK {
            let above = self.close(level);
            self.push(level + 1, &above);
        }
        self.levels[level].extend_from_slice(digest);
    }

    /// Hashes the block of a level, filled up with zeros, and empties it.
    fn close(&mut self, level: usize) -> [u8; DIGEST_LEN] {
        let block = &mut self.levels[level];
        block.resize(BLOCK, 0);
        let digest = Sha256::digest(&*block).into();
        block.clear();
        digest
    }

    /// Returns the root of the tree: of one block, its own digest; of nothing, zeros.
    fn root(&mut self) -> [u8; DIGEST_LEN] {
        if !self.block.is_empty() {
            self.block.resize(BLOCK, 0);
            let digest = Sha256::digest(&self.block).into();
            self.push(0, &digest);
        }
        if self.size == 0 {
            return [0; DIGEST_LEN];
        }
        if let [only] = self.levels.as_slice()
            && let Ok(digest) = only.as_slice().try_into()
        {
            return digest;
        }
        let mut level = 0;
        loop {
            let digest = self.close(level);
            level += 1;
            if level == self.levels.len() {
                return digest;
            }
            self.push(level, &digest);
        }
    }

    /// Returns the digest of what came.
    #[must_use]
    pub fn finalize(mut self) -> VerityDigest {
        // struct fsverity_descriptor: version, algorithm, logarithm of the block's size, length of the salt; four reserved bytes; the
        // file's length; 64 bytes for the root; salt and reserved bytes, which are zeros.
        let mut descriptor = [0; 256];
        descriptor[..4].copy_from_slice(&[1, SHA256, BLOCK.ilog2() as u8, 0]);
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        descriptor[16..16 + DIGEST_LEN].copy_from_slice(&self.root());
        VerityDigest(Sha256::digest(descriptor).into())
    }
}

/// Returns how many bytes a file system keeps beside a file of `size` bytes for it to be verified: the tree, and a block for the descriptor.
#[must_use]
pub fn verity_overhead(size: u64) -> u64 {
    let (mut blocks, mut of_tree) = (size.div_ceil(BLOCK as u64), 0);
    while blocks > 1 {
        blocks = blocks.div_ceil(FAN_OUT);
        of_tree += blocks;
    }
    (of_tree + 1) * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that differ from block to block, and that a shell can make, too: `yes 0123456789abcde | head -c SIZE`.
    fn sample(size: usize) -> Vec<u8> {
        b"0123456789abcde\n".iter().copied().cycle().take(size).collect()
    }

    /// The definition, without streaming: all of a level at once.
    fn plainly(bytes: &[u8]) -> VerityDigest {
        let hash = |block: &[u8]| {
            let mut block = block.to_vec();
            block.resize(BLOCK, 0);
            Sha256::digest(&block).to_vec()
        };
        let mut level: Vec<u8> = bytes.chunks(BLOCK).flat_map(hash).collect();
        while level.len() > DIGEST_LEN {
            level = level.chunks(BLOCK).flat_map(hash).collect();
        }
        level.resize(DIGEST_LEN, 0);
        let descriptor = [
            &[1, 1, 12, 0, 0, 0, 0, 0],
            &(bytes.len() as u64).to_le_bytes()[..],
            &level,
            &[0; 256 - 16 - DIGEST_LEN],
        ]
        .concat();
        VerityDigest(Sha256::digest(descriptor).into())
    }

    #[test]
    fn bytes_may_come_in_any_pieces() {
        proptest!(ProptestConfig::with_cases(64), |(
            size in prop_oneof![0usize..3 * BLOCK, 127 * BLOCK..130 * BLOCK, 255 * BLOCK..258 * BLOCK],
            piece in 1usize..3 * BLOCK,
        )| {
            let bytes = sample(size);
            let mut hasher = VerityHasher::new();
            for piece in bytes.chunks(piece) {
                hasher.update(piece);
            }
            prop_assert_eq!(hasher.finalize(), plainly(&bytes));
        });
    }

    #[test]
    fn every_bit_and_the_length_count() {
        let bytes = vec![0; 129 * BLOCK];
        let digest = VerityDigest::of(&bytes);
        for at in [0, BLOCK, 128 * BLOCK, 129 * BLOCK - 1] {
            let mut other = bytes.clone();
            other[at] = 1;
            assert_ne!(VerityDigest::of(&other), digest, "{at}");
        }
        assert_ne!(VerityDigest::of(&bytes[1..]), digest, "zeros that are missing");
        assert_ne!(VerityDigest::of(b""), VerityDigest::of(b"\0"));
    }

    #[test]
    fn the_tree_takes_the_room_that_it_takes() {
        for (size, blocks) in [
            (0, 1),
            (1, 1),
            (4096, 1),
            (4097, 2),
            (128 * 4096, 2),
            (128 * 4096 + 1, 4),
            (1 << 30, 2048 + 16 + 1 + 1),
        ] {
            assert_eq!(verity_overhead(size), blocks * BLOCK as u64, "{size}");
        }
        assert!(verity_overhead(u64::MAX) > 1 << 56);
    }
}
