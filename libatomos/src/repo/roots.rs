//! What keeps objects besides refs.
//!
//! A deployment, a mounted image or a record of conflicts holds objects that no ref may name any more. Whoever holds
//! some says so with a file in `roots/` before it relies on them, and removes the file afterwards, so pruning is
//! right whoever starts it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{BlobId, CommitId};
use crate::format::limits;
use crate::fs::Dir;

use super::layout::ROOTS;
use super::{Repo, RepoError};

/// Names a file in `roots/`: letters, digits and `. _ - +`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootName(String);

impl FromStr for RootName {
    type Err = crate::names::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::names::check("root", text, false)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RootName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one holder keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RootRecord {
    /// Commits, kept with their trees and without their parents.
    #[serde(default)]
    pub commits: BTreeSet<CommitId>,
    /// Single blobs.
    #[serde(default)]
    pub blobs: BTreeSet<BlobId>,
}

impl Repo {
    /// Writes what `name` keeps. Durable on return.
    pub fn set_root(&self, name: &RootName, record: &RootRecord) -> Result<(), RepoError> {
        let dir = self.write_root(name, record)?;
        // No power cut shows this sync: a deployment is complete only after another one. Other holders are promised it.
        dir.sync_fs()?;
        Ok(())
    }

    /// As [`set_root`](Self::set_root), for what a power cut ends anyway: it may take the record away, and leaves no part of one.
    pub(super) fn set_passing_root(&self, name: &RootName, record: &RootRecord) -> Result<(), RepoError> {
        self.write_root(name, record).map(drop)
    }

    fn write_root(&self, name: &RootName, record: &RootRecord) -> Result<Dir, RepoError> {
        self.check_writable()?;
        let bytes = serde_json::to_vec_pretty(record).expect("digests are text");
        let dir = self.dir().ensure_dir(ROOTS, 0o755)?;
        dir.write_atomic(&name.0, &bytes, 0o644)?;
        Ok(dir)
    }

    /// Removes what `name` keeps; absence is no error.
    pub fn remove_root(&self, name: &RootName) -> Result<(), RepoError> {
        self.check_writable()?;
        if let Some(dir) = self.dir().open_dir_optional(ROOTS)? {
            dir.remove_file_optional(&name.0)?;
        }
        Ok(())
    }

    /// Returns every holder and what it keeps. One that cannot be read is an error: pruning must not guess.
    pub fn list_roots(&self) -> Result<Vec<(RootName, RootRecord)>, RepoError> {
        let Some(dir) = self.dir().open_dir_optional(ROOTS)? else {
            return Ok(Vec::new());
        };
        let mut roots = Vec::new();
        for entry in dir.entries()? {
            // A name that no writer makes is the temporary one of an interrupted write.
            let Some(name) = entry.name.to_str().and_then(|name| name.parse::<RootName>().ok()) else {
                continue;
            };
            let bytes = dir.read(&entry.name, limits::MAX_REFS)?;
            let record = serde_json::from_slice(&bytes).map_err(|error| RepoError::State {
                path: dir.path().join(&entry.name),
                reason: error.to_string(),
            })?;
            roots.push((name, record));
        }
        Ok(roots)
    }
}
