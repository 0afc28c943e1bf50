//! commit(checkout(T)) = T, for a tree of every odd thing, in each mode, by each way to link, on each file system.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use libatomos::cancel::Cancel;
use libatomos::checkout::{CheckoutOptions, LinkMode, Ownership};
use libatomos::commit::{MtimePolicy, ScanOptions, commit, hash_directory};
use libatomos::digest::DirTreeId;
use libatomos::format::{DirTree, Entry, Metadata, Node};
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{ObjectKind, RepoMode};
use libatomos::testing::{LoopFs, Needs, OddTree, Order, TestRepo, is_root_or_skip, memory_dir, skip};

fn options(link: LinkMode, ownership: Ownership) -> CheckoutOptions {
    let mut options = CheckoutOptions::default();
    options.link = link;
    options.ownership = ownership;
    options
}

/// Returns the digest of a directory and the metadata of its root.
fn digest_of(path: &Path) -> (DirTreeId, Metadata) {
    let dir = Dir::open_ambient(path).unwrap();
    let (id, metadata, _) =
        hash_directory(dir, &ScanOptions::default(), &NoProgress, &Cancel::new()).unwrap();
    (id, metadata)
}

/// Says where two trees differ, so that a failure can be read.
fn differences(left: &Path, right: &Path) -> Vec<String> {
    let load = |path: &Path| {
        let dir = Dir::open_ambient(path).unwrap();
        hash_directory(dir, &ScanOptions::default(), &NoProgress, &Cancel::new()).unwrap()
    };
    let ((left, _, left_trees), (right, _, right_trees)) = (load(left), load(right));
    let mut found = Vec::new();
    let mut stack = vec![(left, right, String::new())];
    while let Some((left, right, path)) = stack.pop() {
        use libatomos::repo::TreeSource;
        let (left, right): (DirTree, DirTree) = (
            left_trees.dirtree(&left).unwrap(),
            right_trees.dirtree(&right).unwrap(),
        );
        for entry in left.entries() {
            let name = format!("{path}/{}", entry.name.escape_ascii());
            match right.get(&entry.name) {
                None => found.push(format!("{name}: only in the first")),
                Some(other) => {
                    if let (Node::Dir { tree: a }, Node::Dir { tree: b }) = (&entry.node, &other.node) {
                        if a != b {
                            stack.push((*a, *b, name.clone()));
                        }
                    } else if entry.node != other.node {
                        found.push(format!("{name}: {:?} and {:?}", entry.node, other.node));
                    }
                    if entry.metadata != other.metadata {
                        found.push(format!("{name}: {:?} and {:?}", entry.metadata, other.metadata));
                    }
                }
            }
        }
        for entry in right.entries() {
            if left.get(&entry.name).is_none() {
                found.push(format!(
                    "{path}/{}: only in the second",
                    entry.name.escape_ascii()
                ));
            }
        }
        found.truncate(20);
    }
    found
}

fn make(tree: &OddTree, path: &Path, order: Order) {
    std::fs::create_dir(path).unwrap();
    tree.make(path, order);
}

/// Commits `tree` and checks it out in every way that `mode` has; each must be the same tree again.
fn round_trip(tree: &OddTree, parent: &Path, mode: RepoMode, links: &[LinkMode]) {
    let repo = TestRepo::beneath(parent, mode);
    let source = repo.scratch().join("source");
    make(tree, &source, Order::Forward);
    let report = repo.commit("odd", &source);
    repo.assert_clean();
    let root_metadata = repo.repo().load_commit(&report.commit).unwrap().root_metadata;
    for link in links {
        let out = repo.scratch().join(format!("out-{link:?}"));
        let made = repo.checkout("odd", &out, &options(*link, Ownership::Exact));
        if *link == LinkMode::Hardlink {
            // A file of no bytes is never a link; only that keeps this from being `Ok` in a tree with empty files.
            assert_eq!(made.as_ref().unwrap().reflinked, 0);
            assert!(made.as_ref().unwrap().hardlinked > 300);
        }
        made.unwrap();
        let found = differences(&source, &out);
        assert!(found.is_empty(), "{mode} {link:?}: {found:#?}");
        assert_eq!(
            digest_of(&out),
            (report.root, root_metadata.clone()),
            "{mode} {link:?}"
        );
        let again = repo.commit("again", &out);
        assert_eq!(again.root, report.root);
        assert_eq!(
            (
                again.stats.blobs_added,
                again.stats.variants_added,
                again.stats.dirtrees_added
            ),
            (0, 0, 0),
            "{mode} {link:?}"
        );
    }
    repo.assert_clean();
}

