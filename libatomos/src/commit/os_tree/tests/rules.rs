//! Every rule on a small tree.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

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
    let report = arrange(&mut tree, &OsTreeOptions::default(), None, &Cancel::new()).unwrap();
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
    let report = arrange(&mut tree, &OsTreeOptions::default(), Some((7, 8)), &Cancel::new()).unwrap();
    let shaped = Shaped {
        tree,
        report,
        _base: base,
    };
    let snippet = shaped.snippet();
    assert!(!snippet.contains("/var/log\""), "{snippet}");
    assert!(snippet.contains("d \"/var/home\" :0755 :7 :8 - -\n"), "{snippet}");
}
