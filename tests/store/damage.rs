//! fsck finds each kind of damage and names the ref and the path; nothing else trips over it.

use std::path::{Path, PathBuf};

use libatomos::cancel::Cancel;
use libatomos::checkout::CheckoutOptions;
use libatomos::digest::{CommitId, Digest};
use libatomos::error::ErrorKind;
use libatomos::format::{Commit, DirTree, Entry, Metadata, Node};
use libatomos::progress::NoProgress;
use libatomos::repo::{
    Finding, LocalPullOptions, ObjectKind, Problem, PruneOptions, RefUpdate, RepoError, RepoMode, RootRecord,
};
use libatomos::testing::{TestRepo, is_root_or_skip, small_tree};

/// A repository with one commit of a tree in which `etc/config` is a file of a few kilobytes.
struct Damaged {
    repo: TestRepo,
    commit: CommitId,
    root: Digest,
    etc: Digest,
    blob: Digest,
}

const CONTENT: &[u8] = &[b'c'; 5000];

impl Damaged {
    fn new(mode: RepoMode) -> Self {
        let repo = TestRepo::with_mode(mode);
        let source = repo.scratch().join("source");
        small_tree(&source, 1, 10);
        std::fs::create_dir(source.join("etc")).unwrap();
        std::fs::write(source.join("etc/config"), CONTENT).unwrap();
        let report = repo.commit("os/stable", &source);
        repo.assert_clean();
        let root = repo.repo().load_dirtree(&report.root).unwrap();
        let Node::Dir { tree } = root.get(b"etc").unwrap().node else {
            panic!("a directory");
        };
        Self {
            commit: report.commit,
            root: *report.root.digest(),
            etc: *tree.digest(),
            blob: Digest::of(CONTENT),
            repo,
        }
    }

    fn path(&self, kind: ObjectKind) -> PathBuf {
        let digest = match kind {
            ObjectKind::Blob => &self.blob,
            ObjectKind::DirTree => &self.etc,
            ObjectKind::Commit => self.commit.digest(),
        };
        self.repo.object(kind, digest)
    }

    /// Returns the only finding, which must name the ref and the path.
    fn finding(&self, kind: ObjectKind, path: &str) -> Finding {
        let report = self.repo.fsck();
        assert!(!report.is_clean());
        assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
        let finding = report.findings.into_iter().next().unwrap();
        assert_eq!(finding.kind, kind);
        let used = finding.used_by.first().expect("it is used somewhere");
        assert_eq!(used.root, "ref os/stable");
        assert_eq!(used.path, path);
        assert_eq!(used.commit, self.commit);
        finding
    }
}

fn in_each_mode(test: impl Fn(Damaged)) {
    test(Damaged::new(RepoMode::BareUser));
    if is_root_or_skip("damage in mode bare") {
        test(Damaged::new(RepoMode::Bare));
    }
}

/// Changes a file in place, its owner, mode and times included.
fn rewrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let stat = rustix::fs::stat(path).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: 0,
        },
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

const EVERY_KIND: [(ObjectKind, &str); 3] = [
    (ObjectKind::Blob, "/etc/config"),
    (ObjectKind::DirTree, "/etc/"),
    (ObjectKind::Commit, "/"),
];

#[test]
fn a_truncated_object_is_found() {
    for (kind, path) in EVERY_KIND {
        in_each_mode(|damaged| {
            rewrite(&damaged.path(kind), |bytes| bytes.truncate(bytes.len() / 2));
            let finding = damaged.finding(kind, path);
            assert!(
                matches!(finding.problem, Problem::WrongDigest { .. }),
                "{finding:?}"
            );
        });
    }
}

#[test]
fn an_emptied_object_is_found() {
    for (kind, path) in EVERY_KIND {
        in_each_mode(|damaged| {
            rewrite(&damaged.path(kind), Vec::clear);
            let finding = damaged.finding(kind, path);
            assert!(
                matches!(finding.problem, Problem::WrongDigest { .. }),
                "{finding:?}"
            );
        });
    }
}

