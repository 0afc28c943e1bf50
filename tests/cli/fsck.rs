use std::fs;

use crate::common::{Scratch, published};

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

/// Returns the blob of a file of `os`.
fn blob_of(scratch: &Scratch, repo: &str, path: &str) -> String {
    let list = scratch
        .atomos(&["ls", "--repo", repo, "--json", "os", path])
        .json();
    list[0]["blob"].as_str().unwrap().to_owned()
}

#[test]
fn a_repair_takes_from_whoever_has_it() {
    let scratch = published();
    scratch.client(&["pull", "origin", "os"]).code(0);
    scratch.client(&["refs", "--create", "os=origin:os"]).code(0);
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&[
            "pull",
            "--repo",
            "mirror",
            "--from",
            "repo",
            "--no-hardlinks",
            "os",
        ])
        .code(0);
    let motd = blob_of(&scratch, "client", "etc/motd");
    let data = blob_of(&scratch, "client", "usr/lib/data");
    let object = |digest: &str| {
        scratch
            .path("client/objects")
            .join(&digest[..2])
            .join(&digest[2..])
    };
    let site = scratch.path("site");
    let site = site.to_str().unwrap();
    let url = format!("file://{site}");
    // As the tree of an operating system has.
    std::os::unix::fs::symlink("sysroot/atomos", scratch.path("tree/atomos")).unwrap();
    for from in ["origin", site, &url, "site", "repo", "mirror", "tree"] {
        fs::write(object(&motd), "HELLO\n").unwrap();
        fs::remove_file(object(&data)).unwrap();
        let plan = scratch
            .client(&["fsck", "--repair", "--from", from, "--dry-run"])
            .code(6);
        assert!(
            plan.out.contains(&format!("blob {motd} can be repaired from ")),
            "{}",
            plan.out
        );
        assert!(
            !plan.out.contains("Would move"),
            "it would be replaced: {}",
            plan.out
        );
        assert!(!object(&data).exists());
        let run = scratch.client(&["fsck", "--repair", "--from", from]).code(0);
        assert!(
            run.out.contains(&format!("blob {data} repaired from ")),
            "{from}: {}",
            run.out
        );
        assert!(run.err.contains("Repaired 2 objects\n"), "{}", run.err);
        assert_eq!(fs::read(object(&motd)).unwrap(), b"hello\n");
        scratch.client(&["fsck"]).code(0);
        assert_eq!(
            fs::read_dir(scratch.path("client/tmp")).unwrap().count(),
            0,
            "{from}"
        );
    }
}

#[test]
fn directories_and_commits_come_from_a_site_too() {
    let scratch = published();
    let commit = scratch.client(&["pull", "origin", "os", "--json"]).json()["refs"][0]["commit"]
        .as_str()
        .unwrap()
        .to_owned();
    for kind in ["commits", "dirtrees", "objects"] {
        let dir = scratch.path("client").join(kind);
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
    }
    let report = scratch
        .client(&["fsck", "--repair", "--from", "origin", "--json"])
        .json();
    assert_eq!(report["lost"], serde_json::json!([]));
    assert_eq!(report["sources"][0]["name"], "origin");
    assert!(report["repaired"].as_array().unwrap().len() > 8, "{report:#}");
    scratch.client(&["fsck"]).code(0);
    scratch.client(&["checkout", &commit, "out"]).code(0);
}

#[test]
fn a_ref_that_a_site_denies_keeps_nobody_from_the_others() {
    let scratch = published();
    scratch.client(&["pull", "origin", "os"]).code(0);
    // Refs of this machine alone, on a site that says of what it does not have whatever it likes.
    scratch.write("own/usr/lib/own", "nobody else has it\n");
    for (name, own) in [("a", "own"), ("z", "own")] {
        scratch
            .client(&["commit", "-b", name, "--owner", "0:0", own])
            .code(0);
        scratch.write(&format!("site/refs/{name}"), "<html>denied</html>");
    }
    let dir = scratch.path("client/objects");
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    let report: serde_json::Value = serde_json::from_str(
        &scratch
            .client(&["fsck", "--repair", "--from", "origin", "--json"])
            .code(6)
            .out,
    )
    .unwrap();
    assert_eq!(report["lost"].as_array().unwrap().len(), 1, "{report:#}");
    assert!(report["repaired"].as_array().unwrap().len() >= 4, "{report:#}");
}

#[test]
fn what_nobody_has_is_named_with_the_ref_that_needs_it() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let motd = blob_of(&scratch, "repo", "etc/motd");
    scratch.damage("objects", &motd);
    scratch.write("elsewhere/etc/motd", "other\n");
    let run = scratch
        .atomos(&["fsck", "--repair", "--from", "elsewhere"])
        .code(6);
    assert!(
        run.out.starts_with(&format!("blob {motd} is damaged: ")),
        "{}",
        run.out
    );
    assert!(run.out.contains("  ref os in "), "{}", run.out);
    assert!(
        run.err.contains("Moved 1 damaged file into damaged/\n"),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("warning: nobody has 1 bad object whole\n"),
        "{}",
        run.err
    );
    let run = scratch.atomos(&["fsck"]).code(6);
    assert!(run.out.contains(" is missing\n"), "{}", run.out);
    scratch.commit("again");
    scratch.atomos(&["fsck"]).code(0);
    scratch.atomos(&["fsck", "--repair", "--from", "nowhere"]).code(3);
    scratch.atomos(&["fsck", "--from", "elsewhere"]).code(2);
}
