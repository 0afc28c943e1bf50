//! `kill -9` before every system call that writes, while a repository is worked on: refs are old or new, everything is whole, and
//! the same command works when it is repeated.
//!
//! The process that is killed is this program, started again for one piece of work.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking, owns the directories that it names, and says what it has tried"
)]

#[path = "../faults/works.rs"]
mod works;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use libatomos::commit::CommitError;
use libatomos::failpoint::fault::kill_at_nth;
use libatomos::repo::RepoMode;
use libatomos::testing::is_root_or_skip;

use works::{Site, WORKS, Work, World};

/// Tells the process that is killed what to do, and when to end: the number of the work, of the call, and two directories.
const ORDER: &str = "ATOMOS_TEST_KILL";

#[test]
#[ignore = "the other test starts it, to kill it"]
fn the_one_that_is_killed() {
    let order = std::env::var(ORDER).expect("the other test says what to do");
    let mut words = order.split(' ');
    let mut next = || words.next().unwrap();
    let (work, n) = (&WORKS[next().parse::<usize>().unwrap()], next().parse().unwrap());
    let world = World::of_another_process(next().as_ref(), next().as_ref());
    kill_at_nth(n);
    (work.work)(&world).unwrap();
}

/// Has a process do the work and killed at its n-th call. Returns whether it was.
fn is_killed(number: usize, n: u64, world: &World) -> bool {
    let order = format!(
        "{number} {n} {} {}",
        world.repo.scratch().display(),
        world.other.scratch().display()
    );
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "the_one_that_is_killed"])
        .env(ORDER, order)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    match output.status.signal() {
        Some(9) => true,
        _ => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            false
        }
    }
}

/// Whether the error says that what was to be adopted is what a commit has left.
fn is_remainder(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CommitError::Remainder { .. } | CommitError::NothingToAdopt { .. })
    )
}

/// Kills a process at every call of the work, until it comes to its end. Returns how many were killed.
fn kill_everywhere(number: usize, work: &Work, mode: RepoMode) -> u64 {
    for n in 0.. {
        let world = World::new(mode);
        (work.prepare)(&world);
        let before = (world.names("os"), world.repo.fsck().findings.len());
        let what = format!("{} in mode {mode}, killed at call {n}", work.name);
        if !is_killed(number, n, &world) {
            (work.done)(&world);
            return n;
        }
        let found = world.repo.fsck();
        match work.clean_before {
            true => assert!(found.is_clean(), "{what}: {:#?}", found.findings),
            false => assert!(found.findings.len() <= before.1, "{what}: {:#?}", found.findings),
        }
        world.other.assert_clean();
        let is_old = world.names("os") == before.0;
        if !matches!(work.name, "commit" | "adopt") {
            assert!(is_old, "{what}");
        }
        match (work.work)(&world) {
            // What is left is not the tree, and is not taken for it.
            Err(error) if work.name == "adopt" && !is_old && is_remainder(error.as_ref()) => {}
            again => again.unwrap_or_else(|error| panic!("again after {what}: {error}")),
        }
        (work.done)(&world);
        world.repo.assert_clean();
        let next = world.repo.commit("next", &world.source());
        assert_eq!(world.names("next"), Some(next.commit), "{what}");
        world.repo.assert_clean();
        let left = std::fs::read_dir(world.repo.path().join("tmp")).unwrap().count();
        assert_eq!(left, 0, "{what}");
    }
    unreachable!("the work ends")
}

#[test]
fn a_process_that_is_killed_at_any_call_loses_nothing_and_the_same_command_works_again() {
    let mut modes = vec![RepoMode::BareUser];
    if is_root_or_skip("killed in mode bare") {
        modes.push(RepoMode::Bare);
    }
    let _site = Site::of_this_process();
    let mut total = 0;
    for mode in modes {
        for (number, work) in WORKS.iter().enumerate() {
            let killed = kill_everywhere(number, work, mode);
            assert!(killed > 5, "{} makes {killed} calls only", work.name);
            eprintln!("{}, mode {mode}: {killed} processes killed", work.name);
            total += killed;
        }
    }
    eprintln!("{total} processes killed");
}
