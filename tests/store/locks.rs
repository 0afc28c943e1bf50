//! Who waits for whom, and what the one who waits is told.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use libatomos::cancel::Cancel;
use libatomos::checkout::CheckoutOptions;
use libatomos::digest::CommitId;
use libatomos::error::ErrorKind;
use libatomos::fs::{FileLock, LockMode};
use libatomos::progress::NoProgress;
use libatomos::repo::{FsckOptions, PruneOptions, RefUpdate, Repo, RepoError, RepoMode};
use libatomos::testing::{TestRepo, is_root_or_skip, skip, small_tree, touch_up};

const SHORT: Duration = Duration::from_millis(60);

fn impatient(repo: &TestRepo) -> Repo {
    let mut other = repo.reopen();
    other.set_lock_timeout(SHORT);
    other
}

fn exclusive(repo: &TestRepo) -> FileLock {
    let dir = repo.reopen();
    let (dir, mode) = (dir.dir(), LockMode::Exclusive);
    FileLock::acquire(dir, "lock", 0o600, "the test", mode, SHORT, |_| ()).unwrap()
}

#[test]
fn nobody_else_can_hold_the_locks_of_a_repository_that_nobody_else_can_read() {
    for (mode, permissions) in [(RepoMode::Bare, 0o600), (RepoMode::BareUser, 0o644)] {
        if mode == RepoMode::Bare && !is_root_or_skip("a repository of mode bare") {
            continue;
        }
        let repo = TestRepo::with_mode(mode);
        let source = repo.scratch().join("source");
        small_tree(&source, 1, 3);
        let _report = repo.commit("os", &source);
        let of = |name: &str| {
            let metadata = std::fs::metadata(repo.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((of("lock"), of("refs.lock")), (permissions, 0o600), "{mode}");
    }
}

#[test]
fn whoever_waits_is_told_who_holds_the_lock() {
    let repo = TestRepo::new();
    let other = impatient(&repo);
    let lock = repo.path().join("lock");
    // The kernel names processes, so it takes another one.
    let Ok(mut holder) = Command::new("flock").arg(&lock).args(["sleep", "30"]).spawn() else {
        skip("the name of a lock's holder", "there is no flock(1)");
        return;
    };
    let held = || other.begin().err();
    let started = Instant::now();
    let error = loop {
        match held() {
            Some(error) => break error,
            None => assert!(
                started.elapsed() < Duration::from_secs(10),
                "flock takes the lock"
            ),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Locked);
    let text = error.to_string();
    let pid = format!("process {}", holder.id());
    for part in ["cannot lock the repository", "repo/lock", &pid, "sleep 30"] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
    // The child of the holder has the lock too.
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    for child in std::fs::read_to_string(children)
        .unwrap_or_default()
        .split_whitespace()
    {
        let pid = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    holder.wait().unwrap();
    assert!(other.begin().is_ok(), "the lock goes with its holder");
}

type Operation<'a> = &'a dyn Fn() -> Result<(), RepoError>;

#[test]
fn what_each_operation_takes_is_what_the_format_says() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 10);
    let commit = repo.commit("os", &source).commit;
    let other = impatient(&repo);
    let record = libatomos::repo::RootRecord::default();
    let operations: [(&str, bool, bool, Operation<'_>); 7] = [
        // Name, waits for a shared holder, waits for an exclusive one.
        ("begin", false, true, &|| other.begin().map(drop)),
        ("fsck", false, true, &|| {
            other
                .fsck(&FsckOptions::default(), &NoProgress, &Cancel::new())
                .map(drop)
        }),
        ("prune", true, true, &|| {
            other
                .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())
                .map(drop)
        }),
        ("load", false, false, &|| other.load_commit(&commit).map(drop)),
        ("refs", false, false, &|| other.refs().map(drop)),
        ("stats", false, false, &|| other.stats(&Cancel::new()).map(drop)),
        ("set root", false, false, &|| {
            other.set_root(&"test".parse().unwrap(), &record)
        }),
    ];
    for (name, shared, exclusive_too, operation) in operations {
        let reader = other.lock_shared().unwrap();
        assert_eq!(operation().is_err(), shared, "{name} beside a shared lock");
        drop(reader);
        let held = exclusive(&repo);
        assert_eq!(
            operation().is_err(),
            exclusive_too,
            "{name} beside an exclusive lock"
        );
        drop(held);
        operation().unwrap();
    }
    let held = exclusive(&repo);
    let out = repo.scratch().join("out");
    let error = libatomos::checkout::checkout(
        &other,
        "os",
        &out,
        &CheckoutOptions::default(),
        &NoProgress,
        &Cancel::new(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(!out.exists());
    drop(held);
}

#[test]
fn two_writers_of_one_ref_do_not_lose_a_commit_silently() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 10);
    let first = repo.commit("os", &source).commit;
    let transaction = repo.repo().begin().unwrap();
    transaction.set_ref(RefUpdate {
        name: "os".parse().unwrap(),
        expected: Some(Some(first)),
        new: None,
    });
    touch_up(&source, 2, 10);
    let second = repo.commit("os", &source).commit;
    let error = transaction.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("ref os"), "{error}");
    assert_eq!(
        repo.reopen().ref_optional(&"os".parse().unwrap()).unwrap(),
        Some(second)
    );
    repo.assert_clean();
}

#[test]
fn all_updates_of_refs_are_made_or_none() {
    let repo = TestRepo::new();
    let commit: CommitId = "a".repeat(64).parse().unwrap();
    let update = |name: &str, expected| RefUpdate {
        name: name.parse().unwrap(),
        expected,
        new: Some(commit),
    };
    let updates = [update("one", None), update("two", Some(Some(commit)))];
    assert_eq!(
        repo.repo().update_refs(&updates).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    let updates = [update("os", None), update("os/x", None)];
    assert_eq!(
        repo.repo().update_refs(&updates).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert!(repo.repo().refs().unwrap().is_empty());
}

#[test]
fn writers_side_by_side_and_a_pruner_lose_nothing() {
    const ROUNDS: usize = 6;
    let repo = TestRepo::new();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for writer in 0..3u64 {
            let (repo, start) = (&repo, &start);
            scope.spawn(move || {
                // They share most of their files, so they race for the same names.
                let source = repo.scratch().join(format!("source-{writer}"));
                small_tree(&source, 7, 60);
                start.wait();
                for round in 0..ROUNDS as u64 {
                    touch_up(&source, round / 2 * 3 + writer % 2, 60);
                    let other = repo.reopen();
                    libatomos::commit::commit(
                        &other,
                        libatomos::fs::Dir::open_ambient(&source).unwrap(),
                        &TestRepo::options(&format!("writer-{writer}")),
                        &NoProgress,
                        &Cancel::new(),
                    )
                    .unwrap();
                }
            });
        }
        let (repo, start) = (&repo, &start);
        scope.spawn(move || {
            start.wait();
            for _ in 0..ROUNDS {
                let other = repo.reopen();
                other
                    .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())
                    .unwrap();
            }
        });
    });
    assert_eq!(repo.repo().refs().unwrap().len(), 3);
    repo.assert_clean();
    for writer in 0..3 {
        let out = repo.scratch().join(format!("out-{writer}"));
        repo.checkout(&format!("writer-{writer}"), &out, &CheckoutOptions::default())
            .unwrap();
    }
    // Every transaction has taken its staging directory away.
    assert_eq!(std::fs::read_dir(repo.path().join("tmp")).unwrap().count(), 0);
}
