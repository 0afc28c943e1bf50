//! A tree whose files become the store's own: the same commit, and nobody else's file in the store.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libatomos::cancel::Cancel;
use libatomos::commit::{CommitError, CommitOptions, CommitReport, commit};
use libatomos::digest::Digest;
use libatomos::error::ErrorKind;
use libatomos::failpoint;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{ObjectKind, RepoMode};
use libatomos::testing::{OddTree, Order, TestRepo, is_root_or_skip, small_tree};

fn adopting() -> CommitOptions {
    let mut options = TestRepo::options("os");
    options.adopt = true;
    options
}

fn adopt(repo: &TestRepo, source: &Path) -> Result<CommitReport, CommitError> {
    let source = Dir::open_ambient(source).unwrap();
    commit(repo.repo(), source, &adopting(), &NoProgress, &Cancel::new())
}

fn in_each_mode(test: impl Fn(RepoMode)) {
    test(RepoMode::BareUser);
    if is_root_or_skip("adopting in mode bare") {
        test(RepoMode::Bare);
    }
}

fn object(repo: &TestRepo, bytes: &[u8]) -> PathBuf {
    repo.object(ObjectKind::Blob, &Digest::of(bytes))
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn an_adopted_tree_is_the_commit_that_a_copied_one_is() {
    in_each_mode(|mode| {
        let copied = TestRepo::with_mode(mode);
        let adopted = TestRepo::with_mode(mode);
        let (here, there) = (copied.scratch().join("source"), adopted.scratch().join("source"));
        for source in [&here, &there] {
            fs::create_dir(source).unwrap();
            OddTree::new().make(source, Order::Forward);
            small_tree(&source.join("small"), 1, 60);
        }
        let report = adopt(&adopted, &there).unwrap();
        assert_eq!(report.root, copied.commit("os", &here).root);
        adopted.assert_clean();
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0, "the source is consumed");
        assert!(
            adopted
                .reopen()
                .ref_optional(&"os".parse().unwrap())
                .unwrap()
                .is_some()
        );
    });
}

#[test]
fn a_file_becomes_the_object_and_keeps_its_inode() {
    in_each_mode(|mode| {
        let bytes = vec![7; 100_000];
        let is_moved = || {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            fs::create_dir(&source).unwrap();
            fs::write(source.join("large"), &bytes).unwrap();
            let number = inode(&source.join("large"));
            adopt(&repo, &source).unwrap();
            assert_eq!(fs::metadata(object(&repo, &bytes)).unwrap().nlink(), 1);
            repo.assert_clean();
            inode(&object(&repo, &bytes)) == number
        };
        // A program that another test starts meanwhile has all that this process has open until it is itself, the file that is being
        // written too: then that is open for writing somewhere else, and is rightly copied.
        assert!((0..20).any(|_| is_moved()), "it is copied again and again");
    });
}

#[test]
fn what_somebody_else_can_write_to_is_copied() {
    in_each_mode(|mode| {
        let repo = TestRepo::with_mode(mode);
        let source = repo.scratch().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("linked"), "linked").unwrap();
        let outside = repo.scratch().join("outside");
        fs::hard_link(source.join("linked"), &outside).unwrap();
        fs::write(source.join("open"), "open").unwrap();
        let mut writer = fs::File::options().write(true).open(source.join("open")).unwrap();
        let opened = inode(&source.join("open"));
        adopt(&repo, &source).unwrap();
        fs::write(&outside, "LINKED").unwrap();
        std::io::Write::write_all(&mut writer, b"OPEN").unwrap();
        assert_eq!(fs::read(object(&repo, b"linked")).unwrap(), b"linked");
        assert_eq!(fs::read(object(&repo, b"open")).unwrap(), b"open");
        assert_ne!(inode(&object(&repo, b"open")), opened);
        repo.assert_clean();
    });
}

