//! What holds for every tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::checkout::{CheckoutOptions, Ownership, checkout};
use crate::commit::{CommitOptions, CommitReport, commit};
use crate::progress::NoProgress;
use crate::repo::{Repo, RepoMode};

#[test]
fn what_systemd_reads_from_the_snippet_is_what_was_written() {
    let base = tempfile::tempdir().unwrap();
    let odd = " sp ace %m q\"q b\\s 'x' ü\u{1} ";
    let root = base.path().join("root");
    make(&root, &BASE);
    fs::create_dir(root.join("var/lib").join(odd)).unwrap();
    fs::set_permissions(root.join("var/lib").join(odd), fs::Permissions::from_mode(0o750)).unwrap();
    symlink(odd, root.join("var/lib/link")).unwrap();
    let mut tree = scan(&root);
    // A user cannot give directories away, and needs not.
    let me = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    arrange(&mut tree, &OsTreeOptions::default(), Some(me), &Cancel::new()).unwrap();
    let node = tree.find(tmpfiles::SNIPPET).unwrap();
    let snippet = tree.read(node, 1 << 20).unwrap().unwrap();
    // Copies need the factory at its place, which a test that writes no files of the tree has not.
    let lines: Vec<&[u8]> = snippet
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"d ") || line.starts_with(b"L "))
        .collect();
    let target = base.path().join("target");
    fs::create_dir_all(target.join("usr/lib/tmpfiles.d")).unwrap();
    fs::create_dir(target.join("var")).unwrap();
    fs::write(target.join(tmpfiles::SNIPPET), lines.concat()).unwrap();
    let output = match std::process::Command::new("systemd-tmpfiles")
        .args(["--create", "--root"])
        .arg(&target)
        .output()
    {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: systemd-tmpfiles cannot be run: {error}");
            return;
        }
    };
    assert!(output.status.success(), "{output:?}");
    let made = fs::metadata(target.join("var/lib").join(odd)).unwrap();
    assert_eq!(made.permissions().mode() & 0o7777, 0o750);
    assert_eq!(
        fs::read_link(target.join("var/lib/link")).unwrap().to_str(),
        Some(odd)
    );
}

/// Commits a directory into a fresh repository; returns the report.
fn commit_to(repo: &Repo, source: &Path, os: Option<OsTreeOptions>) -> CommitReport {
    let options = CommitOptions {
        os,
        ..CommitOptions::default()
    };
    commit(
        repo,
        Dir::open_ambient(source).unwrap(),
        &options,
        &NoProgress,
        &Cancel::new(),
    )
    .unwrap()
}

#[test]
fn a_tree_that_has_the_shape_is_left_as_it_is_down_to_its_digest() {
    let base = tempfile::tempdir().unwrap();
    let source = base.path().join("source");
    make(
        &source,
        &[
            &BASE,
            [
                "var/lib/dpkg/status",
                "opt/a/b -> ../../etc",
                "var/cache/x/y",
                "etc/machine-id",
            ]
            .as_slice(),
        ]
        .concat(),
    );
    let root = rustix::process::geteuid().is_root();
    let mode = if root { RepoMode::Bare } else { RepoMode::BareUser };
    let repo = Repo::init(&base.path().join("repo"), mode).unwrap();
    let first = commit_to(&repo, &source, Some(OsTreeOptions::default()));
    assert!(!first.os.as_ref().unwrap().is_unchanged());
    let options = CheckoutOptions {
        ownership: if root { Ownership::Exact } else { Ownership::User },
        ..CheckoutOptions::default()
    };
    let out = base.path().join("out");
    let rev = first.commit.to_string();
    checkout(&repo, &rev, &out, &options, &NoProgress, &Cancel::new()).unwrap();
    // A user's checkout has no sticky bits.
    fs::set_permissions(out.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let plain = commit_to(&repo, &out, None);
    let again = commit_to(&repo, &out, Some(OsTreeOptions::default()));
    let report = again.os.as_ref().unwrap();
    assert!(report.is_unchanged(), "{report:#?}");
    assert_eq!(again.root, plain.root);
    if root {
        assert_eq!(again.root, first.root);
    }
}

/// Returns the paths of everything that is not a directory, by node.
fn leaves(tree: &SourceTree) -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    let mut stack = vec![(0, String::new())];
    while let Some((dir, path)) = stack.pop() {
        for child in tree.children(dir) {
            let node = tree.node(*child);
            let path = format!("{path}{}", String::from_utf8_lossy(&node.name));
            if matches!(node.kind, SourceKind::Dir { .. }) {
                stack.push((*child, format!("{path}/")));
            } else {
                found.insert(*child, path);
            }
        }
    }
    found
}

