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

use std::collections::BTreeMap;
use std::path::Path;

use libatomos::cancel::Cancel;
use libatomos::checkout::{CheckoutOptions, LinkMode, UpdateOptions, checkout, update};
use libatomos::commit::commit;
use libatomos::digest::CommitId;
use libatomos::failpoint::fault::fail_nth;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{
    LocalPullOptions, ObjectKind, PruneOptions, RefUpdate, RepairOptions, RepairSource, RepoMode, RepoSource,
};
use libatomos::testing::{TestRepo, is_root_or_skip, small_tree, touch_up};
use rustix::io::Errno;

const FILES: usize = 8;

const ERRORS: [(Errno, &str); 5] = [
    (Errno::NOSPC, "ENOSPC"),
    (Errno::IO, "EIO"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::INTR, "EINTR"),
    (Errno::MLINK, "EMLINK"),
];

/// A repository with two versions of a tree, and another with the first.
struct World {
    repo: TestRepo,
    other: TestRepo,
    first: CommitId,
}

impl World {
    fn new(mode: RepoMode) -> Self {
        let (repo, other) = (TestRepo::with_mode(mode), TestRepo::with_mode(mode));
        let source = repo.scratch().join("source");
        small_tree(&source, 1, FILES);
        let first = repo.commit("os", &source).commit;
        let _ = other.commit("os", &source);
        touch_up(&source, 2, FILES);
        Self { repo, other, first }
    }

    fn source(&self) -> std::path::PathBuf {
        self.repo.scratch().join("source")
    }

    fn names(&self, name: &str) -> Option<CommitId> {
        self.repo.reopen().ref_optional(&name.parse().unwrap()).unwrap()
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Something that is done to a repository.
struct Work {
    name: &'static str,
    prepare: fn(&World),
    work: fn(&World) -> Outcome,
    /// What must be true once it is done.
    done: fn(&World),
    /// Whether fsck finds nothing wrong before it.
    clean_before: bool,
}

fn do_commit(world: &World) -> Outcome {
    let mut options = TestRepo::options("os");
    options.threads = Some(1);
    let dir = Dir::open_ambient(world.source())?;
    commit(world.repo.repo(), dir, &options, &NoProgress, &Cancel::new())?;
    Ok(())
}

fn do_pull(world: &World) -> Outcome {
    let mut options = LocalPullOptions::default();
    options.threads = Some(1);
    world.other.repo().pull_local(
        world.repo.repo(),
        &["os".parse()?],
        &options,
        &NoProgress,
        &Cancel::new(),
    )?;
    Ok(())
}

fn check_out(world: &World, link: LinkMode) -> Outcome {
    let mut options = CheckoutOptions::default();
    options.link = link;
    options.threads = Some(1);
    let out = world.repo.scratch().join("out");
    if out.exists() {
        // The failure came after the visible step.
        std::fs::remove_dir_all(&out)?;
    }
    checkout(
        world.repo.repo(),
        "os",
        &out,
        &options,
        &NoProgress,
        &Cancel::new(),
    )?;
    Ok(())
}

fn do_adopt(world: &World) -> Outcome {
    let mut options = TestRepo::options("os");
    options.threads = Some(1);
    options.adopt = true;
    let dir = Dir::open_ambient(world.source())?;
    commit(world.repo.repo(), dir, &options, &NoProgress, &Cancel::new())?;
    Ok(())
}

fn do_update(world: &World) -> Outcome {
    let mut options = CheckoutOptions::default();
    options.threads = Some(1);
    options.remember = true;
    update(
        world.repo.repo(),
        "os",
        &world.repo.scratch().join("out"),
        &options,
        &UpdateOptions::default(),
        &NoProgress,
        &Cancel::new(),
    )?;
    Ok(())
}

/// What is checked out is the tree that `os` names.
fn out_is_os(world: &World) {
    let again = TestRepo::with_mode(world.repo.repo().mode());
    let tree = again.commit("os", &world.repo.scratch().join("out")).root;
    let commit = world.names("os").unwrap();
    assert_eq!(tree, world.repo.repo().load_commit(&commit).unwrap().root);
}

fn do_prune(world: &World) -> Outcome {
    world
        .repo
        .repo()
        .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())?;
    Ok(())
}

fn do_repair(world: &World) -> Outcome {
    let mut options = RepairOptions::default();
    options.threads = Some(1);
    let source: Box<dyn RepairSource> = Box::new(RepoSource::new(world.other.reopen(), "other"));
    let report = world
        .repo
        .repo()
        .repair(&mut [source], &options, &NoProgress, &Cancel::new())?;
    // What the source could not give is reported, and is no error: another source may have it. The stray blob is in none.
    match report.lost.iter().all(|finding| finding.used_by.is_empty()) {
        true => Ok(()),
        false => Err(format!("{report:?}").into()),
    }
}

fn first_files(dir: &Path, count: usize) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.truncate(count);
    files
}

