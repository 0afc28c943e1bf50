//! Who may have good copies.

use std::fs::File;
use std::path::PathBuf;

use crate::cancel::Cancel;
use crate::digest::{CommitId, Digest};
use crate::format::limits;

use super::super::{ObjectKind, Repo, RepoError, object_path};
use super::{Need, Object};

/// An object that is asked for.
#[derive(Debug, Clone)]
pub struct WantedObject {
    /// The kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub digest: Digest,
    /// The bytes of a blob, where a directory says it.
    pub size: Option<u64>,
    /// Where it is used, from the root of a tree, without a slash in front: the first few places.
    pub paths: Vec<Vec<u8>>,
    /// Commits that use it: the first few.
    pub commits: Vec<CommitId>,
    /// Refs and roots that lead to it: the first few.
    pub roots: Vec<String>,
}

impl WantedObject {
    pub(super) fn of((kind, digest): &Object, need: &Need) -> Self {
        let mut roots: Vec<String> = need.uses.iter().map(|one| one.root.clone()).collect();
        roots.dedup();
        Self {
            kind: *kind,
            digest: *digest,
            size: need.size,
            paths: need.paths.clone(),
            commits: need.commits.clone(),
            roots,
        }
    }
}

/// What may be an object's bytes. It is hashed by whoever takes it.
#[derive(Debug)]
pub enum Candidate {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file; with its path, for messages.
    File(File, PathBuf),
}

/// The repair itself failed, and knows why. Only it makes one.
#[derive(Debug)]
pub struct Aborted(pub(super) ());

/// Why a source stopped.
#[derive(Debug)]
pub enum SourceError {
    /// Whoever asked does not want to go on.
    Aborted,
    /// The source cannot be used, and says why. The others may do.
    Failed(String),
}

impl From<Aborted> for SourceError {
    fn from(_: Aborted) -> Self {
        Self::Aborted
    }
}

impl SourceError {
    /// Says that the source failed, with the reasons behind the reason.
    #[must_use]
    pub fn failed(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        Self::Failed(text)
    }
}

/// Takes what may be the object at this index of the list, and returns whether it is: then no other is needed.
pub type Take<'a> = dyn FnMut(usize, Candidate) -> Result<bool, Aborted> + 'a;

/// Something that may have good copies of objects. It is not trusted.
pub trait RepairSource {
    /// Returns how a person calls it.
    fn name(&self) -> String;

    /// Gives `take` whatever it has of `wanted`. What it has not is no error.
    fn offer(
        &mut self,
        wanted: &[WantedObject],
        take: &mut Take<'_>,
        cancel: &Cancel,
    ) -> Result<(), SourceError>;
}

/// Another repository on this machine.
#[derive(Debug)]
pub struct RepoSource {
    repo: Repo,
    name: String,
}

impl RepoSource {
    /// Takes from `repo`, which a person calls `name`.
    #[must_use]
    pub fn new(repo: Repo, name: impl Into<String>) -> Self {
        Self {
            repo,
            name: name.into(),
        }
    }
}

impl RepairSource for RepoSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn offer(
        &mut self,
        wanted: &[WantedObject],
        take: &mut Take<'_>,
        cancel: &Cancel,
    ) -> Result<(), SourceError> {
        let failed = |error: RepoError| SourceError::failed(&error);
        // What is there must not be pruned meanwhile.
        let _lock = self.repo.lock_shared().map_err(failed)?;
        for (index, object) in wanted.iter().enumerate() {
            cancel.check().map_err(|error| SourceError::failed(&error))?;
            // One bad object of the source must not hide the others.
            match object.kind {
                ObjectKind::Blob => {
                    for candidate in self.repo.own_files(&object.digest).unwrap_or_default() {
                        if take(index, candidate)? {
                            break;
                        }
                    }
                }
                kind => {
                    if let Ok(Some(bytes)) = self.repo.own_bytes(kind, &object.digest) {
                        take(index, Candidate::Bytes(bytes))?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Repo {
    /// Returns every file of a blob that can be opened: its own, and its inode variants. Nothing is verified.
    pub(super) fn own_files(&self, digest: &Digest) -> Result<Vec<Candidate>, RepoError> {
        let base = object_path(digest);
        let (shard, rest) = base.split_at(2);
        let rest = &rest[1..];
        let Some(dir) = self.kind_dir(ObjectKind::Blob).open_dir_optional(shard)? else {
            return Ok(Vec::new());
        };
        let mut files = Vec::new();
        for entry in dir.entries()? {
            let is_ours = entry
                .name
                .to_str()
                .and_then(|name| name.strip_prefix(rest))
                .is_some_and(|more| more.is_empty() || more.starts_with('.'));
            // What cannot be opened is no candidate.
            if is_ours && let Ok(file) = dir.open_file(&entry.name) {
                files.push(Candidate::File(file, dir.path().join(&entry.name)));
            }
        }
        Ok(files)
    }

    fn own_bytes(&self, kind: ObjectKind, digest: &Digest) -> Result<Option<Vec<u8>>, RepoError> {
        let limit = match kind {
            ObjectKind::Commit => limits::MAX_COMMIT,
            _ => limits::MAX_DIRTREE,
        };
        Ok(self.kind_dir(kind).read_optional(object_path(digest), limit)?)
    }
}
