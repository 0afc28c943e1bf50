//! What is mounted of a commit is what was committed, for a tree of every odd thing, on each file system.

use std::path::{Path, PathBuf};

use libatomos::cancel::Cancel;
use libatomos::commit::{ScanOptions, hash_directory};
use libatomos::composefs::{ComposefsError, FilesAre, Image, MountId, mount, unmount};
use libatomos::digest::DirTreeId;
use libatomos::format::Metadata;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::RepoMode;
use libatomos::testing::{LoopFs, OddTree, Order, TestRepo, is_root_or_skip, skip};

/// A place where an image is mounted. Unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where the kernel cannot, after saying so.
    fn new(repo: &TestRepo, image: &Image) -> Option<Self> {
        let place = repo.scratch().join("mounted");
        std::fs::create_dir(&place).unwrap();
        match mount(
            repo.repo(),
            image,
            &place,
            &MountId::new().unwrap(),
            FilesAre::Believed,
        ) {
            Ok(()) => Some(Self(place)),
            Err(ComposefsError::Kernel { missing, .. }) => {
                skip("mounting an image", missing);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0) {
            eprintln!("{error}");
        }
    }
}

fn digest_of(path: &Path) -> (DirTreeId, Metadata) {
    let dir = Dir::open_ambient(path).unwrap();
    let (id, metadata, _) =
        hash_directory(dir, &ScanOptions::default(), &NoProgress, &Cancel::new()).unwrap();
    (id, metadata)
}

fn try_in(tree: &OddTree, parent: &Path, mode: RepoMode) {
    let repo = TestRepo::beneath(parent, mode);
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    tree.make(&source, Order::Forward);
    let whole = repo.commit("whole", &source);
    let refused = Image::make(repo.repo(), &whole.commit.to_string(), b"", &Cancel::new());
    assert!(
        matches!(&refused, Err(ComposefsError::NotInImages { path, .. }) if path.ends_with("special/whiteout")),
        "{refused:?}"
    );
    std::fs::remove_file(source.join("special/whiteout")).unwrap();
    let report = repo.commit("os", &source);
    let image = Image::make(repo.repo(), "os", b"", &Cancel::new()).unwrap();
    let Some(mounted) = Mounted::new(&repo, &image) else {
        return;
    };
    let (root, metadata) = digest_of(&mounted.0);
    assert_eq!(root, report.root);
    assert_eq!(
        metadata,
        repo.repo().load_commit(&report.commit).unwrap().root_metadata
    );
}

#[test]
fn every_odd_thing_is_seen_through_an_image() {
    if !is_root_or_skip("mounting an image") {
        return;
    }
    for mode in [RepoMode::Bare, RepoMode::BareUser] {
        try_in(&OddTree::new(), &std::env::temp_dir(), mode);
    }
}

#[test]
fn images_lie_on_every_file_system() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(filesystem) = LoopFs::new(kind, 320) else {
            continue;
        };
        let mut tree = OddTree::new().without("many");
        if kind == "xfs" {
            // It holds 1024 bytes of a link's target, and 18 bits of a minor number.
            tree = tree.without("links/longest").without("special/high");
        }
        try_in(&tree, filesystem.path(), RepoMode::Bare);
    }
}

#[test]
fn a_tree_without_an_end_is_refused_and_takes_no_memory() {
    use libatomos::format::{DirTree, Entry, Node};
    let repo = TestRepo::new();
    let transaction = repo.repo().begin().unwrap();
    // Each directory names the one below 200 times: 200 to the 20th entries in 20 small objects.
    let mut tree = transaction.store_dirtree(&DirTree::default()).unwrap();
    for _ in 0..20 {
        let entry = |number| Entry {
            name: format!("{number}").into_bytes(),
            metadata: Metadata::with_mode(0o755),
            node: Node::Dir { tree },
        };
        tree = transaction
            .store_dirtree(&DirTree::new((0..200).map(entry).collect()).unwrap())
            .unwrap();
    }
    transaction.commit().unwrap();
    let refused = Image::make(repo.repo(), &tree.to_string(), b"", &Cancel::new());
    assert!(matches!(refused, Err(ComposefsError::TooLarge)), "{refused:?}");
}
