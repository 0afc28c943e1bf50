//! Names of nothing, or of too much.

use std::collections::HashMap;

use libatomos::digest::Digest;
use libatomos::format::{DirTree, Entry, Metadata, Node};
use libatomos::repo::ObjectKind;

use crate::place::Place;

#[test]
fn an_unknown_ref() {
    let place = Place::new();
    for args in [
        &["ls", "nosuch"][..],
        &["checkout", "nosuch", "out"],
        &["rev-parse", "nosuch"],
        &["log", "nosuch"],
        &["commit", "-b", "os", "--parent", "nosuch", "tree"],
    ] {
        place.atomos(args).fails(
            3,
            &["\"nosuch\" is no ref, digest or prefix of one", "`atomos refs"],
        );
    }
    assert!(!place.path("out").exists());
    place.assert_usable();
}

#[test]
fn a_ref_whose_name_cannot_be_one() {
    let place = Place::new();
    for name in [
        "../escape",
        "a//b",
        "a b",
        ".hidden",
        "-x",
        "a\u{7}b",
        "",
        &"x".repeat(201),
    ] {
        let run = place.atomos(&["commit", &format!("--ref={name}"), "tree"]);
        assert_eq!(run.code, Some(2), "{name:?}: {run:#?}");
    }
    place
        .atomos(&["commit", "-b", "os/x", "tree"])
        .fails(10, &["a ref cannot be called os/x: there is os"]);
    assert_eq!(place.atomos(&["refs"]).ok().lines().count(), 1);
    place.assert_usable();
}

#[test]
fn an_ambiguous_prefix() {
    let place = Place::new();
    // Four digits are few: among some hundred dirtrees two share them.
    let mut seen: HashMap<String, Vec<u8>> = HashMap::new();
    let (prefix, first, second) = (0u32..)
        .find_map(|number| {
            let entry = Entry {
                name: format!("{number}").into_bytes(),
                metadata: Metadata::with_mode(0o644),
                node: Node::Fifo,
            };
            let (id, bytes) = DirTree::new(vec![entry]).unwrap().encode().unwrap();
            let prefix = id.to_string()[..4].to_owned();
            let other = seen.insert(prefix.clone(), bytes.clone())?;
            Some((prefix, other, bytes))
        })
        .unwrap();
    for bytes in [&first, &second] {
        plant(&place, ObjectKind::DirTree, bytes);
    }
    let candidates = [&first, &second].map(|bytes| format!("dirtree {}", Digest::of(bytes)));
    let parts = [
        "is ambiguous: 2 objects start with it",
        &candidates[0],
        &candidates[1],
    ];
    place.atomos(&["ls", &prefix]).fails(5, &parts);
    place.atomos(&["checkout", &prefix, "out"]).fails(5, &parts);
    assert!(!place.path("out").exists());
    // The whole digest is not ambiguous, and three digits are no prefix.
    assert_eq!(
        place
            .atomos(&["ls", &Digest::of(&first).to_hex()])
            .ok()
            .lines()
            .count(),
        1
    );
    place.atomos(&["ls", &prefix[..3]]).fails(3, &["is no ref"]);
    place.assert_usable();
}

/// Puts bytes into the store under their true digest.
pub fn plant(place: &Place, kind: ObjectKind, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let hex = digest.to_hex();
    let directory = match kind {
        ObjectKind::Blob => "objects",
        ObjectKind::DirTree => "dirtrees",
        ObjectKind::Commit => "commits",
    };
    let shard = place.path("repo").join(directory).join(&hex[..2]);
    std::fs::create_dir_all(&shard).unwrap();
    std::fs::write(shard.join(&hex[2..]), bytes).unwrap();
    digest
}

#[test]
fn suffixes_of_a_revision_that_lead_nowhere() {
    let place = Place::new();
    place.atomos(&["rev-parse", "os^"]).fails(3, &["has no parent"]);
    place
        .atomos(&["rev-parse", "os^{tree}^"])
        .fails(3, &["a commit is needed"]);
    for rev in [
        "^".to_owned(),
        "^{tree}".to_owned(),
        format!("os{}", "^".repeat(100_000)),
    ] {
        place.atomos(&["rev-parse", &rev]).fails(3, &[]);
    }
    let trees = format!("os{}", "^{tree}".repeat(10_000));
    assert_eq!(
        place.atomos(&["rev-parse", &trees]).ok(),
        place.atomos(&["rev-parse", "os^{tree}"]).ok()
    );
}

