//! What the image of a deployment shows: the tree of its commit, with a place for `/etc`.
//!
//! It depends on the tree alone, so whoever commits knows the image that every machine will make.

use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, FormatError, Metadata, Node};
use crate::repo::{RepoError, TreeSource};

/// The place for the deployment's own `/etc`, which a tree has not.
const ETC: &[u8] = b"etc";

/// A tree with an empty `etc` besides.
pub(crate) struct RootTree<'a> {
    below: &'a dyn TreeSource,
    /// What is in no store: the root, and the empty directory.
    derived: [(DirTreeId, DirTree); 2],
}

impl TreeSource for RootTree<'_> {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        match self.derived.iter().find(|(derived, _)| derived == id) {
            Some((_, tree)) => Ok(tree.clone()),
            None => self.below.dirtree(id),
        }
    }
}

impl<'a> RootTree<'a> {
    /// Derives it from the tree of `root`, which has no `etc`.
    pub(crate) fn new(below: &'a dyn TreeSource, root: DirTreeId) -> Result<Self, RepoError> {
        let empty = encoded(Vec::new())?;
        let mut entries = below.dirtree(&root)?.into_entries();
        entries.push(Entry {
            name: ETC.to_vec(),
            metadata: Metadata::with_mode(0o755),
            node: Node::Dir { tree: empty.0 },
        });
        Ok(Self {
            below,
            derived: [encoded(entries)?, empty],
        })
    }

    /// Returns its root.
    pub(crate) fn root(&self) -> DirTreeId {
        self.derived[0].0
    }
}

fn encoded(entries: Vec<Entry>) -> Result<(DirTreeId, DirTree), RepoError> {
    let encode = |source: FormatError| RepoError::Encode {
        what: "a directory".to_owned(),
        source,
    };
    let tree = DirTree::new(entries).map_err(encode)?;
    let (id, _) = tree.encode().map_err(encode)?;
    Ok((id, tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(DirTree);

    impl TreeSource for One {
        fn dirtree(&self, _id: &DirTreeId) -> Result<DirTree, RepoError> {
            Ok(self.0.clone())
        }
    }

    fn fifo(name: &str) -> Entry {
        Entry {
            name: name.into(),
            metadata: Metadata::with_mode(0o644),
            node: Node::Fifo,
        }
    }

    #[test]
    fn it_has_a_place_for_etc_and_the_rest_is_as_it_was() {
        let (id, tree) = encoded(vec![fifo("usr"), fifo("dev")]).unwrap();
        let below = One(tree);
        let root = RootTree::new(&below, id).unwrap();
        let shown = root.dirtree(&root.root()).unwrap();
        let names: Vec<_> = shown
            .entries()
            .iter()
            .map(|entry| entry.name.as_slice())
            .collect();
        assert_eq!(names, [&b"dev"[..], b"etc", b"usr"]);
        let Node::Dir { tree } = shown.get(b"etc").unwrap().node else {
            panic!("a place is a directory");
        };
        assert!(root.dirtree(&tree).unwrap().entries().is_empty());
        assert!(RootTree::new(&One(shown), id).is_err(), "a tree that has one");
    }
}
