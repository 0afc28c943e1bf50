//! Every rule on a small tree, and the laws on made-up and on real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::cancel::Cancel;
use crate::checkout::{CheckoutOptions, Ownership, checkout};
use crate::commit::{CommitOptions, CommitReport, ScanOptions, commit};
use crate::fs::Dir;
use crate::progress::NoProgress;
use crate::repo::{Repo, RepoMode};

/// What any root file system has.
const BASE: [&str; 14] = [
    "bin -> usr/bin",
    "sbin -> usr/sbin",
    "lib -> usr/lib",
    "usr/bin/sh",
    "usr/sbin/init",
    "usr/lib/os-release",
    "usr/lib/modules/6.1/modules.dep",
    "etc/passwd",
    "boot/vmlinuz-6.1",
    "boot/initrd.img-6.1",
    "home/",
    "root/.profile",
    "var/lib/",
    "tmp/",
];

/// Makes files (with their path as content), directories (`a/`) and links (`a -> b`).
fn make(root: &Path, items: &[&str]) {
    for item in items {
        let (path, target) = item
            .split_once(" -> ")
            .map_or((*item, None), |(path, target)| (path, Some(target)));
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, &path).unwrap(),
            None if item.ends_with('/') => fs::create_dir_all(&path).unwrap(),
            None => fs::write(&path, item).unwrap(),
        }
    }
}

fn scan(root: &Path) -> SourceTree {
    SourceTree::scan(
        Dir::open_ambient(root).unwrap(),
        &ScanOptions::default(),
        &Cancel::new(),
    )
    .unwrap()
}

/// Returns every path of the tree: `a/` for a directory, `a -> b` for a link, `a = content` for a file.
fn list(tree: &SourceTree) -> Vec<String> {
    let mut lines = Vec::new();
    let mut stack = vec![(0, String::new())];
    while let Some((dir, path)) = stack.pop() {
        for child in tree.children(dir) {
            let node = tree.node(*child);
            let path = format!("{path}{}", String::from_utf8_lossy(&node.name));
            lines.push(match &node.kind {
                SourceKind::Dir { .. } => {
                    stack.push((*child, format!("{path}/")));
                    format!("{path}/")
                }
                SourceKind::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
                _ => {
                    let bytes = tree.read(*child, 1 << 20).unwrap().unwrap_or_default();
                    format!("{path} = {}", String::from_utf8_lossy(&bytes))
                }
            });
        }
    }
    lines.sort();
    lines
}

struct Shaped {
    tree: SourceTree,
    report: OsTreeReport,
    _base: tempfile::TempDir,
}

impl Shaped {
    fn has(&self, line: &str) -> bool {
        list(&self.tree).iter().any(|other| other == line)
    }

    #[track_caller]
    fn assert_has(&self, lines: &[&str]) {
        for line in lines {
            assert!(self.has(line), "{line} is not in {:#?}", list(&self.tree));
        }
    }

    fn has_path(&self, path: &str) -> bool {
        self.tree.find(path).is_some()
    }

    fn dropped(&self) -> BTreeMap<&str, DropReason> {
        self.report
            .dropped
            .iter()
            .flat_map(|group| group.paths.iter().map(|path| (path.as_str(), group.reason)))
            .collect()
    }

    fn mode(&self, path: &str) -> u32 {
        self.tree.node(self.tree.find(path).unwrap()).metadata.mode
    }

    fn snippet(&self) -> String {
        let node = self.tree.find(tmpfiles::SNIPPET).unwrap();
        String::from_utf8(self.tree.read(node, 1 << 20).unwrap().unwrap()).unwrap()
    }
}

fn try_shape(items: &[&str], options: &OsTreeOptions) -> Result<Shaped, CommitError> {
    let base = tempfile::tempdir().unwrap();
    make(base.path(), items);
    let mut tree = scan(base.path());
    let report = arrange(&mut tree, options, None)?;
    Ok(Shaped {
        tree,
        report,
        _base: base,
    })
}

/// Shapes the base with some more in it.
fn shape(items: &[&str]) -> Shaped {
    try_shape(&[&BASE, items].concat(), &OsTreeOptions::default()).unwrap()
}

