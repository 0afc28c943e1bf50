use libatomos::testing::{LoopFs, small_tree};

use crate::common::{Scratch, has_tool, published};

#[test]
fn what_is_to_stay_free_is_set_shown_and_taken_back() {
    let scratch = Scratch::new();
    assert_eq!(scratch.atomos(&["config", "min-free-space"]).ok(), "none\n");
    scratch.atomos(&["config", "min-free-space", "3%"]).code(0);
    assert_eq!(scratch.atomos(&["config", "min-free-space"]).ok(), "3%\n");
    let model = scratch.atomos(&["config", "--json"]).json();
    assert_eq!(model["min-free-space"], "3%");
    assert!(model["reserved-bytes"].as_u64().unwrap() > 0);
    assert!(
        scratch
            .atomos(&["config"])
            .ok()
            .contains("\nmin-free-space = 3%\n")
    );
    for wrong in ["100%", "lots", "-1"] {
        scratch.atomos(&["config", "min-free-space", "--", wrong]).code(2);
    }
    scratch.atomos(&["config", "colour", "red"]).code(2);
    scratch.atomos(&["config", "min-free-space", "none"]).code(0);
    assert_eq!(scratch.atomos(&["config", "min-free-space"]).ok(), "none\n");
}

#[test]
fn nothing_is_written_that_would_touch_what_is_to_stay_free() {
    let scratch = published();
    let before = scratch.atomos(&["refs"]).ok();
    // More than there is.
    for repo in ["repo", "client"] {
        scratch
            .atomos(&["config", "--repo", repo, "min-free-space", "8000000G"])
            .code(0);
    }
    let run = scratch.atomos(&["commit", "-b", "os", "tree"]).code(9);
    assert!(
        run.err.starts_with("error: there is no room beside "),
        "{}",
        run.err
    );
    assert!(
        run.err.contains("8000000000000000 are to stay free"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: `atomos prune --dry-run`"), "{}", run.err);
    assert_eq!(scratch.atomos(&["refs"]).ok(), before);
    scratch.client(&["pull", "origin", "os"]).code(9);
    scratch.client(&["pull", "--from", "repo", "os"]).code(9);
    assert_eq!(std::fs::read_dir(scratch.path("client/tmp")).unwrap().count(), 0);
    scratch.atomos(&["checkout", "--user", "os", "out"]).code(9);
    assert!(!scratch.path("out").exists());
    // What helps is not held up.
    scratch.atomos(&["fsck", "--repair"]).code(0);
    scratch.atomos(&["prune"]).code(0);
    scratch.client(&["config", "min-free-space", "none"]).code(0);
    scratch.client(&["pull", "origin", "os"]).code(0);
}

/// A repository that leaves 40 % of the file system free.
fn repo_that_keeps_free(scratch: &Scratch, fs: &LoopFs) -> String {
    let repo = fs.path().join("repo");
    let repo = repo.to_str().unwrap();
    scratch
        .atomos(&["init", "--repo", repo, "--mode", "bare-user"])
        .code(0);
    scratch
        .atomos(&["config", "--repo", repo, "min-free-space", "40%"])
        .code(0);
    repo.to_owned()
}

fn percent_free(fs: &LoopFs) -> u64 {
    let stat = rustix::fs::statvfs(fs.path()).unwrap();
    stat.f_bavail * stat.f_frsize * 100 / (stat.f_blocks * stat.f_frsize)
}

#[test]
fn a_commit_stops_while_it_writes_and_so_does_a_checkout() {
    let Some(fs) = LoopFs::new("ext4", 64) else { return };
    let scratch = Scratch::empty();
    let repo = repo_that_keeps_free(&scratch, &fs);
    let repo = repo.as_str();
    let free = || percent_free(&fs);
    let tree = scratch.path("tree");
    small_tree(&tree, 1, 20);
    for index in 0..40u8 {
        std::fs::write(tree.join(format!("large-{index}")), vec![index; 1 << 20]).unwrap();
    }
    let commit = ["commit", "--repo", repo, "-b", "os", "tree"];
    scratch.atomos(&commit).code(9);
    assert!(free() >= 40, "{}", free());
    // A part of it fits; then a checkout of it beside the repository does not, and one elsewhere does.
    for index in 15..40 {
        std::fs::remove_file(tree.join(format!("large-{index}"))).unwrap();
    }
    scratch.atomos(&["prune", "--repo", repo]).code(0);
    scratch.atomos(&commit).code(0);
    let out = fs.path().join("out");
    scratch
        .atomos(&["checkout", "--repo", repo, "--user", "os", out.to_str().unwrap()])
        .code(9);
    assert!(!out.exists() && free() >= 40);
    scratch
        .atomos(&["checkout", "--repo", repo, "--user", "os", "out"])
        .code(0);
    scratch.atomos(&["fsck", "--repo", repo]).code(0);
}

#[test]
fn an_archive_an_image_and_a_repository_of_ostree_leave_what_is_to_stay_free() {
    let Some(fs) = LoopFs::new("ext4", 64) else { return };
    let scratch = Scratch::new();
    let tree = scratch.path("tree");
    small_tree(&tree, 1, 20);
    for index in 0..40u8 {
        // Some are read at once, and some in pieces.
        let bytes = vec![index | 1; (1 << 20) + usize::from(index % 2) * 4096 - 1];
        std::fs::write(
            tree.join(format!("large-{index}")),
            [&bytes[..], &[index]].concat(),
        )
        .unwrap();
    }
    scratch.commit("large");
    scratch.atomos(&["export", "os", "-o", "os.tar"]).code(0);
    scratch.atomos(&["export", "os", "--oci", "layout"]).code(0);
    let repo = repo_that_keeps_free(&scratch, &fs);
    let repo = repo.as_str();
    let free = || percent_free(&fs);
    let before = free();
    let mut runs = vec![
        vec!["commit", "-b", "os", "--tar", "os.tar"],
        vec!["commit", "-b", "os", "--oci", "layout"],
    ];
    if has_tool("ostree", "importing from OSTree without room") {
        let ostree = |words: &[&str]| {
            let status = std::process::Command::new("ostree")
                .current_dir(scratch.path(""))
                .args(words)
                .stdout(std::process::Stdio::null())
                .status();
            assert!(status.unwrap().success(), "{words:?}");
        };
        ostree(&["init", "--repo=old", "--mode=archive"]);
        ostree(&[
            "commit",
            "--repo=old",
            "-b",
            "os",
            "--canonical-permissions",
            "tree",
        ]);
        runs.push(vec!["import", "--ostree", "old", "os"]);
    }
    for words in runs {
        let run = scratch.atomos(&[&words[..], &["--repo", repo]].concat()).code(9);
        assert!(run.err.contains("there is no room beside "), "{}", run.err);
        assert!(free() >= 40, "{words:?}: {}", free());
        for left in std::fs::read_dir(fs.path().join("repo/tmp")).unwrap() {
            let loose = left.unwrap().path().join("loose");
            assert!(!loose.exists(), "{words:?}: {loose:?}");
        }
        scratch.atomos(&["prune", "--repo", repo]).code(0);
        assert!(free() + 1 >= before, "{words:?}: {} of {before}", free());
    }
}
