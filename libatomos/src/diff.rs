//! Comparing two trees.
//!
//! A tree is a root dirtree and something that dirtrees can be read from, so a revision can be compared with another,
//! or with a directory on disk through [`hash_directory`](crate::commit::hash_directory). Blobs are never read:
//! dirtrees have their digests. Subtrees with one digest are equal and are passed over unread, so comparing two
//! versions costs what lies between them.
//!
//! [`Diff`] is an iterator: it holds one directory per level, and whoever has seen enough stops.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec::IntoIter;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::DirTreeId;
use crate::format::{Entry, Metadata, Node};
use crate::repo::{RepoError, TreeSource, check_depth};

/// How to compare.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DiffOptions {
    /// Whether a change of the modification time counts. A rebuilt package changes it in every file.
    pub mtime: bool,
}

/// One of the two trees.
#[derive(Clone)]
pub struct DiffSide<'a> {
    /// Where its dirtrees are.
    pub source: &'a dyn TreeSource,
    /// Its root.
    pub root: DirTreeId,
    /// The root's own metadata, where it is known. It is compared where both sides know it.
    pub metadata: Option<Metadata>,
}

impl std::fmt::Debug for DiffSide<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiffSide")
            .field("root", &self.root)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}

/// What of an entry changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// A file became a directory, say.
    Type,
    /// The bytes of a file.
    Content,
    /// Where a symbolic link points.
    Target,
    /// Which device a device file stands for.
    Device,
    /// The permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Extended attributes, ACLs and capabilities among them.
    Xattrs,
    /// The modification time.
    Mtime,
}

/// An entry that is not the same in both trees. At least one side has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it lies, as `/usr/bin/sh`; `/` for the root.
    pub path: Vec<u8>,
    /// The entry in the first tree; `None` where it was added.
    pub before: Option<Entry>,
    /// The entry in the second tree; `None` where it was deleted.
    pub after: Option<Entry>,
    /// What changed, in the order of [`Part`]; nothing where the entry was added or deleted.
    pub parts: Vec<Part>,
}

/// The changes from one tree to another, sorted as the trees are: by name, a directory before what lies in it.
///
/// A directory is a change of its own when it was added, deleted, or changed in its own metadata; what lies in it is
/// reported by itself. After an error there are no more changes.
pub struct Diff<'a> {
    before: &'a dyn TreeSource,
    after: &'a dyn TreeSource,
    options: DiffOptions,
    cancel: &'a Cancel,
    stack: Vec<Level>,
    /// The roots, until they have been compared.
    roots: Option<(Entry, Entry)>,
}

/// A directory in the middle of being compared. A side that has no such directory has no entries.
struct Level {
    path: Vec<u8>,
    before: Peekable<IntoIter<Entry>>,
    after: Peekable<IntoIter<Entry>>,
}

