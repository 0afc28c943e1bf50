//! Finding the old blob that a new one is most like, by where they lie.
//!
//! The same path is the best guess. The next is the path with versions taken out: a kernel's modules all move when its
//! version changes, and without this two thirds of what can be saved is lost. Then the file's name alone.

use std::collections::HashMap;

use crate::digest::BlobId;

/// A file of the old tree.
type Known = (BlobId, u64);

/// The old tree's files by path, by path without versions, and by name.
#[derive(Debug, Default)]
pub struct BaseFinder {
    by_path: HashMap<Vec<u8>, Known>,
    by_stripped: HashMap<Vec<u8>, Vec<Known>>,
    by_name: HashMap<Vec<u8>, Vec<Known>>,
}

/// A base of another magnitude is none.
const MAX_RATIO: u64 = 16;

impl BaseFinder {
    /// Adds a file of the old tree.
    pub fn add(&mut self, path: &[u8], blob: BlobId, size: u64) {
        self.by_path.insert(path.to_vec(), (blob, size));
        let stripped = strip(path);
        self.by_name
            .entry(name(&stripped).to_vec())
            .or_default()
            .push((blob, size));
        self.by_stripped.entry(stripped).or_default().push((blob, size));
    }

    /// Returns the base for the new file at `path`.
    #[must_use]
    pub fn find(&self, path: &[u8], size: u64) -> Option<(BlobId, u64)> {
        let stripped = strip(path);
        self.by_path
            .get(path)
            .copied()
            .filter(|(_, old)| is_alike(*old, size))
            .or_else(|| nearest(self.by_stripped.get(&stripped)?, size))
            .or_else(|| nearest(self.by_name.get(name(&stripped))?, size))
    }
}

fn is_alike(old: u64, new: u64) -> bool {
    old > 0 && old / MAX_RATIO <= new && new / MAX_RATIO <= old
}

/// Of several, the one of the nearest size; of equal ones, the one of the smallest digest, so that the choice is the same
/// everywhere.
fn nearest(candidates: &[Known], size: u64) -> Option<Known> {
    candidates
        .iter()
        .filter(|(_, old)| is_alike(*old, size))
        .min_by_key(|(blob, old)| (old.abs_diff(size), *blob.digest()))
        .copied()
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Replaces every number by one `#`, with the dots and dashes between numbers.
fn strip(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut index = 0;
    while index < path.len() {
        if !path[index].is_ascii_digit() {
            out.push(path[index]);
            index += 1;
            continue;
        }
        out.push(b'#');
        let mut end = index;
        while end < path.len() {
            if path[end].is_ascii_digit() {
                end += 1;
            } else if matches!(path[end], b'.' | b'-' | b'+' | b'~' | b'_')
                && path.get(end + 1).is_some_and(u8::is_ascii_digit)
            {
                end += 2;
            } else {
                break;
            }
        }
        index = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn blob(number: u8) -> BlobId {
        BlobId::new(Digest::of(&[number]))
    }

    #[test]
    fn versions_are_taken_out_of_paths() {
        for (path, stripped) in [
            (
                "usr/lib/modules/6.1.0-49-amd64/kernel/x.ko",
                "usr/lib/modules/#-amd#/kernel/x.ko",
            ),
            ("usr/lib/libfoo.so.1.2.3", "usr/lib/libfoo.so.#"),
            ("usr/bin/true", "usr/bin/true"),
            ("a-1.", "a-#."),
        ] {
            assert_eq!(strip(path.as_bytes()), stripped.as_bytes());
        }
    }

    #[test]
    fn the_same_path_comes_before_the_same_path_of_another_version_and_that_before_the_same_name() {
        let mut finder = BaseFinder::default();
        finder.add(b"lib/6.1-49/a.ko", blob(1), 100);
        finder.add(b"lib/6.1-48/a.ko", blob(2), 200);
        finder.add(b"other/b.ko", blob(3), 100);
        assert_eq!(finder.find(b"lib/6.1-49/a.ko", 150), Some((blob(1), 100)));
        assert_eq!(finder.find(b"lib/6.1-56/a.ko", 190), Some((blob(2), 200)));
        assert_eq!(finder.find(b"lib/6.1-56/a.ko", 110), Some((blob(1), 100)));
        assert_eq!(finder.find(b"new/b.ko", 90), Some((blob(3), 100)));
        assert_eq!(finder.find(b"new/b.ko", 9_000), None);
        assert_eq!(finder.find(b"new/c.ko", 90), None);
    }
}
