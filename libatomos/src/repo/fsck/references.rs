//! Following every reference.

use std::collections::{BTreeMap, HashSet};

use crate::digest::{CommitId, Digest, DirTreeId};
use crate::format::{DirTree, Metadata, Node};

use super::super::traverse::Ancestry;
use super::super::{ObjectKind, PartialCommits, Repo, RepoError, RepoMode};
use super::survey::Seen;
use super::{Finding, ObjectUse, Problem};

/// One place where an object is used.
pub(in crate::repo) struct Use<'a> {
    pub(in crate::repo) root: &'a str,
    pub(in crate::repo) commit: CommitId,
    pub(in crate::repo) kind: ObjectKind,
    pub(in crate::repo) digest: Digest,
    /// From the root of the tree, without a slash in front; bytes, as names are.
    pub(in crate::repo) path: &'a [u8],
    /// What the entry of a file says.
    pub(in crate::repo) file: Option<(u64, &'a Metadata)>,
}

impl Use<'_> {
    pub(in crate::repo) fn to_object_use(&self) -> ObjectUse {
        ObjectUse {
            root: self.root.to_owned(),
            commit: self.commit,
            path: format!("/{}", String::from_utf8_lossy(self.path)),
        }
    }
}

impl Repo {
    /// Checks what refs and roots lead to. What nothing leads to may lack anything: a pruner or a transaction that
    /// was interrupted has left it, and the next one takes it away or completes it.
    ///
    /// What is in `damaged` was found already.
    pub(in crate::repo) fn check_references(
        &self,
        seen: &Seen,
        partial: &PartialCommits,
        damaged: &HashSet<(ObjectKind, Digest)>,
    ) -> Result<Vec<Finding>, RepoError> {
        let mut missing: HashSet<(ObjectKind, Digest)> = HashSet::new();
        let mut problems: BTreeMap<(ObjectKind, Digest), Problem> = BTreeMap::new();
        let mut sizes_and_variants = Vec::new();
        let mut need = |kind: ObjectKind, digest: &Digest, present: bool| {
            if !present && !damaged.contains(&(kind, *digest)) && missing.insert((kind, *digest)) {
                problems.insert((kind, *digest), Problem::Missing);
            }
        };
        let mut trees: Vec<DirTreeId> = Vec::new();
        let mut visited = HashSet::new();
        for (commit, ancestry) in self.kept_commits()? {
            let mut next = Some(commit);
            need(
                ObjectKind::Commit,
                commit.digest(),
                seen.commits.contains_key(&commit),
            );
            let mut is_tip = true;
            while let Some((id, commit)) = next
                .filter(|id| visited.insert((*id, is_tip)))
                .and_then(|id| Some((id, seen.commits.get(&id)?)))
            {
                // A ref's commit is whole; one of its ancestors may have come for a part of it.
                if is_tip || !partial.contains_key(&id) {
                    trees.push(commit.root);
                }
                is_tip = false;
                next = commit.parent.filter(|_| ancestry == Ancestry::Follow);
            }
        }
        for (_, record) in self.list_roots()? {
            for blob in &record.blobs {
                need(ObjectKind::Blob, blob.digest(), seen.blobs.contains_key(blob));
            }
        }
        let mut visited = HashSet::new();
        let mut files = Vec::new();
        let mut wrong_verity = Vec::new();
        while let Some(tree) = trees.pop() {
            if !visited.insert(tree) {
                continue;
            }
            wrong_verity.extend(
                seen.wrong_verity
                    .get(&tree)
                    .map(|problem| (tree, problem.clone())),
            );
            let facts = seen.dirtrees.get(&tree);
            need(ObjectKind::DirTree, tree.digest(), facts.is_some());
            if let Some(facts) = facts {
                trees.extend(&facts.subtrees);
                files.push(&facts.files);
            }
        }
        for (blob, size, bits) in files.into_iter().flatten() {
            let Some(found) = seen.blobs.get(blob) else {
                need(ObjectKind::Blob, blob.digest(), false);
                continue;
            };
            if found != size {
                sizes_and_variants.push((
                    *blob,
                    Problem::WrongSize {
                        recorded: *size,
                        found: *found,
                    },
                ));
            } else if self.mode() == RepoMode::Bare && *size > 0 && !seen.variants.contains(&(*blob, *bits)) {
                let variant = format!("{:032x}", u128::from_le_bytes(*bits));
                sizes_and_variants.push((*blob, Problem::MissingVariant { variant }));
            }
        }
        for (blob, problem) in sizes_and_variants {
            problems
                .entry((ObjectKind::Blob, *blob.digest()))
                .or_insert(problem);
        }
        for (tree, problem) in wrong_verity {
            problems
                .entry((ObjectKind::DirTree, *tree.digest()))
                .or_insert(problem);
        }
        Ok(problems
            .into_iter()
            .map(|((kind, digest), problem)| Finding {
                kind,
                digest,
                problem,
                used_by: Vec::new(),
            })
            .collect())
    }

