//! The record of conflicts that is kept beside a deployment until a person has resolved them.
//!
//! A record names contents by digest. Those of base and theirs are in the object store, which must keep them from
//! pruning as long as the record exists ([`Conflicts::blobs`]).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::digest::BlobId;
use crate::fs::Dir;

use super::entry::EtcEntry;
use super::error::EtcMergeError;
use super::keyed::KeyedConflict;
use super::path::EtcPath;
use super::rule::ConflictKind;
use super::snapshot;

/// In what the sides excluded each other at one path, and what each had there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// In what they exclude each other.
    pub kinds: Vec<ConflictKind>,
    /// The default it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<EtcEntry>,
    /// What was here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mine: Option<EtcEntry>,
    /// The new default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<EtcEntry>,
    /// What the merge left here: mine, but for a mode that had to be stricter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<EtcEntry>,
    /// Which accounts, groups or ranges of ids, in a file of such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyedConflict>,
}

/// A conflict and its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictRecord {
    /// Where.
    pub path: EtcPath,
    /// What.
    #[serde(flatten)]
    pub conflict: Conflict,
}

/// Conflicts that nobody has resolved, sorted by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflicts {
    version: u32,
    conflicts: Vec<ConflictRecord>,
}

/// The version of the file that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

/// Bytes in a list of conflicts: some hundred thousand of them.
const MAX_FILE: usize = 64 * 1024 * 1024;

impl Default for Conflicts {
    fn default() -> Self {
        Self {
            version: VERSION,
            conflicts: Vec::new(),
        }
    }
}

impl FromIterator<ConflictRecord> for Conflicts {
    fn from_iter<I: IntoIterator<Item = ConflictRecord>>(records: I) -> Self {
        let mut conflicts: Vec<_> = records.into_iter().collect();
        conflicts.sort_by(|a, b| a.path.cmp(&b.path));
        conflicts.dedup_by(|a, b| a.path == b.path);
        Self {
            version: VERSION,
            conflicts,
        }
    }
}

