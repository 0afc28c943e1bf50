//! The end of a tree whose files have become the store's own.
//!
//! What is left of it while it is being removed is another tree, and whoever repeats an interrupted command would commit that. So
//! a file with the commit in its name lies in it first and goes last. Journals keep that order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::digest::{CommitId, Digest};
use crate::fs::{Dir, FileKind, FsError, is_within, remove_entry};
use crate::repo::{Repo, RepoError};

use super::{CommitError, SourceTree};

/// How the name begins that says which commit has the tree.
const SIGN: &[u8] = b".atomos-adopted-";

/// Fails where what would go is not the tree's alone: for one that something is mounted in, and for one that has the repository
/// among its files, or is a part of it.
pub(super) fn check_is_free(tree: &SourceTree, repo: &Repo) -> Result<(), CommitError> {
    if let Some(mounted) = tree.mounted().first() {
        return Err(CommitError::MountedInside {
            root: tree.root_path(),
            mounted: mounted.clone(),
        });
    }
    for root in tree.roots() {
        if is_within(repo.dir(), root)? || is_within(root, repo.dir())? {
            return Err(CommitError::RepositoryInside {
                root: root.path().to_owned(),
                repo: repo.dir().path().to_owned(),
            });
        }
    }
    Ok(())
}

/// Fails for what is left of a tree: even where that is nothing.
pub(super) fn check_is_whole(tree: &SourceTree) -> Result<(), CommitError> {
    for root in tree.roots() {
        let entries = root.entries()?;
        if let Some(commit) = entries.iter().find_map(|entry| commit_of(&entry.name)) {
            return Err(CommitError::Remainder {
                root: root.path().to_owned(),
                commit,
            });
        }
        if entries.is_empty() {
            return Err(CommitError::NothingToAdopt {
                root: root.path().to_owned(),
            });
        }
    }
    Ok(())
}

/// Removes what is in the tree, which `commit` has, durably.
pub(super) fn remove(pool: &ThreadPool, tree: &SourceTree, commit: CommitId) -> Result<(), CommitError> {
    let sign = sign_of(commit);
    let left = |root: &Dir, error| CommitError::SourceLeft {
        commit,
        root: root.path().to_owned(),
        source: Box::new(error),
    };
    for root in tree.roots() {
        root.create_file(&sign, 0o600)
            .map_err(|error| left(root, error))?;
        crate::failpoint::hit("commit.adopted.signed").map_err(RepoError::from)?;
        pool.install(|| remove_all_but(root, &sign))
            .and_then(|()| root.remove_file(&sign))
            .map_err(|error| left(root, error))?;
    }
    Ok(())
}

/// Removes everything beneath the root but the sign. A tree has few directories at its top and most of its files under some of them, so what
/// the threads share are the directories below those.
fn remove_all_but(root: &Dir, sign: &OsStr) -> Result<(), FsError> {
    let mut entries = root.entries()?;
    entries.retain(|entry| entry.name != sign);
    entries.par_iter().try_for_each(|entry| {
        // What is mounted there is not of the tree, nor is a subvolume, which is no mount; both are found again below, and left alone.
        let open = || match root.open_dir_unless_mount(Path::new(&entry.name)) {
            Err(error) if error.is_not_found() => Ok(None),
            other => other,
        };
        if entry.kind == FileKind::Dir
            && let Some(dir) = open()?
            && dir.stat_self()?.dev == root.stat_self()?.dev
        {
            dir.entries()?
                .par_iter()
                .try_for_each(|below| remove_entry(&dir, below))?;
        }
        remove_entry(root, entry)
    })
}

fn sign_of(commit: CommitId) -> OsString {
    let mut name = OsStr::from_bytes(SIGN).to_owned();
    name.push(commit.to_string());
    name
}

fn commit_of(name: &OsStr) -> Option<CommitId> {
    let digest = std::str::from_utf8(name.as_bytes().strip_prefix(SIGN)?).ok()?;
    Some(CommitId::new(digest.parse::<Digest>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_says_which_commit() {
        let commit = CommitId::new(Digest::of(b"a"));
        assert_eq!(commit_of(&sign_of(commit)), Some(commit));
        for other in ["", ".atomos-adopted-", ".atomos-adopted-ab", "usr"] {
            assert_eq!(commit_of(OsStr::new(other)), None, "{other}");
        }
    }
}
