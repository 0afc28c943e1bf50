//! Damaged objects, and objects that somebody made on purpose.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libatomos::digest::{Digest, DirTreeId};
use libatomos::format::{Commit, DirTree, Entry, Metadata, Node};
use libatomos::repo::{ObjectKind, RefUpdate};

use crate::place::{Place, Run};
use crate::revisions::plant;

/// The blob of `etc/config` in the place's tree.
fn blob() -> Digest {
    Digest::of(&[b'c'; 5000])
}

fn blob_path(place: &Place) -> PathBuf {
    let hex = blob().to_hex();
    place.path("repo/objects").join(&hex[..2]).join(&hex[2..])
}

/// Changes bytes in place, and keeps the time.
fn rewrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    std::fs::File::open(path).unwrap().set_modified(modified).unwrap();
}

/// Asserts what the program says of the damaged blob, heals it as the program says, and asserts that it is whole.
fn damaged_and_healed(place: &Place, problem: &str) {
    let whole = Place::new();
    let run = place.atomos(&["fsck"]);
    assert_eq!(run.code, Some(6), "{run:#?}");
    let hex = blob().to_hex();
    for part in [hex.as_str(), problem, "ref os", "/etc/config"] {
        assert!(run.out.contains(part), "{part:?} is not in {run:#?}");
    }
    assert!(run.err.contains("hint: "), "{run:#?}");
    place
        .atomos(&["cat", "os", "etc/config"])
        .fails(6, &[&hex, "`atomos fsck`"]);
    let json = place.atomos(&["fsck", "--json"]);
    assert_eq!(json.code, Some(6));
    assert!(json.out.contains("\"/etc/config\""), "{json:#?}");
    // The hint: remove it, and pull from a repository that is whole.
    let _ = std::fs::remove_file(blob_path(place));
    let from = whole.path("repo");
    place
        .atomos(&["pull", "--from", from.to_str().unwrap(), "os"])
        .ok();
    place.assert_usable();
}

#[test]
fn a_truncated_blob() {
    let place = Place::new();
    rewrite(&blob_path(&place), |bytes| bytes.truncate(100));
    place
        .atomos(&["checkout", "os", "out"])
        .fails(6, &[&blob().to_hex(), "100 bytes", "5000"]);
    assert!(!place.path("out").exists());
    damaged_and_healed(&place, "is damaged");
}

#[test]
fn a_flipped_bit_in_a_blob() {
    let place = Place::new();
    rewrite(&blob_path(&place), |bytes| bytes[2500] ^= 1);
    damaged_and_healed(&place, "is damaged");
}

#[test]
fn a_missing_blob() {
    let place = Place::new();
    std::fs::remove_file(blob_path(&place)).unwrap();
    place
        .atomos(&["checkout", "os", "out"])
        .fails(6, &[&blob().to_hex(), "is missing"]);
    assert!(!place.path("out").exists());
    damaged_and_healed(&place, "is missing");
}

