//! Exports: an archive of a tree is that tree again, and nothing but the tree decides its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use libatomos::Cancel;
use libatomos::archive::MemberKind;
use libatomos::commit::{CommitOptions, CommitReport, commit};
use libatomos::error::ErrorKind;
use libatomos::export::{ExportCompression, ExportError, ImageOptions, export_image, export_tar};
use libatomos::failpoint;
use libatomos::fs::Dir;
use libatomos::oci::{Layout, Platform};
use libatomos::progress::NoProgress;
use libatomos::repo::RepoMode;
use libatomos::source::Source;
use libatomos::testing::{OddTree, Order, TestRepo, acl, is_root_or_skip, memory_dir, skip, small_tree};
use proptest::prelude::*;

use crate::archives::{archive, commit_all, file, listing, other, tar_source};

fn commit_dir(repo: &TestRepo, path: &Path) -> CommitReport {
    let source = Dir::open_ambient(path).unwrap();
    let mut options = CommitOptions::default();
    options.time = Some(1_700_000_000);
    options.subject = "a subject".to_owned();
    options.version = "1.2".to_owned();
    commit(repo.repo(), source, &options, &NoProgress, &Cancel::new()).unwrap()
}

fn export(repo: &TestRepo, report: &CommitReport, compression: ExportCompression) -> Vec<u8> {
    let mut bytes = Vec::new();
    let commit = &report.commit;
    let exported = export_tar(
        repo.repo(),
        commit,
        compression,
        &mut bytes,
        &NoProgress,
        &Cancel::new(),
    );
    assert_eq!(exported.unwrap().files, report.files);
    bytes
}

const COMPRESSIONS: [ExportCompression; 3] = [
    ExportCompression::None,
    ExportCompression::Gzip,
    ExportCompression::Zstd,
];

fn layout(path: &Path) -> Layout {
    Layout::ensure(Dir::ensure_ambient(path).unwrap()).unwrap()
}

fn image(
    repo: &TestRepo,
    report: &CommitReport,
    path: &Path,
    options: &ImageOptions,
) -> Result<(), ExportError> {
    let layout = layout(path);
    let (progress, cancel) = (&NoProgress, &Cancel::new());
    export_image(repo.repo(), &report.commit, &layout, options, progress, cancel).map(|_| ())
}

fn named(name: &str) -> ImageOptions {
    let mut options = ImageOptions::default();
    options.name = Some(name.to_owned());
    options.platform = "linux/amd64".parse().unwrap();
    options
}

fn oci_source(path: &Path, name: Option<&str>) -> Source {
    Source::Oci {
        layout: Layout::open(Dir::open_ambient(path).unwrap()).unwrap(),
        name: name.map(str::to_owned),
        platform: Some("linux/amd64".parse::<Platform>().unwrap()),
    }
}

#[test]
fn the_archive_of_a_tree_of_every_odd_thing_is_that_tree() {
    for mode in [RepoMode::Bare, RepoMode::BareUser] {
        if mode == RepoMode::Bare && !is_root_or_skip("exports of a repository of mode bare") {
            continue;
        }
        let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
        let (first, second) = (scratch.path().join("first"), scratch.path().join("second"));
        std::fs::create_dir(&first).unwrap();
        std::fs::create_dir(&second).unwrap();
        OddTree::new().make(&first, Order::Forward);
        OddTree::new().make(&second, Order::Reverse);
        let (repo, other) = (TestRepo::with_mode(mode), TestRepo::with_mode(RepoMode::BareUser));
        let report = commit_dir(&repo, &first);
        let again = commit_dir(&other, &second);
        for compression in COMPRESSIONS {
            let bytes = export(&repo, &report, compression);
            assert_eq!(
                bytes,
                export(&other, &again, compression),
                "the order of a disk shows"
            );
            let imported = commit_all(&repo, vec![tar_source(bytes)]).unwrap();
            assert_eq!(imported.root, report.root);
            assert_eq!(imported.stats.blobs_added + imported.stats.variants_added, 0);
            let metadata = |commit| repo.repo().load_commit(commit).unwrap().root_metadata;
            assert_eq!(metadata(&imported.commit), metadata(&report.commit));
        }
        assert!(repo.fsck().findings.is_empty());
    }
}