#[test]
fn a_path_that_the_tree_does_not_have() {
    let place = Place::new();
    place
        .atomos(&["cat", "os", "etc/nosuch"])
        .fails(3, &["etc/nosuch"]);
    place
        .atomos(&["cat", "os", "etc/config/deeper"])
        .fails(3, &["not a directory"]);
    place
        .atomos(&["checkout", "os", "out", "--subpath", "../repo"])
        .fails(3, &["../repo"]);
    assert!(!place.path("out").exists());
    place.assert_usable();
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let place = Place::new();
    let run = place.atomos(&["rev-parse", "a\u{1b}[31mb"]);
    assert_eq!(run.code, Some(3));
    assert!(!run.err.contains('\u{1b}'), "{run:?}");
}

#[test]
fn a_destination_that_exists() {
    let place = Place::new();
    std::fs::create_dir(place.path("directory")).unwrap();
    std::fs::write(place.path("file"), b"mine").unwrap();
    std::os::unix::fs::symlink("nowhere", place.path("link")).unwrap();
    for name in ["directory", "file", "link"] {
        place
            .atomos(&["checkout", "os", name])
            .fails(4, &["cannot check out to", name, "it exists"]);
    }
    assert_eq!(std::fs::read_dir(place.path("directory")).unwrap().count(), 0);
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"mine");
    assert!(!place.path("nowhere").exists());
    let run = place.atomos(&["checkout", "os", "missing/out"]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    assert!(run.err.contains("missing"), "{run:#?}");
    let left: Vec<_> = std::fs::read_dir(place.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 5, "{left:?}");
    place.assert_usable();
}

#[test]
fn a_source_that_is_missing_or_is_a_file() {
    let place = Place::new();
    let run = place.atomos(&["commit", "-b", "os", "nosuch"]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    assert!(run.err.contains("nosuch"), "{run:#?}");
    let run = place.atomos(&["commit", "-b", "os", "tree/etc/config"]);
    assert_ne!(run.code, Some(0));
    assert!(run.err.contains("tree/etc/config"), "{run:#?}");
    place.assert_usable();
}

#[test]
fn a_socket_in_the_tree() {
    let place = Place::new();
    let socket = std::os::unix::net::UnixListener::bind(place.path("tree/etc/socket")).unwrap();
    let before = place.atomos(&["rev-parse", "os"]).ok();
    place
        .atomos(&["commit", "-b", "os", "tree"])
        .fails(5, &["tree/etc/socket", "socket", "--skip-special"]);
    assert_eq!(place.atomos(&["rev-parse", "os"]).ok(), before);
    place
        .atomos(&["commit", "-b", "os", "--skip-special", "tree"])
        .ok();
    drop(socket);
    std::fs::remove_file(place.path("tree/etc/socket")).unwrap();
    place.assert_usable();
}

#[test]
fn a_tree_without_a_kernel_or_that_is_no_operating_system() {
    let place = Place::new();
    place
        .atomos(&["commit", "--os", "-b", "system", "tree"])
        .fails(5, &["operating system tree"]);
    std::fs::create_dir_all(place.path("root/usr/bin")).unwrap();
    std::fs::create_dir_all(place.path("root/etc")).unwrap();
    place
        .atomos(&["commit", "--os", "-b", "system", "root"])
        .fails(5, &["kernel"]);
    assert_eq!(place.atomos(&["refs"]).ok().lines().count(), 1);
    place.atomos(&["sysroot", "init", "--sysroot", "machine"]).ok();
    place
        .atomos(&["stateroot", "init", "os", "--sysroot", "machine"])
        .ok();
    let machine = ["--repo", "machine/atomos/repo"];
    let commit = ["commit", "--os", "--allow-no-kernel", "-b", "os", "root"];
    place.atomos(&[&machine[..], &commit].concat()).ok();
    place
        .atomos(&["--sysroot", "machine", "deploy", "os"])
        .fails(5, &["kernel"]);
    let deployments = place.path("machine/atomos/deploy/os/deploy");
    assert_eq!(std::fs::read_dir(deployments).map_or(0, Iterator::count), 0);
    place.atomos(&["--sysroot", "machine", "status"]).ok();
    place.atomos(&["--repo", "machine/atomos/repo", "fsck"]).ok();
    place.assert_usable();
}
