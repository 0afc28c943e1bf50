//! Inodes that an interrupted run shares with a source, which somebody writes to: no later run makes objects of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libatomos::cancel::Cancel;
use libatomos::commit::{CommitError, CommitOptions, CommitReport, commit};
use libatomos::digest::Digest;
use libatomos::failpoint;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{LocalPullOptions, LocalPullReport, ObjectKind, RepoError, RepoMode};
use libatomos::testing::{TestRepo, is_root_or_skip, small_tree};

fn in_each_mode(test: impl Fn(RepoMode)) {
    test(RepoMode::BareUser);
    if is_root_or_skip("sharing inodes in mode bare") {
        test(RepoMode::Bare);
    }
}

fn adopt(repo: &TestRepo, source: &Path) -> Result<CommitReport, CommitError> {
    let mut options: CommitOptions = TestRepo::options("os");
    options.adopt = true;
    let source = Dir::open_ambient(source).unwrap();
    commit(repo.repo(), source, &options, &NoProgress, &Cancel::new())
}

fn pull(to: &TestRepo, from: &TestRepo, no_hardlinks: bool) -> Result<LocalPullReport, RepoError> {
    let mut options = LocalPullOptions::default();
    options.no_hardlinks = no_hardlinks;
    let refs = ["os".parse().unwrap()];
    let (progress, cancel) = (&NoProgress, &Cancel::new());
    to.repo()
        .pull_local(from.repo(), &refs, &options, progress, cancel)
}

/// Stops an operation when everything is staged.
fn stop_when_staged<T: std::fmt::Debug, E: std::error::Error>(operation: impl FnOnce() -> Result<T, E>) {
    let error = failpoint::stop_at(0, operation).unwrap_err();
    assert!(error.to_string().contains("store.staged"), "{error}");
}

/// The files of blobs, in the store or staged.
fn blobs(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for shard in fs::read_dir(dir).unwrap() {
        for entry in fs::read_dir(shard.unwrap().path()).unwrap() {
            found.push(entry.unwrap().path());
        }
    }
    found
}

/// How many blobs have other names, and how many there are.
fn shared(dir: &Path) -> (usize, usize) {
    let blobs = blobs(dir);
    let shared = blobs
        .iter()
        .filter(|path| fs::metadata(path).unwrap().nlink() > 1);
    (shared.count(), blobs.len())
}

fn staged(repo: &TestRepo) -> PathBuf {
    let mut left = fs::read_dir(repo.path().join("tmp")).unwrap();
    let staging = left.next().expect("a staging directory").unwrap().path();
    assert!(left.next().is_none());
    staging.join("objects")
}

/// Makes a tree of files with and without a mode of their own.
fn tree(repo: &TestRepo, name: &str) -> PathBuf {
    let source = repo.scratch().join(name);
    small_tree(&source, 1, 40);
    source
}

#[test]
fn what_an_interrupted_adoption_staged_becomes_no_object_of_a_run_that_copies() {
    in_each_mode(|mode| {
        let from = TestRepo::with_mode(mode);
        let _ = from.commit("os", &tree(&from, "source"));
        for taker in 0..3 {
            let repo = TestRepo::with_mode(mode);
            let source = tree(&repo, "source");
            stop_when_staged(|| adopt(&repo, &source));
            let (linked, _) = shared(&staged(&repo));
            assert!(linked > 10, "{linked}");
            match taker {
                0 => drop(repo.commit("os", &source)),
                // The same files once more, which are adopted for their part.
                1 => drop(adopt(&repo, &tree(&repo, "other")).unwrap()),
                _ => drop(pull(&repo, &from, true).unwrap()),
            }
            let (linked, all) = shared(&repo.path().join("objects"));
            assert!(linked == 0 && all > 10, "{linked} of {all}, {taker}");
            // Somebody goes on working there.
            for entry in fs::read_dir(&source).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    fs::write(path, "changed").unwrap();
                }
            }
            repo.assert_clean();
        }
    });
}

#[test]
fn an_adoption_that_was_interrupted_goes_on_with_the_files_that_it_has_linked() {
    in_each_mode(|mode| {
        let bytes = vec![7; 100_000];
        let is_kept = || {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            fs::create_dir(&source).unwrap();
            let file = source.join("large");
            fs::write(&file, &bytes).unwrap();
            let number = fs::metadata(&file).unwrap().ino();
            stop_when_staged(|| adopt(&repo, &source));
            let report = adopt(&repo, &source).unwrap();
            repo.assert_clean();
            let object = fs::metadata(repo.object(ObjectKind::Blob, &Digest::of(&bytes))).unwrap();
            assert_eq!((object.nlink(), source.exists() && file.exists()), (1, false));
            object.ino() == number && report.stats.resumed == 1
        };
        // A program that another test starts meanwhile has what this process has open: then it is rightly copied.
        assert!((0..20).any(|_| is_kept()), "it is copied again and again");
    });
}

#[test]
fn what_an_interrupted_pull_linked_becomes_an_object_of_a_pull_that_links_it_alone() {
    in_each_mode(|mode| {
        let from = TestRepo::with_mode(mode);
        let source = tree(&from, "source");
        let _ = from.commit("os", &source);
        for taker in 0..3 {
            let repo = TestRepo::with_mode(mode);
            stop_when_staged(|| pull(&repo, &from, false));
            let (linked, all) = shared(&staged(&repo));
            assert!(linked > 10, "{linked} of {all}");
            let wanted = match taker {
                0 => {
                    pull(&repo, &from, true).unwrap();
                    0
                }
                1 => {
                    let _ = repo.commit("os", &source);
                    0
                }
                _ => {
                    let report = pull(&repo, &from, false).unwrap();
                    // Which of two equal files becomes a blob's first inode is the threads' choice, so a pair may be linked anew.
                    assert!(report.stats.resumed > linked as u64 * 3 / 4, "{report:?}");
                    linked
                }
            };
            assert_eq!(shared(&repo.path().join("objects")).0, wanted, "{taker}");
            repo.assert_clean();
            from.assert_clean();
        }
    });
}

#[test]
fn what_an_interrupted_pull_linked_is_not_taken_for_what_another_repository_has() {
    in_each_mode(|mode| {
        let (from, other) = (TestRepo::with_mode(mode), TestRepo::with_mode(mode));
        let _ = from.commit("os", &tree(&from, "source"));
        let _ = other.commit("os", &tree(&other, "source"));
        let repo = TestRepo::with_mode(mode);
        stop_when_staged(|| pull(&repo, &from, false));
        pull(&repo, &other, false).unwrap();
        repo.assert_clean();
        assert_eq!(shared(&from.path().join("objects")).0, 0);
        assert!(shared(&other.path().join("objects")).0 > 10);
    });
}