#[test]
fn the_archive_is_what_gnu_tar_unpacks() {
    if !is_root_or_skip("unpacking an export by GNU tar") {
        return;
    }
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    // Access control lists are a format of GNU tar's own, and this one is in attributes.
    let odd = OddTree::new().without("xattrs");
    odd.make(&tree, Order::Forward);
    let repo = TestRepo::new();
    let report = commit_dir(&repo, &tree);
    let path = scratch.path().join("a.tar");
    std::fs::write(&path, export(&repo, &report, ExportCompression::None)).unwrap();
    let target = scratch.path().join("unpacked");
    std::fs::create_dir(&target).unwrap();
    let unpacked = Command::new("tar")
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--same-owner",
            "-xpf",
        ])
        .arg(&path)
        .arg("-C")
        .arg(&target)
        .output();
    match unpacked {
        Err(_) => return skip("unpacking an export", "there is no tar"),
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
    assert_eq!(commit_dir(&repo, &target).root, report.root);
}

#[test]
fn access_control_lists_are_what_tar_and_bsdtar_unpack() {
    if !is_root_or_skip("unpacking lists") {
        return;
    }
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("dir")).unwrap();
    std::fs::write(tree.join("file"), "bytes").unwrap();
    for (path, name, list) in [
        (
            "file",
            "system.posix_acl_access",
            acl(6, &[(1000, 7), (70_000, 1)], 4, 7, 4),
        ),
        ("dir", "system.posix_acl_access", acl(7, &[(1000, 0)], 5, 5, 0)),
        ("dir", "system.posix_acl_default", acl(7, &[(1000, 4)], 5, 5, 0)),
    ] {
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(tree.join(path), name, &list, flags).is_err() {
            return skip("unpacking lists", "the file system has none");
        }
    }
    let repo = TestRepo::new();
    let report = commit_dir(&repo, &tree);
    let path = scratch.path().join("a.tar");
    std::fs::write(&path, export(&repo, &report, ExportCompression::None)).unwrap();
    for program in ["tar", "bsdtar"] {
        let target = scratch.path().join(program);
        std::fs::create_dir(&target).unwrap();
        let unpacked = Command::new(program)
            .args(["--acls", "--numeric-owner", "--same-owner", "-xpf"])
            .arg(&path)
            .arg("-C")
            .arg(&target)
            .output();
        match unpacked {
            Err(_) => skip("unpacking lists", program),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{program}: {text}");
                assert_eq!(commit_dir(&repo, &target).root, report.root, "{program}");
            }
        }
    }
}

#[test]
fn a_name_that_looks_like_a_whiteout_survives_an_archive_and_is_refused_for_an_image() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir_all(tree.join("d/.wh.dir")).unwrap();
    std::fs::write(tree.join("d/.wh.x"), "text").unwrap();
    std::fs::write(tree.join("d/x"), "there").unwrap();
    std::fs::write(tree.join("d/.wh.dir/y"), "too").unwrap();
    let report = commit_dir(&repo, &tree);
    let bytes = export(&repo, &report, ExportCompression::None);
    assert_eq!(
        commit_all(&repo, vec![tar_source(bytes)]).unwrap().root,
        report.root
    );
    let error = image(&repo, &report, &scratch.path().join("layout"), &named("a")).unwrap_err();
    assert!(matches!(error, ExportError::Whiteout { .. }));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // Nothing of it is there, and no empty layout.
    let left = std::fs::read_dir(scratch.path().join("layout")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn exports_into_one_layout_at_once_leave_every_image_whole() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let path = scratch.path().join("layout");
    let reports: Vec<_> = (0..6)
        .map(|n| commit_all(&repo, vec![tar_source(archive(&[file("x", &format!("{n}"))]))]).unwrap())
        .collect();
    for _ in 0..10 {
        std::thread::scope(|scope| {
            for (n, report) in reports.iter().enumerate() {
                let (repo, path) = (&repo, &path);
                scope.spawn(move || image(repo, report, path, &named(&n.to_string())).unwrap());
            }
        });
        for (n, report) in reports.iter().enumerate() {
            let imported = commit_all(&repo, vec![oci_source(&path, Some(&n.to_string()))]);
            assert_eq!(imported.unwrap().root, report.root);
        }
        let mut names: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn an_export_that_fails_takes_its_layout_from_nobody_else() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let path = scratch.path().join("layout");
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join(".wh.x"), "").unwrap();
    let (bad, good) = (
        commit_dir(&repo, &tree),
        commit_all(&repo, vec![tar_source(archive(&[file("x", "x")]))]).unwrap(),
    );
    let export = |report: &CommitReport, layout: &Layout| {
        let (progress, cancel) = (&NoProgress, &Cancel::new());
        export_image(repo.repo(), &report.commit, layout, &named("a"), progress, cancel)
    };
    let (first, second) = (layout(&path), layout(&path));
    export(&bad, &first).unwrap_err();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    // What the second has written so far is no reason to refuse a third.
    std::fs::write(path.join(".atomos-layer-1-0"), "").unwrap();
    export(&bad, &layout(&path)).unwrap_err();
    export(&good, &second).unwrap();
    export(&bad, &first).unwrap_err();
    let imported = commit_all(&repo, vec![oci_source(&path, Some("a"))]).unwrap();
    assert_eq!(imported.root, good.root);
}