#[test]
fn a_flipped_bit_is_found() {
    for (kind, path) in EVERY_KIND {
        in_each_mode(|damaged| {
            rewrite(&damaged.path(kind), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
            });
            let finding = damaged.finding(kind, path);
            assert!(
                matches!(finding.problem, Problem::WrongDigest { .. }),
                "{finding:?}"
            );
        });
    }
}

#[test]
fn a_missing_object_is_found() {
    for (kind, path) in EVERY_KIND {
        in_each_mode(|damaged| {
            std::fs::remove_file(damaged.path(kind)).unwrap();
            assert_eq!(damaged.finding(kind, path).problem, Problem::Missing);
        });
    }
}

#[test]
fn an_object_that_cannot_be_read_is_found_and_hides_no_other() {
    in_each_mode(|damaged| {
        // A dirtree of more bytes than any may have stands for a sector that cannot be read.
        let huge = std::fs::File::create(damaged.path(ObjectKind::DirTree)).unwrap();
        huge.set_len(200 << 20).unwrap();
        let finding = damaged.finding(ObjectKind::DirTree, "/etc/");
        assert!(
            matches!(finding.problem, Problem::Unreadable { .. }),
            "{finding:?}"
        );
        std::fs::remove_file(damaged.path(ObjectKind::DirTree)).unwrap();
    });
}

#[test]
fn several_findings_are_all_reported() {
    in_each_mode(|damaged| {
        std::fs::remove_file(damaged.path(ObjectKind::Blob)).unwrap();
        rewrite(
            &damaged.repo.object(ObjectKind::Blob, &Digest::of(b"")),
            |bytes| bytes.push(0),
        );
        let report = damaged.repo.fsck();
        let digests: Vec<_> = report.findings.iter().map(|finding| finding.digest).collect();
        let mut expected = vec![damaged.blob, Digest::of(b"")];
        expected.sort();
        assert_eq!(digests, expected);
    });
}

#[test]
fn a_variant_with_changed_metadata_is_found() {
    if !is_root_or_skip("inode variants") {
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::Bare);
    let source = repo.scratch().join("source");
    std::fs::create_dir_all(source.join("bin")).unwrap();
    for (name, mode) in [("plain", 0o644), ("setuid", 0o4755)] {
        let path = source.join("bin").join(name);
        std::fs::write(&path, b"the same program").unwrap();
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(mode)).unwrap();
    }
    let report = repo.commit("os", &source);
    assert_eq!((report.stats.blobs_added, report.stats.variants_added), (1, 1));
    assert_eq!(repo.fsck().variants, 1);
    repo.assert_clean();
    let base = repo.object(ObjectKind::Blob, &Digest::of(b"the same program"));
    let shard = base.parent().unwrap();
    let variant = std::fs::read_dir(shard)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some())
        .expect("a variant");
    let set = |path: &Path, mode| rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode)).unwrap();
    let mode_of = |path: &Path| rustix::fs::stat(path).unwrap().st_mode & 0o7777;
    let true_mode = mode_of(&variant);
    set(&variant, 0o777);
    let report = repo.fsck();
    let name = variant.extension().unwrap().to_str().unwrap().to_owned();
    let wrong = report
        .findings
        .iter()
        .find(|finding| matches!(&finding.problem, Problem::WrongInode { variant } if *variant == name))
        .unwrap_or_else(|| panic!("{:#?}", report.findings));
    let paths: Vec<_> = wrong.used_by.iter().map(|used| used.path.as_str()).collect();
    assert_eq!(paths, ["/bin/plain", "/bin/setuid"]);
    // It is not used either: a checkout copies the bytes, and the tree is right.
    let out = repo.scratch().join("out");
    repo.checkout("os", &out, &CheckoutOptions::default()).unwrap();
    assert_eq!(mode_of(&out.join("bin/setuid")), 0o4755);
    assert_eq!(mode_of(&out.join("bin/plain")), 0o644);
    set(&variant, true_mode);
    repo.assert_clean();
    // The base name has no metadata in it; what misses it is the file that wants it.
    let true_mode = mode_of(&base);
    set(&base, 0o600);
    let report = repo.fsck();
    assert!(
        matches!(
            &report.findings[..],
            [Finding {
                problem: Problem::MissingVariant { .. },
                ..
            }]
        ),
        "{:#?}",
        report.findings
    );
    set(&base, true_mode);
    std::fs::remove_file(&variant).unwrap();
    let report = repo.fsck();
    assert!(
        matches!(&report.findings[..], [Finding { problem: Problem::MissingVariant { variant }, .. }] if *variant == name),
        "{:#?}",
        report.findings
    );
    // Committing the tree again brings it back.
    let _ = repo.commit("os", &source);
    repo.assert_clean();
}