#[test]
fn a_damaged_or_missing_dirtree_or_commit() {
    for (directory, rev) in [("dirtrees", "os^{tree}"), ("commits", "os")] {
        for damage in ["truncated", "flipped", "missing"] {
            let place = Place::new();
            let hex = place.atomos(&["rev-parse", rev]).ok();
            let path = place.path("repo").join(directory).join(&hex[..2]).join(&hex[2..]);
            match damage {
                "truncated" => rewrite(&path, |bytes| bytes.truncate(bytes.len() - 1)),
                "flipped" => rewrite(&path, |bytes| *bytes.last_mut().unwrap() ^= 1),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            for args in [&["ls", "os"][..], &["checkout", "os", "out"], &["prune"]] {
                place.atomos(args).fails(6, &[&hex]);
            }
            assert!(!place.path("out").exists());
            let run = place.atomos(&["fsck"]);
            assert_eq!(run.code, Some(6));
            assert!(
                run.out.contains(&hex) && run.out.contains("ref os"),
                "{damage} {directory}: {run:#?}"
            );
            let _ = std::fs::remove_file(&path);
            let whole = Place::new();
            let from = whole.path("repo");
            place
                .atomos(&["pull", "--from", from.to_str().unwrap(), "os"])
                .ok();
            place.assert_usable();
        }
    }
}

/// The bytes of a dirtree with a fifo under each name, checked by nobody.
fn dirtree(names: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"atomosT\x01".to_vec();
    bytes.extend(u32::to_le_bytes(names.len() as u32));
    for name in names {
        bytes.extend([b'p', 0]);
        bytes.extend(u16::to_le_bytes(name.len() as u16));
        bytes.extend(u32::to_le_bytes(0o644));
        bytes.extend([0; 20]);
        bytes.extend(*name);
    }
    bytes
}

/// Plants a commit of a dirtree with these names, and a ref to it. Returns the dirtree's digest.
fn plant_evil(place: &Place, names: &[&[u8]]) -> String {
    let tree = plant(place, ObjectKind::DirTree, &dirtree(names));
    let repo = place.repo();
    let commit = Commit {
        root: DirTreeId::new(tree),
        ..repo.load_commit(&repo.resolve_commit("os").unwrap()).unwrap()
    };
    let (id, bytes) = commit.encode().unwrap();
    plant(place, ObjectKind::Commit, &bytes);
    let update = RefUpdate {
        name: "evil".parse().unwrap(),
        expected: None,
        new: Some(id),
    };
    repo.update_refs(&[update]).unwrap();
    tree.to_hex()
}

fn refused_everywhere(names: &[&[u8]], reason: &str) {
    let place = Place::new();
    let hex = plant_evil(&place, names);
    place.atomos(&["ls", "evil"]).fails(6, &[&hex, reason]);
    place
        .atomos(&["checkout", "evil", "out"])
        .fails(6, &[&hex, reason]);
    place
        .atomos(&["checkout", "evil", "out", "--user"])
        .fails(6, &[&hex, reason]);
    place.atomos(&["diff", "os", "evil"]).fails(6, &[&hex, reason]);
    assert!(!place.path("out").exists());
    let run = place.atomos(&["fsck"]);
    assert_eq!(run.code, Some(6));
    for part in [hex.as_str(), reason, "ref evil"] {
        assert!(run.out.contains(part), "{part:?} is not in {run:#?}");
    }
    // Whoever pulls it stays as they were.
    let victim = Place::new();
    let from = place.path("repo");
    victim
        .atomos(&["pull", "--from", from.to_str().unwrap(), "evil"])
        .fails(6, &[&hex, reason]);
    assert_eq!(victim.atomos(&["refs"]).ok().lines().count(), 1);
    victim.assert_usable();
    place.atomos(&["refs", "--delete", "evil"]).ok();
    place.atomos(&["prune"]).ok();
    place.assert_usable();
}

/// Commits a tree of five kilobytes that has two to the power of 40 directories, as the ref `many`.
fn commit_unfolding(place: &Place) {
    let repo = place.repo();
    let transaction = repo.begin().unwrap();
    let store = |entries| {
        let tree = DirTree::new(entries).unwrap();
        transaction.store_dirtree(&tree).unwrap()
    };
    let mut root = store(Vec::new());
    for _ in 0..40 {
        let entry = |name: &str| Entry {
            name: name.into(),
            metadata: Metadata::with_mode(0o755),
            node: Node::Dir { tree: root },
        };
        root = store(vec![entry("a"), entry("b")]);
    }
    let commit = transaction
        .store_commit(&Commit {
            root,
            root_metadata: Metadata::with_mode(0o755),
            parent: None,
            time: 0,
            subject: String::new(),
            body: String::new(),
            version: String::new(),
            metadata: BTreeMap::new(),
        })
        .unwrap();
    transaction.set_ref(RefUpdate {
        name: "many".parse().unwrap(),
        expected: None,
        new: Some(commit),
    });
    transaction.commit().unwrap();
}

#[test]
fn a_small_tree_of_countless_directories_does_not_fill_the_memory() {
    let place = Place::new();
    commit_unfolding(&place);
    for args in [&["checkout", "many", "out"][..], &["lint", "many"]] {
        let command = place.command(args);
        let mut limited = std::process::Command::new("sh");
        limited
            .args(["-c", "ulimit -v 600000; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(place.path(""))
            .env("ATOMOS_REPO", "repo");
        Run::from(limited.output().unwrap()).fails(3, &["more than"]);
    }
    assert!(!place.path("out").exists());
}

#[test]
fn a_dirtree_that_names_the_parent_directory() {
    refused_everywhere(&[b".."], "the name .. is not allowed in a directory");
}

#[test]
fn a_dirtree_that_names_a_path() {
    refused_everywhere(
        &[b"../../tmp/owned"],
        "the name ../../tmp/owned is not allowed in a directory",
    );
    refused_everywhere(&[b"/etc/cron.d/owned"], "is not allowed in a directory");
}

#[test]
fn a_dirtree_with_an_empty_name() {
    // With another entry, so that there are bytes enough for both.
    refused_everywhere(&[b"", b"other"], "is not allowed in a directory");
}

#[test]
fn a_dirtree_with_a_name_twice() {
    refused_everywhere(&[b"a", b"a"], "the name a does not sort after the one before it");
}

#[test]
fn a_dirtree_with_control_characters_in_a_forbidden_name() {
    refused_everywhere(&[b"\x1b[31m/"], "the name \\x1b[31m/ is not allowed");
}
