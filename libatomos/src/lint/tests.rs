//! Every check on a tree that has just that fault, and the two ways in on the same tree.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::commit::{CommitOptions, commit, hash_directory};
use crate::progress::NoProgress;
use crate::repo::{Repo, RepoMode};

/// A tree that nothing is wrong with.
const GOOD: [&str; 24] = [
    "bin -> usr/bin",
    "sbin -> usr/sbin",
    "boot/",
    "dev/",
    "home -> var/home",
    "proc/",
    "root -> var/roothome",
    "run/",
    "sys/",
    "sysroot/",
    "tmp/",
    "var/",
    "usr/bin/sh",
    "usr/lib/atomos/atomos-prepare-root",
    "usr/lib/atomos/health.d/",
    "usr/lib/systemd/system.conf.d/10-atomos-watchdog.conf",
    "usr/etc/passwd",
    "usr/etc/machine-id -> /run/machine-id",
    "usr/lib/init",
    "usr/lib/modules/6.1/initramfs.img",
    "usr/lib/modules/6.1/vmlinuz",
    "usr/lib/os-release",
    "usr/sbin/init -> ../lib/init",
    "lib -> usr/lib",
];

/// Makes files, directories (`a/`), links (`a -> b`), and removes (`!a`).
fn make(root: &Path, items: &[&str]) {
    for item in items {
        if let Some(path) = item.strip_prefix('!') {
            let path = root.join(path);
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
            continue;
        }
        let (path, target) = item
            .split_once(" -> ")
            .map_or((*item, None), |(path, target)| (path, Some(target)));
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, &path).unwrap(),
            None if item.ends_with('/') => fs::create_dir_all(&path).unwrap(),
            None => {
                fs::write(&path, item).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            }
        }
    }
}

fn lint(root: &Path) -> LintReport {
    let dir = || Dir::open_ambient(root).unwrap();
    let report = lint_directory(dir(), &Cancel::new()).unwrap();
    let options = ScanOptions::default();
    let (id, _, trees) = hash_directory(dir(), &options, &NoProgress, &Cancel::new()).unwrap();
    let stored = lint_tree(&trees, &id, &Cancel::new()).unwrap();
    assert_eq!(report, stored, "a directory and what is committed of it");
    report
}

fn names(report: &LintReport) -> Vec<&'static str> {
    report
        .findings
        .iter()
        .map(|finding| finding.name.name())
        .collect()
}

#[test]
fn a_good_tree_has_no_findings() {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &GOOD);
    let report = lint(base.path());
    assert_eq!(report, LintReport::default());
    assert!(report.is_deployable());
}

#[test]
fn each_fault_is_found_and_nothing_else() {
    for (changes, expected) in [
        (&["!lib", "lib/x"][..], &["not-usr-merged"][..]),
        (
            &["!usr/lib/modules/6.1/vmlinuz"],
            &["no-kernel", "unused-modules"],
        ),
        (&["!usr/lib/modules"], &["no-kernel"]),
        (
            &["usr/lib/modules/5/vmlinuz", "usr/lib/modules/5/initramfs"],
            &["several-kernels"],
        ),
        (&["usr/lib/modules/5/a.ko"], &["unused-modules"]),
        (&["!usr/lib/atomos"], &["no-prepare-root", "no-health-checks"]),
        (&["!usr/lib/atomos/atomos-prepare-root"], &["no-prepare-root"]),
        (
            &[
                "!usr/lib/systemd/system.conf.d/10-atomos-watchdog.conf",
                "usr/lib/systemd/system.conf.d/10-x.conf",
            ],
            &["no-watchdog"],
        ),
        (
            &["!usr/lib/systemd", "usr/etc/systemd/system.conf.d/watchdog.conf"],
            &[],
        ),
        (&["!usr/lib/modules/6.1/initramfs.img"], &["no-initramfs"]),
        (&["etc/x"], &["etc-and-usr-etc"]),
        (&["etc/"], &[]),
        (&["!usr/etc", "etc/x"], &["etc-not-moved"]),
        (&["!usr/etc"], &["no-usr-etc"]),
        (&["!sysroot", "!var"], &["missing-mount-point"]),
        (&["!tmp", "tmp -> var/tmp"], &["missing-mount-point"]),
        (&["!usr/lib/init"], &["no-init"]),
        (&["!usr/sbin/init", "usr/sbin/init -> init"], &["no-init"]),
        (&["!usr/lib/os-release"], &["no-os-release"]),
        (&["!usr/lib/os-release", "usr/etc/os-release"], &[]),
        (&["var/x"], &["var-not-empty"]),
        (&["boot/x"], &["boot-not-empty"]),
        (&["opt/"], &["place-not-linked"]),
        (
            &["usr/share/factory/var/lib/dpkg/status"],
            &["package-database-in-var"],
        ),
        (&["usr/share/factory/var/lib/dpkg -> ../../x"], &[]),
        (&["!usr/etc/machine-id", "usr/etc/machine-id"], &["machine-id"]),
        (
            &["usr/etc/ssh/ssh_host_rsa_key", "usr/etc/ssh/ssh_host_rsa_key.pub"],
            &["ssh-host-keys"],
        ),
        (
            &["usr/share/factory/var/lib/systemd/random-seed"],
            &["machine-secret"],
        ),
        (&["usr/share/factory/var/home/a/"], &[]),
        (&["usr/share/factory/var/home/a/b"], &["home-content"]),
        (&["usr/lib/modules/6.1/a.ko.xz"], &["compressed-modules"]),
        (&["usr/share/man/man1/a.1.gz"], &["compressed-documents"]),
        (&["usr/share/man/man1/a.1.gz -> b.1.gz", "usr/share/a.gz"], &[]),
    ] {
        let base = tempfile::tempdir().unwrap();
        make(base.path(), &GOOD);
        make(base.path(), changes);
        assert_eq!(names(&lint(base.path())), expected, "{changes:?}");
    }
}

