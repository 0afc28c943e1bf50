//! Stopped at every point of commit, prune and ref update: refs are old or new, everything is whole, and the next
//! command works.

use std::path::Path;

use libatomos::cancel::Cancel;
use libatomos::checkout::CheckoutOptions;
use libatomos::digest::CommitId;
use libatomos::failpoint;
use libatomos::progress::NoProgress;
use libatomos::repo::{PruneOptions, RefUpdate, Repo, RepoMode};
use libatomos::testing::{TestRepo, is_root_or_skip, small_tree, touch_up};

const FILES: usize = 30;

fn in_each_mode(test: impl Fn(RepoMode)) {
    test(RepoMode::BareUser);
    if is_root_or_skip("crashes in mode bare") {
        test(RepoMode::Bare);
    }
}

fn named(repo: &Repo) -> Option<CommitId> {
    repo.ref_optional(&"os".parse().unwrap()).unwrap()
}

/// Asserts that a stopped operation left `before` or, if it came that far, something newer; and that what comes next
/// works.
fn assert_survived(repo: &TestRepo, before: Option<CommitId>, source: &Path, point: &str) -> bool {
    let reopened = repo.reopen();
    let now = named(&reopened);
    repo.assert_clean();
    if let Some(commit) = now {
        let out = repo.scratch().join("after-crash");
        repo.checkout(&commit.to_string(), &out, &CheckoutOptions::default())
            .unwrap_or_else(|error| panic!("checkout after {point}: {error}"));
        std::fs::remove_dir_all(out).unwrap();
    }
    let next = repo
        .try_commit("os", source)
        .unwrap_or_else(|error| panic!("commit after {point}: {error}"));
    repo.assert_clean();
    assert_eq!(named(&repo.reopen()), Some(next.commit), "{point}");
    let left = std::fs::read_dir(repo.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "the next commit took over what {point} left");
    now != before
}

#[test]
fn a_commit_stopped_anywhere_leaves_the_old_ref_or_the_new() {
    in_each_mode(|mode| {
        let points = {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            small_tree(&source, 1, FILES);
            failpoint::trace(|| repo.commit("os", &source)).0
        };
        assert!(points.len() >= 7, "{points:?}");
        for with_parent in [false, true] {
            let mut moved = Vec::new();
            for (index, point) in points.iter().enumerate() {
                let repo = TestRepo::with_mode(mode);
                let source = repo.scratch().join("source");
                small_tree(&source, 1, FILES);
                let before = with_parent.then(|| repo.commit("os", &source).commit);
                touch_up(&source, 2, FILES);
                let stopped = failpoint::stop_at(index, || repo.try_commit("os", &source));
                assert!(stopped.is_err(), "{point}");
                moved.push(assert_survived(&repo, before, &source, point));
            }
            // Old until some point, new from there on; the last points come after the visible step.
            assert!(moved.is_sorted(), "{points:?} {moved:?}");
            assert!(
                moved.contains(&true) && moved.contains(&false),
                "{points:?} {moved:?}"
            );
        }
    });
}

#[test]
fn a_prune_stopped_anywhere_loses_nothing_that_is_kept() {
    in_each_mode(|mode| {
        let prepare = || {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            small_tree(&source, 1, FILES);
            let _ = repo.commit("dropped", &source);
            touch_up(&source, 2, FILES);
            let kept = repo.commit("os", &source).commit;
            let update = RefUpdate {
                name: "dropped".parse().unwrap(),
                expected: None,
                new: None,
            };
            repo.repo().update_refs(&[update]).unwrap();
            (repo, source, kept)
        };
        let prune = |repo: &TestRepo| {
            repo.repo()
                .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())
        };
        let (repo, _, _) = prepare();
        let (points, report) = failpoint::trace(|| prune(&repo).unwrap());
        assert!(points.len() >= 3, "{points:?}");
        assert!(report.commits_removed == 1 && report.blobs_removed > 2);
        for (index, point) in points.iter().enumerate() {
            let (repo, source, kept) = prepare();
            assert!(failpoint::stop_at(index, || prune(&repo)).is_err(), "{point}");
            assert_eq!(named(&repo.reopen()), Some(kept));
            repo.assert_clean();
            prune(&repo).unwrap();
            repo.assert_clean();
            assert_eq!(prune(&repo).unwrap().blobs_removed, 0);
            // What was pruned can be committed again.
            small_tree(&source, 1, FILES);
            assert_survived(&repo, Some(kept), &source, point);
        }
    });
}

