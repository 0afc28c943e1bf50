//! What a file system does not keep of an inode: it is said before anything leads to the inode.

use std::process::Command;

use libatomos::cancel::Cancel;
use libatomos::checkout::CheckoutOptions;
use libatomos::commit::MtimePolicy;
use libatomos::error::ErrorKind;
use libatomos::progress::NoProgress;
use libatomos::repo::{
    LocalPullOptions, Problem, RepairOptions, RepairSource, Repo, RepoError, RepoMode, RepoSource,
};
use libatomos::source::{SourceOptions, commit_sources};
use libatomos::testing::{LoopFs, TestRepo};

use crate::archives::{archive, commit_all, file, tar_source};

/// ext4 has no such time, with inodes of whatever size. tmpfs has.
const FAR: i64 = 1_000_000_000_000;

/// An archive with a file of such a time in a directory.
fn far_archive(mtime: i64) -> Vec<u8> {
    let mut far = file("dir/far", "bytes");
    far.0.metadata.mtime = mtime;
    archive(&[far, file("dir/near", "bytes")])
}

fn options() -> SourceOptions {
    let mut options = SourceOptions::default();
    options.commit = TestRepo::options("os");
    options
}

fn commit_far(repo: &TestRepo) {
    let sources = vec![tar_source(far_archive(FAR))];
    commit_sources(repo.repo(), sources, &options(), &NoProgress, &Cancel::new()).unwrap();
}

fn pull(to: &Repo, from: &Repo) -> Result<(), RepoError> {
    let mut options = LocalPullOptions::default();
    options.no_hardlinks = true;
    to.pull_local(
        from,
        &["os".parse().unwrap()],
        &options,
        &NoProgress,
        &Cancel::new(),
    )
    .map(drop)
}

#[test]
fn a_time_that_the_file_system_lacks_is_refused_by_name() {
    let Some(filesystem) = LoopFs::new("ext4", 32) else {
        return;
    };
    for mtime in [FAR, -100_000_000_000] {
        let repo = TestRepo::beneath(filesystem.path(), RepoMode::Bare);
        let error = commit_all(&repo, vec![tar_source(far_archive(mtime))]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(
            text.contains("dir/far ") && text.contains(&mtime.to_string()),
            "{text}"
        );
        repo.assert_clean();

        let from = TestRepo::with_mode(RepoMode::BareUser);
        commit_far(&from);
        let error = pull(repo.repo(), from.repo()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(
            text.contains("dir/far ") && text.contains(&FAR.to_string()),
            "{text}"
        );
        repo.assert_clean();

        // What the message says to do instead.
        let mut options = options();
        options.commit.mtime = MtimePolicy::Zero;
        let sources = vec![tar_source(far_archive(mtime))];
        commit_sources(repo.repo(), sources, &options, &NoProgress, &Cancel::new()).unwrap();
        repo.assert_clean();
        let user = TestRepo::beneath(filesystem.path(), RepoMode::BareUser);
        pull(user.repo(), from.repo()).unwrap();
        user.assert_clean();
    }
}

#[test]
fn an_attribute_that_does_not_fit_is_no_lack_of_space() {
    let Some(filesystem) = LoopFs::new("ext4", 32) else {
        return;
    };
    let mut large = file("dir/large", "bytes");
    let xattrs = &mut large.0.metadata.xattrs;
    xattrs.insert(b"user.large".to_vec(), vec![b'x'; 10_000]);
    let bytes = archive(&[large]);
    let repo = TestRepo::beneath(filesystem.path(), RepoMode::Bare);
    let error = commit_all(&repo, vec![tar_source(bytes.clone())]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("dir/large ") && text.contains("user.large"),
        "{text}"
    );
    repo.assert_clean();

    // As root's own, in a checkout to such a file system.
    let user = TestRepo::with_mode(RepoMode::BareUser);
    let report = commit_all(&user, vec![tar_source(bytes)]).unwrap();
    let error = user
        .checkout(
            &report.commit.to_string(),
            &filesystem.path().join("out"),
            &CheckoutOptions::default(),
        )
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_repair_does_not_call_an_inode_whole_that_the_file_system_does_not_keep() {
    let Some(filesystem) = LoopFs::new("ext4", 32) else {
        return;
    };
    let good = TestRepo::with_mode(RepoMode::Bare);
    commit_far(&good);
    // As if somebody had moved the repository.
    let path = filesystem.path().join("repo");
    let copied = Command::new("cp").arg("-a").args([good.path(), &path]).status();
    assert!(copied.unwrap().success());
    let repo = Repo::open(&path).unwrap();
    let mut sources: Vec<Box<dyn RepairSource>> = vec![Box::new(RepoSource::new(good.reopen(), "good"))];
    let report = repo
        .repair(
            &mut sources,
            &RepairOptions::default(),
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap();
    assert!(report.repaired.is_empty(), "{report:?}");
    assert!(
        matches!(report.lost[0].problem, Problem::MissingVariant { .. }),
        "{report:?}"
    );
    assert!(!report.is_whole());
}