#[test]
fn a_layer_of_an_export_that_was_killed_is_removed_and_one_that_is_being_written_is_not() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let path = scratch.path().join("layout");
    let report = commit_all(&repo, vec![tar_source(archive(&[file("x", "x")]))]).unwrap();
    image(&repo, &report, &path, &named("a")).unwrap();
    let (dead, living) = (path.join(".atomos-layer-1-0"), path.join(".atomos-layer-2-0"));
    std::fs::write(&dead, "").unwrap();
    let held = std::fs::File::create(&living).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    image(&repo, &report, &path, &named("a")).unwrap();
    assert_eq!((dead.exists(), living.exists()), (false, true));
}

#[test]
fn a_damaged_blob_is_not_exported() {
    let repo = TestRepo::new();
    let report = commit_all(&repo, vec![tar_source(archive(&[file("x", "some bytes")]))]).unwrap();
    let objects = repo.path().join("objects");
    let shard = std::fs::read_dir(objects)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let object = std::fs::read_dir(shard).unwrap().next().unwrap().unwrap().path();
    for bytes in ["same bytes", "longer than it was", "short"] {
        std::fs::write(&object, bytes).unwrap();
        let (progress, cancel) = (&NoProgress, &Cancel::new());
        let mut out = Vec::new();
        let plain = ExportCompression::None;
        let error = export_tar(repo.repo(), &report.commit, plain, &mut out, progress, cancel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bytes}");
    }
}