#[test]
fn a_tree_of_every_odd_thing_survives_bare_by_hardlink_and_by_copy() {
    if is_root_or_skip("the round trip in mode bare") {
        let links = [LinkMode::Hardlink, LinkMode::Copy, LinkMode::Auto];
        round_trip(&OddTree::new(), &memory_dir(), RepoMode::Bare, &links);
        // The same on whatever disk there is.
        let tree = OddTree::new().without("many");
        round_trip(&tree, &std::env::temp_dir(), RepoMode::Bare, &links[..1]);
    }
}

#[test]
fn a_tree_of_every_odd_thing_survives_bare_user_with_exact_checkout() {
    if is_root_or_skip("the exact checkout from mode bare-user") {
        round_trip(
            &OddTree::new(),
            &std::env::temp_dir(),
            RepoMode::BareUser,
            &[LinkMode::Auto],
        );
    }
}

#[test]
fn a_tree_of_every_odd_thing_survives_on_ext4_xfs_and_btrfs() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(filesystem) = LoopFs::new(kind, 320) else {
            continue;
        };
        // The crowded directory says nothing about a file system that the others do not.
        let mut tree = OddTree::new().without("many");
        if kind == "xfs" {
            // It holds 1024 bytes of a link's target, and 18 bits of a minor number.
            tree = tree.without("links/longest").without("special/high");
        }
        round_trip(
            &tree,
            filesystem.path(),
            RepoMode::Bare,
            &[LinkMode::Hardlink, LinkMode::Copy],
        );
    }
}

#[test]
fn an_ordinary_user_gets_bytes_names_and_times_back() {
    // Root's test runs itself again as nobody.
    if rustix::process::geteuid().is_root() {
        as_nobody("round_trip::an_ordinary_user_gets_bytes_names_and_times_back");
        return;
    }
    let repo = TestRepo::with_mode(RepoMode::BareUser);
    let source = repo.scratch().join("source");
    make(&OddTree::limited_to(Needs::Nothing), &source, Order::Forward);
    let report = repo.commit("odd", &source);
    repo.assert_clean();
    let out = repo.scratch().join("out");
    repo.checkout("odd", &out, &options(LinkMode::Auto, Ownership::User))
        .unwrap();
    let tree = repo.repo().load_dirtree(&report.root).unwrap();
    let again = repo.commit("again", &out);
    let other = repo.repo().load_dirtree(&again.root).unwrap();
    assert_as_user(&repo, &tree, &other, "");
    // What is a user's own and harmless comes back whole.
    let names = |tree: &DirTree| tree.get(b"names").cloned().unwrap();
    assert_eq!(names(&tree), names(&other));
    repo.assert_clean();
}

/// Asserts that `right` is `left` without owners, attributes and special bits.
fn assert_as_user(repo: &TestRepo, left: &DirTree, right: &DirTree, path: &str) {
    let names = |tree: &DirTree| {
        tree.entries()
            .iter()
            .map(|entry| entry.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(left), names(right), "{path}");
    for (a, b) in left.entries().iter().zip(right.entries()) {
        let path = format!("{path}/{}", a.name.escape_ascii());
        assert_eq!(a.metadata.mtime, b.metadata.mtime, "{path}");
        match (&a.node, &b.node) {
            (Node::Dir { tree: a_tree }, Node::Dir { tree: b_tree }) => {
                assert_eq!(a.metadata.mode & 0o1777 | 0o700, b.metadata.mode, "{path}");
                let load = |id| repo.repo().load_dirtree(id).unwrap();
                assert_as_user(repo, &load(a_tree), &load(b_tree), &path);
            }
            (a_node, b_node) => {
                assert_eq!(a_node, b_node, "{path}");
                assert_eq!(a.metadata.mode & 0o1777, b.metadata.mode, "{path}");
            }
        }
    }
}

/// Runs one test of this program again, as the user nobody.
fn as_nobody(test: &str) {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", test])
        .uid(65_534)
        .gid(65_534)
        .current_dir("/")
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success(),
                "{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(text.contains("1 passed"), "{text}");
        }
        Err(error) => skip(test, &format!("nobody cannot run this program: {error}")),
    }
}

