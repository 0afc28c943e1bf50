//! `kill -9` at moments spread over the real duration of commit, prune and deploy: the repository always opens, fsck is
//! clean, refs and boot entries are old or new, and the next command works.
//!
//! The store lies in memory, where a round costs little: what a process leaves when it is killed is in the page cache
//! either way. A few rounds run on the disk, where waiting for it is a part of the time that can be hit. What the
//! loss of power leaves is tested with failpoints (`tests/store/crash.rs`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of bad input")]
#[path = "../bad_input/place.rs"]
mod place;

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use libatomos::testing::{small_tree, touch_up};
use place::{Place, Run};

const FILES: usize = 60;

/// Spreads moments over a duration, a little beyond its end, in an order without a direction: the golden ratio's
/// multiples are far from one another however many there are.
struct Moments {
    duration: Duration,
    count: u32,
}

impl Moments {
    fn next(&mut self) -> Duration {
        self.count += 1;
        let place = (f64::from(self.count) * 0.618_033_988_749_895).fract();
        self.duration.mul_f64(place * 1.05)
    }
}

/// What a run of the program that was to be killed came to.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Done,
}

/// Starts the program and kills it after `delay`.
fn kill_after(place: &Place, args: &[&str], delay: Duration) -> End {
    let started = Instant::now();
    let mut command = place.command(args);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(delay.saturating_sub(started.elapsed()));
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.signal() {
        Some(9) => End::Killed,
        _ => {
            Run::from(output).ok();
            End::Done
        }
    }
}

/// Kills `rounds` runs of the program, each after `prepare` and before `check`. A run that ends before it is killed
/// is checked too, and not counted.
fn kill_many(
    place: &Place,
    args: &[&str],
    rounds: u32,
    mut prepare: impl FnMut(u32),
    mut check: impl FnMut(u32),
) {
    let mut durations: Vec<Duration> = (0..5)
        .map(|round| {
            prepare(round);
            let started = Instant::now();
            place.atomos(args).ok();
            let duration = started.elapsed();
            check(round);
            duration
        })
        .collect();
    durations.sort();
    let mut moments = Moments {
        duration: durations[2],
        count: 0,
    };
    let (mut killed, mut round) = (0, 5);
    while killed < rounds {
        assert!(
            round < rounds * 4 + 50,
            "only {killed} of {round} runs lived long enough to be killed"
        );
        prepare(round);
        if kill_after(place, args, moments.next()) == End::Killed {
            killed += 1;
        }
        check(round);
        round += 1;
    }
    eprintln!(
        "{}: killed {killed} of {} runs within {:?}",
        args.join(" "),
        round - 5,
        durations[2]
    );
}

fn ref_of(place: &Place, name: &str) -> Option<String> {
    let commit = place.repo().ref_optional(&name.parse().unwrap()).unwrap();
    commit.map(|commit| commit.to_string())
}

fn kill_commits(place: &Place, rounds: u32) {
    place.atomos(&["init"]).ok();
    let tree = place.path("tree");
    small_tree(&tree, 1, FILES);
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    let last = std::cell::RefCell::new(ref_of(place, "os"));
    kill_many(
        place,
        &["commit", "-b", "os", "tree"],
        rounds,
        |round| touch_up(&tree, u64::from(round) + 2, FILES),
        |round| {
            place.assert_clean();
            let now = ref_of(place, "os");
            let before = last.borrow().clone();
            if now != before {
                // The new one follows the old one: nothing was skipped, nothing came back.
                let commit = place
                    .repo()
                    .load_commit(&now.clone().unwrap().parse().unwrap())
                    .unwrap();
                assert_eq!(commit.parent.map(|parent| parent.to_string()), before);
            }
            if round % 4 == 0 {
                let next = place.atomos(&["commit", "-b", "os", "tree"]).ok();
                assert_eq!(ref_of(place, "os"), Some(next));
                place.assert_clean();
            }
            if round % 16 == 0 {
                place.atomos(&["checkout", "os", "out"]).ok();
                std::fs::remove_dir_all(place.path("out")).unwrap();
            }
            *last.borrow_mut() = ref_of(place, "os");
        },
    );
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    place.atomos(&["fsck"]).ok();
    place.atomos(&["prune"]).ok();
    place.atomos(&["fsck"]).ok();
    assert_eq!(std::fs::read_dir(place.path("repo/tmp")).unwrap().count(), 0);
}

#[test]
fn a_commit_killed_at_any_moment_leaves_the_old_ref_or_the_new() {
    kill_commits(&Place::empty(), 90);
}

#[test]
fn a_commit_killed_while_it_waits_for_the_disk() {
    kill_commits(&Place::beneath(&std::env::temp_dir()), 15);
}

#[test]
fn a_prune_killed_at_any_moment_loses_nothing_that_is_kept() {
    let place = Place::empty();
    place.atomos(&["init"]).ok();
    let tree = place.path("tree");
    small_tree(&tree, 1, FILES);
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    kill_many(
        &place,
        &["prune"],
        70,
        |round| {
            // A commit without a parent leaves the one before it to the pruner.
            touch_up(&tree, u64::from(round) + 2, FILES);
            place
                .atomos(&["commit", "-b", "os", "--parent", "none", "tree"])
                .ok();
        },
        |round| {
            place.assert_clean();
            if round % 10 == 0 {
                place.atomos(&["checkout", "os", "out"]).ok();
                std::fs::remove_dir_all(place.path("out")).unwrap();
                place.atomos(&["prune"]).ok();
                place.assert_clean();
                let again = place.atomos(&["prune", "--json"]).ok();
                assert!(
                    again.contains("\"blobs-removed\":0") || again.contains("\"blobs-removed\": 0"),
                    "{again}"
                );
            }
        },
    );
    place.atomos(&["prune"]).ok();
    place.atomos(&["fsck"]).ok();
}

