//! `pull --from`: what another repository on this machine has. Pulling from remotes is in `pull_remote`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::common::{Scratch, is_root, published};

#[test]
fn a_ref_comes_with_its_tree_and_history() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let second = scratch.commit("second");
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let pull = ["pull", "--repo", "mirror", "--from", "repo", "os"];
    let run = scratch.atomos(&pull).code(0);
    assert_eq!(
        run.err,
        format!(
            "Pulled os ({}): 2 new commits, 3 new blobs (3 hardlinked); 17 bytes\n",
            &second[..12]
        )
    );
    assert_eq!(
        scratch.atomos(&["log", "--repo", "mirror", "os"]).ok(),
        scratch.atomos(&["log", "os"]).ok()
    );
    scratch.atomos(&["fsck", "--repo", "mirror"]).code(0);
    let mut again = pull.to_vec();
    again.push("--json");
    let report = scratch.atomos(&again).json();
    assert_eq!(
        report["refs"],
        serde_json::json!([{"name": "os", "commit": second}])
    );
    assert_eq!(report["blobs-added"], 0);
}

#[test]
fn a_damaged_source_moves_no_ref() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let list = scratch.atomos(&["ls", "--json", "os", "etc/motd"]).json();
    scratch.damage("objects", list[0]["blob"].as_str().unwrap());
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let run = scratch
        .atomos(&["pull", "--repo", "mirror", "--from", "repo", "os"])
        .code(6);
    assert!(run.err.contains("is damaged"), "{}", run.err);
    assert_eq!(scratch.atomos(&["refs", "--repo", "mirror"]).ok(), "");
    scratch.atomos(&["fsck", "--repo", "mirror"]).code(0);
}

#[test]
fn a_ref_that_the_source_lacks_is_looked_for_there() {
    let scratch = Scratch::new();
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let run = scratch.atomos(&["pull", "--from", "mirror", "os"]).code(3);
    assert_eq!(
        run.err,
        "error: there is no ref os in mirror\nhint: `atomos refs --repo mirror` lists the refs\n"
    );
}

/// How many names a file has.
fn links(path: &Path) -> u64 {
    fs::metadata(path).unwrap().nlink()
}

fn blob(scratch: &Scratch, repo: &str, rev: &str, path: &str) -> PathBuf {
    let args = ["ls", "--repo", repo, "--json", rev, path];
    let list = scratch.atomos(&args).json();
    let digest = list[0]["blob"].as_str().unwrap();
    scratch
        .path(repo)
        .join("objects")
        .join(&digest[..2])
        .join(&digest[2..])
}

#[test]
fn files_of_another_repository_of_ones_own_are_hardlinked_unless_that_is_not_wanted() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.write("tree/etc/empty", "");
    scratch.commit("first");
    for repo in ["linked", "apart"] {
        scratch
            .atomos(&["init", "--repo", repo, "--mode", "bare-user"])
            .code(0);
    }
    let run = scratch
        .atomos(&["pull", "--repo", "linked", "--from", "repo", "os"])
        .code(0);
    assert!(
        run.err.contains("4 new blobs (3 hardlinked, 1 copied)"),
        "{}",
        run.err
    );
    assert_eq!(links(&blob(&scratch, "linked", "os", "etc/motd")), 2);
    assert_eq!(links(&blob(&scratch, "linked", "os", "etc/empty")), 1);
    let report = scratch
        .atomos(&[
            "pull",
            "--repo",
            "apart",
            "--from",
            "repo",
            "--no-hardlinks",
            "os",
            "--json",
        ])
        .json();
    assert_eq!(report["hardlinked"], 0);
    assert_eq!(
        report["reflinked"].as_u64().unwrap() + report["copied"].as_u64().unwrap(),
        4
    );
    assert_eq!(links(&blob(&scratch, "apart", "os", "etc/motd")), 1);
    for repo in ["linked", "apart"] {
        scratch.atomos(&["fsck", "--repo", repo]).code(0);
    }
    // One goes, the other stays.
    fs::remove_dir_all(scratch.path("repo")).unwrap();
    scratch.atomos(&["fsck", "--repo", "linked"]).code(0);
}

#[test]
fn files_of_a_repository_that_others_may_write_to_are_not_hardlinked() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    // Whoever may write there may put a file of his own in the place of one, and keep it open.
    scratch.chmod("repo", 0o777);
    scratch
        .atomos(&["init", "--repo", "mirror", "--mode", "bare-user"])
        .code(0);
    let report = scratch
        .atomos(&["pull", "--repo", "mirror", "--from", "repo", "os", "--json"])
        .json();
    assert_eq!(report["hardlinked"], 0);
    assert_eq!(report["blobs-added"], 3);
    scratch.atomos(&["fsck", "--repo", "mirror"]).code(0);
}

#[test]
fn in_the_mode_bare_every_inode_is_linked_with_its_owner_and_mode() {
    if !is_root("a repository of mode bare") {
        return;
    }
    let scratch = Scratch::empty();
    scratch.tree();
    // The same bytes with two modes are two inodes.
    scratch.write("tree/etc/other", "hello\n");
    scratch.chmod("tree/etc/other", 0o600);
    for repo in ["repo", "mirror", "user"] {
        let mode = if repo == "user" { "bare-user" } else { "bare" };
        scratch.atomos(&["init", "--repo", repo, "--mode", mode]).code(0);
    }
    scratch.commit("first");
    let report = scratch
        .atomos(&["pull", "--repo", "mirror", "--from", "repo", "os", "--json"])
        .json();
    assert_eq!((&report["hardlinked"], &report["copied"]), (&4.into(), &0.into()));
    scratch.atomos(&["fsck", "--repo", "mirror"]).code(0);
    // Repositories of different modes have different inodes.
    let report = scratch
        .atomos(&["pull", "--repo", "user", "--from", "repo", "os", "--json"])
        .json();
    assert_eq!(report["hardlinked"], 0);
    scratch.atomos(&["fsck", "--repo", "user"]).code(0);
}

#[test]
fn a_directory_that_is_no_repository_says_what_it_is() {
    let scratch = published();
    let run = scratch.client(&["pull", "--from", "site", "os"]).code(3);
    assert_eq!(
        run.err,
        "error: site is not an atomos repository: it has no file config\n\
         hint: it is a published site: `atomos remote add NAME [SCRATCH]/site --key FILE.pub`, then `atomos pull NAME REF`\n"
    );
    let run = scratch.client(&["pull", "--from", "tree", "os"]).code(3);
    assert!(
        run.err.contains("hint: name the directory of a repository"),
        "{}",
        run.err
    );
}