/// The law: what is missing in the result is what the report says was dropped.
#[track_caller]
fn assert_nothing_is_lost(before: &BTreeMap<u32, String>, tree: &SourceTree, report: &OsTreeReport) {
    let after = leaves(tree);
    let lost: BTreeSet<&str> = before
        .iter()
        .filter(|(node, _)| !after.contains_key(node))
        .map(|(_, path)| path.as_str())
        .collect();
    // A path in /var or /boot is dropped under its old name; one in /etc under its new.
    let old_name = |path: &str| match path.strip_prefix("usr/etc/") {
        Some(rest) if before.values().any(|old| *old == format!("etc/{rest}")) => format!("etc/{rest}"),
        _ => path.to_owned(),
    };
    let known: BTreeSet<&str> = before.values().map(String::as_str).collect();
    let said: BTreeSet<String> = report
        .dropped
        .iter()
        .flat_map(|group| &group.paths)
        .map(|path| old_name(path))
        .filter(|path| known.contains(path.as_str()))
        .collect();
    assert_eq!(lost, said.iter().map(String::as_str).collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_of_the_source_is_lost_without_being_named(
        files in proptest::collection::btree_set((0usize..36, "[a-c]{1,2}"), 0..40),
    ) {
        const PLACES: [&str; 36] = [
            "", "boot", "boot/grub", "boot/dtbs/6.1", "dev", "dev/pts", "etc", "etc/ssh", "home/u", "media", "mnt",
            "opt", "proc", "root", "run", "run/lock", "srv", "sys", "tmp", "usr/bin", "usr/lib/modules/6.1",
            "usr/lib/modules/5.9", "usr/local", "usr/local/share", "var", "var/cache", "var/cache/debconf",
            "var/lib/apt/lists", "var/lib/dpkg", "var/lib/rpm", "var/local", "var/lock", "var/log",
            "var/log/journal", "var/opt", "var/tmp",
        ];
        let base = tempfile::tempdir().unwrap();
        make(base.path(), &BASE);
        for (index, (place, name)) in files.iter().enumerate() {
            let dir = base.path().join(PLACES[*place]);
            fs::create_dir_all(&dir).unwrap();
            // One name is one kind of thing wherever it stands, so that places which become one do not clash.
            match name.len() + usize::from(name.starts_with('a')) {
                1 => fs::write(dir.join(format!("{name}{index}")), name).unwrap(),
                2 => symlink("../x", dir.join(format!("{name}{index}"))).unwrap(),
                _ => fs::create_dir_all(dir.join(name).join("empty")).unwrap(),
            }
        }
        let mut tree = scan(base.path());
        let before = leaves(&tree);
        let report = arrange(&mut tree, &OsTreeOptions::default(), None, &Cancel::new()).unwrap();
        assert_nothing_is_lost(&before, &tree, &report);
    }
}

/// The variable that names a root file system to try the whole thing on: one that debootstrap made, say.
const REAL_TREE: &str = "ATOMOS_TEST_OS_TREE";

#[test]
fn a_real_root_file_system_becomes_deployable_and_loses_nothing() {
    let Some(path) = std::env::var_os(REAL_TREE) else {
        println!("skipped: {REAL_TREE} names no root file system");
        return;
    };
    let mut tree = scan(Path::new(&path));
    let before = leaves(&tree);
    let report = arrange(&mut tree, &OsTreeOptions::default(), None, &Cancel::new()).unwrap();
    assert_nothing_is_lost(&before, &tree, &report);
    assert!(report.kernel.is_some());
    assert!(tree.find("usr/lib/sysimage/dpkg/status").is_some());
    assert!(tree.find("etc").is_none());
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}
