//! Repairing: good copies take the place of bad ones, whole or not at all, and nobody's word is taken for them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libatomos::cancel::Cancel;
use libatomos::checkout::CheckoutOptions;
use libatomos::digest::{CommitId, Digest};
use libatomos::failpoint;
use libatomos::format::Node;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repair::DirectorySource;
use libatomos::repo::{
    LocalPullOptions, ObjectKind, Problem, RepairOptions, RepairReport, RepairSource, Repo, RepoError,
    RepoMode, RepoSource, SharedFile,
};
use libatomos::testing::{TestRepo, is_root_or_skip, small_tree};

const FILES: usize = 30;

/// A repository with a tree, and another one that has the same.
struct Pair {
    repo: TestRepo,
    good: TestRepo,
    commit: CommitId,
}

impl Pair {
    fn new(mode: RepoMode) -> Self {
        let (repo, good) = (TestRepo::with_mode(mode), TestRepo::with_mode(mode));
        let source = repo.scratch().join("source");
        small_tree(&source, 1, FILES);
        let commit = repo.commit("os", &source).commit;
        let mut options = LocalPullOptions::default();
        options.no_hardlinks = true;
        good.repo()
            .pull_local(
                repo.repo(),
                &["os".parse().unwrap()],
                &options,
                &NoProgress,
                &Cancel::new(),
            )
            .unwrap();
        Self { repo, good, commit }
    }

    /// An object of each kind: the commit, a directory that has directories, a file, and the bytes of an empty one.
    fn objects(&self) -> Vec<(ObjectKind, Digest)> {
        let repo = self.repo.repo();
        let root = repo.load_commit(&self.commit).unwrap().root;
        let tree_of = |tree, name: &[u8]| match repo.load_dirtree(&tree).unwrap().get(name).unwrap().node {
            Node::Dir { tree } => tree,
            _ => panic!("a directory"),
        };
        let outer = tree_of(root, b"d0");
        let inner = tree_of(outer, b"e0");
        let Node::File { blob, .. } = repo.load_dirtree(&inner).unwrap().entries()[0].node else {
            panic!("a file");
        };
        vec![
            (ObjectKind::Commit, *self.commit.digest()),
            (ObjectKind::DirTree, *outer.digest()),
            (ObjectKind::DirTree, *inner.digest()),
            (ObjectKind::Blob, *blob.digest()),
            (ObjectKind::Blob, Digest::of(b"")),
        ]
    }

    fn source(&self) -> Box<dyn RepairSource> {
        Box::new(RepoSource::new(self.good.reopen(), "the good one"))
    }

    fn repair(&self, sources: Vec<Box<dyn RepairSource>>) -> RepairReport {
        try_repair(self.repo.repo(), sources, RepairOptions::default()).unwrap()
    }

    /// Whole, and the tree that was committed.
    fn assert_as_it_was(&self) {
        self.repo.assert_clean();
        let out = self.repo.scratch().join("out");
        self.repo
            .checkout("os", &out, &CheckoutOptions::default())
            .unwrap();
        let again = TestRepo::with_mode(self.repo.repo().mode());
        let root = self.repo.repo().load_commit(&self.commit).unwrap().root;
        if self.repo.repo().mode() == RepoMode::Bare || !rustix::process::geteuid().is_root() {
            assert_eq!(again.commit("os", &out).root, root);
        }
        std::fs::remove_dir_all(out).unwrap();
    }
}

fn try_repair(
    repo: &Repo,
    mut sources: Vec<Box<dyn RepairSource>>,
    options: RepairOptions,
) -> Result<RepairReport, RepoError> {
    repo.repair(&mut sources, &options, &NoProgress, &Cancel::new())
}

fn in_each_mode(test: impl Fn(RepoMode)) {
    test(RepoMode::BareUser);
    if is_root_or_skip("repairs in mode bare") {
        test(RepoMode::Bare);
    }
}

