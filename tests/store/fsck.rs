//! What fsck says does not depend on how it reads the store.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use libatomos::cancel::Cancel;
use libatomos::digest::Digest;
use libatomos::progress::{NoProgress, Phase};
use libatomos::repo::{FsckOptions, FsckReport, ObjectKind, Problem, RepoMode};
use libatomos::testing::{RecordingProgress, TestRepo, is_root_or_skip, small_tree, touch_up};

const FILES: usize = 700;

/// A repository with two versions of a tree.
fn two_versions(mode: RepoMode) -> TestRepo {
    let repo = TestRepo::with_mode(mode);
    let source = repo.scratch().join("source");
    small_tree(&source, 3, FILES);
    let _ = repo.commit("os", &source);
    touch_up(&source, 4, FILES);
    let _ = repo.commit("os", &source);
    repo.assert_clean();
    repo
}

fn fsck(repo: &TestRepo, threads: Option<usize>) -> FsckReport {
    let mut options = FsckOptions::default();
    options.threads = threads;
    let checked = repo.repo().fsck(&options, &NoProgress, &Cancel::new());
    checked.unwrap()
}

/// Every file of a kind, in the order of their names.
fn files(repo: &TestRepo, kind: &str) -> Vec<PathBuf> {
    let list = |dir: PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut files: Vec<PathBuf> = list(repo.path().join(kind)).into_iter().flat_map(list).collect();
    files.sort();
    files
}

#[test]
fn what_is_found_is_the_same_on_one_thread_and_on_many() {
    let mut modes = vec![RepoMode::BareUser];
    if is_root_or_skip("damage in mode bare") {
        modes.push(RepoMode::Bare);
    }
    for mode in modes {
        let repo = two_versions(mode);
        for (number, path) in files(&repo, "objects").iter().enumerate() {
            match number % 12 {
                1 => std::fs::remove_file(path).unwrap(),
                3 => std::fs::write(path, b"something else").unwrap(),
                5 if mode == RepoMode::Bare => {
                    std::fs::set_permissions(path, PermissionsExt::from_mode(0o4711)).unwrap();
                }
                _ => {}
            }
        }
        std::fs::remove_file(&files(&repo, "dirtrees")[2]).unwrap();
        std::fs::write(&files(&repo, "dirtrees")[5], b"no dirtree").unwrap();
        std::fs::write(repo.path().join("objects/stranger"), b"").unwrap();
        let one = fsck(&repo, Some(1));
        let count = |is: fn(&Problem) -> bool| one.findings.iter().filter(|one| is(&one.problem)).count();
        assert!(count(|problem| matches!(problem, Problem::Missing)) > 20);
        assert!(count(|problem| matches!(problem, Problem::WrongDigest { .. })) > 20);
        let variants = count(|problem| matches!(problem, Problem::MissingVariant { .. }));
        assert_eq!(variants > 20, mode == RepoMode::Bare, "{variants}");
        assert_eq!(one.strangers, 1);
        for threads in [Some(2), Some(8), None] {
            assert_eq!(fsck(&repo, threads), one);
        }
    }
}

#[test]
fn every_file_is_counted_before_it_is_read() {
    let repo = two_versions(RepoMode::BareUser);
    // One is larger than what is read at a time.
    let source = repo.scratch().join("large");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("large"), vec![7; 3_000_000]).unwrap();
    let _ = repo.commit("large", &source);
    let kinds = ["objects", "dirtrees", "commits"];
    let files: Vec<PathBuf> = kinds.iter().flat_map(|kind| files(&repo, kind)).collect();
    let progress = RecordingProgress::default();
    let report = repo
        .repo()
        .fsck(&FsckOptions::default(), &progress, &Cancel::new())
        .unwrap();
    assert!(report.is_clean());
    let bytes = files
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum::<u64>();
    assert_eq!(report.bytes, bytes);
    assert_eq!(
        report.blobs + report.dirtrees + report.commits,
        files.len() as u64
    );
    assert_eq!(progress.began(), [(Phase::Verify, Some(files.len() as u64))]);
    assert_eq!(progress.done(Phase::Verify), files.len() as u64);
}

#[test]
fn a_name_that_is_spelled_otherwise_is_a_stranger() {
    let repo = two_versions(RepoMode::BareUser);
    let own = repo.object(ObjectKind::Blob, &Digest::of(b""));
    let named = |ending: &str| PathBuf::from(format!("{}{ending}", own.display()));
    let strange = [
        ".ABCDEF0123456789abcdef0123456789",
        ".abcdef0123456789abcdef012345678",
        ".abcdef0123456789abcdef01234567890",
        "-abcdef0123456789abcdef0123456789",
        ".",
        "0",
    ];
    for ending in strange {
        std::fs::write(named(ending), b"").unwrap();
    }
    // This is how a variant is called.
    std::fs::write(named(".abcdef0123456789abcdef0123456789"), b"").unwrap();
    let report = repo.fsck();
    assert!(report.is_clean());
    assert_eq!(report.strangers, strange.len() as u64);
    assert_eq!(report.variants, 1);
}

#[test]
fn a_label_that_a_system_gives_makes_no_other_inode() {
    if !is_root_or_skip("labels") {
        return;
    }
    let repo = two_versions(RepoMode::Bare);
    for path in files(&repo, "objects") {
        let label = rustix::fs::setxattr(
            &path,
            "security.selinux",
            b"system_u:object_r:usr_t:s0\0",
            rustix::fs::XattrFlags::empty(),
        );
        if let Err(errno) = label {
            eprintln!("skipped: labels: the file system of the test keeps none: {errno}");
            return;
        }
    }
    repo.assert_clean();
}
