//! Following every reference.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::format::{DirTree, Metadata, Node};
use crate::verity::VerityDigest;

use super::super::traverse::{Ancestry, VariantBits, variant_name};
use super::super::{ObjectKind, PartialCommits, Repo, RepoError, RepoMode};
use super::seen::{Load, Seen};
use super::{Finding, FsckOptions, ObjectUse, Problem};

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

fn subtrees(tree: &DirTree) -> impl Iterator<Item = DirTreeId> {
    tree.entries().iter().filter_map(|entry| match &entry.node {
        Node::Dir { tree } => Some(*tree),
        _ => None,
    })
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
    /// What is in `damaged` was found already. `load` gives the dirtrees of `seen`.
    pub(in crate::repo) fn check_references(
        &self,
        seen: &Seen,
        partial: &PartialCommits,
        damaged: &HashSet<(ObjectKind, Digest)>,
        load: &Load<'_>,
        options: &FsckOptions,
    ) -> Result<Vec<Finding>, RepoError> {
        let mut missing: HashSet<(ObjectKind, Digest)> = HashSet::new();
        let mut problems: BTreeMap<(ObjectKind, Digest), Problem> = BTreeMap::new();
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
                need(ObjectKind::Blob, blob.digest(), seen.blob(blob).size().is_some());
            }
        }
        let mut others = Vec::new();
        let is_whole = damaged.is_empty() && self.is_whole_beneath(&trees, seen, load, options)?;
        if !is_whole {
            self.visit_problems(trees, seen, load, &mut |kind, digest, problem| match problem {
                Problem::Missing => need(kind, &digest, false),
                problem => others.push(((kind, digest), problem)),
            })?;
        } else if cfg!(debug_assertions) {
            self.visit_problems(trees, seen, load, &mut |kind, digest, problem| {
                unreachable!("{kind} {digest} is whole, and {problem}")
            })?;
        }
        // Of an object that has several the first stays.
        for (object, problem) in others {
            problems.entry(object).or_insert(problem);
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

    /// Tells `each` what is wrong with what these trees lead to, in the order in which it is met: of an object's problems the first is told.
    fn visit_problems(
        &self,
        mut trees: Vec<DirTreeId>,
        seen: &Seen,
        load: &Load<'_>,
        each: &mut dyn FnMut(ObjectKind, Digest, Problem),
    ) -> Result<(), RepoError> {
        let (mut bits, mut visited) = (VariantBits::new(), HashSet::new());
        while let Some(id) = trees.pop() {
            if !visited.insert(id) {
                continue;
            }
            if !seen.dirtrees.contains(&id) {
                each(ObjectKind::DirTree, *id.digest(), Problem::Missing);
                continue;
            }
            let tree = load(&id)?;
            trees.extend(subtrees(&tree));
            self.check_tree(id, &tree, seen, &mut bits, each)?;
        }
        Ok(())
    }

    /// Returns whether nothing is wrong with what these trees lead to. It is what [`visit_problems`](Self::visit_problems) would say, on
    /// several threads, which meet trees in any order.
    fn is_whole_beneath(
        &self,
        trees: &[DirTreeId],
        seen: &Seen,
        load: &Load<'_>,
        options: &FsckOptions,
    ) -> Result<bool, RepoError> {
        let look = |bits: &mut VariantBits, id: &DirTreeId| -> Result<Option<Vec<DirTreeId>>, RepoError> {
            if !seen.dirtrees.contains(id) {
                return Ok(None);
            }
            let (tree, mut is_whole) = (load(id)?, true);
            self.check_tree(*id, &tree, seen, bits, &mut |_, _, _| is_whole = false)?;
            Ok(is_whole.then(|| subtrees(&tree).collect()))
        };
        let pool = crate::parallel::pool(Some(options.threads()));
        let mut met: HashSet<DirTreeId> = HashSet::new();
        let mut level = trees.to_vec();
        loop {
            level.retain(|id| met.insert(*id));
            if level.is_empty() {
                return Ok(true);
            }
            let beneath = pool.install(|| {
                level
                    .par_iter()
                    .map_init(VariantBits::new, look)
                    .collect::<Result<Option<Vec<_>>, _>>()
            })?;
            let Some(beneath) = beneath else {
                return Ok(false);
            };
            level = beneath.into_iter().flatten().collect();
        }
    }

    /// Compares the entries of a dirtree with what is here, and tells `each` what is wrong with which object. Where the tree records wrong
    /// fs-verity digests, that of the last blob by name is told.
    fn check_tree(
        &self,
        id: DirTreeId,
        tree: &DirTree,
        seen: &Seen,
        bits: &mut VariantBits,
        each: &mut dyn FnMut(ObjectKind, Digest, Problem),
    ) -> Result<(), RepoError> {
        let mut wrong_verity: Option<(BlobId, Problem)> = None;
        for entry in tree.entries() {
            let Node::File { blob, size, verity } = &entry.node else {
                continue;
            };
            let mut tell = |problem| each(ObjectKind::Blob, *blob.digest(), problem);
            let here = seen.blob(blob);
            match here.size() {
                None => tell(Problem::Missing),
                Some(found) if found != *size => tell(Problem::WrongSize {
                    recorded: *size,
                    found,
                }),
                Some(_) if self.mode() == RepoMode::Bare && *size > 0 => {
                    let bits = bits.of(&entry.metadata)?;
                    if !here.has_inode(&bits) {
                        let variant = variant_name(bits);
                        tell(Problem::MissingVariant { variant });
                    }
                }
                Some(_) => {}
            }
            let recorded = verity.map(VerityDigest::from_bytes);
            if let Some((recorded, found)) = recorded.zip(seen.verity(blob))
                && recorded != found
                && wrong_verity.as_ref().is_none_or(|(last, _)| last <= blob)
            {
                let problem = Problem::WrongVerity {
                    blob: *blob,
                    recorded,
                    found,
                };
                wrong_verity = Some((*blob, problem));
            }
        }
        if let Some((_, problem)) = wrong_verity {
            each(ObjectKind::DirTree, *id.digest(), problem);
        }
        Ok(())
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
        load: &Load<'_>,
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
                    if !trees.insert(tree) || !seen.dirtrees.contains(&tree) {
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
