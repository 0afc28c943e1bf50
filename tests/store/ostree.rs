//! History of OSTree: what is imported is what `ostree` itself checks out.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use libatomos::Cancel;
use libatomos::commit::{CommitOptions, MtimePolicy, commit};
use libatomos::digest::CommitId;
use libatomos::error::ErrorKind;
use libatomos::format::MetadataValue;
use libatomos::fs::Dir;
use libatomos::import::{ImportError, ImportOptions, ImportRef, ImportReport, import_ostree};
use libatomos::ostree::OstreeRepo;
use libatomos::progress::NoProgress;
use libatomos::repo::RepoMode;
use libatomos::testing::{TestRepo, is_root_or_skip, skip, small_tree};

/// Runs `ostree` and returns what it prints; `None` where there is no such program.
fn ostree(dir: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("ostree")
        .current_dir(dir)
        .args(words)
        .output()
        .ok()?;
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn import(
    repo: &TestRepo,
    path: &Path,
    names: &[&str],
    depth: Option<usize>,
) -> Result<ImportReport, ImportError> {
    let source = OstreeRepo::open(Dir::open_ambient(path).unwrap())?;
    let refs: Vec<ImportRef> = names
        .iter()
        .map(|name| ImportRef {
            source: (*name).to_owned(),
            target: name.parse().unwrap(),
        })
        .collect();
    let mut options = ImportOptions::default();
    options.depth = depth;
    import_ostree(repo.repo(), &source, &refs, &options, &NoProgress, &Cancel::new())
}

/// Makes a tree with what OSTree keeps.
fn make_tree(tree: &Path, root: bool) {
    small_tree(tree, 3, 40);
    std::fs::create_dir_all(tree.join("usr/lib/deep")).unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::write(tree.join("large"), vec![7u8; 3 << 20]).unwrap();
    std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
    std::os::unix::fs::symlink("t".repeat(2000), tree.join("long")).unwrap();
    std::fs::write(tree.join("usr/su"), "su").unwrap();
    if root {
        std::os::unix::fs::chown(tree.join("usr/su"), Some(5), Some(6)).unwrap();
        std::os::unix::fs::chown(tree.join("usr/lib/deep"), Some(0), Some(8)).unwrap();
        std::os::unix::fs::lchown(tree.join("long"), Some(9), Some(9)).unwrap();
        std::fs::set_permissions(tree.join("usr/su"), PermissionsExt::from_mode(0o4755)).unwrap();
        for (path, name) in [
            ("usr/su", "user.a"),
            ("usr/su", "user.bb"),
            ("usr/lib/deep", "user.dir"),
        ] {
            let path = tree.join(path);
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, name, &vec![b'v'; 300], flags).unwrap();
        }
    }
}

