use std::fs;

use crate::common::Scratch;

#[test]
fn a_whole_repository_is_clean() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let run = scratch.atomos(&["fsck"]).code(0);
    assert_eq!(run.out, "");
    assert!(
        run.err
            .starts_with("Everything is whole: 1 commit, 5 dirtrees, 3 files, "),
        "{}",
        run.err
    );
}

#[test]
fn a_damaged_blob_is_named_with_ref_and_path() {
    let scratch = Scratch::new();
    scratch.tree();
    let commit = scratch.commit("first");
    let list = scratch.atomos(&["ls", "--json", "os", "etc/motd"]).json();
    let blob = list[0]["blob"].as_str().unwrap();
    scratch.damage("objects", blob);
    let run = scratch.atomos(&["fsck"]).code(6);
    assert!(
        run.out
            .starts_with(&format!("blob {blob} is damaged: its bytes have the digest ")),
        "{}",
        run.out
    );
    assert!(
        run.out
            .ends_with(&format!("\n  ref os in {}: /etc/motd\n", &commit[..12])),
        "{}",
        run.out
    );
    assert!(run.err.starts_with("warning: 1 bad object in "), "{}", run.err);
    let run = scratch.atomos(&["fsck", "--json"]).code(6);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["findings"][0]["problem"], "wrong-digest");
    assert_eq!(report["findings"][0]["used-by"][0]["path"], "/etc/motd");
}

#[test]
fn the_hint_repairs_what_was_found() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&["pull", "--repo", "mirror", "--from", "repo", "os"])
        .code(0);
    let list = scratch.atomos(&["ls", "--json", "os", "etc/motd"]).json();
    fs::remove_file(scratch.object("objects", list[0]["blob"].as_str().unwrap())).unwrap();
    let run = scratch.atomos(&["fsck"]).code(6);
    assert!(run.out.contains(" is missing\n"), "{}", run.out);
    scratch.atomos(&["pull", "--from", "mirror", "os"]).code(0);
    scratch.atomos(&["fsck"]).code(0);
}