#[test]
fn a_prune_killed_between_any_two_objects_leaves_no_damage() {
    // Between failpoints, an unlink at a time: the objects go in the order of their names, so what is left may have
    // lost its children.
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, FILES);
    let commit = repo.commit("dropped", &source).commit;
    let root = repo.repo().load_commit(&commit).unwrap().root;
    touch_up(&source, 2, FILES);
    let _ = repo.commit("os", &source);
    let update = RefUpdate {
        name: "dropped".parse().unwrap(),
        expected: None,
        new: None,
    };
    repo.repo().update_refs(&[update]).unwrap();
    let tree = repo.repo().load_dirtree(&root).unwrap();
    let child = tree
        .entries()
        .iter()
        .find_map(|entry| match &entry.node {
            libatomos::format::Node::Dir { tree } => Some(*tree),
            _ => None,
        })
        .unwrap();
    let kept = repo.repo().load_commit(&named(repo.repo()).unwrap()).unwrap();
    assert_ne!(kept.root, root);
    std::fs::remove_file(repo.object(libatomos::repo::ObjectKind::Commit, commit.digest())).unwrap();
    std::fs::remove_file(repo.object(libatomos::repo::ObjectKind::DirTree, child.digest())).unwrap();
    repo.assert_clean();
    // Committing the same tree again must not rely on the dirtree that is there.
    small_tree(&source, 1, FILES);
    let again = repo.commit("again", &source);
    assert_eq!(again.root, root);
    repo.assert_clean();
}

#[test]
fn an_update_of_refs_stopped_anywhere_is_done_or_not() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 5);
    let first = repo.commit("os", &source).commit;
    touch_up(&source, 2, 5);
    let second = repo.commit("other", &source).commit;
    let update = |new| {
        let update = RefUpdate {
            name: "os".parse().unwrap(),
            expected: None,
            new: Some(new),
        };
        repo.repo().update_refs(&[update])
    };
    let (points, _) = failpoint::trace(|| update(first).unwrap());
    assert!(points.len() >= 2);
    for index in 0..points.len() {
        update(first).unwrap();
        assert!(failpoint::stop_at(index, || update(second)).is_err());
        let found = named(&repo.reopen()).unwrap();
        assert!(found == first || found == second);
        repo.assert_clean();
    }
    update(second).unwrap();
    assert_eq!(named(&repo.reopen()), Some(second));
}

#[test]
fn a_half_written_file_beside_refs_is_not_read() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 5);
    let commit = repo.commit("os", &source).commit;
    std::fs::write(repo.path().join(".refs.new"), b"half a li").unwrap();
    assert_eq!(named(&repo.reopen()), Some(commit));
    touch_up(&source, 2, 5);
    let next = repo.commit("os", &source).commit;
    assert_eq!(named(&repo.reopen()), Some(next));
    assert!(!repo.path().join(".refs.new").exists());
}

#[test]
fn a_cancelled_commit_leaves_what_a_crash_leaves() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, FILES);
    let cancel = Cancel::new();
    cancel.cancel();
    let dir = libatomos::fs::Dir::open_ambient(&source).unwrap();
    let error = libatomos::commit::commit(repo.repo(), dir, &TestRepo::options("os"), &NoProgress, &cancel)
        .unwrap_err();
    assert_eq!(error.kind(), libatomos::error::ErrorKind::Cancelled);
    assert_survived(&repo, None, &source, "being cancelled");
}

#[test]
fn an_init_stopped_anywhere_can_be_done_again() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("repo");
    for left in [
        &["objects"][..],
        &["objects", "dirtrees", "commits", "tmp", "roots"],
    ] {
        for name in left {
            std::fs::create_dir_all(path.join(name)).unwrap();
        }
        std::fs::write(path.join(".config.new"), b"forma").unwrap();
        let error = Repo::open(&path).unwrap_err();
        assert_eq!(error.kind(), libatomos::error::ErrorKind::NotFound, "{error}");
        Repo::init(&path, RepoMode::BareUser).unwrap();
        Repo::open(&path).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
