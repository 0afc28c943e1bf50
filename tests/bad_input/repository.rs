//! Something else where a repository should be.

use libatomos::testing::{LoopFs, is_root_or_skip};

use crate::place::Place;

#[test]
fn a_repository_that_is_missing() {
    let place = Place::empty();
    place.atomos(&["refs"]).fails(
        3,
        &[
            "repo is not an atomos repository: it does not exist",
            "`atomos init",
        ],
    );
    assert!(!place.path("repo").exists());
}

#[test]
fn a_repository_that_is_a_file() {
    let place = Place::empty();
    std::fs::write(place.path("repo"), b"a person's file").unwrap();
    place.tree();
    for args in [
        &["refs"][..],
        &["commit", "-b", "os", "tree"],
        &["fsck"],
        &["prune"],
    ] {
        place
            .atomos(args)
            .fails(3, &["repo is not an atomos repository: it is not a directory"]);
    }
    place
        .atomos(&["init"])
        .fails(4, &["cannot make a repository at repo: it is not a directory"]);
    assert_eq!(std::fs::read(place.path("repo")).unwrap(), b"a person's file");
}

#[test]
fn a_repository_that_is_an_empty_directory() {
    let place = Place::empty();
    std::fs::create_dir(place.path("repo")).unwrap();
    place
        .atomos(&["fsck"])
        .fails(3, &["it has no file config", "`atomos init --repo repo`"]);
    assert_eq!(std::fs::read_dir(place.path("repo")).unwrap().count(), 0);
    // The hint is right.
    place.atomos(&["init"]).ok();
    place.tree();
    place.assert_usable();
}

#[test]
fn a_repository_in_a_directory_of_somebody_elses_files() {
    let place = Place::empty();
    std::fs::create_dir(place.path("repo")).unwrap();
    std::fs::write(place.path("repo/letter"), b"dear").unwrap();
    place.atomos(&["init"]).fails(4, &["the directory is not empty"]);
    assert_eq!(std::fs::read_dir(place.path("repo")).unwrap().count(), 1);
}

#[test]
fn a_repository_without_one_of_its_directories() {
    let place = Place::new();
    std::fs::rename(place.path("repo/dirtrees"), place.path("elsewhere")).unwrap();
    place.atomos(&["fsck"]).fails(
        3,
        &["one of its directories objects, dirtrees, commits is missing"],
    );
    std::fs::rename(place.path("elsewhere"), place.path("repo/dirtrees")).unwrap();
    place.assert_usable();
}

fn change_config(place: &Place, from: &str, to: &str) {
    let path = place.path("repo/config");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_repository_of_a_newer_format() {
    let place = Place::new();
    change_config(&place, "format = 1", "format = 2\nwarp = true");
    for args in [
        &["fsck"][..],
        &["commit", "-b", "os", "tree"],
        &["prune"],
        &["ls", "os"],
        &["init"],
    ] {
        place
            .atomos(args)
            .fails(11, &["is of format 2, and this program knows format 1", "newer"]);
    }
    change_config(&place, "format = 2\nwarp = true", "format = 1");
    place.assert_usable();
}

#[test]
fn a_repository_that_needs_an_unknown_feature() {
    let place = Place::new();
    change_config(&place, "\nincompatible = []", "\nincompatible = [\"chunks\"]");
    place
        .atomos(&["ls", "os"])
        .fails(11, &["needs features that this program lacks: \"chunks\""]);
    change_config(&place, "[\"chunks\"]", "[]");
    change_config(
        &place,
        "read-only-compatible = []",
        "read-only-compatible = [\"quota\"]",
    );
    place.atomos(&["ls", "os"]).ok();
    place.atomos(&["fsck"]).ok();
    for args in [
        &["commit", "-b", "os", "tree"][..],
        &["prune"],
        &["refs", "--delete", "os"],
    ] {
        place
            .atomos(args)
            .fails(11, &["can only be read by this program", "quota"]);
    }
    change_config(&place, "[\"quota\"]", "[]");
    place.assert_usable();
}

#[test]
fn a_repository_whose_config_is_damaged() {
    let place = Place::new();
    let good = std::fs::read(place.path("repo/config")).unwrap();
    for bad in [
        &b""[..],
        b"format",
        &good[..good.len() / 2],
        &[0xff; 100],
        &[b'['; 70_000],
    ] {
        std::fs::write(place.path("repo/config"), bad).unwrap();
        let run = place.atomos(&["ls", "os"]);
        assert_ne!(run.code, Some(0));
        assert!(run.err.contains("repo/config"), "{run:#?}");
        assert!(!run.err.contains("panicked"), "{run:#?}");
    }
    std::fs::write(place.path("repo/config"), good).unwrap();
    place.assert_usable();
}

#[test]
fn a_repository_whose_refs_are_damaged() {
    let place = Place::new();
    let good = std::fs::read(place.path("repo/refs")).unwrap();
    for bad in [
        &good[..good.len() - 1],
        &[&good[..], b"x\n"].concat(),
        b"\xff\xfe\n",
        // What a disk may leave of it.
        b"",
        &good[..good.iter().position(|byte| *byte == b'\n').unwrap() + 1],
        b"gone",
    ] {
        std::fs::write(place.path("repo/refs"), bad).unwrap();
        if bad == b"gone" {
            std::fs::remove_file(place.path("repo/refs")).unwrap();
        }
        // Nobody may take refs that cannot be read for none: a pruner would remove everything.
        for args in [&["prune"][..], &["commit", "-b", "os", "tree"], &["fsck"]] {
            let run = place.atomos(args);
            assert_ne!(run.code, Some(0));
            assert!(run.err.contains("repo/refs"), "{run:#?}");
            assert!(run.err.contains("hint: "), "{run:#?}");
        }
    }
    std::fs::write(place.path("repo/refs"), good).unwrap();
    place.assert_usable();
}

#[test]
fn a_repository_on_a_read_only_file_system() {
    if !is_root_or_skip("a read-only file system") {
        return;
    }
    let Some(filesystem) = LoopFs::new("ext4", 48) else {
        return;
    };
    let place = Place::beneath(filesystem.path());
    place.atomos(&["init"]).ok();
    place.tree();
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    assert!(filesystem.set_read_only(true));
    for args in [
        &["commit", "-b", "os", "tree"][..],
        &["prune"],
        &["refs", "--delete", "os"],
    ] {
        place.atomos(args).fails(12, &["repo", "Read-only file system"]);
    }
    // Reading works, as far as it needs nothing but reading.
    for args in [
        &["ls", "-R", "os"][..],
        &["fsck"],
        &["refs"],
        &["cat", "os", "etc/config"],
        &["log", "os"],
    ] {
        place.atomos(args).ok();
    }
    let elsewhere = Place::empty();
    let out = elsewhere.path("out");
    place.atomos(&["checkout", "os", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(out.join("etc/config")).unwrap(), [b'c'; 5000]);
    assert!(filesystem.set_read_only(false));
    place.assert_usable();
}
