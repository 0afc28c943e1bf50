//! What an interrupted run staged is taken over, and believed only after it was hashed again.

use std::path::{Path, PathBuf};

use libatomos::cancel::Cancel;
use libatomos::failpoint;
use libatomos::progress::NoProgress;
use libatomos::repo::{PruneOptions, RepoError, RepoMode};
use libatomos::testing::{TestRepo, is_root_or_skip, small_tree};

/// Runs a commit and stops it when everything is staged. Returns the staging directory.
fn stage(repo: &TestRepo, source: &Path) -> PathBuf {
    let error = failpoint::stop_at(0, || repo.try_commit("os", source)).unwrap_err();
    assert!(error.to_string().contains("store.staged"), "{error}");
    let mut left = std::fs::read_dir(repo.path().join("tmp")).unwrap();
    let staging = left.next().expect("a staging directory").unwrap().path();
    assert!(left.next().is_none());
    staging
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn in_each_mode(test: impl Fn(TestRepo)) {
    test(TestRepo::with_mode(RepoMode::BareUser));
    if is_root_or_skip("resuming in mode bare") {
        test(TestRepo::with_mode(RepoMode::Bare));
    }
}

#[test]
fn staged_objects_of_a_killed_commit_are_used() {
    in_each_mode(|repo| {
        let source = repo.scratch().join("source");
        small_tree(&source, 1, 60);
        let staging = stage(&repo, &source);
        repo.assert_clean();
        let blobs = files(&staging.join("objects")).len() as u64;
        assert!(blobs > 30);
        let report = repo.commit("os", &source);
        // Which of two equal files becomes a blob's first inode is the threads' choice, so a pair may be written anew.
        assert!(
            report.stats.resumed > blobs * 3 / 4,
            "{} of {blobs}",
            report.stats.resumed
        );
        repo.assert_clean();
        assert!(!staging.exists());
    });
}

#[test]
fn damaged_staged_objects_are_written_again() {
    in_each_mode(|repo| {
        let source = repo.scratch().join("source");
        small_tree(&source, 1, 60);
        let staging = stage(&repo, &source);
        let blobs = files(&staging.join("objects"));
        for (index, path) in blobs.iter().enumerate() {
            let bytes = std::fs::read(path).unwrap();
            match index % 6 {
                0 => std::fs::write(path, b"").unwrap(),
                1 => std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
                2 => std::fs::write(path, [&bytes[..], b"more"].concat()).unwrap(),
                3 => {
                    let flipped: Vec<u8> = bytes
                        .iter()
                        .enumerate()
                        .map(|(n, b)| b ^ u8::from(n == 0))
                        .collect();
                    std::fs::write(path, flipped).unwrap();
                }
                4 => std::fs::remove_file(path).unwrap(),
                // This one is whole.
                _ => {}
            }
        }
        for path in files(&staging.join("dirtrees")) {
            std::fs::write(path, b"atomosT").unwrap();
        }
        let report = repo.commit("os", &source);
        assert!(report.stats.resumed >= 1 && report.stats.resumed < blobs.len() as u64 / 2);
        repo.assert_clean();
        let out = repo.scratch().join("out");
        repo.checkout("os", &out, &libatomos::checkout::CheckoutOptions::default())
            .unwrap();
    });
}

#[test]
fn a_staged_inode_with_other_metadata_is_written_again() {
    if !is_root_or_skip("inode metadata of staged objects") {
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::Bare);
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 20);
    let staging = stage(&repo, &source);
    for path in files(&staging.join("objects")) {
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o4777)).unwrap();
    }
    assert_eq!(repo.commit("os", &source).stats.resumed, 0);
    repo.assert_clean();
}

#[test]
fn what_an_interrupted_run_staged_and_nobody_wants_is_dropped() {
    in_each_mode(|repo| {
        let source = repo.scratch().join("source");
        small_tree(&source, 1, 40);
        let staging = stage(&repo, &source);
        assert!(files(&staging).len() > 20);
        let other = repo.scratch().join("other");
        small_tree(&other, 2, 5);
        let report = repo.commit("os", &other);
        assert_eq!(report.stats.resumed, 0);
        repo.assert_clean();
        let blobs = files(&repo.path().join("objects")).len() as u64;
        assert_eq!(blobs, report.stats.blobs_added + report.stats.variants_added);
    });
}

#[test]
fn a_living_owner_keeps_its_staging_directory() {
    let repo = TestRepo::new();
    let first = repo.repo().begin().unwrap();
    let other = repo.reopen();
    let second = other.begin().unwrap();
    assert_eq!(std::fs::read_dir(repo.path().join("tmp")).unwrap().count(), 2);
    let metadata = libatomos::format::Metadata::with_mode(0o644);
    first.store_bytes(b"first", &metadata).unwrap();
    second.store_bytes(b"second", &metadata).unwrap();
    first.commit().unwrap();
    second.commit().unwrap();
    assert_eq!(std::fs::read_dir(repo.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(files(&repo.path().join("objects")).len(), 2);
    repo.assert_clean();
}

#[test]
fn a_transaction_in_which_storing_failed_cannot_be_committed() {
    let repo = TestRepo::new();
    let transaction = repo.repo().begin().unwrap();
    let metadata = libatomos::format::Metadata::with_mode(0o644);
    // A file where the shard's directory has to be.
    let digest = libatomos::digest::Digest::of(b"bytes").to_hex();
    let staging = std::fs::read_dir(repo.path().join("tmp"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(staging.join("objects").join(&digest[..2]), b"").unwrap();
    assert!(transaction.store_bytes(b"bytes", &metadata).is_err());
    // The name is taken now, and whoever asks again is told so; that must not become visible.
    let _ = transaction.store_bytes(b"bytes", &metadata);
    assert!(matches!(
        transaction.commit(),
        Err(RepoError::IncompleteTransaction)
    ));
    assert!(files(&repo.path().join("objects")).is_empty());
    repo.assert_clean();
}

#[test]
fn a_dropped_transaction_leaves_the_store_as_it_was() {
    let repo = TestRepo::new();
    let transaction = repo.repo().begin().unwrap();
    transaction
        .store_bytes(b"bytes", &libatomos::format::Metadata::with_mode(0o644))
        .unwrap();
    drop(transaction);
    assert!(files(&repo.path().join("objects")).is_empty());
    repo.assert_clean();
    assert_eq!(repo.prune().unwrap().staging_removed, 1);
    assert_eq!(std::fs::read_dir(repo.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_prune_counts_what_an_interrupted_run_has_staged() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    small_tree(&source, 1, 5);
    std::fs::write(source.join("large"), vec![7; 300_000]).unwrap();
    let staging = stage(&repo, &source);
    let staged = files(&staging);
    let bytes: u64 = staged.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes > 300_000);
    let mut options = PruneOptions::default();
    options.dry_run = true;
    let planned = repo.repo().prune(&options, &NoProgress, &Cancel::new()).unwrap();
    assert!(staging.exists());
    let done = repo.prune().unwrap();
    assert!(!staging.exists());
    for report in [planned, done] {
        assert_eq!(report.staging_removed, 1);
        assert_eq!(report.bytes_removed, bytes);
        assert!(report.bytes_freed >= 300_000, "{report:?}");
    }
}
