//! No space, and no lock.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libatomos::testing::{LoopFs, is_root_or_skip, skip, small_tree};

use crate::place::{Place, Run};

#[test]
fn no_space_during_a_commit() {
    if !is_root_or_skip("a full file system") {
        return;
    }
    let Some(filesystem) = LoopFs::new("ext4", 40) else {
        return;
    };
    let place = Place::beneath(filesystem.path());
    place.atomos(&["init"]).ok();
    place.tree();
    let before = place.atomos(&["commit", "-b", "os", "tree"]).ok();
    let source = Place::empty();
    small_tree(&source.path("big"), 5, 200);
    for index in 0..16u8 {
        let byte = |n: u32| (n.wrapping_mul(2_654_435_761) >> 16) as u8 ^ index;
        let bytes: Vec<u8> = (0..1_000_000).map(byte).collect();
        std::fs::write(source.path(&format!("big/file-{index}")), bytes).unwrap();
    }
    // What is left is not enough for the sixteen megabytes.
    let filler = filesystem.path().join("filler");
    std::fs::write(&filler, vec![1; 18 << 20]).unwrap();
    let big = source.path("big");
    let args = ["commit", "-b", "os", big.to_str().unwrap()];
    for _ in 0..2 {
        place.atomos(&args).fails(9, &["repo/tmp/"]);
        assert_eq!(place.atomos(&["rev-parse", "os"]).ok(), before);
        place.atomos(&["fsck"]).ok();
    }
    // Pruning is possible on a full disk, and gives back what was staged.
    place.atomos(&["prune"]).ok();
    assert_eq!(std::fs::read_dir(place.path("repo/tmp")).unwrap().count(), 0);
    place.atomos(&args).fails(9, &["repo/tmp/"]);
    std::fs::remove_file(filler).unwrap();
    let after = place.atomos(&args).ok();
    assert_eq!(place.atomos(&["rev-parse", "os"]).ok(), after);
    place.assert_usable();
}

#[test]
fn no_space_during_a_checkout() {
    if !is_root_or_skip("a full file system") {
        return;
    }
    let Some(filesystem) = LoopFs::new("ext4", 24) else {
        return;
    };
    let place = Place::new();
    std::fs::write(place.path("tree/big"), vec![7; 30 << 20]).unwrap();
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    let out = filesystem.path().join("out");
    place
        .atomos(&["checkout", "os", out.to_str().unwrap()])
        .fails(9, &["big"]);
    let left: Vec<_> = std::fs::read_dir(filesystem.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lost+found"], "a failed checkout leaves nothing");
    place.assert_usable();
}

#[test]
fn a_second_writer_waits_and_then_names_the_first() {
    let place = Place::new();
    let lock = place.path("repo/lock");
    let Ok(mut holder) = Command::new("flock").arg(&lock).args(["sleep", "60"]).spawn() else {
        skip("the name of a lock's holder", "there is no flock(1)");
        return;
    };
    let started = Instant::now();
    let pid = format!("process {}", holder.id());
    for args in [
        &["commit", "-b", "os", "tree"][..],
        &["prune"],
        &["checkout", "os", "out"],
        &["fsck"],
    ] {
        let refused = loop {
            let run = place.atomos(&[&["--lock-timeout", "0"], args].concat());
            if run.code != Some(0) || started.elapsed() > Duration::from_secs(10) {
                break run;
            }
            // The holder has not started yet.
            let _ = std::fs::remove_dir_all(place.path("out"));
        };
        refused.fails(8, &["cannot lock the repository", "repo/lock", &pid, "sleep 60"]);
    }
    assert!(!place.path("out").exists());
    // Reading refs and trees waits for nobody.
    place.atomos(&["--lock-timeout", "0", "ls", "os"]).ok();
    // One that waits long enough gets it.
    let mut waiting = place.command(&["--lock-timeout", "30", "commit", "-b", "os", "tree"]);
    let waiting = waiting
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    for child in std::fs::read_to_string(children)
        .unwrap_or_default()
        .split_whitespace()
    {
        let pid = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    holder.wait().unwrap();
    Run::from(waiting.wait_with_output().unwrap()).ok();
    place.assert_usable();
}

#[test]
fn two_writers_at_once_both_succeed_or_say_who_moved_the_ref() {
    let place = Place::new();
    small_tree(&place.path("other"), 2, 60);
    let at_once = |pair: [(&str, &str); 2]| {
        let children = pair.map(|(tree, name)| {
            let mut command = place.command(&["commit", "-b", name, tree]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        children.map(|child| Run::from(child.wait_with_output().unwrap()))
    };
    for _ in 0..5 {
        let _commits = at_once([("tree", "one"), ("other", "two")]).map(Run::ok);
        let runs = at_once([("tree", "same"), ("other", "same")]);
        assert!(runs.iter().any(|run| run.code == Some(0)), "{runs:#?}");
        for run in runs.into_iter().filter(|run| run.code != Some(0)) {
            run.fails(10, &["ref same was to be"]);
        }
    }
    place.assert_usable();
}