#[test]
fn what_is_imported_is_what_ostree_checks_out_with_its_history() {
    let root = rustix::process::geteuid().is_root();
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    make_tree(&tree, root);
    let modes: &[&str] = if root {
        &["archive", "bare", "bare-user", "bare-user-only"]
    } else {
        &["archive", "bare-user-only"]
    };
    for mode in modes {
        let at = scratch.path();
        let source = at.join(mode);
        let repo_arg = format!("--repo={mode}");
        if ostree(at, &["init", &repo_arg, &format!("--mode={mode}")]).is_none() {
            return skip("importing from OSTree", "there is no ostree");
        }
        let canonical = if *mode == "bare-user-only" || !root {
            "--canonical-permissions"
        } else {
            "--fsync=no"
        };
        let make = |text: &str, subject: &str, time: &str| {
            std::fs::write(tree.join("usr/version"), text).unwrap();
            let (subject, time) = (format!("--subject={subject}"), format!("--timestamp={time}"));
            let words = [
                "commit",
                &repo_arg,
                "-b",
                "os/stable",
                &subject,
                "--body=a body\nof two lines",
                &time,
                canonical,
                "--add-metadata-string=version=1.0",
                "tree",
            ];
            ostree(at, &words).unwrap()
        };
        let commits = [
            make("one", "the first", "2024-01-01 00:00:00 +0000"),
            make("two", "the second", "2024-01-02 00:00:00 +0000"),
        ];
        let repo = TestRepo::on_disk();
        let report = import(&repo, &source, &["os/stable"], None).unwrap();
        assert_eq!(report.refs[0].imported, 2);
        assert_eq!(report.refs[0].origin, commits[1]);
        assert!(!report.refs[0].truncated);
        let second = repo.repo().load_commit(&report.refs[0].commit).unwrap();
        let first = repo.repo().load_commit(&second.parent.unwrap()).unwrap();
        for (ours, theirs, subject, time) in [
            (&first, &commits[0], "the first", 1_704_067_200),
            (&second, &commits[1], "the second", 1_704_153_600),
        ] {
            assert_eq!((ours.subject.as_str(), ours.time), (subject, time));
            assert_eq!(
                (ours.body.as_str(), ours.version.as_str()),
                ("a body\nof two lines", "1.0")
            );
            assert_eq!(
                ours.metadata["ostree.commit"],
                MetadataValue::Text(theirs.clone())
            );
            let checkout = format!("out-{mode}-{subject}");
            let mut words = vec!["checkout", &repo_arg, theirs, &checkout];
            if !root || *mode == "bare-user-only" {
                words.push("--user-mode");
            }
            ostree(at, &words).unwrap();
            let mut options = CommitOptions::default();
            options.mtime = MtimePolicy::Zero;
            if words.contains(&"--user-mode") {
                options.owner = Some((0, 0));
            }
            let dir = Dir::open_ambient(at.join(&checkout)).unwrap();
            let wanted = commit(repo.repo(), dir, &options, &NoProgress, &Cancel::new()).unwrap();
            assert_eq!(wanted.root, ours.root, "{mode}, {subject}");
            let metadata = repo.repo().load_commit(&wanted.commit).unwrap().root_metadata;
            assert_eq!(metadata.mode, ours.root_metadata.mode);
        }
        assert_eq!(first.parent, None);
        assert!(repo.fsck().findings.is_empty());

        // Nothing is new; then one commit is.
        let again = import(&repo, &source, &["os/stable"], None).unwrap();
        assert_eq!(
            (again.refs[0].imported, again.refs[0].commit),
            (0, report.refs[0].commit)
        );
        make("three", "the third", "2024-01-03 00:00:00 +0000");
        let third = import(&repo, &source, &["os/stable"], None).unwrap();
        assert_eq!(third.refs[0].imported, 1);
        let tip = repo.repo().load_commit(&third.refs[0].commit).unwrap();
        assert_eq!(tip.parent, Some(report.refs[0].commit));
        // Whoever imports the whole has the same commits.
        let other = TestRepo::with_mode(RepoMode::BareUser);
        let whole = import(&other, &source, &["os/stable"], None).unwrap();
        assert_eq!(whole.refs[0].commit, third.refs[0].commit);
        // Without history there is none.
        let short = TestRepo::with_mode(RepoMode::BareUser);
        let cut = import(&short, &source, &["os/stable"], Some(1)).unwrap();
        assert!(cut.refs[0].truncated);
        let tip = short.repo().load_commit(&cut.refs[0].commit).unwrap();
        assert_eq!(tip.parent, None);
    }
}