#[test]
fn modes_and_names_are_looked_at() {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &GOOD);
    make(
        base.path(),
        &["usr/bin/su", "usr/bin/open", "usr/lib/open/", "usr/lib/sticky/"],
    );
    for (path, mode) in [
        ("usr/bin/su", 0o4755),
        ("usr/bin/open", 0o666),
        ("usr/lib/open", 0o777),
        ("usr/lib/sticky", 0o1777),
        ("tmp", 0o1777),
    ] {
        fs::set_permissions(base.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(base.path().join(std::ffi::OsStr::from_bytes(b"usr/\xff")), "").unwrap();
    let report = lint(base.path());
    let at = |check: Check| {
        let finding = report
            .findings
            .iter()
            .find(|finding| finding.name == check)
            .unwrap();
        finding.paths.join(" ")
    };
    assert_eq!(at(Check::SetUid), "usr/bin/su");
    assert_eq!(at(Check::WorldWritable), "usr/bin/open usr/lib/open");
    assert_eq!(at(Check::NameNotUtf8), "usr/\u{fffd}");
    assert!(report.is_deployable(), "warnings keep nobody from deploying");
}

#[test]
fn compression_is_found_with_what_it_costs() {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &GOOD);
    make(
        base.path(),
        &["usr/lib/modules/6.1/a.ko.xz", "usr/lib/modules/6.1/b.ko.zst"],
    );
    fs::write(base.path().join("usr/lib/modules/6.1/b.ko.zst"), [0; 1000]).unwrap();
    let report = lint(base.path());
    let cost = report.findings[0].cost.unwrap();
    let bytes = 1000 + "usr/lib/modules/6.1/a.ko.xz".len() as u64;
    assert_eq!((cost.files, cost.bytes), (2, bytes));
    assert!(cost.patched < bytes / 2 && cost.patched > bytes / 3, "{cost:?}");
    assert!(report.is_deployable());
}

#[test]
fn a_compressed_initramfs_is_found_in_a_directory_and_in_a_repository() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("root");
    make(&root, &GOOD);
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[1; 996]].concat();
    fs::write(root.join("usr/lib/modules/6.1/initramfs.img"), zstd).unwrap();
    let repo = Repo::init(&base.path().join("repo"), RepoMode::BareUser).unwrap();
    let source = || Dir::open_ambient(&root).unwrap();
    let options = CommitOptions::default();
    let stored = commit(&repo, source(), &options, &NoProgress, &Cancel::new()).unwrap();
    for report in [
        lint_directory(source(), &Cancel::new()).unwrap(),
        lint_tree(&repo, &stored.root, &Cancel::new()).unwrap(),
    ] {
        assert_eq!(names(&report), ["compressed-initramfs"]);
        assert_eq!(report.findings[0].paths, ["usr/lib/modules/6.1/initramfs.img"]);
        assert_eq!(report.findings[0].cost.unwrap().bytes, 1000);
    }
}

/// Lints a tree with `conf` as its `prepare-root.conf`, as a directory and as a repository has it.
fn with_conf(conf: &str, changes: &[&str], system_conf: &str) -> Vec<String> {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("root");
    make(&root, &GOOD);
    make(
        &root,
        &[
            "usr/lib/atomos/prepare-root.conf",
            "usr/etc/systemd/system.conf.d/x.conf",
        ],
    );
    fs::write(root.join("usr/lib/atomos/prepare-root.conf"), conf).unwrap();
    fs::write(root.join("usr/etc/systemd/system.conf.d/x.conf"), system_conf).unwrap();
    make(&root, changes);
    let repo = Repo::init(&base.path().join("repo"), RepoMode::BareUser).unwrap();
    let source = || Dir::open_ambient(&root).unwrap();
    let options = CommitOptions::default();
    let stored = commit(&repo, source(), &options, &NoProgress, &Cancel::new()).unwrap();
    let report = lint_directory(source(), &Cancel::new()).unwrap();
    assert_eq!(report, lint_tree(&repo, &stored.root, &Cancel::new()).unwrap());
    let show = |finding: &LintFinding| format!("{} {}", finding.name, finding.paths.join(" "));
    report.findings.iter().map(show).collect()
}

