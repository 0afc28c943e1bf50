//! fs-verity digests in trees: those of the bytes, however the bytes came; and digests that are not.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use libatomos::cancel::Cancel;
use libatomos::commit::{CommitOptions, CommitReport, MtimePolicy, commit};
use libatomos::digest::{BlobId, DirTreeId};
use libatomos::format::{Commit, DirTree, Metadata, Node};
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{ObjectKind, Problem, RefUpdate};
use libatomos::source::{Source, SourceOptions, commit_sources};
use libatomos::testing::{TestRepo, skip};
use libatomos::verity::{VerityDigest, VerityHasher};

/// What `fsverity digest` of fsverity-utils says of the first bytes of an endless `0123456789abcde\n`.
const BY_FSVERITY: [(usize, &str); 8] = [
    (
        0,
        "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95",
    ),
    (
        1,
        "023fb36b9241a02beebfad4a1d7338aa229d46bdab668a5a9b7f14a1bdd875e1",
    ),
    (
        4095,
        "ebc19ec0887fc270fbde7afab20d0107f3d606cc934938b1ef3dc4f59ac09d70",
    ),
    (
        4096,
        "2471a7d052a7a4c8764a903c738451dbb2c7da20077d1936205f7913b77442e4",
    ),
    (
        4097,
        "b91d845eb00c9dc61550eca2abaadb762d936cb9034c2c36b4308f8acaac46d8",
    ),
    (
        128 * 4096,
        "6847941ee461816d0bb20cfcff645f7bc32cbf199f1f5b431c6ec19e60b11e41",
    ),
    (
        128 * 4096 + 1,
        "771d80b9d30e706552498ffe1cd7f69fc5a5b929be1db721e7dca1c013c2e8b8",
    ),
    // Three levels.
    (
        129 * 128 * 4096 + 7,
        "79df3d4af1f14e4c3dd9ce4c09f0265005c384e33312c6b018c21ecea05e0de6",
    ),
];

fn sample(size: usize) -> Vec<u8> {
    b"0123456789abcde\n".iter().copied().cycle().take(size).collect()
}

#[test]
fn digests_are_those_of_another_implementation() {
    for (size, expected) in BY_FSVERITY {
        assert_eq!(VerityDigest::of(&sample(size)).to_string(), expected, "{size}");
    }
}

#[test]
fn digests_are_those_of_the_tool_that_is_here() {
    if Command::new("fsverity")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return skip("comparing with fsverity", "it is not installed");
    }
    for size in [
        0,
        1,
        4095,
        4096,
        4097,
        128 * 4096,
        128 * 4096 + 1,
        129 * 128 * 4096 + 7,
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&sample(size)).unwrap();
        let output = Command::new("fsverity")
            .args(["digest", "--compact"])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(output.status.success());
        let mut hasher = VerityHasher::new();
        for piece in sample(size).chunks(10_007) {
            hasher.update(piece);
        }
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim(),
            hasher.finalize().to_string(),
            "{size}"
        );
    }
}

fn with_verity() -> CommitOptions {
    let mut options = CommitOptions::default();
    options.reference = Some("os".parse().unwrap());
    options.verity = true;
    options
}

fn commit_of(repo: &TestRepo, tree: &Path, options: &CommitOptions) -> CommitReport {
    let source = Dir::open_ambient(tree).unwrap();
    commit(repo.repo(), source, options, &NoProgress, &Cancel::new()).unwrap()
}

/// Sizes around blocks, around what is read into memory, and beyond.
const SIZES: [usize; 8] = [0, 1, 4096, 4097, 1 << 20, (1 << 20) - 1, (1 << 20) + 1, 3 << 20];

fn make_tree(tree: &Path) {
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    for size in SIZES {
        std::fs::write(tree.join(format!("sub/{size}")), sample(size)).unwrap();
    }
    std::fs::write(tree.join("again"), sample(4097)).unwrap();
}

/// Every file that is not empty has the digest of its bytes.
fn check(repo: &TestRepo, root: DirTreeId) -> u64 {
    let mut files = 0;
    for entry in repo.repo().load_dirtree(&root).unwrap().entries() {
        match &entry.node {
            Node::Dir { tree } => files += check(repo, *tree),
            Node::File { size: 0, verity, .. } => assert_eq!(*verity, None),
            Node::File { blob, verity, .. } => {
                let bytes = std::fs::read(repo.object(ObjectKind::Blob, blob.digest())).unwrap();
                assert_eq!(
                    *verity,
                    Some(*VerityDigest::of(&bytes).as_bytes()),
                    "{:?}",
                    entry.name
                );
                files += 1;
            }
            _ => {}
        }
    }
    files
}