#[test]
fn a_commit_and_a_prune_killed_side_by_side() {
    let place = Place::empty();
    place.atomos(&["init"]).ok();
    let tree = place.path("tree");
    small_tree(&tree, 1, FILES);
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    for round in 0..12u32 {
        touch_up(&tree, u64::from(round) + 2, FILES);
        let delay = |step: u32| Duration::from_millis(u64::from((round * 7 + step) % 40));
        std::thread::scope(|scope| {
            let commit = ["commit", "-b", "os", "--parent", "none", "tree"];
            let (place, first, second) = (&place, delay(11), delay(23));
            scope.spawn(move || kill_after(place, &commit, first));
            scope.spawn(move || kill_after(place, &["prune"], second));
        });
        place.assert_clean();
    }
    place.atomos(&["commit", "-b", "os", "tree"]).ok();
    place.atomos(&["prune"]).ok();
    place.atomos(&["fsck"]).ok();
}

/// A sysroot in `machine`, whose repository the program finds by itself.
fn machine() -> Place {
    let place = Place::empty();
    place.atomos(&["sysroot", "init", "--sysroot", "machine"]).ok();
    place
        .atomos(&["--sysroot", "machine", "stateroot", "init", "os"])
        .ok();
    std::os::unix::fs::symlink("machine/atomos/repo", place.path("repo")).unwrap();
    place
}

/// Makes the tree of a version and commits it.
fn commit_version(place: &Place, version: u32) -> String {
    let tree = place.path("tree");
    let write = |path: &str, text: String| {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for directory in ["boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var"] {
        std::fs::create_dir_all(tree.join(directory)).unwrap();
    }
    write("usr/lib/modules/6.1/vmlinuz", format!("kernel {}", version / 3));
    write("usr/lib/modules/6.1/initramfs.img", "initramfs".to_owned());
    write(
        "usr/lib/os-release",
        format!("ID=test\nPRETTY_NAME=\"Test {version}\"\nVERSION_ID={version}\n"),
    );
    write("usr/etc/hostname", "default\n".to_owned());
    write("usr/etc/app.conf", format!("made by {version}\n"));
    if version == 0 {
        small_tree(&tree.join("usr/share/app"), 1, FILES);
    } else {
        touch_up(&tree.join("usr/share/app"), u64::from(version), FILES);
    }
    place.atomos(&["commit", "-b", "os", "tree"]).ok()
}

/// Asserts that every entry that a loader would offer leads to a deployment with a marker, and to a kernel.
fn assert_bootable(place: &Place) {
    let boot = place.path("machine/boot");
    let mut entries = 0;
    for entry in std::fs::read_dir(boot.join("loader/entries")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| rest.trim().to_owned())
        };
        let Some(linux) = value("linux ").filter(|_| name.ends_with(".conf")) else {
            continue;
        };
        entries += 1;
        for path in [Some(linux), value("initrd ")].into_iter().flatten() {
            let path = path.trim_start_matches('/').trim_start_matches("boot/");
            assert!(boot.join(path).is_file(), "{name} names {path}, which is missing");
        }
        let options = value("options ").unwrap();
        let argument = options
            .split(' ')
            .find_map(|word| word.strip_prefix("atomos="))
            .unwrap();
        let (stateroot, id) = argument.split_once('/').unwrap();
        let deployments = place.path("machine/atomos/deploy").join(stateroot).join("deploy");
        assert!(
            deployments.join(format!("{id}.complete")).exists(),
            "{name}: {id} has no marker"
        );
        assert!(
            deployments.join(id).join("usr/lib/os-release").is_file(),
            "{name}: {id} has no tree"
        );
        assert!(
            deployments.join(id).join("etc/hostname").is_file(),
            "{name}: {id} has no /etc"
        );
    }
    assert!(entries > 0, "nothing can be booted");
}

#[test]
fn a_deploy_killed_at_any_moment_boots_the_old_deployment_or_the_new() {
    let place = machine();
    commit_version(&place, 0);
    place
        .atomos(&[
            "--sysroot",
            "machine",
            "deploy",
            "os",
            "--karg",
            "root=LABEL=root",
        ])
        .ok();
    assert_bootable(&place);
    let latest = std::cell::RefCell::new(String::new());
    kill_many(
        &place,
        &["--sysroot", "machine", "deploy", "os"],
        60,
        |round| *latest.borrow_mut() = commit_version(&place, round + 1),
        |round| {
            place.assert_clean();
            assert_bootable(&place);
            place.atomos(&["--sysroot", "machine", "status"]).ok();
            if round % 6 == 0 {
                place.atomos(&["--sysroot", "machine", "deploy", "os"]).ok();
                assert_bootable(&place);
                let status = place.atomos(&["--sysroot", "machine", "status", "--json"]).ok();
                assert!(status.contains(latest.borrow().as_str()), "{status}");
                place.atomos(&["prune"]).ok();
                place.assert_clean();
                assert_bootable(&place);
            }
        },
    );
    place.atomos(&["--sysroot", "machine", "deploy", "os"]).ok();
    place.atomos(&["--sysroot", "machine", "cleanup"]).ok();
    place.atomos(&["prune"]).ok();
    place.atomos(&["fsck"]).ok();
    // Nothing that the killed runs left stays.
    let deployments = std::fs::read_dir(place.path("machine/atomos/deploy/os/deploy")).unwrap();
    let roots = deployments
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .count();
    assert_eq!(roots, 2, "the newest and the one before it");
    assert_bootable(&place);
}
