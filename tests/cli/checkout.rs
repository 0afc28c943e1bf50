use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::common::{Scratch, is_root};

#[test]
fn a_tree_comes_back_as_it_was() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["checkout", "--user", "os", "out"]).code(0);
    assert_eq!(run.out, "");
    assert_eq!(
        run.err,
        "Checked out os to out: 3 files (3 copied), 5 directories\n"
    );
    assert_eq!(fs::read(scratch.path("out/bin/sh")).unwrap(), b"#!\n");
    assert_eq!(
        fs::metadata(scratch.path("out/usr/bin/sh"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o755
    );
    let diff = scratch.atomos(&["diff", "os", "./out", "--json"]).json();
    let beyond_owner = diff
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["parts"] != serde_json::json!(["owner"]))
        .count();
    assert_eq!(beyond_owner, 0, "{diff}");
}

#[test]
fn a_part_of_a_tree_can_be_had() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch
        .atomos(&["checkout", "--user", "--subpath", "/usr/lib", "os", "out"])
        .code(0);
    assert_eq!(fs::read(scratch.path("out/os-release")).unwrap(), b"ID=test\n");
}

#[test]
fn a_destination_that_exists_is_left_alone() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("out/mine", "mine");
    let run = scratch.atomos(&["checkout", "--user", "os", "out"]).code(4);
    assert_eq!(
        run.err,
        "error: cannot check out to out: it exists\n\
         hint: choose another destination, or remove it first: rm -r out\n"
    );
    assert_eq!(fs::read_dir(scratch.path("out")).unwrap().count(), 1);
}

#[test]
fn a_hardlink_checkout_says_that_it_shares_its_files() {
    if !is_root("a hardlink checkout") {
        return;
    }
    let scratch = Scratch::empty();
    scratch.atomos(&["init", "--mode", "bare"]).code(0);
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["checkout", "os", "out"]).code(0);
    assert!(run.err.contains("3 files (3 hardlinked)"), "{}", run.err);
    assert!(run.err.contains("do not write to them"), "{}", run.err);
    assert_eq!(fs::metadata(scratch.path("out/etc/motd")).unwrap().nlink(), 2);
    let report = scratch
        .atomos(&["checkout", "--link", "copy", "--json", "os", "copy"])
        .json();
    assert_eq!(report["hardlinked"], 0);
    assert_eq!(fs::metadata(scratch.path("copy/etc/motd")).unwrap().nlink(), 1);
}

#[test]
fn an_unknown_revision_makes_nothing() {
    let scratch = Scratch::new();
    let run = scratch.atomos(&["checkout", "--user", "nope", "out"]).code(3);
    assert_eq!(
        run.err,
        "error: \"nope\" is no ref, digest or prefix of one in [SCRATCH]/repo\n\
         hint: `atomos refs --repo [SCRATCH]/repo` lists the refs\n"
    );
    assert!(!scratch.path("out").exists());
}

#[test]
fn an_earlier_checkout_is_updated_by_what_differs() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.atomos(&["checkout", "--user", "os", "out"]).code(0);
    fs::write(scratch.path("tree/usr/lib/new"), "new").unwrap();
    fs::remove_file(scratch.path("tree/usr/bin/sh")).unwrap();
    scratch.commit("second");
    let run = scratch.atomos(&["checkout", "--update", "os", "out"]).code(0);
    assert!(run.err.starts_with("Updated os to out: 1 added, "), "{}", run.err);
    assert_eq!(fs::read(scratch.path("out/usr/lib/new")).unwrap(), b"new");
    assert!(!scratch.path("out/usr/bin/sh").exists());
    let run = scratch.atomos(&["checkout", "--update", "os", "out"]).code(0);
    assert_eq!(run.err, "Updated os to out: nothing had to change\n");
    let report = scratch
        .atomos(&["checkout", "--update", "--verify", "--json", "os", "out"])
        .json();
    assert_eq!(
        (report["added"].as_u64(), report["removed"].as_u64()),
        (Some(0), Some(0))
    );
}

#[test]
fn an_update_says_what_is_in_its_way_and_what_to_do() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.atomos(&["checkout", "--user", "os", "out"]).code(0);
    fs::write(scratch.path("tree/usr/lib/new"), "new").unwrap();
    scratch.commit("second");
    fs::write(scratch.path("out/usr/lib/new"), "mine").unwrap();
    let run = scratch.atomos(&["checkout", "--update", "os", "out"]).code(10);
    assert!(run.err.contains("usr/lib/new"), "{}", run.err);
    assert!(run.err.contains("nothing was changed"), "{}", run.err);
    assert_eq!(fs::read(scratch.path("out/usr/lib/new")).unwrap(), b"mine");
    fs::create_dir(scratch.path("plain")).unwrap();
    let run = scratch.atomos(&["checkout", "--update", "os", "plain"]);
    assert!(run.err.contains("--update=FROM"), "{}", run.err);
}

#[test]
fn a_tree_is_laid_over_what_is_there() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    fs::create_dir_all(scratch.path("out/usr/lib")).unwrap();
    fs::write(scratch.path("out/usr/lib/os-release"), "ID=mine\n").unwrap();
    fs::write(scratch.path("out/mine"), "mine").unwrap();
    let union = |how: &str| scratch.atomos(&["checkout", "--user", "--union", how, "os", "out"]);
    let run = union("identical").code(10);
    assert!(run.err.contains("usr/lib/os-release"), "{}", run.err);
    assert!(!scratch.path("out/bin").exists());
    union("add").code(0);
    assert_eq!(
        fs::read(scratch.path("out/usr/lib/os-release")).unwrap(),
        b"ID=mine\n"
    );
    assert_eq!(fs::read(scratch.path("out/bin/sh")).unwrap(), b"#!\n");
    union("replace").code(0);
    assert_eq!(
        fs::read(scratch.path("out/usr/lib/os-release")).unwrap(),
        b"ID=test\n"
    );
    assert_eq!(fs::read(scratch.path("out/mine")).unwrap(), b"mine");
}

#[test]
fn files_of_one_s_own_stay_so_when_they_are_updated() {
    let scratch = Scratch::empty();
    if !is_root("a bare repository") {
        return;
    }
    scratch.atomos(&["init", "--mode", "bare"]).code(0);
    scratch.tree();
    scratch.commit("first");
    for (how, links) in [("copy", 1), ("auto", 2)] {
        scratch.atomos(&["checkout", "--link", how, "os", how]).code(0);
        scratch.write("tree/usr/lib/os-release", format!("ID={how}\n"));
        scratch.commit("next");
        scratch.atomos(&["checkout", "--update", "os", how]).code(0);
        let updated = fs::metadata(scratch.path(how).join("usr/lib/os-release")).unwrap();
        assert_eq!(updated.nlink(), links, "{how}");
    }
}

#[test]
fn nothing_is_checked_out_into_the_repository() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("tree/config", "not the repository's");
    scratch.commit("first");
    for words in [
        &["checkout", "--user", "--union", "replace", "os", "repo"][..],
        &["checkout", "--user", "os", "repo/objects/x"],
    ] {
        let run = scratch.atomos(words).code(5);
        assert!(run.err.contains("it is in the repository"), "{}", run.err);
        assert!(run.err.contains("hint: name a place outside"), "{}", run.err);
    }
    scratch.atomos(&["fsck"]).code(0);
}
