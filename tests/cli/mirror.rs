use std::fs;

use crate::common::published;

#[test]
fn a_mirror_is_a_site_that_machines_can_pull_from() {
    let scratch = published();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "copy"])
        .code(0);
    assert!(
        run.err.starts_with("Copied ") && run.err.ends_with("; 0 were there\n"),
        "{}",
        run.err
    );
    scratch
        .atomos(&["site", "fsck", "copy", "--key", "key.pub"])
        .code(0);
    let copy = scratch.path("copy");
    scratch
        .client(&[
            "remote",
            "add",
            "copy",
            copy.to_str().unwrap(),
            "--key",
            "key.pub",
        ])
        .code(0);
    scratch.client(&["pull", "copy", "os"]).code(0);
    // Again: nothing is fetched that is there.
    let report = scratch
        .client(&["mirror", "origin", "os", "--to", "copy", "--json"])
        .json();
    assert_eq!((&report["files"], &report["bytes"]), (&0.into(), &0.into()));
    assert!(report["present"].as_u64().unwrap() >= 4);
    // A new release: only what is new.
    scratch.version("2");
    scratch.publish(&[]).code(0);
    let report = scratch
        .client(&["mirror", "origin", "os", "--to", "copy", "--json"])
        .json();
    assert!(report["present"].as_u64().unwrap() > 0);
    let run = scratch.client(&["pull", "copy", "os"]).code(0);
    assert!(run.err.starts_with("Pulled copy:os: 2 ("), "{}", run.err);
    scratch
        .atomos(&["site", "fsck", "copy", "--key", "key.pub"])
        .code(0);
}

#[test]
fn a_damaged_site_is_not_copied() {
    let scratch = published();
    let pack = fs::read_dir(scratch.path("site/packs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let run = scratch.client(&["mirror", "origin", "os", "--to", "copy"]);
    assert_eq!(run.code, 6, "{}", run.err);
    assert!(run.err.contains("site/packs/"), "{}", run.err);
    assert!(run.err.contains("not those of its name"), "{}", run.err);
    assert!(
        !scratch.path("copy/refs").exists(),
        "no record without what it needs"
    );
}

#[test]
fn a_mirror_does_not_mix_with_something_else() {
    let scratch = published();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "tree"])
        .code(10);
    assert!(
        run.err.contains("cannot mirror into tree: it has ") && run.err.contains("and no atomos.json"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: choose an empty directory"), "{}", run.err);
    assert!(!scratch.path("tree/packs").exists());
    // Another repository's site.
    scratch.write("other/site/atomos.json", "");
    fs::remove_dir_all(scratch.path("other")).unwrap();
    scratch
        .atomos(&["init", "--repo", "other", "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&["commit", "--repo", "other", "-b", "os", "tree"])
        .code(0);
    scratch
        .atomos(&["publish", "--repo", "other", "--key", "key", "--to", "other-site"])
        .code(0);
    let record = fs::read(scratch.path("other-site/refs/os")).unwrap();
    let run = scratch
        .client(&["mirror", "origin", "os", "--to", "other-site"])
        .code(10);
    assert!(run.err.contains("it is a site of repository "), "{}", run.err);
    assert_eq!(fs::read(scratch.path("other-site/refs/os")).unwrap(), record);
    let run = scratch
        .client(&["mirror", "origin", "nope", "--to", "copy"])
        .code(3);
    assert!(
        run.err.contains("the remote origin has no ref nope"),
        "{}",
        run.err
    );
}
