use std::sync::atomic::{AtomicBool, Ordering};

use libatomos::testing::{small_tree, touch_up};

use crate::common::Scratch;

#[test]
fn only_what_no_ref_leads_to_goes() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    scratch.write("tree/only-here", "only here");
    scratch
        .atomos(&[
            "commit", "-b", "extra", "--owner", "0:0", "--mtime", "zero", "tree",
        ])
        .code(0);
    scratch.atomos(&["refs", "--delete", "extra"]).code(0);
    let plan = scratch.atomos(&["prune", "--dry-run"]).code(0);
    assert!(
        plan.out.starts_with("Would remove 1 commit, 1 dirtree, 1 blob: "),
        "{}",
        plan.out
    );
    assert_eq!(plan.err, "");
    let report = scratch.atomos(&["prune", "--json"]).json();
    assert_eq!(report["commits-removed"], 1);
    assert_eq!(report["blobs-removed"], 1);
    assert_eq!(report["commits-kept"], 1);
    scratch.atomos(&["fsck"]).code(0);
    let run = scratch.atomos(&["prune"]).code(0);
    assert_eq!(run.out, "");
    assert!(
        run.err.starts_with("Removed 0 commits, 0 dirtrees, 0 blobs: "),
        "{}",
        run.err
    );
}

/// Commits five versions of `os`, a day apart from each other, and returns them, the oldest first.
fn five_days(scratch: &Scratch) -> Vec<String> {
    scratch.tree();
    (1..=5)
        .map(|day: i64| {
            scratch.write("tree/etc/motd", format!("day {day}\n"));
            let time = (1_704_067_200 + (day - 1) * 86_400).to_string();
            let mut command =
                scratch.command(&["commit", "-b", "os", "--owner", "0:0", "--mtime", "zero", "tree"]);
            let run = scratch.run(command.env("SOURCE_DATE_EPOCH", time));
            run.ok().trim_end().to_owned()
        })
        .collect()
}

fn commits_left(scratch: &Scratch, commits: &[String]) -> Vec<bool> {
    scratch.atomos(&["fsck"]).code(0);
    commits
        .iter()
        .map(|commit| scratch.object("commits", commit).exists())
        .collect()
}

#[test]
fn a_history_ends_where_neither_depth_nor_age_keeps_it() {
    for (options, kept) in [
        (&[][..], 5),
        (&["--depth", "0"][..], 1),
        (&["--depth", "2"][..], 3),
        (&["--depth", "100"][..], 5),
        // The fourth day and later.
        (&["--keep-younger-than", "2024-01-04"][..], 2),
        (&["--keep-younger-than", "1d"][..], 1),
        (
            &["--depth", "1", "--keep-younger-than", "2024-01-02T00:00:00Z"][..],
            4,
        ),
        (&["--depth", "3", "--keep-younger-than", "2024-01-05"][..], 4),
    ] {
        let scratch = Scratch::new();
        let commits = five_days(&scratch);
        let plan = scratch
            .atomos(&[&["prune", "--json", "--dry-run"], options].concat())
            .json();
        assert_eq!(commits_left(&scratch, &commits), [true; 5], "{options:?}");
        let done = scratch.atomos(&[&["prune", "--json"], options].concat()).json();
        for key in ["commits-removed", "blobs-removed", "bytes-removed", "bytes-freed"] {
            assert_eq!(plan[key], done[key], "{options:?} {key}");
        }
        assert_eq!(done["commits-removed"], 5 - kept);
        let left: Vec<bool> = (0..5).map(|index| index >= 5 - kept).collect();
        assert_eq!(commits_left(&scratch, &commits), left, "{options:?}");
    }
}

#[test]
fn what_another_ref_keeps_of_the_same_history_stays() {
    let scratch = Scratch::new();
    let commits = five_days(&scratch);
    scratch.atomos(&["refs", "--create", "before=os^"]).code(0);
    scratch.atomos(&["prune", "--depth", "1"]).code(0);
    assert_eq!(commits_left(&scratch, &commits), [false, false, true, true, true]);
    // What a root keeps stays, and its parents do not.
    scratch.atomos(&["refs", "--delete", "before"]).code(0);
    let root = format!("{{\"commits\": [\"{}\"]}}", commits[2]);
    std::fs::write(scratch.path("repo/roots/deployment"), root).unwrap();
    scratch.atomos(&["prune", "--depth", "0"]).code(0);
    assert_eq!(
        commits_left(&scratch, &commits),
        [false, false, true, false, true]
    );
    scratch.atomos(&["prune", "--depth", "-1"]).code(2);
    scratch.atomos(&["prune", "--keep-younger-than", "soon"]).code(2);
}

#[test]
fn commits_checkouts_and_prunes_of_other_processes_do_not_disturb_each_other() {
    const FILES: usize = 40;
    let scratch = Scratch::new();
    let tree = scratch.path("tree");
    small_tree(&tree, 1, FILES);
    scratch.atomos(&["commit", "-b", "os", "tree"]).code(0);
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                scratch.atomos(&["prune", "--depth", "0"]).code(0);
                rounds += 1;
            }
            rounds
        });
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                // It reads the ref and everything beneath it under one lock.
                let run = scratch.atomos(&["checkout", "--user", "os", "out"]);
                assert!(run.code == 0, "{run:#?}");
                std::fs::remove_dir_all(scratch.path("out")).unwrap();
                rounds += 1;
            }
            rounds
        });
        for round in 0..25 {
            touch_up(&tree, round + 2, FILES);
            scratch
                .atomos(&["commit", "-b", "os", "--parent", "none", "tree"])
                .code(0);
            scratch.atomos(&["fsck"]).code(0);
        }
        done.store(true, Ordering::Relaxed);
        (pruner.join().unwrap(), reader.join().unwrap())
    });
    assert!(rounds.0 > 0 && rounds.1 > 0);
    scratch.atomos(&["prune", "--depth", "0"]).code(0);
    scratch.atomos(&["fsck"]).code(0);
    scratch.atomos(&["checkout", "--user", "os", "out"]).code(0);
}