#[test]
fn a_file_that_its_owner_may_not_read_is_named() {
    if rustix::process::geteuid().is_root() {
        as_nobody("round_trip::a_file_that_its_owner_may_not_read_is_named");
        return;
    }
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("secret"), b"x").unwrap();
    rustix::fs::chmod(source.join("secret"), rustix::fs::Mode::empty()).unwrap();
    let error = repo.try_commit("os", &source).unwrap_err();
    assert_eq!(error.kind(), libatomos::error::ErrorKind::Denied);
    assert!(error.to_string().contains("source/secret"), "{error}");
    repo.assert_clean();
}

#[test]
fn a_tree_whose_root_its_owner_may_not_write_to_is_checked_out() {
    if rustix::process::geteuid().is_root() {
        as_nobody("round_trip::a_tree_whose_root_its_owner_may_not_write_to_is_checked_out");
        return;
    }
    let repo = TestRepo::new();
    let (source, out) = (repo.scratch().join("source"), repo.scratch().join("out"));
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    std::fs::create_dir_all(source.join("closed/below")).unwrap();
    std::fs::write(source.join("closed/below/file"), b"x").unwrap();
    set(&source.join("closed"), 0o555);
    for root in [0o555, 0o2555] {
        set(&source, root);
        let report = repo.commit("os", &source);
        for (rev, wanted) in [(report.commit.to_string(), root), ("os".to_owned(), 0o555)] {
            let mut options = CheckoutOptions::default();
            if rev == "os" {
                options.subpath = b"closed".to_vec();
            }
            let _made = repo.checkout(&rev, &out, &options).unwrap();
            assert_eq!(
                std::fs::metadata(&out).unwrap().permissions().mode() & 0o7777,
                wanted
            );
            if options.subpath.is_empty() {
                assert_eq!(repo.commit("again", &out).root, report.root);
                set(&out.join("closed"), 0o755);
            }
            set(&out, 0o755);
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    set(&source, 0o755);
    set(&source.join("closed"), 0o755);
}

#[test]
fn the_same_tree_has_the_same_digest_elsewhere_and_in_another_order() {
    let repo = TestRepo::new();
    let tree = OddTree::new();
    let mut digests = Vec::new();
    for (name, order) in [
        ("one", Order::Forward),
        ("two", Order::Reverse),
        ("three", Order::Strided),
    ] {
        let path = repo.scratch().join(name);
        make(&tree, &path, order);
        digests.push(digest_of(&path));
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

/// Prints what the next test compares; run by it under several environments.
#[test]
fn print_digest_for_another_environment() {
    let Some(place) = std::env::var_os("ATOMOS_TEST_SOURCE") else {
        return;
    };
    let repo = TestRepo::new();
    let source = Path::new(&place);
    let mut options = TestRepo::options("os");
    options.subject = "the same".to_owned();
    let report = commit(
        repo.repo(),
        Dir::open_ambient(source).unwrap(),
        &options,
        &NoProgress,
        &Cancel::new(),
    )
    .unwrap();
    repo.assert_clean();
    println!("digests {} {}", report.commit, report.root);
}

#[test]
fn umask_locale_time_zone_and_threads_do_not_change_a_commit() {
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let source = scratch.path().join("source");
    make(&OddTree::new(), &source, Order::Forward);
    let mut found = Vec::new();
    for (umask, variables) in [
        (
            "022",
            &[("LC_ALL", "C"), ("TZ", "UTC"), ("RAYON_NUM_THREADS", "1")],
        ),
        (
            "077",
            &[
                ("LC_ALL", "tr_TR.UTF-8"),
                ("TZ", "Asia/Kathmandu"),
                ("RAYON_NUM_THREADS", "7"),
            ],
        ),
        (
            "000",
            &[
                ("LC_ALL", "nonsense"),
                ("TZ", ":/nonsense"),
                ("RAYON_NUM_THREADS", "2"),
            ],
        ),
    ] {
        let mut command = Command::new("sh");
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "umask {umask}; exec \"$0\" --exact --nocapture round_trip::print_digest_for_another_environment"
        );
        command
            .arg("-c")
            .arg(script)
            .arg(program)
            .env("ATOMOS_TEST_SOURCE", &source);
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let line = text
            .lines()
            .find_map(|line| line.split_once("digests "))
            .map(|(_, line)| line.to_owned());
        found.push(line.expect("the program prints the digests"));
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
}

#[test]
fn a_commit_digest_follows_parent_message_and_epoch() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    libatomos::testing::small_tree(&source, 1, 40);
    let run = |options: &libatomos::commit::CommitOptions| {
        let dir = Dir::open_ambient(&source).unwrap();
        commit(repo.repo(), dir, options, &NoProgress, &Cancel::new())
            .unwrap()
            .commit
    };
    let mut options = TestRepo::options("os");
    options.epoch = Some(1_600_000_005);
    options.parent = libatomos::commit::Parent::None;
    let first = run(&options);
    assert_eq!(run(&options), first, "the same, a moment later");
    let mut other = options.clone();
    other.subject = "another".to_owned();
    assert_ne!(run(&other), first);
    let mut other = options.clone();
    other.epoch = Some(1_600_000_004);
    assert_ne!(run(&other), first, "an earlier epoch clamps one more time");
    let mut other = options.clone();
    other.parent = libatomos::commit::Parent::Commit(first);
    assert_ne!(run(&other), first);
    let mut zero = options.clone();
    zero.mtime = MtimePolicy::Zero;
    let root = repo.repo().load_commit(&run(&zero)).unwrap();
    assert_eq!(root.root_metadata.mtime, 0);
    repo.assert_clean();
}

/// Makes a chain of directories through descriptors: the path may be longer than the kernel accepts.
fn make_chain(root: &Path, depth: usize) {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        rustix::fs::mkdirat(&at, "e", Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn two_thousand_directories_deep_is_not_too_deep() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    make_chain(&source, 2000);
    let report = repo.commit("deep", &source);
    let out = repo.scratch().join("o");
    repo.checkout("deep", &out, &CheckoutOptions::default()).unwrap();
    assert_eq!(digest_of(&out).0, report.root);
    repo.assert_clean();
    repo.prune().unwrap();
    repo.assert_clean();
}

#[test]
fn deeper_than_the_kernel_accepts_is_refused_by_name() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    make_chain(&source, 2100);
    let error = repo.try_commit("deep", &source).unwrap_err();
    assert!(error.to_string().contains("d/d/d"), "{error}");
    repo.assert_clean();
}

#[test]
fn more_equal_files_than_an_inode_can_have_names() {
    if !is_root_or_skip("running into the file system's limit of links") {
        return;
    }
    let repo = TestRepo::on_disk();
    let transaction = repo.repo().begin().unwrap();
    let metadata = Metadata::with_mode(0o644);
    let blob = transaction.store_bytes(b"everywhere", &metadata).unwrap();
    let entries = (0..65_100).map(|index| Entry {
        name: format!("{index}").into_bytes(),
        metadata: metadata.clone(),
        node: Node::File {
            size: blob.size,
            blob: blob.id,
            verity: None,
        },
    });
    let tree = transaction
        .store_dirtree(&DirTree::new(entries.collect()).unwrap())
        .unwrap();
    transaction.commit().unwrap();
    let out = repo.scratch().join("out");
    let made = repo
        .checkout(&tree.to_string(), &out, &CheckoutOptions::default())
        .unwrap();
    assert_eq!(made.hardlinked + made.copied + made.reflinked, 65_100);
    assert_eq!(digest_of(&out).0, tree);
    repo.assert_clean();
}

#[test]
fn a_destination_that_gives_its_own_rights_to_new_files_does_not_change_the_tree() {
    if !is_root_or_skip("inherited groups and access control lists") {
        return;
    }
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    std::fs::create_dir_all(source.join("private")).unwrap();
    rustix::fs::chmod(source.join("private"), rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
    std::fs::write(source.join("private/file"), b"x").unwrap();
    std::fs::write(source.join("empty"), b"").unwrap();
    let report = repo.commit("os", &source);
    let generous = repo.scratch().join("generous");
    std::fs::create_dir(&generous).unwrap();
    rustix::fs::chown(&generous, None, Some(rustix::fs::Gid::from_raw(50))).unwrap();
    rustix::fs::chmod(&generous, rustix::fs::Mode::from_raw_mode(0o2775)).unwrap();
    for link in [LinkMode::Auto, LinkMode::Copy] {
        let out = generous.join(format!("{link:?}"));
        repo.checkout("os", &out, &options(link, Ownership::Exact))
            .unwrap();
        assert_eq!(differences(&source, &out), [""; 0]);
        assert_eq!(digest_of(&out).0, report.root, "a setgid directory, {link:?}");
    }
    let default = libatomos::testing::acl(7, &[(1000, 7)], 7, 7, 7);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&generous, "system.posix_acl_default", &default, flags).unwrap();
    for link in [LinkMode::Auto, LinkMode::Copy] {
        let out = generous.join(format!("{link:?}-acl"));
        repo.checkout("os", &out, &options(link, Ownership::Exact))
            .unwrap();
        assert_eq!(differences(&source, &out), [""; 0]);
        assert_eq!(
            digest_of(&out),
            digest_of(&source),
            "a default access control list, {link:?}"
        );
    }
    // A repository in such a place keeps true inodes all the same.
    let inside = TestRepo::beneath(&generous, RepoMode::Bare);
    let _ = inside.commit("os", &source);
    inside.assert_clean();
}

#[test]
fn a_file_with_the_bytes_of_a_dirtree_or_a_commit_is_another_object() {
    let repo = TestRepo::new();
    let source = repo.scratch().join("source");
    std::fs::create_dir_all(source.join("empty-dir")).unwrap();
    let (empty, bytes) = DirTree::default().encode().unwrap();
    std::fs::write(source.join("file"), &bytes).unwrap();
    let _ = repo.commit("os", &source);
    assert!(
        repo.repo()
            .has_object(ObjectKind::DirTree, empty.digest())
            .unwrap()
    );
    assert!(repo.repo().has_object(ObjectKind::Blob, empty.digest()).unwrap());
    repo.assert_clean();
    repo.checkout("os", &repo.scratch().join("out"), &CheckoutOptions::default())
        .unwrap();
}

/// Digests that must never change: whoever published a tree must find it under the same name for ever.
#[test]
fn the_digests_of_known_trees_are_what_they_were() {
    let repo = TestRepo::with_mode(RepoMode::BareUser);
    let source = repo.scratch().join("source");
    libatomos::testing::small_tree(&source, 1, 40);
    let mut options = TestRepo::options("os");
    options.owner = Some((0, 0));
    options.subject = "pinned".to_owned();
    let dir = Dir::open_ambient(&source).unwrap();
    let report = commit(repo.repo(), dir, &options, &NoProgress, &Cancel::new()).unwrap();
    assert_eq!(
        report.root.to_string(),
        "31dc3d0f188c5dc650926dcb0f71c7ff3a18c461b5e8eeda164db613f9b7c2ef"
    );
    assert_eq!(
        report.commit.to_string(),
        "24741e1eb7bd1a23bd4ebd93f11008a26c2683abb5c6092dfc527422af724a88"
    );
    if !is_root_or_skip("the digest of a tree of every odd thing") {
        return;
    }
    let odd = repo.scratch().join("odd");
    make(&OddTree::new(), &odd, Order::Forward);
    assert_eq!(
        digest_of(&odd).0.to_string(),
        "2f0d5b703c450d9482b4e5dce1c97c2f18fb4d413744458f53d5048984904ff4"
    );
}