#[test]
fn settings_of_prepare_root_that_it_would_not_understand_are_errors() {
    let path = "usr/lib/atomos/prepare-root.conf";
    assert!(with_conf("etc = transient # yes\n", &[], "").is_empty());
    assert_eq!(
        with_conf("etc = transient\ncomposefs = requird\n\nx = y\n", &[], ""),
        [format!("prepare-root-conf {path}:2 {path}:4")]
    );
    let whole = [format!("prepare-root-conf {path}")];
    assert_eq!(with_conf(&"#".repeat(65537), &[], ""), whole);
    let link = [&format!("!{path}")[..], &format!("{path} -> /etc/x")];
    assert_eq!(with_conf("", &link, ""), whole);
}

#[test]
fn a_watchdog_that_nobody_takes_over_is_an_error() {
    let systemd = ["usr/lib/systemd/systemd"];
    let finding = ["watchdog-not-fed usr/lib/atomos/prepare-root.conf"];
    for (conf, system_conf, found) in [
        ("watchdog = 60", "", true),
        ("watchdog = 60", "#RuntimeWatchdogSec=20s", true),
        ("watchdog = 60", "RuntimeWatchdogSec=off", true),
        ("watchdog = 60", "[Manager]\nRuntimeWatchdogSec=20s\n", false),
        ("watchdog = 60\nwatchdog = off", "", false),
    ] {
        let expected = if found { &finding[..] } else { &[] };
        assert_eq!(
            with_conf(conf, &systemd, system_conf),
            expected,
            "{conf} {system_conf}"
        );
    }
    assert!(
        with_conf("watchdog = 60", &[], "").is_empty(),
        "another init may feed it"
    );
}

#[test]
fn keys_and_what_is_asked_to_be_verified_belong_together() {
    let (conf, key) = ("usr/lib/atomos/prepare-root.conf", "usr/lib/atomos/seal.d/x.pub");
    let keys = [key, "usr/lib/atomos/seal.d/README"];
    assert!(with_conf("composefs = verified", &keys, "").is_empty());
    assert_eq!(
        with_conf("composefs = verified", &[], ""),
        [format!("verified-without-key {conf}")]
    );
    for word in [
        "",
        "composefs = required",
        "composefs = verified\ncomposefs = off",
    ] {
        assert_eq!(
            with_conf(word, &keys, ""),
            [format!("seal-keys-unused {key}")],
            "{word}"
        );
    }
    let without = [&format!("!{conf}")[..], key];
    assert_eq!(with_conf("", &without, ""), [format!("seal-keys-unused {key}")]);
}

#[test]
fn device_nodes_are_found() {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &GOOD);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::CharacterDevice;
    let path = base.path().join("dev/null");
    if let Err(errno) = rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, rustix::fs::makedev(1, 3)) {
        println!("skipped: a device node cannot be made here: {errno}");
        return;
    }
    assert_eq!(names(&lint(base.path())), ["device-node"]);
}

#[test]
fn an_empty_directory_is_no_root_file_system() {
    let base = tempfile::tempdir().unwrap();
    let report = lint(base.path());
    assert!(!report.is_deployable());
    assert_eq!(report.findings[0].name, Check::NoUsr);
}

#[test]
fn a_tree_that_boots_nowhere_is_not_deployable() {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &GOOD);
    make(base.path(), &["!usr/lib/atomos/atomos-prepare-root"]);
    assert!(!lint(base.path()).is_deployable());
}

#[test]
fn a_link_that_leads_in_circles_leads_nowhere() {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &GOOD);
    make(base.path(), &["!sbin", "sbin -> a", "a -> ../b", "b -> /sbin"]);
    assert_eq!(names(&lint(base.path())), ["no-init"]);
}

#[test]
fn names_are_stable_and_unique() {
    let mut names: Vec<&str> = Check::ALL.iter().map(|check| check.name()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_document_has_every_check() {
    let document = include_str!("../../../docs/os-tree.md");
    let rows: Vec<&str> = document
        .lines()
        .skip_while(|line| *line != "| name | severity | |")
        .skip(2)
        .collect();
    let expected: Vec<String> = Check::ALL
        .iter()
        .map(|check| format!("| `{check}` | {} | {} |", check.severity(), check.text()))
        .collect();
    assert_eq!(rows, expected);
}