#[test]
fn a_file_does_not_go_for_a_damaged_one_of_the_store() {
    in_each_mode(|mode| {
        for no_cache in [true, false] {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            fs::create_dir(&source).unwrap();
            fs::write(source.join("file"), "bytes").unwrap();
            let _before = repo.commit("os", &source);
            let object = object(&repo, b"bytes");
            let modified = fs::metadata(&object).unwrap().modified().unwrap();
            // As a disk does it: its inode tells nothing.
            let rot = |bytes: &str| {
                let mut rotten = fs::File::options().write(true).open(&object).unwrap();
                std::io::Write::write_all(&mut rotten, bytes.as_bytes()).unwrap();
                rotten.set_modified(modified).unwrap();
            };
            rot("BYTES");
            let mut options = adopting();
            options.no_cache = no_cache;
            let adopt = || {
                let source = Dir::open_ambient(&source).unwrap();
                commit(repo.repo(), source, &options, &NoProgress, &Cancel::new())
            };
            let error = adopt().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert_eq!(fs::read(source.join("file")).unwrap(), b"bytes");
            rot("bytes");
            adopt().unwrap();
            assert!(!source.join("file").exists());
            repo.assert_clean();
        }
    });
}

#[test]
fn an_attribute_that_is_not_recorded_does_not_come_into_the_store() {
    if !is_root_or_skip("an attribute that no tree records") {
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::Bare);
    let source = repo.scratch().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "bytes").unwrap();
    let set = rustix::fs::setxattr(
        source.join("file"),
        "trusted.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    );
    if set.is_err() {
        return libatomos::testing::skip("an attribute that no tree records", "the file system has none");
    }
    adopt(&repo, &source).unwrap();
    let mut names = [0u8; 256];
    let len = rustix::fs::listxattr(object(&repo, b"bytes"), &mut names[..]).unwrap();
    assert!(!String::from_utf8_lossy(&names[..len]).contains("trusted.overlay"));
    repo.assert_clean();
}

#[test]
fn stopped_anywhere_the_source_is_still_what_it_was() {
    in_each_mode(|mode| {
        let points = {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            small_tree(&source, 1, 30);
            let (points, report) = failpoint::trace(|| adopt(&repo, &source));
            report.unwrap();
            points
        };
        assert!(points.contains(&"commit.adopted"), "{points:?}");
        let wanted = {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            small_tree(&source, 1, 30);
            repo.commit("os", &source).root
        };
        for (index, point) in points.iter().enumerate() {
            let repo = TestRepo::with_mode(mode);
            let source = repo.scratch().join("source");
            small_tree(&source, 1, 30);
            failpoint::stop_at(index, || adopt(&repo, &source)).unwrap_err();
            repo.assert_clean();
            if *point == "commit.adopted.signed" {
                // The commit is made, and what is left may be a part of the tree.
                fs::remove_dir_all(source.join("d0")).unwrap();
                let error = adopt(&repo, &source).unwrap_err();
                let made = repo.repo().resolve_commit("os").unwrap();
                assert!(
                    matches!(&error, CommitError::Remainder { commit, .. } if *commit == made),
                    "{error}"
                );
                assert_eq!(repo.repo().load_commit(&made).unwrap().root, wanted);
                continue;
            }
            let again = adopt(&repo, &source).unwrap_or_else(|error| panic!("after {point}: {error}"));
            assert_eq!(again.root, wanted, "after {point}");
            repo.assert_clean();
            assert_eq!(fs::read_dir(&source).unwrap().count(), 0, "after {point}");
            let error = adopt(&repo, &source).unwrap_err();
            assert!(matches!(error, CommitError::NothingToAdopt { .. }), "{error}");
        }
    });
}

#[test]
fn a_tree_with_something_mounted_in_it_is_left_alone() {
    if !is_root_or_skip("a mount in an adopted tree") {
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::Bare);
    let source = repo.scratch().join("source");
    let (mounted, other) = (source.join("mounted"), repo.scratch().join("other"));
    fs::create_dir_all(&mounted).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("precious"), "precious").unwrap();
    let run = |program: &str, args: &[&Path]| {
        let status = std::process::Command::new(program).args(args).status();
        status.is_ok_and(|status| status.success())
    };
    let (file, precious) = (source.join("file"), other.join("precious"));
    fs::write(&file, "of the tree").unwrap();
    for (what, on) in [(&other, &mounted), (&precious, &file)] {
        if !run("mount", &[Path::new("--bind"), what, on]) {
            return libatomos::testing::skip("a mount in an adopted tree", "cannot bind");
        }
        let result = adopt(&repo, &source);
        assert!(run("umount", &[on]));
        let error = result.unwrap_err();
        assert!(matches!(error, CommitError::MountedInside { .. }), "{error}");
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert!(mounted.exists());
        assert_eq!(fs::read(&file).unwrap(), b"of the tree");
    }
}