fn damage(path: &Path, how: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    match how {
        "missing" => return std::fs::remove_file(path).unwrap(),
        "longer" => bytes.push(b'x'),
        "flipped" if !bytes.is_empty() => bytes[0] ^= 1,
        _ => bytes = b"other".to_vec(),
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_kind_of_object_is_repaired_from_another_repository() {
    in_each_mode(|mode| {
        for how in ["missing", "longer", "flipped"] {
            let pair = Pair::new(mode);
            for (kind, digest) in pair.objects() {
                damage(&pair.repo.object(kind, &digest), how);
                let report = pair.repair(vec![pair.source()]);
                assert!(report.is_whole() && !report.found.is_clean(), "{report:#?}");
                assert_eq!(report.repaired.len(), 1, "{how} {report:#?}");
                assert_eq!(
                    (report.repaired[0].kind, report.repaired[0].digest),
                    (kind, digest)
                );
                pair.assert_as_it_was();
            }
            assert_eq!(
                std::fs::read_dir(pair.repo.path().join("tmp")).unwrap().count(),
                0
            );
        }
    });
}

#[test]
fn what_lies_beneath_a_lost_directory_is_found_and_repaired_too() {
    in_each_mode(|mode| {
        let pair = Pair::new(mode);
        for kind in ["objects", "dirtrees", "commits"] {
            let dir = pair.repo.path().join(kind);
            for shard in std::fs::read_dir(&dir).unwrap() {
                std::fs::remove_dir_all(shard.unwrap().path()).unwrap();
            }
        }
        let report = pair.repair(vec![pair.source()]);
        assert!(report.is_whole(), "{report:#?}");
        let good = pair.good.fsck();
        assert_eq!(
            report.repaired.len() as u64,
            good.commits + good.dirtrees + good.blobs
        );
        assert!(
            report.found.findings.iter().all(|one| !one.used_by.is_empty()),
            "each is named with a path"
        );
        pair.assert_as_it_was();
    });
}

#[test]
fn files_and_directories_are_repaired_from_a_tree_on_disk() {
    in_each_mode(|mode| {
        let pair = Pair::new(mode);
        for (kind, digest) in pair.objects() {
            if kind == ObjectKind::Commit || digest == Digest::of(b"") {
                continue;
            }
            damage(&pair.repo.object(kind, &digest), "flipped");
        }
        let dir = Dir::open_ambient(pair.repo.scratch().join("source")).unwrap();
        let report = pair.repair(vec![Box::new(DirectorySource::new(dir, "a tree"))]);
        assert!(report.is_whole() && report.repaired.len() == 3, "{report:#?}");
        assert_eq!(report.sources[0].given, 3);
        pair.assert_as_it_was();
    });
}

#[test]
fn a_source_that_has_other_bytes_is_not_believed_and_the_next_one_is_asked() {
    in_each_mode(|mode| {
        let (pair, liar) = (Pair::new(mode), Pair::new(mode));
        for (kind, digest) in pair.objects() {
            if digest != Digest::of(b"") {
                damage(&pair.repo.object(kind, &digest), "flipped");
                damage(&liar.good.object(kind, &digest), "longer");
            }
        }
        // A repository that cannot be read is a source that failed.
        let broken = TestRepo::with_mode(mode);
        let opened = broken.reopen();
        std::fs::remove_file(broken.path().join("lock")).unwrap();
        std::fs::create_dir(broken.path().join("lock")).unwrap();
        let report = pair.repair(vec![
            Box::new(RepoSource::new(opened, "broken")),
            liar.source(),
            pair.source(),
        ]);
        assert!(report.is_whole(), "{report:#?}");
        assert!(report.sources[0].error.is_some());
        assert_eq!([report.sources[1].given, report.sources[2].given], [0, 4]);
        pair.assert_as_it_was();
    });
}

#[test]
fn what_nobody_has_is_named_and_does_not_stand_in_the_way_of_the_next_commit() {
    in_each_mode(|mode| {
        let pair = Pair::new(mode);
        let (kind, digest) = pair.objects()[3];
        let path = pair.repo.object(kind, &digest);
        damage(&path, "flipped");
        let report = pair.repair(Vec::new());
        assert!(!report.is_whole());
        let [lost] = report.lost.as_slice() else {
            panic!("{report:#?}")
        };
        assert_eq!(lost.digest, digest);
        assert!(lost.used_by[0].path.starts_with("/d0/e0/file-"), "{lost:?}");
        assert_eq!(report.set_aside, 1);
        assert!(!path.exists());
        let damaged = pair.repo.path().join(format!("damaged/blob-{digest}"));
        assert!(damaged.exists());
        assert_eq!(pair.repo.fsck().findings[0].problem, Problem::Missing);
        // The same tree again: the object comes back.
        let _ = pair.repo.commit("again", &pair.repo.scratch().join("source"));
        pair.assert_as_it_was();
        let _ = pair.repo.prune().unwrap();
        assert!(!damaged.exists(), "what is whole again needs no damaged copy");
    });
}

#[test]
fn a_dry_run_changes_nothing() {
    in_each_mode(|mode| {
        let pair = Pair::new(mode);
        for (kind, digest) in pair.objects() {
            damage(&pair.repo.object(kind, &digest), "longer");
        }
        let before = pair.repo.fsck();
        let mut options = RepairOptions::default();
        options.dry_run = true;
        let report = try_repair(pair.repo.repo(), vec![pair.source()], options).unwrap();
        assert!(report.dry_run && !report.is_whole() && report.lost.is_empty());
        assert_eq!(report.repaired.len(), 5, "{report:#?}");
        assert_eq!(pair.repo.fsck(), before);
        assert!(!pair.repo.path().join("damaged").exists());
        assert!(pair.repair(vec![pair.source()]).is_whole());
        pair.assert_as_it_was();
    });
}

#[test]
fn inodes_are_made_again_from_one_another_and_a_shared_one_is_reported() {
    if !is_root_or_skip("inode variants") {
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::Bare);
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    for (name, owner) in [("a", 0), ("b", 7), ("c", 8)] {
        let path = source.join(name);
        std::fs::write(&path, b"the same bytes").unwrap();
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
    }
    let _ = repo.commit("os", &source);
    let out = repo.scratch().join("deployment");
    repo.checkout("os", &out, &CheckoutOptions::default()).unwrap();
    let shard = repo
        .object(ObjectKind::Blob, &Digest::of(b"the same bytes"))
        .parent()
        .unwrap()
        .to_owned();
    let files = || -> Vec<_> {
        let mut files: Vec<_> = std::fs::read_dir(&shard)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    };
    assert_eq!(files().len(), 3);
    let modes = |path: &Path| {
        let stat = std::fs::metadata(path).unwrap();
        (stat.mode(), stat.uid(), stat.mtime())
    };
    // The base is damaged in place, a variant lost its owner, and another is gone.
    let [base, first, second] = files().try_into().unwrap();
    let base_before = modes(&out.join("a"));
    std::fs::write(&base, b"other bytes!!!").unwrap();
    std::os::unix::fs::chown(&first, Some(99), None).unwrap();
    std::fs::remove_file(&second).unwrap();
    let mut options = RepairOptions::default();
    options.checkouts = vec![("the deployment".to_owned(), Dir::open_ambient(&out).unwrap())];
    let report = try_repair(repo.repo(), Vec::new(), options).unwrap();
    assert!(report.is_whole(), "{report:#?}");
    let shared = |path: &str| SharedFile {
        checkout: "the deployment".to_owned(),
        path: path.to_owned(),
    };
    let mut found = report.repaired[0].shared.clone();
    found.sort();
    assert!(found.contains(&shared("/a")) && found.len() == 2, "{report:#?}");
    assert_eq!(report.repaired[0].other_names, 2);
    assert_eq!(report.repaired[0].files, 3);
    repo.assert_clean();
    // The deployment still has the damaged inode; a new one has the good ones.
    assert_ne!(std::fs::read(out.join("a")).unwrap(), b"the same bytes");
    let again = repo.scratch().join("again");
    let mut checkout = CheckoutOptions::default();
    checkout.link = libatomos::checkout::LinkMode::Hardlink;
    repo.checkout("os", &again, &checkout).unwrap();
    for (name, owner) in [("a", 0), ("b", 7), ("c", 8)] {
        assert_eq!(std::fs::read(again.join(name)).unwrap(), b"the same bytes");
        assert_eq!(std::fs::metadata(again.join(name)).unwrap().uid(), owner);
    }
    assert_eq!(modes(&again.join("a")).0, base_before.0);
}

#[test]
fn a_repair_stopped_anywhere_has_lost_nothing_and_is_finished_by_the_next() {
    in_each_mode(|mode| {
        let prepare = || {
            let pair = Pair::new(mode);
            for (kind, digest) in pair.objects().into_iter().skip(1) {
                damage(&pair.repo.object(kind, &digest), "longer");
            }
            // And something that nobody has, and nothing leads to.
            let stray = pair.repo.plant(ObjectKind::Blob, b"stray");
            damage(&pair.repo.object(ObjectKind::Blob, &stray), "longer");
            pair
        };
        let pair = prepare();
        let (points, report) = failpoint::trace(|| pair.repair(vec![pair.source()]));
        assert!(points.len() >= 7, "{points:?}");
        assert_eq!((report.repaired.len(), report.set_aside), (4, 1), "{report:#?}");
        for (index, point) in points.iter().enumerate() {
            let pair = prepare();
            let before = pair.repo.fsck().findings.len();
            let options = RepairOptions::default();
            let stopped = failpoint::stop_at(index, || {
                try_repair(pair.repo.repo(), vec![pair.source()], options)
            });
            assert!(stopped.is_err(), "{point}");
            assert!(pair.repo.fsck().findings.len() <= before, "{point}");
            for (kind, digest) in pair.objects_by_good() {
                assert!(
                    pair.repo.object(kind, &digest).exists(),
                    "{point}: {kind} {digest}"
                );
            }
            let report = pair.repair(vec![pair.source()]);
            assert!(
                report.lost.iter().all(|one| one.used_by.is_empty()),
                "{report:#?}"
            );
            pair.assert_as_it_was();
            let _ = pair.repo.commit("next", &pair.repo.scratch().join("source"));
            assert_eq!(
                std::fs::read_dir(pair.repo.path().join("tmp")).unwrap().count(),
                0
            );
        }
    });
}

impl Pair {
    /// Every object of the good repository.
    fn objects_by_good(&self) -> Vec<(ObjectKind, Digest)> {
        let mut all = Vec::new();
        for kind in ObjectKind::ALL {
            let name = match kind {
                ObjectKind::Blob => "objects",
                ObjectKind::DirTree => "dirtrees",
                _ => "commits",
            };
            for shard in std::fs::read_dir(self.good.path().join(name)).unwrap() {
                let shard = shard.unwrap();
                for entry in std::fs::read_dir(shard.path()).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    let text = format!("{}{name}", shard.file_name().to_str().unwrap());
                    if let Ok(digest) = text.parse() {
                        all.push((kind, digest));
                    }
                }
            }
        }
        all
    }
}
