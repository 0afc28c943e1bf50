//! System calls that write fail once, each of them with five errors, while a repository is worked on: what was kept is kept, refs are
//! old or new, everything is whole, and the same command works when it is repeated.
//!
//! The injection sees the whole process, so this is a program of its own, and its one test does one thing after another.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking, owns the directories that it names, and says what it has tried"
)]

mod works;

use std::collections::BTreeMap;

use libatomos::commit::CommitError;
use libatomos::failpoint::fault::fail_nth;
use libatomos::repo::RepoMode;
use libatomos::testing::is_root_or_skip;
use rustix::io::Errno;

use works::{Site, WORKS, Work, World};

const ERRORS: [(Errno, &str); 5] = [
    (Errno::NOSPC, "ENOSPC"),
    (Errno::IO, "EIO"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::INTR, "EINTR"),
    (Errno::MLINK, "EMLINK"),
];

/// An error and what has caused it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let texts = std::iter::once(error.to_string()).chain(causes.map(ToString::to_string));
    texts.collect::<Vec<_>>().join(": ")
}

/// Whether an error says what was being done to which file, and how the system call failed.
fn says_what(error: &(dyn std::error::Error + 'static), errno: Errno) -> bool {
    let text = chain(error);
    let failure = format!("(os error {})", errno.raw_os_error());
    text.contains("cannot ") && text.contains('/') && text.contains(&failure)
}

/// Lets the n-th call fail, for every n and every error.
fn try_all(work: &Work, mode: RepoMode, tried: &mut BTreeMap<&'static str, u64>) {
    for (errno, name) in ERRORS {
        let mut points = 0;
        for n in 0.. {
            let world = World::new(mode);
            (work.prepare)(&world);
            let before = (world.names("os"), world.repo.fsck().findings.len());
            let (hit, result) = fail_nth(n, errno.raw_os_error(), || (work.work)(&world));
            let what = format!(
                "{} in mode {mode}, call {n} ({hit:?}) failing with {name}",
                work.name
            );
            let Some(call) = hit else {
                result.unwrap_or_else(|error| panic!("{what}: {error}"));
                (work.done)(&world);
                break;
            };
            points += 1;
            *tried.entry(call).or_default() += 1;
            let failed = result.is_err();
            if let Err(error) = &result {
                assert!(
                    says_what(error.as_ref(), errno),
                    "{what} says {}",
                    chain(error.as_ref())
                );
            }
            if errno == Errno::INTR {
                assert!(!failed, "{what}: {:?}", result.unwrap_err());
            }
            if errno == Errno::MLINK && call == "link" {
                assert!(!failed, "{what}: a copy would do: {:?}", result.unwrap_err());
            }
            let found = world.repo.fsck();
            if work.clean_before {
                assert!(found.is_clean(), "{what}: {:#?}", found.findings);
            } else {
                assert!(found.findings.len() <= before.1, "{what}: {:#?}", found.findings);
            }
            world.other.assert_clean();
            let is_commit = matches!(work.name, "commit" | "adopt");
            if failed && !is_commit {
                assert_eq!(world.names("os"), before.0, "{what}");
            }
            let says_that_it_is_made = result.as_ref().is_err_and(|error| {
                let error = error.downcast_ref();
                matches!(error, Some(CommitError::SourceLeft { .. }))
            });
            if says_that_it_is_made {
                // What is left must not be committed again.
                assert_ne!(world.names("os"), before.0, "{what}");
            } else if failed {
                (work.work)(&world).unwrap_or_else(|error| panic!("again after {what}: {error}"));
            }
            (work.done)(&world);
            world.repo.assert_clean();
            // And whatever comes next works.
            let next = world.repo.commit("next", &world.source());
            assert_eq!(world.names("next"), Some(next.commit));
            world.repo.assert_clean();
            let left = std::fs::read_dir(world.repo.path().join("tmp")).unwrap().count();
            assert_eq!(left, 0, "{what}");
        }
        assert!(points > 5, "{} makes {points} calls only", work.name);
        eprintln!("{}, mode {mode}: {points} calls failed with {name}", work.name);
    }
}

#[test]
fn a_system_call_that_fails_once_loses_nothing_and_the_same_command_works_again() {
    let _site = Site::of_this_process();
    let mut tried = BTreeMap::new();
    let mut modes = vec![RepoMode::BareUser];
    if is_root_or_skip("failing calls in mode bare") {
        modes.push(RepoMode::Bare);
    }
    for mode in modes {
        for work in &WORKS {
            // A checkout of the mode bare-user by root gives files away; it is the copies that are tried there.
            try_all(work, mode, &mut tried);
        }
    }
    let total: u64 = tried.values().sum();
    eprintln!("{total} failing calls tried: {tried:?}");
    for call in [
        "copy_file_range",
        "fchmod",
        "fdatasync",
        "ftruncate",
        "mkdir",
        "open",
        "rename",
        "rmdir",
        "symlink",
        "syncfs",
        "unlink",
        "utimens",
        "write",
    ] {
        assert!(tried.contains_key(call), "{call} was never made");
    }
}