impl std::fmt::Debug for Diff<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Diff")
            .field("options", &self.options)
            .field("depth", &self.stack.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Diff<'a> {
    /// Starts comparing `before` with `after`.
    #[must_use]
    pub fn new(
        before: &DiffSide<'a>,
        after: &DiffSide<'a>,
        options: DiffOptions,
        cancel: &'a Cancel,
    ) -> Self {
        let (mut old, mut new) = (before.metadata.clone(), after.metadata.clone());
        if old.is_none() || new.is_none() {
            (old, new) = (None, None);
        }
        let root = |side: &DiffSide<'_>, metadata: Option<Metadata>| Entry {
            name: Vec::new(),
            metadata: metadata.unwrap_or_else(|| Metadata::with_mode(0)),
            node: Node::Dir { tree: side.root },
        };
        Self {
            before: before.source,
            after: after.source,
            options,
            cancel,
            stack: Vec::new(),
            roots: Some((root(before, old), root(after, new))),
        }
    }

    /// Takes the next pair of entries and returns whether they differ; `None` at the end.
    fn step(&mut self) -> Result<Option<Option<Change>>, RepoError> {
        if let Some((before, after)) = self.roots.take() {
            return self.compare(b"/".to_vec(), Some(before), Some(after)).map(Some);
        }
        let Some(level) = self.stack.last_mut() else {
            return Ok(None);
        };
        let order = match (level.before.peek(), level.after.peek()) {
            (None, None) => {
                self.stack.pop();
                return Ok(Some(None));
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.name.cmp(&after.name),
        };
        let before = if order.is_le() { level.before.next() } else { None };
        let after = if order.is_ge() { level.after.next() } else { None };
        let name = before
            .as_ref()
            .or(after.as_ref())
            .map(|entry| entry.name.as_slice())
            .unwrap_or_default();
        let mut path = Vec::with_capacity(level.path.len() + 1 + name.len());
        if level.path != b"/" {
            path.extend_from_slice(&level.path);
        }
        path.push(b'/');
        path.extend_from_slice(name);
        self.compare(path, before, after).map(Some)
    }

    fn compare(
        &mut self,
        path: Vec<u8>,
        before: Option<Entry>,
        after: Option<Entry>,
    ) -> Result<Option<Change>, RepoError> {
        let tree = |entry: &Option<Entry>| match entry {
            Some(Entry {
                node: Node::Dir { tree },
                ..
            }) => Some(*tree),
            _ => None,
        };
        let (old, new) = (tree(&before), tree(&after));
        if old != new {
            self.cancel.check()?;
            check_depth(self.stack.len(), &String::from_utf8_lossy(&path))?;
            let entries = |source: &dyn TreeSource, tree: Option<DirTreeId>| match tree {
                Some(tree) => Ok::<_, RepoError>(source.dirtree(&tree)?.into_entries()),
                None => Ok(Vec::new()),
            };
            self.stack.push(Level {
                before: entries(self.before, old)?.into_iter().peekable(),
                after: entries(self.after, new)?.into_iter().peekable(),
                path: path.clone(),
            });
        }
        let parts = match (&before, &after) {
            (Some(before), Some(after)) => {
                let parts = changed_parts(before, after, &self.options);
                if parts.is_empty() {
                    return Ok(None);
                }
                parts
            }
            _ => Vec::new(),
        };
        Ok(Some(Change {
            path,
            before,
            after,
            parts,
        }))
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Change, RepoError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(None) => return None,
                Ok(Some(None)) => {}
                Ok(Some(Some(change))) => return Some(Ok(change)),
                Err(error) => {
                    self.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

fn changed_parts(before: &Entry, after: &Entry, options: &DiffOptions) -> Vec<Part> {
    let mut parts = Vec::new();
    match (&before.node, &after.node) {
        // What is in a directory is compared entry by entry.
        (Node::Dir { .. }, Node::Dir { .. }) | (Node::Fifo, Node::Fifo) => {}
        // A blob's size follows from its digest, and whether its fs-verity digest was recorded changes nothing of it.
        (Node::File { blob: old, .. }, Node::File { blob: new, .. }) => {
            if old != new {
                parts.push(Part::Content);
            }
        }
        (Node::Symlink { target: old }, Node::Symlink { target: new }) => {
            if old != new {
                parts.push(Part::Target);
            }
        }
        (old @ Node::Char { .. }, new @ Node::Char { .. })
        | (old @ Node::Block { .. }, new @ Node::Block { .. }) => {
            if old != new {
                parts.push(Part::Device);
            }
        }
        _ => parts.push(Part::Type),
    }
    let (old, new) = (&before.metadata, &after.metadata);
    if old.mode != new.mode {
        parts.push(Part::Mode);
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        parts.push(Part::Owner);
    }
    if old.xattrs != new.xattrs {
        parts.push(Part::Xattrs);
    }
    if options.mtime && old.mtime != new.mtime {
        parts.push(Part::Mtime);
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::digest::{BlobId, Digest};
    use crate::format::DirTree;
    use crate::repo::ObjectKind;

    #[derive(Default)]
    struct Trees(HashMap<DirTreeId, DirTree>);

    impl TreeSource for Trees {
        fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
            self.0.get(id).cloned().ok_or(RepoError::ObjectMissing {
                kind: ObjectKind::DirTree,
                digest: *id.digest(),
            })
        }
    }

    impl Trees {
        fn add(&mut self, entries: Vec<Entry>) -> DirTreeId {
            let tree = DirTree::new(entries).unwrap();
            let (id, _) = tree.encode().unwrap();
            self.0.insert(id, tree);
            id
        }

        /// As [`Trees::add`], and then forgets it: whoever reads it fails.
        fn add_unreadable(&mut self, entries: Vec<Entry>) -> DirTreeId {
            let id = self.add(entries);
            self.0.remove(&id);
            id
        }
    }

    fn entry(name: &str, node: Node) -> Entry {
        Entry {
            name: name.into(),
            metadata: Metadata::with_mode(if matches!(node, Node::Symlink { .. }) {
                0o777
            } else {
                0o644
            }),
            node,
        }
    }

    fn file(name: &str, bytes: &str) -> Entry {
        entry(
            name,
            Node::File {
                size: bytes.len() as u64,
                blob: BlobId::new(Digest::of(bytes.as_bytes())),
                verity: None,
            },
        )
    }

    fn dir(name: &str, tree: DirTreeId) -> Entry {
        entry(name, Node::Dir { tree })
    }

    fn run(trees: &Trees, before: DirTreeId, after: DirTreeId, options: &DiffOptions) -> Vec<String> {
        let side = |root| DiffSide {
            source: trees,
            root,
            metadata: None,
        };
        Diff::new(&side(before), &side(after), options.clone(), &Cancel::new())
            .map(|change| {
                let change = change.unwrap();
                let letter = match (&change.before, &change.after) {
                    (None, Some(_)) => 'A',
                    (Some(_), None) => 'D',
                    _ => 'M',
                };
                let path = String::from_utf8(change.path).unwrap();
                format!("{letter} {path} {:?}", change.parts)
            })
            .collect()
    }

    #[test]
    fn equal_subtrees_are_not_read() {
        let mut trees = Trees::default();
        let shared = trees.add_unreadable(vec![file("x", "x")]);
        let before = trees.add(vec![dir("usr", shared), file("a", "1")]);
        let after = trees.add(vec![dir("usr", shared), file("a", "2")]);
        assert_eq!(
            run(&trees, before, after, &DiffOptions::default()),
            ["M /a [Content]"]
        );
        assert_eq!(run(&trees, before, before, &DiffOptions::default()), [""; 0]);
    }

    #[test]
    fn what_is_added_or_deleted_is_reported_with_all_beneath_it() {
        let mut trees = Trees::default();
        let inner = trees.add(vec![file("f", "f")]);
        let outer = trees.add(vec![dir("in", inner), file("z", "z")]);
        let empty = trees.add(vec![]);
        let full = trees.add(vec![dir("out", outer), file("out.conf", "")]);
        let expected = ["/out", "/out/in", "/out/in/f", "/out/z", "/out.conf"];
        for (letter, before, after) in [('A', empty, full), ('D', full, empty)] {
            let changes = run(&trees, before, after, &DiffOptions::default());
            let wanted: Vec<_> = expected
                .iter()
                .map(|path| format!("{letter} {path} []"))
                .collect();
            assert_eq!(changes, wanted);
        }
    }

    #[test]
    fn a_file_that_became_a_directory_is_a_change_of_type_and_additions() {
        let mut trees = Trees::default();
        let inner = trees.add(vec![file("f", "f")]);
        let before = trees.add(vec![file("x", "1")]);
        let after = trees.add(vec![dir("x", inner)]);
        assert_eq!(
            run(&trees, before, after, &DiffOptions::default()),
            ["M /x [Type]", "A /x/f []"]
        );
        assert_eq!(
            run(&trees, after, before, &DiffOptions::default()),
            ["M /x [Type]", "D /x/f []"]
        );
    }

    #[test]
    fn each_part_of_an_entry_is_told_apart() {
        let link = |target: &str| {
            entry(
                "x",
                Node::Symlink {
                    target: target.into(),
                },
            )
        };
        let char = |minor| entry("x", Node::Char { major: 1, minor });
        let with = |change: &dyn Fn(&mut Metadata)| {
            let mut entry = file("x", "1");
            change(&mut entry.metadata);
            entry
        };
        let plain = || file("x", "1");
        for (before, after, part) in [
            (plain(), file("x", "2"), "Content"),
            (link("a"), link("b"), "Target"),
            (char(3), char(5), "Device"),
            (char(3), entry("x", Node::Block { major: 1, minor: 3 }), "Type"),
            (plain(), with(&|m| m.mode = 0o755), "Mode"),
            (plain(), with(&|m| m.uid = 1), "Owner"),
            (plain(), with(&|m| m.gid = 1), "Owner"),
            (
                plain(),
                with(&|m| m.xattrs.insert(b"user.a".to_vec(), vec![1])),
                "Xattrs",
            ),
            (plain(), with(&|m| m.mtime = 1), "Mtime"),
        ] {
            let mut trees = Trees::default();
            let (before, after) = (trees.add(vec![before]), trees.add(vec![after]));
            let mut options = DiffOptions { mtime: true };
            assert_eq!(run(&trees, before, after, &options), [format!("M /x [{part}]")]);
            options.mtime = false;
            let shown = usize::from(part != "Mtime");
            assert_eq!(run(&trees, before, after, &options).len(), shown, "{part}");
        }
    }

    #[test]
    fn the_root_is_compared_where_both_sides_know_it() {
        let mut trees = Trees::default();
        let root = trees.add(vec![]);
        let side = |metadata| DiffSide {
            source: &trees,
            root,
            metadata,
        };
        let count =
            |old, new| Diff::new(&side(old), &side(new), DiffOptions::default(), &Cancel::new()).count();
        let with = |mode| Some(Metadata::with_mode(mode));
        assert_eq!(count(with(0o755), with(0o700)), 1);
        assert_eq!(count(with(0o755), with(0o755)), 0);
        assert_eq!(count(with(0o755), None), 0);
    }

    #[test]
    fn an_error_is_the_last_item() {
        let mut trees = Trees::default();
        let gone = trees.add_unreadable(vec![file("x", "x")]);
        let before = trees.add(vec![file("z", "")]);
        let after = trees.add(vec![dir("a", gone), file("z", "1")]);
        let side = |root| DiffSide {
            source: &trees,
            root,
            metadata: None,
        };
        let cancel = Cancel::new();
        let mut diff = Diff::new(&side(before), &side(after), DiffOptions::default(), &cancel);
        assert!(diff.next().unwrap().is_err());
        assert!(diff.next().is_none());
    }
}
