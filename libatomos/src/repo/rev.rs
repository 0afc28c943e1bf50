//! Revisions: what people write to name a commit or a tree.
//!
//! `REF`, `remote:ref`, a digest or an unambiguous prefix of one (at least four digits), each followed by any number
//! of `^` for the parent and at most one `^{tree}` for the root dirtree.

use std::ffi::OsStr;

use crate::digest::{CommitId, Digest, DirTreeId, HEX_LEN};
use crate::format::{Entry, Metadata, Node};
use crate::names::RefName;

use super::{ObjectKind, Repo, RepoError, parse_object_name};

/// What a revision names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// A commit.
    Commit(CommitId),
    /// A dirtree.
    Tree(DirTreeId),
}

impl Resolved {
    /// Returns the digest.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        match self {
            Self::Commit(id) => id.digest(),
            Self::Tree(id) => id.digest(),
        }
    }
}

/// What a path in a tree leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// The root of the tree; its metadata is known where a commit was asked.
    Root(DirTreeId, Option<Metadata>),
    /// An entry.
    Entry(Entry),
}

/// Fewer digits than this are no prefix.
const MIN_PREFIX: usize = 4;

/// What may follow a name in a revision.
enum Suffix {
    Parent,
    Tree,
}

fn expect_commit(rev: &str, found: Resolved) -> Result<CommitId, RepoError> {
    match found {
        Resolved::Commit(id) => Ok(id),
        Resolved::Tree(_) => Err(RepoError::PathInTree {
            rev: rev.to_owned(),
            path: "/".to_owned(),
            reason: "it is a dirtree, and a commit is needed",
        }),
    }
}

impl Repo {
    /// Returns what `rev` names.
    pub fn resolve(&self, rev: &str) -> Result<Resolved, RepoError> {
        // Without recursion: how many suffixes there are is the caller's choice.
        let (mut base, mut suffixes) = (rev, Vec::new());
        loop {
            if let Some(rest) = base.strip_suffix("^{tree}") {
                base = rest;
                suffixes.push(Suffix::Tree);
            } else if let Some(rest) = base.strip_suffix('^') {
                base = rest;
                suffixes.push(Suffix::Parent);
            } else {
                break;
            }
        }
        let mut at = self.resolve_name(base)?;
        for suffix in suffixes.into_iter().rev() {
            at = match (suffix, at) {
                (Suffix::Tree, Resolved::Commit(id)) => Resolved::Tree(self.load_commit(&id)?.root),
                (Suffix::Tree, tree @ Resolved::Tree(_)) => tree,
                (Suffix::Parent, at) => {
                    let child = expect_commit(rev, at)?;
                    match self.load_commit(&child)?.parent {
                        Some(parent) if self.has_object(ObjectKind::Commit, parent.digest())? => {
                            Resolved::Commit(parent)
                        }
                        Some(parent) => {
                            return Err(RepoError::ParentNotHere {
                                commit: child,
                                parent,
                            });
                        }
                        None => return Err(RepoError::NoParent { commit: child }),
                    }
                }
            };
        }
        Ok(at)
    }

    /// Returns what a revision without suffixes names.
    fn resolve_name(&self, rev: &str) -> Result<Resolved, RepoError> {
        // All digits of a digest name one object for ever, whoever has called what by them: a ref that is called so stands back.
        if rev.parse::<Digest>().is_ok() {
            match self.resolve_digest(rev) {
                Err(RepoError::RevNotFound { .. }) => {}
                other => return other,
            }
        }
        if let Ok(name) = rev.parse::<RefName>()
            && let Some(commit) = self.ref_optional(&name)?
        {
            return Ok(Resolved::Commit(commit));
        }
        self.resolve_digest(rev)
    }

    /// Returns the commit that `rev` names.
    pub fn resolve_commit(&self, rev: &str) -> Result<CommitId, RepoError> {
        expect_commit(rev, self.resolve(rev)?)
    }

    /// Returns the root dirtree that `rev` names, and the root's metadata where it names a commit.
    pub fn resolve_tree(&self, rev: &str) -> Result<(DirTreeId, Option<Metadata>), RepoError> {
        match self.resolve(rev)? {
            Resolved::Commit(id) => {
                let commit = self.load_commit(&id)?;
                Ok((commit.root, Some(commit.root_metadata)))
            }
            Resolved::Tree(id) => Ok((id, None)),
        }
    }

    fn resolve_digest(&self, text: &str) -> Result<Resolved, RepoError> {
        let not_found = || RepoError::RevNotFound {
            rev: text.to_owned(),
            repo: self.dir().path().to_owned(),
        };
        let is_prefix = (MIN_PREFIX..=HEX_LEN).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_prefix {
            return Err(not_found());
        }
        let mut found = Vec::new();
        for kind in [ObjectKind::Commit, ObjectKind::DirTree] {
            let Some(dir) = self.open_shard_optional(kind, &text[..2])? else {
                continue;
            };
            for entry in dir.entries()? {
                let parsed = entry
                    .name
                    .to_str()
                    .and_then(|name| parse_object_name(&text[..2], name));
                if let Some((digest, None)) = parsed
                    && digest.to_hex().starts_with(text)
                {
                    found.push((kind, digest));
                }
            }
        }
        match found.as_slice() {
            [] => Err(not_found()),
            [(ObjectKind::Commit, digest)] => Ok(Resolved::Commit(CommitId::new(*digest))),
            [(_, digest)] => Ok(Resolved::Tree(DirTreeId::new(*digest))),
            many => Err(RepoError::AmbiguousPrefix {
                prefix: text.to_owned(),
                candidates: many
                    .iter()
                    .take(8)
                    .map(|(kind, digest)| format!("{kind} {digest}"))
                    .collect(),
            }),
        }
    }

    fn open_shard_optional(
        &self,
        kind: ObjectKind,
        shard: &str,
    ) -> Result<Option<crate::fs::Dir>, RepoError> {
        if self.kind_dir(kind).exists(shard)? {
            self.open_shard(kind, OsStr::new(shard))
        } else {
            Ok(None)
        }
    }

    /// Follows `path` from the root dirtree; links are not followed. `rev` is for messages.
    pub fn locate(
        &self,
        rev: &str,
        root: DirTreeId,
        root_metadata: Option<Metadata>,
        path: &[u8],
    ) -> Result<Located, RepoError> {
        let fail = |reason| RepoError::PathInTree {
            rev: rev.to_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            reason,
        };
        let mut at = Located::Root(root, root_metadata);
        for part in path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
        {
            let tree = match &at {
                Located::Root(tree, _) => *tree,
                Located::Entry(Entry {
                    node: Node::Dir { tree },
                    ..
                }) => *tree,
                Located::Entry(_) => return Err(fail("part of the path is not a directory")),
            };
            match self.load_dirtree(&tree)?.get(part) {
                Some(entry) => at = Located::Entry(entry.clone()),
                None => return Err(fail("it does not exist")),
            }
        }
        Ok(at)
    }
}
