//! Commits as sources, when a blob of theirs is missing or damaged, or an interrupted run has left one of its name.

use std::fs;

use libatomos::cancel::Cancel;
use libatomos::commit::{CommitError, CommitReport};
use libatomos::digest::{CommitId, Digest};
use libatomos::progress::NoProgress;
use libatomos::repo::{ObjectKind, RepoError, RepoMode};
use libatomos::source::{Source, SourceError, SourceOptions, commit_sources};
use libatomos::testing::{TestRepo, is_root_or_skip};

const BYTES: &[u8] = b"some bytes";

fn in_each_mode(test: impl Fn(RepoMode)) {
    test(RepoMode::BareUser);
    if is_root_or_skip("commits of commits in mode bare") {
        test(RepoMode::Bare);
    }
}

fn with_commit(mode: RepoMode) -> (TestRepo, CommitId) {
    let repo = TestRepo::with_mode(mode);
    let source = repo.scratch().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), BYTES).unwrap();
    let commit = repo.commit("os", &source).commit;
    (repo, commit)
}

fn commit_again(
    repo: &TestRepo,
    id: CommitId,
    change: impl Fn(&mut SourceOptions),
) -> Result<CommitReport, SourceError> {
    let mut options = SourceOptions::default();
    change(&mut options);
    let sources = vec![Source::Commit(id)];
    commit_sources(repo.repo(), sources, &options, &NoProgress, &Cancel::new())
}

/// Leaves what a run that was killed leaves: a staging directory, with some of the blob under its name.
fn leave_half_a_blob(repo: &TestRepo) {
    let digest = Digest::of(BYTES).to_hex();
    let shard = repo.path().join("tmp/txn-0/objects").join(&digest[..2]);
    fs::create_dir_all(&shard).unwrap();
    fs::write(shard.join(&digest[2..]), &BYTES[..4]).unwrap();
}

fn repo_error(error: SourceError) -> RepoError {
    match error {
        SourceError::Commit(CommitError::Repo(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blob_that_is_missing_is_said_to_be_missing() {
    in_each_mode(|mode| {
        for (verity, half) in [(false, false), (false, true), (true, false), (true, true)] {
            let (repo, id) = with_commit(mode);
            fs::remove_file(repo.object(ObjectKind::Blob, &Digest::of(BYTES))).unwrap();
            if half {
                leave_half_a_blob(&repo);
            }
            let again = commit_again(&repo, id, |options| options.commit.verity = verity);
            let error = repo_error(again.unwrap_err());
            assert!(
                matches!(&error, RepoError::ObjectMissing { kind: ObjectKind::Blob, digest } if *digest == Digest::of(BYTES)),
                "verity {verity}, half {half}: {error:?}"
            );
        }
    });
}

#[test]
fn half_a_blob_of_a_run_that_was_killed_is_not_read_instead_of_the_store_s() {
    in_each_mode(|mode| {
        let (repo, id) = with_commit(mode);
        leave_half_a_blob(&repo);
        let report = commit_again(&repo, id, |options| options.commit.verity = true).unwrap();
        assert_eq!(report.bytes, BYTES.len() as u64);
        leave_half_a_blob(&repo);
        // In the mode bare another inode of the blob has to be made of the store's.
        commit_again(&repo, id, |options| options.commit.owner = Some((7, 7))).unwrap();
        repo.assert_clean();
    });
}

#[test]
fn a_blob_that_is_damaged_is_said_to_be_damaged() {
    if !is_root_or_skip("a damaged blob that gets another inode") {
        return;
    }
    let (repo, id) = with_commit(RepoMode::Bare);
    fs::write(repo.object(ObjectKind::Blob, &Digest::of(BYTES)), b"same bytes").unwrap();
    let again = commit_again(&repo, id, |options| options.commit.owner = Some((7, 7)));
    let error = repo_error(again.unwrap_err());
    assert!(
        matches!(&error, RepoError::ObjectDamaged { kind: ObjectKind::Blob, digest, .. } if *digest == Digest::of(BYTES)),
        "{error:?}"
    );
}
