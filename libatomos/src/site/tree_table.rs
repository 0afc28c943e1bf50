//! The section TREE of a manifest: a commit and every dirtree of it.
//!
//! Whoever has the commit in a repository can make the very same bytes from it, so an older commit's table serves as
//! the prefix of a newer one's, and nothing need be remembered for it.

use std::collections::HashMap;

use crate::digest::{CommitId, Digest, DirTreeId};
use crate::format::{Commit, Cursor, DirTree, FormatError, limits};
use crate::repo::{ObjectKind, Repo, RepoError, TreeSource};

use super::SiteError;
use super::blobs::{Step, walk};

/// A commit and its dirtrees, held in memory.
#[derive(Debug)]
pub struct TreeTable {
    /// The commit's name.
    pub id: CommitId,
    /// The commit.
    pub commit: Commit,
    trees: HashMap<DirTreeId, DirTree>,
}

impl TreeTable {
    /// Returns the bytes of the table of a commit in a repository.
    pub fn encode(repo: &Repo, id: &CommitId) -> Result<Vec<u8>, SiteError> {
        Self::encode_from(repo, &repo.load_commit(id)?)
    }

    /// Returns the bytes of the table of a commit whose dirtrees are in `source`.
    pub fn encode_from(source: &dyn TreeSource, commit: &Commit) -> Result<Vec<u8>, SiteError> {
        let mut out = Vec::new();
        let encode = |what: &str, source| RepoError::Encode {
            what: what.to_owned(),
            source,
        };
        let (_, bytes) = commit.encode().map_err(|error| encode("a commit", error))?;
        push(&bytes, &mut out);
        walk(source, &commit.root, &mut |step| {
            if let Step::Tree(tree) = step {
                let (_, bytes) = tree.encode().map_err(|error| encode("a directory", error))?;
                push(&bytes, &mut out);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// Reads a table, which must be that of commit `expected`, whole and in order.
    pub fn decode(bytes: &[u8], expected: &CommitId) -> Result<Self, SiteError> {
        Self::read(bytes, Some(expected))
    }

    /// Reads a table without asking whether its objects have the digests that lead to them: a mutation would never get past
    /// that. For fuzzing what comes after.
    #[cfg(feature = "testing")]
    pub(crate) fn decode_unverified(bytes: &[u8]) -> Result<Self, SiteError> {
        Self::read(bytes, None)
    }

    fn read(bytes: &[u8], expected: Option<&CommitId>) -> Result<Self, SiteError> {
        let mut cursor = Cursor::new(bytes);
        let commit_bytes = take(&mut cursor, limits::MAX_COMMIT)?;
        let found = Digest::of(commit_bytes);
        if let Some(expected) = expected.filter(|id| *id.digest() != found) {
            return Err(SiteError::OtherTree {
                what: "commit",
                expected: *expected.digest(),
                found,
            });
        }
        let commit = Commit::decode(commit_bytes).map_err(SiteError::table("tree"))?;
        let reader = Reader {
            rest: std::sync::Mutex::new(Rest {
                cursor,
                verify: expected.is_some(),
                trees: HashMap::new(),
                error: None,
            }),
        };
        let walked = walk(&reader, &commit.root, &mut |_| Ok(()));
        let rest = reader
            .rest
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(error) = rest.error {
            return Err(error);
        }
        walked?;
        rest.cursor.finish().map_err(SiteError::table("tree"))?;
        Ok(Self {
            id: CommitId::new(found),
            commit,
            trees: rest.trees,
        })
    }

    /// Returns every dirtree.
    pub fn trees(&self) -> impl Iterator<Item = (&DirTreeId, &DirTree)> {
        self.trees.iter()
    }
}

impl TreeSource for TreeTable {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        self.trees.get(id).cloned().ok_or(RepoError::ObjectMissing {
            kind: ObjectKind::DirTree,
            digest: *id.digest(),
        })
    }
}

fn push(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(cursor: &mut Cursor<'a>, limit: usize) -> Result<&'a [u8], SiteError> {
    let len = cursor
        .u32("an object's length")
        .map_err(SiteError::table("tree"))? as usize;
    if len > limit {
        return Err(SiteError::table("tree")(FormatError::TooLarge {
            field: "an object",
            found: len,
            limit,
        }));
    }
    cursor.bytes(len, "an object").map_err(SiteError::table("tree"))
}

/// Hands out the table's dirtrees in the order of a walk, each only to whom its digest was promised.
struct Reader<'a> {
    rest: std::sync::Mutex<Rest<'a>>,
}

struct Rest<'a> {
    cursor: Cursor<'a>,
    verify: bool,
    trees: HashMap<DirTreeId, DirTree>,
    error: Option<SiteError>,
}

impl Rest<'_> {
    fn next(&mut self, id: &DirTreeId) -> Result<DirTree, SiteError> {
        let bytes = take(&mut self.cursor, limits::MAX_DIRTREE)?;
        let found = Digest::of(bytes);
        if self.verify && found != *id.digest() {
            return Err(SiteError::OtherTree {
                what: "dirtree",
                expected: *id.digest(),
                found,
            });
        }
        let tree = DirTree::decode(bytes).map_err(SiteError::table("tree"))?;
        self.trees.insert(*id, tree.clone());
        Ok(tree)
    }
}

impl TreeSource for Reader<'_> {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        let mut rest = self
            .rest
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        rest.next(id).map_err(|error| {
            let reason = error.to_string();
            rest.error = Some(error);
            RepoError::ObjectDamaged {
                kind: ObjectKind::DirTree,
                digest: *id.digest(),
                reason,
            }
        })
    }
}