const WORKS: [Work; 8] = [
    Work {
        name: "commit",
        prepare: |_| (),
        work: do_commit,
        done: |world| {
            let now = world.names("os").unwrap();
            assert_ne!(now, world.first);
        },
        clean_before: true,
    },
    Work {
        name: "pull",
        prepare: |world| drop(world.repo.commit("os", &world.source())),
        work: do_pull,
        done: |world| {
            world.other.assert_clean();
            let there = world.other.reopen().ref_optional(&"os".parse().unwrap());
            assert_eq!(there.unwrap(), world.names("os"));
        },
        clean_before: true,
    },
    Work {
        name: "checkout by hardlink where it can be",
        prepare: |_| (),
        work: |world| check_out(world, LinkMode::Auto),
        done: out_is_os,
        clean_before: true,
    },
    Work {
        name: "checkout by copying",
        prepare: |_| (),
        work: |world| check_out(world, LinkMode::Copy),
        done: out_is_os,
        clean_before: true,
    },
    Work {
        name: "checkout that is updated",
        prepare: |world| {
            let mut options = CheckoutOptions::default();
            options.remember = true;
            let out = world.repo.scratch().join("out");
            checkout(
                world.repo.repo(),
                "os",
                &out,
                &options,
                &NoProgress,
                &Cancel::new(),
            )
            .unwrap();
            let _ = world.repo.commit("os", &world.source());
        },
        work: do_update,
        done: out_is_os,
        clean_before: true,
    },
    Work {
        name: "adopt",
        prepare: |_| (),
        work: do_adopt,
        done: |world| {
            let now = world.names("os").unwrap();
            assert_ne!(now, world.first);
        },
        clean_before: true,
    },
    Work {
        name: "prune",
        prepare: |world| {
            let _ = world.repo.commit("dropped", &world.source());
            let update = RefUpdate {
                name: "dropped".parse().unwrap(),
                expected: None,
                new: None,
            };
            world.repo.repo().update_refs(&[update]).unwrap();
        },
        work: do_prune,
        done: |world| {
            let mut dry = PruneOptions::default();
            dry.dry_run = true;
            let left = world
                .repo
                .repo()
                .prune(&dry, &NoProgress, &Cancel::new())
                .unwrap();
            assert_eq!((left.commits_removed, left.blobs_removed), (0, 0));
        },
        clean_before: true,
    },
    Work {
        name: "repair",
        prepare: |world| {
            for kind in ["objects", "dirtrees"] {
                let files = first_files(&world.repo.path().join(kind), 2);
                std::fs::write(&files[0], b"damaged").unwrap();
                std::fs::remove_file(&files[1]).unwrap();
            }
            // Nobody has it, and nothing needs it.
            let stray = world.repo.plant(ObjectKind::Blob, b"stray");
            std::fs::write(world.repo.object(ObjectKind::Blob, &stray), b"astray").unwrap();
        },
        work: do_repair,
        done: |_| (),
        clean_before: false,
    },
];

/// Counts what is beneath a directory.
fn count(dir: &Path) -> usize {
    let beneath = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => 1 + count(&entry.path()),
            false => 1,
        }
    };
    std::fs::read_dir(dir).unwrap().map(beneath).sum()
}

/// Lets the n-th call fail, for every n and every error.
fn try_all(work: &Work, mode: RepoMode, tried: &mut BTreeMap<&'static str, u64>) {
    for (errno, name) in ERRORS {
        let mut points = 0;
        for n in 0.. {
            let world = World::new(mode);
            (work.prepare)(&world);
            let before = (world.names("os"), world.repo.fsck().findings.len());
            let files = count(&world.source());
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
            let is_half_gone = work.name == "adopt" && count(&world.source()) != files;
            if failed && is_half_gone {
                // It must not be committed again, and the error says so.
                assert_ne!(world.names("os"), before.0, "{what}");
                let error = result.unwrap_err().to_string();
                assert!(error.contains("made the commit"), "{what}: {error}");
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