fn failure(items: &[&str], options: &OsTreeOptions) -> OsTreeError {
    match try_shape(items, options).map(|shaped| list(&shaped.tree)) {
        Err(CommitError::OsTree(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn with_kernel(kernel: KernelChoice) -> OsTreeOptions {
    OsTreeOptions { kernel }
}

#[test]
fn a_root_file_system_becomes_deployable() {
    let shaped = shape(&[
        "vmlinuz -> boot/vmlinuz-6.1",
        "initrd.img.old -> boot/initrd.img-6.1",
    ]);
    shaped.assert_has(&[
        "atomos -> sysroot/atomos",
        "bin -> usr/bin",
        "boot/",
        "dev/",
        "home -> var/home",
        "media -> var/media",
        "mnt -> var/mnt",
        "opt -> var/opt",
        "proc/",
        "root -> var/roothome",
        "run/",
        "srv -> var/srv",
        "sys/",
        "sysroot/",
        "tmp/",
        "usr/etc/passwd = etc/passwd",
        "usr/lib/modules/6.1/initramfs.img = boot/initrd.img-6.1",
        "usr/lib/modules/6.1/vmlinuz = boot/vmlinuz-6.1",
        "usr/local -> ../var/usrlocal",
        "usr/share/factory/var/home/",
        "usr/share/factory/var/roothome/.profile = root/.profile",
        "var/",
    ]);
    let root: BTreeSet<String> = shaped
        .tree
        .children(0)
        .iter()
        .map(|child| String::from_utf8_lossy(&shaped.tree.node(*child).name).into_owned())
        .collect();
    let expected =
        "atomos bin boot dev home lib media mnt opt proc root run sbin srv sys sysroot tmp usr var";
    assert_eq!(root.into_iter().collect::<Vec<_>>().join(" "), expected);
    assert_eq!(shaped.mode("tmp"), 0o1777);
    for empty in ["boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var"] {
        let node = shaped.tree.find(empty).unwrap();
        assert!(shaped.tree.children(node).is_empty(), "{empty}");
    }
    let kernel = shaped.report.kernel.as_ref().unwrap();
    assert_eq!((kernel.version.as_str(), kernel.initramfs), ("6.1", true));
}

#[test]
fn defaults_stay_in_usr_etc_and_an_empty_etc_is_no_second_one() {
    let shaped = shape(&["usr/etc/"]);
    shaped.assert_has(&["usr/etc/passwd = etc/passwd"]);
    let base: Vec<&str> = BASE
        .iter()
        .copied()
        .filter(|item| !item.starts_with("etc/"))
        .collect();
    let items = [base.as_slice(), &["etc/", "usr/etc/group"]].concat();
    let shaped = try_shape(&items, &OsTreeOptions::default()).unwrap();
    shaped.assert_has(&["usr/etc/group = usr/etc/group"]);
    assert!(!shaped.has_path("etc"));
    assert!(matches!(
        failure(
            &[&BASE, ["usr/etc/group"].as_slice()].concat(),
            &OsTreeOptions::default()
        ),
        OsTreeError::BothEtc
    ));
}

#[test]
fn one_machines_names_are_taken_out() {
    let shaped = shape(&[
        "etc/machine-id",
        "etc/.updated",
        "etc/ssh/ssh_host_rsa_key",
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
    ]);
    shaped.assert_has(&[
        "usr/etc/machine-id = ",
        "usr/etc/ssh/ssh_host_rsa_key = etc/ssh/ssh_host_rsa_key",
    ]);
    let dropped = shaped.dropped();
    assert_eq!(dropped["var/lib/dbus/machine-id"], DropReason::Identity);
    assert_eq!(dropped["var/lib/systemd/random-seed"], DropReason::Identity);
    assert_eq!(dropped["usr/etc/.updated"], DropReason::Volatile);
    assert!(
        shaped
            .report
            .generated
            .iter()
            .any(|made| made.path == "usr/etc/machine-id")
    );
}

#[test]
fn a_tree_without_merged_usr_is_refused_with_what_to_do() {
    let error = failure(
        &["usr/bin/sh", "bin/sh", "lib/x", "boot/vmlinuz-1"],
        &OsTreeOptions::default(),
    );
    let text = error.to_string();
    assert!(text.contains("/bin, /lib") && text.contains("usrmerge"), "{text}");
    assert!(matches!(
        failure(&["etc/x"], &OsTreeOptions::default()),
        OsTreeError::NoUsr
    ));
}

#[test]
fn a_tree_without_a_kernel_is_refused_unless_that_is_wanted() {
    let items = ["usr/bin/sh", "boot/grub/grub.cfg", "usr/lib/modules/6.1/x"];
    let text = failure(&items, &OsTreeOptions::default()).to_string();
    assert!(text.contains("/boot/vmlinuz-<version>"), "{text}");
    let shaped = try_shape(&items, &with_kernel(KernelChoice::NewestOrNone)).unwrap();
    assert_eq!(shaped.report.kernel, None);
    assert_eq!(shaped.dropped()["boot/grub/grub.cfg"], DropReason::BootLoader);
}

const TWO_KERNELS: [&str; 8] = [
    "usr/lib/modules/6.1.9-1/a.ko",
    "usr/lib/modules/6.1.10-1/a.ko",
    "boot/vmlinuz-6.1.9-1",
    "boot/vmlinuz-6.1.10-1",
    "boot/initrd.img-6.1.9-1",
    "boot/initrd.img-6.1.10-1",
    "boot/System.map-6.1.10-1",
    "usr/bin/sh",
];

#[test]
fn of_several_kernels_the_newest_is_left_and_the_others_are_named() {
    let shaped = try_shape(&TWO_KERNELS, &OsTreeOptions::default()).unwrap();
    let kernel = shaped.report.kernel.as_ref().unwrap();
    assert_eq!(kernel.version, "6.1.10-1");
    assert_eq!(kernel.others, ["6.1.9-1"]);
    shaped.assert_has(&[
        "usr/lib/modules/6.1.10-1/vmlinuz = boot/vmlinuz-6.1.10-1",
        "usr/lib/modules/6.1.10-1/initramfs.img = boot/initrd.img-6.1.10-1",
        "usr/lib/modules/6.1.10-1/System.map = boot/System.map-6.1.10-1",
    ]);
    assert!(!shaped.has_path("usr/lib/modules/6.1.9-1/vmlinuz"));
    let dropped = shaped.dropped();
    assert_eq!(dropped["boot/vmlinuz-6.1.9-1"], DropReason::OtherKernel);
    assert_eq!(dropped["boot/initrd.img-6.1.9-1"], DropReason::OtherKernel);
    assert!(shaped.report.warnings.iter().any(
        |warning| matches!(warning, OsTreeWarning::UnusedModules { kernel, .. } if kernel == "6.1.9-1")
    ));
}

#[test]
fn a_kernel_can_be_chosen_and_must_be_there() {
    let shaped = try_shape(
        &TWO_KERNELS,
        &with_kernel(KernelChoice::Version("6.1.9-1".to_owned())),
    )
    .unwrap();
    shaped.assert_has(&["usr/lib/modules/6.1.9-1/vmlinuz = boot/vmlinuz-6.1.9-1"]);
    assert!(!shaped.has_path("usr/lib/modules/6.1.10-1/vmlinuz"));
    let text = failure(&TWO_KERNELS, &with_kernel(KernelChoice::Version("5".to_owned()))).to_string();
    assert!(text.contains("6.1.9-1") && text.contains("6.1.10-1"), "{text}");
}

#[test]
fn kernels_beside_their_modules_stay_and_all_but_one_go() {
    let shaped = try_shape(
        &[
            "usr/lib/modules/1/vmlinuz",
            "usr/lib/modules/1/initramfs.img",
            "usr/lib/modules/2/vmlinuz",
            "boot/vmlinuz-2",
            "boot/initramfs-2.img",
            "boot/dtb-2/vendor/board.dtb",
            "boot/vmlinuz-0-rescue-0123",
        ],
        &OsTreeOptions::default(),
    )
    .unwrap();
    shaped.assert_has(&[
        "usr/lib/modules/2/vmlinuz = usr/lib/modules/2/vmlinuz",
        "usr/lib/modules/2/initramfs.img = boot/initramfs-2.img",
        "usr/lib/modules/2/dtb/vendor/board.dtb = boot/dtb-2/vendor/board.dtb",
    ]);
    let dropped = shaped.dropped();
    assert_eq!(dropped["usr/lib/modules/1/vmlinuz"], DropReason::OtherKernel);
    assert_eq!(
        dropped["usr/lib/modules/1/initramfs.img"],
        DropReason::OtherKernel
    );
    assert_eq!(dropped["boot/vmlinuz-2"], DropReason::OtherKernel);
}

#[test]
fn a_flavour_in_boot_is_the_kernel_whose_modules_end_in_it() {
    let shaped = try_shape(
        &[
            "usr/lib/modules/6.6.1-0-lts/a.ko",
            "boot/vmlinuz-lts",
            "boot/initramfs-lts",
        ],
        &OsTreeOptions::default(),
    )
    .unwrap();
    shaped.assert_has(&[
        "usr/lib/modules/6.6.1-0-lts/vmlinuz = boot/vmlinuz-lts",
        "usr/lib/modules/6.6.1-0-lts/initramfs.img = boot/initramfs-lts",
    ]);
    let shaped = try_shape(
        &["usr/bin/sh", "boot/vmlinuz-6.9-mine"],
        &OsTreeOptions::default(),
    )
    .unwrap();
    shaped.assert_has(&["usr/lib/modules/6.9-mine/vmlinuz = boot/vmlinuz-6.9-mine"]);
    assert_eq!(
        shaped.report.warnings,
        [OsTreeWarning::NoInitramfs {
            kernel: "6.9-mine".to_owned()
        }]
    );
}

#[test]
fn the_package_database_belongs_to_the_version() {
    let shaped = shape(&[
        "var/lib/dpkg/status",
        "var/lib/dpkg/info/x.list",
        "var/lib/apt/extended_states",
        "var/lib/apt/lists/partial/",
        "var/lib/apt/lists/some_Packages",
    ]);
    shaped.assert_has(&[
        "usr/lib/sysimage/dpkg/status = var/lib/dpkg/status",
        "usr/lib/sysimage/dpkg/info/x.list = var/lib/dpkg/info/x.list",
        "usr/share/factory/var/lib/dpkg -> ../../usr/lib/sysimage/dpkg",
        "usr/lib/sysimage/apt/extended_states = var/lib/apt/extended_states",
        "usr/share/factory/var/lib/apt/extended_states -> ../../../usr/lib/sysimage/apt/extended_states",
        "usr/share/factory/var/lib/apt/lists/partial/",
    ]);
    assert_eq!(
        shaped.dropped()["var/lib/apt/lists/some_Packages"],
        DropReason::Cache
    );
    let two = [&BASE, ["var/lib/rpm/a", "usr/lib/sysimage/rpm/a"].as_slice()].concat();
    assert!(matches!(
        failure(&two, &OsTreeOptions::default()),
        OsTreeError::TwoPackageDatabases { .. }
    ));
    let shaped = shape(&[
        "var/lib/rpm -> ../../usr/lib/sysimage/rpm",
        "usr/lib/sysimage/rpm/a",
    ]);
    shaped.assert_has(&["usr/share/factory/var/lib/rpm -> ../../usr/lib/sysimage/rpm"]);
}

#[test]
fn caches_and_logs_go_and_their_directories_stay() {
    let shaped = shape(&[
        "var/cache/apt/archives/a.deb",
        "var/cache/apt/archives/partial/",
        "var/cache/debconf/config.dat",
        "var/cache/debconf/config.dat-old",
        "var/log/dpkg.log",
        "var/log/README -> ../../usr/share/doc",
        "var/log/journal/0123456789abcdef0123456789abcdef/system.journal",
        "var/tmp/dir/file",
        "var/run -> /run",
        "var/lock/held",
        "var/www/html/index.html",
    ]);
    shaped.assert_has(&[
        "usr/share/factory/var/cache/apt/archives/partial/",
        "usr/share/factory/var/cache/debconf/config.dat = var/cache/debconf/config.dat",
        "usr/share/factory/var/log/README -> ../../usr/share/doc",
        "usr/share/factory/var/log/journal/",
        "usr/share/factory/var/tmp/",
        "usr/share/factory/var/run -> /run",
        "usr/share/factory/var/lock -> /run/lock",
        "usr/share/factory/var/www/html/index.html = var/www/html/index.html",
    ]);
    let dropped = shaped.dropped();
    for (path, reason) in [
        ("var/cache/apt/archives/a.deb", DropReason::Cache),
        ("var/cache/debconf/config.dat-old", DropReason::Cache),
        ("var/log/dpkg.log", DropReason::Log),
        (
            "var/log/journal/0123456789abcdef0123456789abcdef",
            DropReason::Log,
        ),
        ("var/tmp/dir/file", DropReason::Volatile),
        ("var/lock/held", DropReason::Volatile),
    ] {
        assert_eq!(dropped.get(path), Some(&reason), "{path}");
    }
}

#[test]
fn homes_keep_their_modes_and_two_directories_of_one_name_become_one() {
    let base = tempfile::tempdir().unwrap();
    make(
        base.path(),
        &[&BASE, ["opt/app/run", "var/opt/other", "home/a/"].as_slice()].concat(),
    );
    for (path, mode) in [("root", 0o700), ("opt", 0o751), ("home/a", 0o2770)] {
        fs::set_permissions(base.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut tree = scan(base.path());
    let report = arrange(&mut tree, &OsTreeOptions::default(), None).unwrap();
    let shaped = Shaped {
        tree,
        report,
        _base: base,
    };
    shaped.assert_has(&[
        "usr/share/factory/var/opt/app/run = opt/app/run",
        "usr/share/factory/var/opt/other = var/opt/other",
    ]);
    assert_eq!(shaped.mode("usr/share/factory/var/roothome"), 0o700);
    assert_eq!(shaped.mode("usr/share/factory/var/opt"), 0o751);
    assert_eq!(shaped.mode("usr/share/factory/var/home/a"), 0o2770);
    assert!(shaped.report.warnings.contains(&OsTreeWarning::LocalContent {
        path: "opt".to_owned(),
        files: 1
    }));
    assert!(matches!(
        failure(
            &[&BASE, ["opt/x", "var/opt/x"].as_slice()].concat(),
            &OsTreeOptions::default()
        ),
        OsTreeError::Clash { .. }
    ));
}

#[test]
fn a_relative_link_that_leaves_a_moved_directory_still_leads_where_it_did() {
    for (target, from, to, below, expected) in [
        (
            "../../lib/x",
            "usr/local",
            "var/usrlocal",
            "share",
            Some("../../../usr/lib/x"),
        ),
        ("../lib/x", "usr/local", "var/usrlocal", "share", None),
        (
            "../lib/x",
            "usr/local",
            "var/usrlocal",
            "",
            Some("../../usr/lib/x"),
        ),
        ("../etc/x", "opt", "var/opt", "", Some("../../etc/x")),
        ("../../etc/x", "opt", "var/opt", "app", Some("../../../etc/x")),
        ("../../../../etc", "opt", "var/opt", "app", Some("../../../etc")),
        ("/etc/x", "opt", "var/opt", "", None),
        ("share/man", "usr/local", "var/usrlocal", "", None),
        ("..", "opt", "var/opt", "", Some("../..")),
    ] {
        assert_eq!(
            home::adjusted(target.as_bytes(), from, to, below.as_bytes()),
            expected.map(|text| text.as_bytes().to_vec()),
            "{target} in {from}/{below}"
        );
    }
    let shaped = shape(&["opt/app/bin -> ../../usr/bin", "usr/local/man -> share/man"]);
    shaped.assert_has(&[
        "usr/share/factory/var/opt/app/bin -> ../../../usr/bin",
        "usr/share/factory/var/usrlocal/man -> share/man",
    ]);
}

#[test]
fn the_snippet_makes_what_the_factory_has_and_leaves_others_paths_to_them() {
    let shaped = shape(&[
        "var/lib/app/a b",
        "var/lib/link -> a%b \\",
        "var/log/",
        "usr/lib/tmpfiles.d/var.conf",
    ]);
    let snippet = shaped.snippet();
    for line in [
        "C \"/var/lib/app/a b\" - - - - -\n",
        "L \"/var/lib/link\" - - - - a%%b\\x20\\x5c\n",
        "C \"/var/roothome/.profile\" - - - - -\n",
    ] {
        assert!(snippet.contains(line), "{line} is not in {snippet}");
    }
    assert!(snippet.contains("\nd \"/var/log\" :0755"), "{snippet}");
    let base = tempfile::tempdir().unwrap();
    make(base.path(), &[&BASE, ["var/log/"].as_slice()].concat());
    fs::create_dir_all(base.path().join("usr/lib/tmpfiles.d")).unwrap();
    fs::write(
        base.path().join("usr/lib/tmpfiles.d/var.conf"),
        "d /var/log 0755 - - -\n",
    )
    .unwrap();
    let mut tree = scan(base.path());
    let report = arrange(&mut tree, &OsTreeOptions::default(), Some((7, 8))).unwrap();
    let shaped = Shaped {
        tree,
        report,
        _base: base,
    };
    let snippet = shaped.snippet();
    assert!(!snippet.contains("/var/log\""), "{snippet}");
    assert!(snippet.contains("d \"/var/home\" :0755 :7 :8 - -\n"), "{snippet}");
}

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
    arrange(&mut tree, &OsTreeOptions::default(), Some(me)).unwrap();
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
        let report = arrange(&mut tree, &OsTreeOptions::default(), None).unwrap();
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
    let report = arrange(&mut tree, &OsTreeOptions::default(), None).unwrap();
    assert_nothing_is_lost(&before, &tree, &report);
    assert!(report.kernel.is_some());
    assert!(tree.find("usr/lib/sysimage/dpkg/status").is_some());
    assert!(tree.find("etc").is_none());
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}
