//! Commits of which only a part is here.
//!
//! A pull of a subpath stores a commit and its directories, and the files of that path alone. No ref names it; but a later
//! commit may have it as its parent, and then what it lacks is no damage. Such commits are listed in a file, which is
//! written before the commit can be seen, and forgets it when the rest has come.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::CommitId;

use super::{Repo, RepoError};

/// The list: commits, and the paths of each that are here.
const PARTIAL: &str = "partial.json";

/// Held while the list is replaced.
const PARTIAL_LOCK: &str = "partial.lock";

/// Bytes of the list.
const MAX_LIST: usize = 16 * 1024 * 1024;

/// Commits of which only a part is here, and the paths that were asked for.
pub type PartialCommits = BTreeMap<CommitId, BTreeSet<String>>;

impl Repo {
    /// Returns the commits of which only a part is here, with the paths that were asked for.
    pub fn partial_commits(&self) -> Result<PartialCommits, RepoError> {
        let Some(bytes) = self.dir().read_optional(PARTIAL, MAX_LIST)? else {
            return Ok(PartialCommits::new());
        };
        serde_json::from_slice(&bytes).map_err(|error| RepoError::State {
            path: self.dir().path().join(PARTIAL),
            reason: error.to_string(),
        })
    }

    /// Notes that `path` of `commit` is here, and maybe nothing else. Durable on return.
    pub(crate) fn note_partial(&self, commit: &CommitId, path: &str) -> Result<(), RepoError> {
        self.change_partial(|list| {
            list.entry(*commit)
                .or_default()
                .insert(path.trim_matches('/').to_owned());
        })
    }

    /// Notes that all of `commit` is here, or nothing.
    pub(crate) fn forget_partial(&self, gone: impl Fn(&CommitId) -> bool) -> Result<(), RepoError> {
        if !self.dir().exists(PARTIAL)? {
            return Ok(());
        }
        self.change_partial(|list| list.retain(|commit, _| !gone(commit)))
    }

    fn change_partial(&self, change: impl FnOnce(&mut PartialCommits)) -> Result<(), RepoError> {
        let _lock = self.lock_other(self.dir(), PARTIAL_LOCK, "the list of partial commits")?;
        let before = self.partial_commits()?;
        let mut list = before.clone();
        change(&mut list);
        if list != before {
            let mut bytes = serde_json::to_vec_pretty(&list).expect("digests and paths are text");
            bytes.push(b'\n');
            self.dir().write_atomic(PARTIAL, &bytes, 0o644)?;
            self.dir().sync_fs()?;
        }
        Ok(())
    }

    /// Fails where only a part of `commit` is here and `path` is not in it. Whoever reads names and metadata alone, which are all here, would
    /// not notice.
    pub fn check_is_here(&self, commit: &CommitId, path: &[u8]) -> Result<(), RepoError> {
        let Some(paths) = self.partial_commits()?.remove(commit) else {
            return Ok(());
        };
        let is_here = paths.iter().any(|pulled| {
            let mut wanted = names(path);
            names(pulled.as_bytes()).all(|name| wanted.next() == Some(name))
        });
        if is_here {
            return Ok(());
        }
        Err(RepoError::PartialCommit {
            commit: *commit,
            paths: paths.into_iter().collect(),
            source: None,
        })
    }

    /// Makes of the lack of an object the reason for it, if `commit` is one of which only a part is here.
    #[must_use]
    pub fn explain_missing(&self, commit: Option<CommitId>, error: RepoError) -> RepoError {
        let (Some(commit), RepoError::ObjectMissing { .. }) = (commit, &error) else {
            return error;
        };
        match self
            .partial_commits()
            .ok()
            .and_then(|mut list| list.remove(&commit))
        {
            Some(paths) => RepoError::PartialCommit {
                commit,
                paths: paths.into_iter().collect(),
                source: Some(Box::new(error)),
            },
            None => error,
        }
    }
}

/// The names in a path.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}
