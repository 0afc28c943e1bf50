//! Which modification time a tree records.
//!
//! Rebuilding a package touches every file of it. Taking over the time of an unchanged file from the parent commit
//! keeps one inode for both versions; but Python compares a source's time with the one in its compiled file, so a
//! `.py` whose compiled file changed must keep its own.

use std::collections::HashMap;
use std::sync::Arc;

use crate::digest::BlobId;
use crate::format::{DirTree, Entry, Metadata, Node};

/// Which modification time to record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MtimePolicy {
    /// The source's, not later than the epoch that is asked for.
    #[default]
    Keep,
    /// That of the parent commit where nothing else changed, else as [`MtimePolicy::Keep`].
    Parent,
    /// 1970, for everything.
    Zero,
}

impl MtimePolicy {
    /// Returns the time to record for a source's `mtime`, no later than `epoch`.
    pub(super) fn clamp(self, mtime: i64, epoch: Option<i64>) -> i64 {
        match self {
            Self::Zero => 0,
            Self::Keep | Self::Parent => epoch.map_or(mtime, |epoch| mtime.min(epoch)),
        }
    }
}

/// Returns whether `entry` of the parent differs from these in nothing but the time.
pub(super) fn only_time_differs(entry: &Entry, metadata: &Metadata, node: &Node) -> bool {
    let timeless = Metadata {
        mtime: entry.metadata.mtime,
        ..metadata.clone()
    };
    entry.metadata == timeless && is_same(&entry.node, node)
}

/// Whether an fs-verity digest was recorded changes nothing of a file.
fn is_same(before: &Node, after: &Node) -> bool {
    match (before, after) {
        (
            Node::File { size, blob, .. },
            Node::File {
                size: new_size,
                blob: new,
                ..
            },
        ) => (size, blob) == (new_size, new),
        _ => before == after,
    }
}

/// The stems of the Python sources in a directory whose compiled file is not the parent's: their times must stay.
pub(super) fn recompiled_stems(
    compiled: &HashMap<Vec<u8>, BlobId>,
    parent: Option<&Arc<DirTree>>,
) -> Vec<Vec<u8>> {
    compiled
        .iter()
        .filter(|(name, blob)| {
            let before = parent.and_then(|tree| tree.get(name)).map(|entry| &entry.node);
            !matches!(before, Some(Node::File { blob: old, .. }) if old == *blob)
        })
        .filter_map(|(name, _)| stem_of_compiled(name))
        .collect()
}

/// `foo.cpython-311.pyc` and `foo.cpython-311.opt-1.pyc` are compiled from `foo.py`.
fn stem_of_compiled(name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_suffix(b".pyc")?;
    let dot = name
        .windows(2)
        .position(|pair| pair[0] == b'.' && pair[1].is_ascii_alphabetic())?;
    Some(name[..dot].to_vec())
}

/// Returns the stem of a Python source's name.
pub(super) fn stem_of_source(name: &[u8]) -> Option<&[u8]> {
    name.strip_suffix(b".py")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiled_file_names_its_source() {
        assert_eq!(stem_of_compiled(b"foo.cpython-311.pyc").unwrap(), b"foo");
        assert_eq!(stem_of_compiled(b"foo.cpython-311.opt-1.pyc").unwrap(), b"foo");
        assert_eq!(stem_of_compiled(b"foo.py"), None);
        assert_eq!(stem_of_source(b"foo.py").unwrap(), b"foo");
    }

    #[test]
    fn the_epoch_is_a_ceiling() {
        assert_eq!(MtimePolicy::Keep.clamp(10, Some(5)), 5);
        assert_eq!(MtimePolicy::Keep.clamp(3, Some(5)), 3);
        assert_eq!(MtimePolicy::Zero.clamp(3, None), 0);
    }
}