    fn kept_commits(&self) -> Result<Vec<(CommitId, Ancestry)>, RepoError> {
        let refs = self.refs()?;
        let mut kept: Vec<_> = refs.values().map(|commit| (*commit, Ancestry::Follow)).collect();
        for (_, record) in self.list_roots()? {
            kept.extend(record.commits.iter().map(|commit| (*commit, Ancestry::Stop)));
        }
        Ok(kept)
    }

    fn rooted_commits(&self) -> Result<Vec<(String, CommitId)>, RepoError> {
        let mut roots: Vec<_> = self
            .refs()?
            .into_iter()
            .map(|(name, commit)| (format!("ref {name}"), commit))
            .collect();
        for (name, record) in self.list_roots()? {
            roots.extend(record.commits.iter().map(|commit| (name.to_string(), *commit)));
        }
        Ok(roots)
    }

    /// Walks from every root to everything that can be reached through what is whole, commit by commit, and tells `visit`
    /// of each place. `load` gives the dirtrees of `seen`. Only done when something is bad.
    pub(in crate::repo) fn walk_uses(
        &self,
        seen: &Seen,
        load: &dyn Fn(&DirTreeId) -> Result<DirTree, RepoError>,
        visit: &mut dyn FnMut(&Use<'_>),
    ) -> Result<(), RepoError> {
        for (root, first) in self.rooted_commits()? {
            let mut visited = HashSet::new();
            let mut next = Some(first);
            while let Some(commit) = next.filter(|commit| visited.insert(*commit)) {
                let mut note = |kind, digest: &Digest, path: &[u8], file: Option<(u64, &Metadata)>| {
                    visit(&Use {
                        root: &root,
                        commit,
                        kind,
                        digest: *digest,
                        path,
                        file,
                    });
                };
                note(ObjectKind::Commit, commit.digest(), b"", None);
                let Some(object) = seen.commits.get(&commit) else {
                    break;
                };
                let mut stack = vec![(object.root, Vec::new())];
                let mut trees = HashSet::new();
                while let Some((tree, path)) = stack.pop() {
                    note(ObjectKind::DirTree, tree.digest(), &path, None);
                    if !trees.insert(tree) || !seen.dirtrees.contains_key(&tree) {
                        continue;
                    }
                    for entry in load(&tree)?.entries() {
                        let mut child = path.clone();
                        child.extend_from_slice(&entry.name);
                        match &entry.node {
                            Node::Dir { tree } => {
                                child.push(b'/');
                                stack.push((*tree, child));
                            }
                            Node::File { blob, size, .. } => {
                                note(
                                    ObjectKind::Blob,
                                    blob.digest(),
                                    &child,
                                    Some((*size, &entry.metadata)),
                                );
                            }
                            _ => {}
                        }
                    }
                }
                next = object.parent;
            }
        }
        Ok(())
    }
}