#[test]
fn a_variant_whose_bytes_changed_is_found() {
    if !is_root_or_skip("inode variants") {
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::Bare);
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), b"what was committed").unwrap();
    let _ = repo.commit("os", &source);
    let out = repo.scratch().join("out");
    let options = CheckoutOptions::default();
    assert_eq!(repo.checkout("os", &out, &options).unwrap().hardlinked, 1);
    // Somebody wrote to a hardlink checkout.
    rewrite(&out.join("file"), |bytes| bytes.extend(b"!"));
    let report = repo.fsck();
    assert!(
        matches!(report.findings[0].problem, Problem::WrongDigest { .. }),
        "{report:?}"
    );
    assert_eq!(report.findings[0].used_by[0].path, "/file");
}

#[test]
fn a_stranger_in_the_store_is_counted_and_left_alone() {
    in_each_mode(|damaged| {
        let strange = [
            damaged.repo.path().join("objects/README"),
            damaged.path(ObjectKind::Blob).with_file_name("not-a-digest"),
            damaged.path(ObjectKind::Blob).with_extension("short"),
            damaged.path(ObjectKind::Commit).with_file_name("x"),
        ];
        for path in &strange {
            std::fs::write(path, b"hello").unwrap();
        }
        let report = damaged.repo.fsck();
        assert!(report.is_clean());
        assert_eq!(report.strangers, strange.len() as u64);
        damaged.repo.prune().unwrap();
        assert!(strange.iter().all(|path| path.exists()));
    });
}

#[test]
fn an_object_under_another_objects_name_is_found() {
    in_each_mode(|damaged| {
        // A whole, well-formed object; only not this one.
        let (_, bytes) = DirTree::default().encode().unwrap();
        std::fs::write(damaged.path(ObjectKind::DirTree), &bytes).unwrap();
        let finding = damaged.finding(ObjectKind::DirTree, "/etc/");
        let found = Digest::of(&bytes);
        assert_eq!(finding.problem, Problem::WrongDigest { found });
        let error = damaged
            .repo
            .repo()
            .load_dirtree(&damaged.etc.to_hex().parse().unwrap())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&damaged.etc.to_hex()), "{error}");
    });
}

#[test]
fn a_checkout_of_a_damaged_tree_fails_by_name_and_leaves_no_destination() {
    for (kind, _) in EVERY_KIND {
        for remove in [true, false] {
            in_each_mode(|damaged| {
                let path = damaged.path(kind);
                if remove {
                    std::fs::remove_file(&path).unwrap();
                } else {
                    rewrite(&path, |bytes| bytes.truncate(bytes.len() / 2));
                }
                let out = damaged.repo.scratch().join("out");
                let error = damaged
                    .repo
                    .checkout("os/stable", &out, &CheckoutOptions::default())
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains(kind.to_string().as_str()), "{error}");
                let beside: Vec<_> = std::fs::read_dir(damaged.repo.scratch())
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                assert_eq!(beside.len(), 2, "the repository and the source: {beside:?}");
            });
        }
    }
}