#[test]
fn an_image_is_the_tree_and_depends_on_nothing_else() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    OddTree::new().make(&tree, Order::Forward);
    let report = commit_dir(&repo, &tree);
    let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
    for compression in COMPRESSIONS {
        let mut options = named("one");
        options.compression = compression;
        for path in [&a, &b] {
            image(&repo, &report, path, &options).unwrap();
        }
        let imported = commit_all(&repo, vec![oci_source(&a, Some("one"))]).unwrap();
        assert_eq!(imported.root, report.root);
        let same = Command::new("diff").arg("-r").arg(&a).arg(&b).status().unwrap();
        assert!(same.success());
    }
    image(&repo, &report, &a, &named("two")).unwrap();
    let error = commit_all(&repo, vec![oci_source(&a, None)]).unwrap_err();
    assert!(error.to_string().contains("one, two"), "{error}");
    let error = commit_all(&repo, vec![oci_source(&a, Some("three"))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let labels = Layout::open(Dir::open_ambient(&a).unwrap())
        .unwrap()
        .image(Some("two"), None)
        .unwrap()
        .labels;
    assert_eq!(labels["atomos.commit"], report.commit.to_string());
    assert_eq!(labels["org.opencontainers.image.version"], "1.2");
}

#[test]
fn a_blob_of_an_image_that_is_not_what_its_digest_says_is_refused() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let report = commit_all(&repo, vec![tar_source(archive(&[file("x", "some bytes")]))]).unwrap();
    let path = scratch.path().join("layout");
    let mut options = named("a");
    options.compression = ExportCompression::None;
    image(&repo, &report, &path, &options).unwrap();
    let blobs: Vec<_> = std::fs::read_dir(path.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(blobs.len(), 3);
    for blob in blobs {
        let whole = std::fs::read(&blob).unwrap();
        for change in 0..3 {
            let mut bytes = whole.clone();
            match change {
                // In the last bytes of a layer nothing but the digest looks.
                0 => *bytes.last_mut().unwrap() ^= 1,
                1 => bytes.push(0),
                _ => bytes.truncate(whole.len() - 1),
            }
            std::fs::write(&blob, &bytes).unwrap();
            let error = commit_all(&repo, vec![oci_source(&path, None)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        std::fs::write(&blob, &whole).unwrap();
    }
    commit_all(&repo, vec![oci_source(&path, None)]).unwrap();
}

#[test]
fn an_interrupted_export_leaves_the_image_that_was_there() {
    let repo = TestRepo::new();
    let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
    let path = scratch.path().join("layout");
    let commit_of = |text: &str| commit_all(&repo, vec![tar_source(archive(&[file("x", text)]))]).unwrap();
    let (old, new) = (commit_of("old"), commit_of("new"));
    image(&repo, &old, &path, &named("a")).unwrap();
    let root = || {
        commit_all(&repo, vec![oci_source(&path, Some("a"))])
            .unwrap()
            .root
    };
    let (points, traced) = failpoint::trace(|| image(&repo, &old, &path, &named("a")));
    traced.unwrap();
    let published = points.iter().position(|point| *point == "oci.published").unwrap();
    assert_eq!(points[published - 1], "oci.synced");
    for (n, point) in points.iter().enumerate() {
        image(&repo, &old, &path, &named("a")).unwrap();
        failpoint::stop_at(n, || image(&repo, &new, &path, &named("a"))).unwrap_err();
        let wanted = if n < published { old.root } else { new.root };
        assert_eq!(root(), wanted, "{}", point);
    }
    image(&repo, &new, &path, &named("a")).unwrap();
    assert_eq!(root(), new.root);
}

/// What a layer does.
#[derive(Debug, Clone)]
enum Act {
    File(String, String),
    Dir(String),
    Gone(String),
    Opaque(String),
}

fn act() -> impl Strategy<Value = Act> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"));
    (path, 0..6u8, "[a-z]{1,3}").prop_map(|(path, kind, text)| match kind {
        0..=2 => Act::File(path, text),
        3 => Act::Dir(path),
        4 => Act::Gone(path),
        _ => Act::Opaque(path),
    })
}

/// The rules of the image specification, as plainly as they can be said: a path to what is there, nothing for a directory.
fn reference(layers: &[Vec<Act>]) -> BTreeMap<String, Option<String>> {
    let mut tree: BTreeMap<String, Option<String>> = BTreeMap::new();
    let beneath = |path: &str, dir: &str| path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    for layer in layers {
        let gone: BTreeSet<String> = tree
            .keys()
            .filter(|path| {
                layer.iter().any(|act| match act {
                    Act::Gone(other) => *path == other || beneath(path, other),
                    Act::Opaque(dir) => beneath(path, dir),
                    _ => false,
                })
            })
            .cloned()
            .collect();
        tree.retain(|path, _| !gone.contains(path));
        for act in layer {
            let (path, content) = match act {
                Act::File(path, text) => (path, Some(text.clone())),
                Act::Dir(path) => (path, None),
                _ => continue,
            };
            for (at, _) in path.match_indices('/') {
                tree.insert(path[..at].to_owned(), None);
            }
            if content.is_some() {
                tree.retain(|other, _| !beneath(other, path));
            }
            tree.insert(path.clone(), content);
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn layers_make_what_the_specification_says(
        layers in prop::collection::vec(prop::collection::vec(act(), 0..8), 1..4),
    ) {
        let repo = TestRepo::with_mode(RepoMode::BareUser);
        let sources = layers.iter().map(|layer| {
            // What a layer's whiteouts say holds for the layers below, wherever they stand in it.
            let members: Vec<_> = layer.iter().map(|act| match act {
                Act::File(path, text) => file(path, text),
                Act::Dir(path) => other(path, MemberKind::Dir),
                Act::Gone(path) => {
                    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
                    file(&format!("{parent}/.wh.{name}"), "")
                }
                Act::Opaque(path) => file(&format!("{path}/.wh..wh..opq"), ""),
            }).collect();
            tar_source(archive(&members))
        }).collect();
        match commit_all(&repo, sources) {
            Ok(report) => {
                let found: BTreeSet<String> = listing(&repo, &report).into_iter().collect();
                let wanted: BTreeSet<String> = reference(&layers).into_iter().map(|(path, content)| match content {
                    Some(text) => format!("/{path}={text}"),
                    None => format!("/{path}/"),
                }).collect();
                prop_assert_eq!(found, wanted);
            }
            // A file is where a directory must be: an archive that no program could unpack.
            Err(error) => {
                let text = std::error::Error::source(&error).unwrap().to_string();
                prop_assert!(text.contains("no directory"), "{}", text);
            }
        }
    }

    #[test]
    fn the_archive_of_any_tree_is_that_tree(seed in any::<u64>()) {
        let scratch = tempfile::tempdir_in(memory_dir()).unwrap();
        let tree = scratch.path().join("tree");
        small_tree(&tree, seed, 12);
        let repo = TestRepo::with_mode(RepoMode::BareUser);
        let report = commit_dir(&repo, &tree);
        let bytes = export(&repo, &report, ExportCompression::None);
        prop_assert_eq!(commit_all(&repo, vec![tar_source(bytes)]).unwrap().root, report.root);
    }
}

#[test]
fn layers_of_umoci_are_what_umoci_unpacks() {
    if Command::new("umoci").arg("--version").output().is_err() {
        return skip("images of umoci", "there is no umoci");
    }
    if !is_root_or_skip("images of umoci") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    small_tree(&tree, 7, 30);
    std::fs::create_dir(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/shadow"), "secret").unwrap();
    std::os::unix::fs::chown(tree.join("etc/shadow"), Some(0), Some(42)).unwrap();
    std::fs::set_permissions(tree.join("etc/shadow"), PermissionsExt::from_mode(0o2640)).unwrap();
    std::os::unix::fs::symlink("../etc", tree.join("etc/self")).unwrap();
    std::fs::create_dir_all(tree.join("more/deep/er")).unwrap();
    std::fs::write(tree.join("more/deep/er/x"), "x").unwrap();
    std::fs::write(tree.join("more/y"), "y").unwrap();
    let repo = TestRepo::on_disk();
    let report = commit_dir(&repo, &tree);
    let path = scratch.path().join("layout");
    image(&repo, &report, &path, &named("v0")).unwrap();
    let umoci = |words: &[&str]| {
        let output = Command::new("umoci")
            .current_dir(scratch.path())
            .args(words)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    // Three layers, each by umoci, from a change of what it has unpacked.
    for version in 1..=3 {
        let (from, to) = (format!("layout:v{}", version - 1), format!("layout:v{version}"));
        let bundle = format!("bundle{version}");
        umoci(&["unpack", "--image", &from, &bundle]);
        let root = scratch.path().join(&bundle).join("rootfs");
        match version {
            1 => {
                std::fs::remove_dir_all(root.join("more/deep")).unwrap();
                std::fs::write(root.join("more/deep"), "a file now").unwrap();
            }
            2 => {
                std::fs::remove_file(root.join("more/deep")).unwrap();
                std::fs::create_dir_all(root.join("more/deep/new")).unwrap();
                std::fs::hard_link(root.join("more/y"), root.join("more/deep/new/y")).unwrap();
            }
            _ => {
                std::fs::remove_dir_all(root.join("more")).unwrap();
                std::fs::create_dir_all(root.join("more")).unwrap();
                std::os::unix::fs::symlink("/more", root.join("link-to-more")).unwrap();
            }
        }
        umoci(&["repack", "--image", &to, &bundle]);
        let check = format!("check{version}");
        umoci(&["unpack", "--image", &to, &check]);
        let wanted = commit_dir(&repo, &scratch.path().join(&check).join("rootfs"));
        let found = commit_all(&repo, vec![oci_source(&path, Some(&format!("v{version}")))]).unwrap();
        assert_eq!(
            listing(&repo, &found),
            listing(&repo, &wanted),
            "version {version}"
        );
        assert_eq!(found.root, wanted.root, "version {version}");
    }
}