#[test]
fn every_file_of_a_directory_has_its_digest_and_a_second_commit_need_not_read_it() {
    let repo = TestRepo::on_disk();
    let tree = repo.scratch().join("tree");
    make_tree(&tree);
    let plain = commit_of(&repo, &tree, &CommitOptions::default());
    // What the first commit remembers of files is not their digests.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let first = commit_of(&repo, &tree, &with_verity());
    assert_eq!(check(&repo, first.root), SIZES.len() as u64);
    std::thread::sleep(std::time::Duration::from_millis(30));
    for no_cache in [false, true, false] {
        let mut options = with_verity();
        options.no_cache = no_cache;
        assert_eq!(commit_of(&repo, &tree, &options).root, first.root);
    }
    assert_eq!(
        commit_of(&repo, &tree, &CommitOptions::default()).root,
        plain.root,
        "what is remembered is not recorded without being asked for"
    );
    repo.assert_clean();
}

#[test]
fn the_stores_own_files_have_digests_too() {
    let repo = TestRepo::on_disk();
    let tree = repo.scratch().join("tree");
    make_tree(&tree);
    let plain = commit_of(&repo, &tree, &CommitOptions::default());
    let out = repo.scratch().join("out");
    repo.checkout(&plain.commit.to_string(), &out, &Default::default())
        .unwrap();
    let report = commit_of(&repo, &out, &with_verity());
    assert_eq!(check(&repo, report.root), SIZES.len() as u64);
    let mut options = with_verity();
    options.adopt = true;
    let adopted = commit_of(&repo, &tree, &options);
    assert_eq!(check(&repo, adopted.root), SIZES.len() as u64);
    repo.assert_clean();
}

#[test]
fn an_archive_and_a_commit_have_digests_too() {
    let repo = TestRepo::new();
    let tree = repo.scratch().join("tree");
    make_tree(&tree);
    let archive = repo.scratch().join("archive");
    let made = Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status()
        .unwrap();
    assert!(made.success());
    let mut options = SourceOptions::default();
    options.commit = with_verity();
    let commit_source =
        |source| commit_sources(repo.repo(), vec![source], &options, &NoProgress, &Cancel::new()).unwrap();
    let tar = commit_source(Source::Tar {
        name: "archive".into(),
        stream: Box::new(std::fs::File::open(&archive).unwrap()),
    });
    assert_eq!(check(&repo, tar.root), SIZES.len() as u64);
    let plain = commit_of(&repo, &tree, &CommitOptions::default());
    let again = commit_source(Source::Commit(plain.commit));
    assert_eq!(check(&repo, again.root), SIZES.len() as u64);
}

#[test]
fn asking_for_digests_makes_no_file_another_one() {
    let repo = TestRepo::new();
    let tree = repo.scratch().join("tree");
    make_tree(&tree);
    let mut options = CommitOptions::default();
    options.reference = Some("os".parse().unwrap());
    commit_of(&repo, &tree, &options);
    for size in SIZES {
        let file = std::fs::File::options()
            .write(true)
            .open(tree.join(format!("sub/{size}")))
            .unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    let mut options = with_verity();
    options.mtime = MtimePolicy::Parent;
    let report = commit_of(&repo, &tree, &options);
    assert_eq!((report.stats.blobs_added, report.stats.variants_added), (0, 0));
}

#[test]
fn a_tree_that_lies_about_a_digest_is_found_and_no_copy_helps() {
    let repo = TestRepo::new();
    let tree = repo.scratch().join("tree");
    make_tree(&tree);
    let report = commit_of(&repo, &tree, &with_verity());
    let loaded = repo.repo().load_dirtree(&report.root).unwrap();
    let wrong = VerityDigest::of(b"other");
    let entries = loaded.into_entries().into_iter().map(|mut entry| {
        if let Node::File { verity, .. } = &mut entry.node {
            *verity = Some(*wrong.as_bytes());
        }
        entry
    });
    let (_, bytes) = DirTree::new(entries.collect()).unwrap().encode().unwrap();
    let liar = repo.plant(ObjectKind::DirTree, &bytes);
    let (id, bytes) = Commit {
        root: DirTreeId::new(liar),
        root_metadata: Metadata::with_mode(0o755),
        ..repo.repo().load_commit(&report.commit).unwrap()
    }
    .encode()
    .unwrap();
    let _ = repo.plant(ObjectKind::Commit, &bytes);
    repo.assert_clean();
    let update = RefUpdate {
        name: "liar".parse().unwrap(),
        expected: None,
        new: Some(id),
    };
    repo.repo().update_refs(&[update]).unwrap();
    let found = repo.fsck();
    let [finding] = found.findings.as_slice() else {
        panic!("{:?}", found.findings);
    };
    assert_eq!((finding.kind, finding.digest), (ObjectKind::DirTree, liar));
    let bytes = sample(4097);
    assert_eq!(
        finding.problem,
        Problem::WrongVerity {
            blob: BlobId::new(libatomos::digest::Digest::of(&bytes)),
            recorded: wrong,
            found: VerityDigest::of(&bytes),
        }
    );
    let repaired = repo
        .repo()
        .repair(&mut [], &Default::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(repaired.lost.len(), 1, "it is as it was made");
}