#[test]
fn a_pruner_does_not_guess_about_what_it_cannot_read() {
    in_each_mode(|damaged| {
        rewrite(&damaged.path(ObjectKind::DirTree), |bytes| bytes.truncate(20));
        let before = damaged.repo.fsck().blobs;
        assert_eq!(damaged.repo.prune().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(damaged.repo.fsck().blobs, before);
    });
}

#[test]
fn committing_the_source_again_heals_what_is_missing() {
    in_each_mode(|damaged| {
        let source = damaged.repo.scratch().join("source");
        std::fs::remove_file(damaged.path(ObjectKind::Blob)).unwrap();
        std::fs::remove_file(damaged.path(ObjectKind::DirTree)).unwrap();
        let report = damaged.repo.commit("again", &source);
        assert_eq!(*report.root.digest(), damaged.root);
        damaged.repo.assert_clean();
    });
}

/// The bytes of a dirtree with one fifo under each name, in this order, checked by nobody.
fn dirtree_of_names(names: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"atomosT\x01".to_vec();
    bytes.extend(u32::to_le_bytes(names.len() as u32));
    for name in names {
        bytes.extend([b'p', 0]);
        bytes.extend(u16::to_le_bytes(name.len() as u16));
        bytes.extend(u32::to_le_bytes(0o644));
        bytes.extend([0; 20]);
        bytes.extend(*name);
    }
    bytes
}

#[test]
fn a_dirtree_that_no_writer_makes_is_refused_wherever_it_is_used() {
    // The good one first: the bytes are what they are taken for.
    DirTree::decode(&dirtree_of_names(&[b"a", b"b"])).unwrap();
    let slash_dots: [(&str, &[&[u8]]); 7] = [
        ("..", &[b".."]),
        (".", &[b"."]),
        ("a slash", &[b"../../etc/passwd"]),
        ("an empty name", &[b""]),
        ("a duplicate", &[b"a", b"a"]),
        ("unsorted names", &[b"b", b"a"]),
        ("NUL", &[b"a\0b"]),
    ];
    for (what, names) in slash_dots {
        in_each_mode(|damaged| {
            let repo = &damaged.repo;
            let tree = repo.plant(ObjectKind::DirTree, &dirtree_of_names(names));
            let commit = Commit {
                root: libatomos::digest::DirTreeId::new(tree),
                ..repo.repo().load_commit(&damaged.commit).unwrap()
            };
            let (_, bytes) = commit.encode().unwrap();
            let evil = CommitId::new(repo.plant(ObjectKind::Commit, &bytes));
            let out = repo.scratch().join("out");
            let error = repo
                .checkout(&evil.to_string(), &out, &CheckoutOptions::default())
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert!(!out.exists());
            let report = repo.fsck();
            let problems: Vec<_> = report.findings.iter().map(|finding| &finding.problem).collect();
            assert!(
                matches!(problems[..], [Problem::Malformed { .. }]),
                "{what}: {problems:?}"
            );
            // Nothing keeps it, so a pruner takes it away.
            repo.prune().unwrap();
            repo.assert_clean();
        });
    }
}

#[test]
fn a_tree_that_lies_about_a_size_is_found() {
    in_each_mode(|damaged| {
        let repo = &damaged.repo;
        let entry = Entry {
            name: b"file".to_vec(),
            metadata: Metadata::with_mode(0o644),
            node: Node::File {
                size: 4999,
                blob: libatomos::digest::BlobId::new(damaged.blob),
                verity: None,
            },
        };
        let (_, bytes) = DirTree::new(vec![entry]).unwrap().encode().unwrap();
        let tree = repo.plant(ObjectKind::DirTree, &bytes);
        let commit = Commit {
            root: libatomos::digest::DirTreeId::new(tree),
            ..repo.repo().load_commit(&damaged.commit).unwrap()
        };
        let (id, bytes) = commit.encode().unwrap();
        let _ = repo.plant(ObjectKind::Commit, &bytes);
        let update = libatomos::repo::RefUpdate {
            name: "liar".parse().unwrap(),
            expected: None,
            new: Some(id),
        };
        repo.repo().update_refs(&[update]).unwrap();
        let report = repo.fsck();
        assert_eq!(
            report.findings[0].problem,
            Problem::WrongSize {
                recorded: 4999,
                found: 5000
            }
        );
        let out = repo.scratch().join("out");
        let error = repo
            .checkout("liar", &out, &CheckoutOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    });
}

#[test]
fn what_a_root_keeps_is_kept_and_verified() {
    in_each_mode(|damaged| {
        let repo = &damaged.repo;
        let name = "deployment-1".parse().unwrap();
        let single = repo.plant(ObjectKind::Blob, b"a conflict's base");
        let record = RootRecord {
            commits: [damaged.commit].into(),
            blobs: [libatomos::digest::BlobId::new(single)].into(),
        };
        repo.repo().set_root(&name, &record).unwrap();
        let update = libatomos::repo::RefUpdate {
            name: "os/stable".parse().unwrap(),
            expected: None,
            new: None,
        };
        repo.repo().update_refs(&[update]).unwrap();
        let mut dry = PruneOptions::default();
        dry.dry_run = true;
        let report = repo.repo().prune(&dry, &NoProgress, &Cancel::new()).unwrap();
        assert_eq!((report.commits_removed, report.blobs_removed), (0, 0));
        repo.prune().unwrap();
        repo.assert_clean();
        std::fs::remove_file(repo.object(ObjectKind::Blob, &single)).unwrap();
        assert_eq!(repo.fsck().findings[0].problem, Problem::Missing);
        std::fs::write(repo.path().join("roots/deployment-1"), b"{\"commits\": [\"").unwrap();
        assert!(
            repo.prune().is_err(),
            "a root that cannot be read might keep anything"
        );
        repo.repo().remove_root(&name).unwrap();
        let report = repo.repo().prune(&dry, &NoProgress, &Cancel::new()).unwrap();
        assert!(report.dry_run && report.commits_removed == 1 && report.blobs_removed > 3);
        assert!(
            repo.repo().load_commit(&damaged.commit).is_ok(),
            "a dry run removes nothing"
        );
        let done = repo.prune().unwrap();
        assert_eq!(
            (done.blobs_removed, done.bytes_removed),
            (report.blobs_removed, report.bytes_removed)
        );
        let empty = repo.fsck();
        assert_eq!(
            (empty.commits, empty.dirtrees, empty.blobs, empty.variants),
            (0, 0, 0, 0)
        );
    });
}

#[test]
fn a_tree_that_lies_about_the_size_of_a_file_that_is_here_already_is_not_taken_from_another_repository() {
    for mode in [RepoMode::Bare, RepoMode::BareUser] {
        if mode == RepoMode::Bare && !is_root_or_skip("owners") {
            continue;
        }
        let damaged = Damaged::new(mode);
        let repo = damaged.repo.repo();
        let other = TestRepo::with_mode(mode);
        let pull = || {
            let mut options = LocalPullOptions::default();
            options.no_hardlinks = true;
            let refs = ["os/stable".parse().unwrap()];
            other
                .repo()
                .pull_local(repo, &refs, &options, &NoProgress, &Cancel::new())
        };
        pull().unwrap();

        let mut commit = repo.load_commit(&damaged.commit).unwrap();
        let root = repo.load_dirtree(&commit.root).unwrap();
        let Node::Dir { tree } = root.get(b"etc").unwrap().node else {
            panic!("a directory");
        };
        let mut etc = repo.load_dirtree(&tree).unwrap().into_entries();
        for entry in &mut etc {
            if let Node::File { size, .. } = &mut entry.node {
                *size += 1;
            }
        }
        let transaction = repo.begin().unwrap();
        let etc = transaction.store_dirtree(&DirTree::new(etc).unwrap()).unwrap();
        let mut entries = root.into_entries();
        let entry = entries.iter_mut().find(|entry| entry.name == *b"etc").unwrap();
        entry.node = Node::Dir { tree: etc };
        commit.root = transaction
            .store_dirtree(&DirTree::new(entries).unwrap())
            .unwrap();
        commit.parent = Some(damaged.commit);
        let lie = transaction.store_commit(&commit).unwrap();
        transaction.set_ref(RefUpdate {
            name: "os/stable".parse().unwrap(),
            expected: None,
            new: Some(lie),
        });
        transaction.commit().unwrap();

        let error = pull().unwrap_err();
        assert!(
            matches!(error, RepoError::ObjectDamaged { digest, .. } if digest == damaged.blob),
            "{error:?}"
        );
        let now = other.repo().ref_optional(&"os/stable".parse().unwrap()).unwrap();
        assert_eq!(now, Some(damaged.commit));
        other.assert_clean();
    }
}