#[test]
fn history_that_ostree_has_pruned_ends_where_it_ends() {
    let scratch = tempfile::tempdir().unwrap();
    let (at, tree) = (scratch.path(), scratch.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    if ostree(at, &["init", "--repo=repo", "--mode=archive"]).is_none() {
        return skip("importing pruned history", "there is no ostree");
    }
    for text in ["one", "two", "three"] {
        std::fs::write(tree.join("file"), text).unwrap();
        ostree(
            at,
            &[
                "commit",
                "--repo=repo",
                "-b",
                "os",
                "--canonical-permissions",
                "tree",
            ],
        )
        .unwrap();
    }
    ostree(at, &["prune", "--repo=repo", "--refs-only", "--depth=1"]).unwrap();
    let repo = TestRepo::with_mode(RepoMode::BareUser);
    let report = import(&repo, &at.join("repo"), &["os"], None).unwrap();
    assert_eq!((report.refs[0].imported, report.refs[0].truncated), (2, true));
    // A ref with a history of its own is not replaced.
    let mut options = CommitOptions::default();
    options.reference = Some("os".parse().unwrap());
    options.parent = libatomos::commit::Parent::None;
    let dir = Dir::open_ambient(&tree).unwrap();
    let own = commit(repo.repo(), dir, &options, &NoProgress, &Cancel::new()).unwrap();
    let error = import(&repo, &at.join("repo"), &["os"], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let tip: Option<CommitId> = repo.repo().ref_optional(&"os".parse().unwrap()).unwrap();
    assert_eq!(tip, Some(own.commit));
    assert_eq!(
        import(&repo, &at.join("repo"), &["missing"], None)
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn one_changed_byte_of_any_object_is_found() {
    if !is_root_or_skip("damage in repositories of OSTree of every mode") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (at, tree) = (scratch.path(), scratch.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "some bytes that do not compress").unwrap();
    std::os::unix::fs::symlink("file", tree.join("link")).unwrap();
    for mode in ["archive", "bare", "bare-user"] {
        let repo_arg = format!("--repo={mode}");
        if ostree(at, &["init", &repo_arg, &format!("--mode={mode}")]).is_none() {
            return skip("damage in repositories of OSTree", "there is no ostree");
        }
        ostree(at, &["commit", &repo_arg, "-b", "os", "tree"]).unwrap();
        let repo = TestRepo::with_mode(RepoMode::BareUser);
        let mut objects = 0;
        for shard in std::fs::read_dir(at.join(mode).join("objects")).unwrap() {
            for object in std::fs::read_dir(shard.unwrap().path()).unwrap() {
                let path = object.unwrap().path();
                if !path.symlink_metadata().unwrap().is_file() {
                    continue;
                }
                objects += 1;
                let whole = std::fs::read(&path).unwrap();
                for at_byte in [0, whole.len() / 2, whole.len() - 1] {
                    let mut bytes = whole.clone();
                    bytes[at_byte] ^= 1;
                    std::fs::write(&path, &bytes).unwrap();
                    let error = import(&repo, &at.join(mode), &["os"], None).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{mode}: {}", path.display());
                }
                std::fs::write(&path, &whole).unwrap();
                if mode == "bare" && path.extension().is_some_and(|kind| kind == "file") {
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4755)).unwrap();
                    let error = import(&repo, &at.join(mode), &["os"], None).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "a mode that was changed");
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
                }
            }
        }
        assert!(objects >= 4, "{mode}: {objects}");
        import(&repo, &at.join(mode), &["os"], None).unwrap();
    }
}

#[test]
fn a_ref_does_not_forget_what_was_committed_to_it_here_nor_what_was_taken_back_there() {
    let scratch = tempfile::tempdir().unwrap();
    let (at, tree) = (scratch.path(), scratch.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    if ostree(at, &["init", "--repo=source", "--mode=archive"]).is_none() {
        return skip("importing from OSTree", "there is no ostree");
    }
    let make = |text: &str| {
        std::fs::write(tree.join("file"), text).unwrap();
        let words = [
            "commit",
            "--repo=source",
            "-b",
            "os",
            "--canonical-permissions",
            "tree",
        ];
        ostree(at, &words).unwrap()
    };
    let source = at.join("source");
    let repo = TestRepo::with_mode(RepoMode::BareUser);
    let tip = || repo.repo().ref_optional(&"os".parse().unwrap()).unwrap().unwrap();
    let diverges = || {
        let before = tip();
        let error = import(&repo, &source, &["os"], None).unwrap_err();
        assert!(matches!(error, ImportError::Diverged { .. }), "{error}");
        assert_eq!(tip(), before);
    };
    make("one");
    make("two");
    let two = import(&repo, &source, &["os"], None).unwrap().refs[0].commit;
    make("three");
    import(&repo, &source, &["os"], None).unwrap();
    ostree(at, &["reset", "--repo=source", "os", "os^"]).unwrap();
    diverges();
    make("another three");
    diverges();

    // A commit of our own on top of what was imported.
    let name: libatomos::names::RefName = "os".parse().unwrap();
    let update = libatomos::repo::RefUpdate {
        name: name.clone(),
        expected: None,
        new: Some(two),
    };
    repo.repo().update_refs(&[update]).unwrap();
    import(&repo, &source, &["os"], None).unwrap();
    let mut options = CommitOptions::default();
    options.reference = Some(name);
    let dir = Dir::open_ambient(&tree).unwrap();
    commit(repo.repo(), dir, &options, &NoProgress, &Cancel::new()).unwrap();
    diverges();
    make("four");
    diverges();
}