impl Conflicts {
    /// Returns the conflicts in order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = &ConflictRecord> {
        self.conflicts.iter()
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conflicts.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conflicts.is_empty()
    }

    /// Returns the conflict at `path`.
    #[must_use]
    pub fn get(&self, path: &EtcPath) -> Option<&ConflictRecord> {
        let index = self.find(path)?;
        Some(&self.conflicts[index])
    }

    /// Returns the contents of base and theirs, which must not be pruned while the records exist.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        self.conflicts.iter().flat_map(|record| {
            let entries = [&record.conflict.base, &record.conflict.theirs];
            entries.into_iter().filter_map(|entry| entry.as_ref()?.blob())
        })
    }

    pub(super) fn remove(&mut self, path: &EtcPath) -> Option<ConflictRecord> {
        let index = self.find(path)?;
        Some(self.conflicts.remove(index))
    }

    fn find(&self, path: &EtcPath) -> Option<usize> {
        self.conflicts
            .binary_search_by(|record| record.path.cmp(path))
            .ok()
    }

    /// Takes over the conflicts of an earlier merge that are still open: nobody resolved them, there is no new one at
    /// the path, and what they left there is still as it was. `etc` is what that merge made, or a copy.
    pub fn carry_over(&mut self, earlier: &Self, etc: &Dir, cancel: &Cancel) -> Result<(), EtcMergeError> {
        for record in &earlier.conflicts {
            if self.get(&record.path).is_some() {
                continue;
            }
            let now = snapshot::read_at(etc, &record.path, cancel)?.map(|tree| tree.entry);
            let as_left = match (&now, &record.conflict.result) {
                (Some(now), Some(left)) => now.same(left),
                (None, None) => true,
                _ => false,
            };
            if as_left {
                self.conflicts.push(record.clone());
            }
        }
        self.conflicts.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    /// Returns the file's bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("the records hold strings and numbers alone");
        bytes.push(b'\n');
        bytes
    }

    /// Parses a file's bytes; `path` is for messages.
    ///
    /// # Errors
    /// Anything that [`Conflicts::to_json`] of this or an older version would not have written.
    pub fn from_json(bytes: &[u8], path: &Path) -> Result<Self, EtcMergeError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let syntax = |source| EtcMergeError::ConflictSyntax {
            path: path.to_owned(),
            source,
        };
        // The version first: what a newer one holds may not parse.
        let Versioned { version } = serde_json::from_slice(bytes).map_err(syntax)?;
        if version == 0 || version > VERSION {
            return Err(EtcMergeError::ConflictVersion {
                path: path.to_owned(),
                found: version,
                known: VERSION,
            });
        }
        let parsed: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        Ok(parsed.conflicts.into_iter().collect())
    }

    /// Reads the file `name` in `dir`; no file is no conflict.
    pub fn load(dir: &Dir, name: impl AsRef<Path>) -> Result<Self, EtcMergeError> {
        let name = name.as_ref();
        match dir.read_optional(name, MAX_FILE)? {
            Some(bytes) => Self::from_json(&bytes, &dir.path().join(name)),
            None => Ok(Self::default()),
        }
    }

    /// Replaces the file `name` in `dir` in one step. It is readable for its owner alone: names of accounts are in
    /// it, and digests of files that others may not read.
    pub fn save(&self, dir: &Dir, name: impl AsRef<Path>) -> Result<(), EtcMergeError> {
        // No power cut shows this sync or order: the marker of a deployment that is made comes after a sync of everything. It is
        // for the list that is replaced when a conflict is resolved.
        Ok(dir.write_atomic(name, &self.to_json(), 0o600)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::error::ErrorKind;
    use crate::etc_merge::entry::EtcNode;
    use crate::format::Metadata;

    fn entry(text: &[u8]) -> EtcEntry {
        EtcEntry {
            node: EtcNode::File {
                size: text.len() as u64,
                blob: BlobId::new(Digest::of(text)),
            },
            metadata: Metadata::with_mode(0o644),
        }
    }

    fn record(path: &str) -> ConflictRecord {
        ConflictRecord {
            path: path.parse().unwrap(),
            conflict: Conflict {
                kinds: vec![ConflictKind::Content, ConflictKind::Mode],
                base: Some(entry(b"base")),
                mine: Some(entry(b"mine")),
                theirs: Some(entry(b"theirs")),
                result: Some(entry(b"mine")),
                keys: Vec::new(),
            },
        }
    }

    #[test]
    fn a_list_survives_its_file() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let list: Conflicts = [record("b"), record("a/\\xff"), record("a")]
            .into_iter()
            .collect();
        list.save(&dir, "x.conflicts.json").unwrap();
        assert_eq!(dir.stat("x.conflicts.json").unwrap().mode, 0o600);
        assert_eq!(Conflicts::load(&dir, "x.conflicts.json").unwrap(), list);
        assert!(Conflicts::load(&dir, "no.json").unwrap().is_empty());
    }

    #[test]
    fn base_and_theirs_are_kept_from_pruning_and_mine_is_not_in_the_store() {
        let list: Conflicts = [record("a")].into_iter().collect();
        let blobs: Vec<_> = list.blobs().collect();
        assert_eq!(
            blobs,
            [
                BlobId::new(Digest::of(b"base")),
                BlobId::new(Digest::of(b"theirs"))
            ]
        );
    }

    #[test]
    fn damage_and_newer_versions_are_told_apart() {
        let kind = |text: &[u8]| Conflicts::from_json(text, Path::new("x")).unwrap_err().kind();
        assert_eq!(kind(b""), ErrorKind::Corrupt);
        assert_eq!(kind(b"{\"version\":1}"), ErrorKind::Corrupt);
        assert_eq!(kind(b"{\"version\":2,\"other\":3}"), ErrorKind::Unsupported);
        assert_eq!(
            kind(br#"{"version":1,"conflicts":[{"path":"../x","kinds":[]}]}"#),
            ErrorKind::Corrupt
        );
    }
}
