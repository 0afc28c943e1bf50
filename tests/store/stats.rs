//! What each ref has, and what it has alone.

use std::collections::{BTreeMap, BTreeSet};

use libatomos::cancel::Cancel;
use libatomos::digest::{BlobId, DirTreeId};
use libatomos::format::Node;
use libatomos::repo::Repo;
use libatomos::testing::{TestRepo, small_tree, touch_up};

/// Every file beneath a tree, as often as it is there.
fn files(repo: &Repo, tree: &DirTreeId) -> Vec<(BlobId, u64)> {
    let mut all = Vec::new();
    for entry in repo.load_dirtree(tree).unwrap().entries() {
        match &entry.node {
            Node::Dir { tree } => all.extend(files(repo, tree)),
            Node::File { blob, size, .. } => all.push((*blob, *size)),
            _ => {}
        }
    }
    all
}

#[test]
fn what_refs_share_and_what_they_have_alone_is_what_their_trees_say() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 200);
    // Equal directories in one tree.
    for copy in ["copy", "copy/again"] {
        small_tree(&source.join(copy), 1, 40);
    }
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let _ = repo.commit(name, &source);
        touch_up(&source, number as u64, if number == 1 { 100 } else { 40 });
    }
    let _ = repo.commit("d-again", &source);
    let _ = repo.commit("d", &source);
    let repo = repo.repo();
    let trees: BTreeMap<_, _> = repo
        .refs()
        .unwrap()
        .iter()
        .map(|(name, commit)| (name.clone(), files(repo, &repo.load_commit(commit).unwrap().root)))
        .collect();
    let stats = repo.stats(&Cancel::new()).unwrap();
    assert_eq!(stats.refs.len(), 5);
    let mut alone = 0;
    for one in &stats.refs {
        let ours = &trees[&one.name];
        let distinct: BTreeSet<_> = ours.iter().collect();
        let others = trees.iter().filter(|(name, _)| **name != one.name);
        let others: BTreeSet<_> = others.flat_map(|(_, files)| files).collect();
        let bytes =
            |files: &mut dyn Iterator<Item = &(BlobId, u64)>| files.map(|(_, size)| size).sum::<u64>();
        assert_eq!(one.files, ours.len() as u64);
        assert_eq!(one.logical_bytes, bytes(&mut ours.iter()));
        assert_eq!(one.blobs, distinct.len() as u64);
        assert_eq!(one.unique_bytes, bytes(&mut distinct.iter().copied()));
        assert_eq!(
            one.exclusive_bytes,
            bytes(&mut distinct.difference(&others).copied())
        );
        assert!(one.blobs < one.files);
        alone += one.exclusive_bytes;
    }
    assert!(alone > 0);
}
