//! What is damaged, what is wrong, and what is not ours.

use super::*;

#[test]
fn damage_of_every_kind_is_found_and_repaired_from_the_tree() {
    type Damage = fn(&Machine, &Path, &Path);
    let table: &[(&str, Damage, Option<EntryFinding>)] = &[
        (
            "a flipped bit",
            |_, kernel, _| fs::write(kernel.join("vmlinuz"), "jernel").unwrap(),
            Some(EntryFinding::KernelDamaged),
        ),
        (
            "a truncated initramfs",
            |_, kernel, _| fs::write(kernel.join("initramfs.img"), "").unwrap(),
            Some(EntryFinding::KernelDamaged),
        ),
        (
            "no initramfs",
            |_, kernel, _| fs::remove_file(kernel.join("initramfs.img")).unwrap(),
            Some(EntryFinding::InitramfsMissing),
        ),
        (
            "no device trees",
            |_, kernel, _| fs::remove_dir_all(kernel.join("dtb")).unwrap(),
            Some(EntryFinding::KernelDamaged),
        ),
        (
            "no kernel",
            |_, kernel, _| fs::remove_file(kernel.join("vmlinuz")).unwrap(),
            Some(EntryFinding::KernelMissing),
        ),
        (
            "no directory",
            |_, kernel, _| fs::remove_dir_all(kernel).unwrap(),
            Some(EntryFinding::KernelMissing),
        ),
        (
            "a link in the kernel's place",
            |_, kernel, _| {
                fs::remove_file(kernel.join("vmlinuz")).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", kernel.join("vmlinuz")).unwrap();
            },
            Some(EntryFinding::KernelDamaged),
        ),
        (
            "a directory in the kernel's place",
            |_, kernel, _| {
                fs::remove_file(kernel.join("vmlinuz")).unwrap();
                fs::create_dir_all(kernel.join("vmlinuz/x")).unwrap();
            },
            Some(EntryFinding::KernelDamaged),
        ),
        (
            "a strange device tree",
            |_, kernel, _| fs::write(kernel.join("dtb/evil.dtb"), "").unwrap(),
            Some(EntryFinding::KernelDamaged),
        ),
        (
            "an empty entry",
            |_, _, entry| fs::write(entry, "").unwrap(),
            Some(EntryFinding::Unfinished),
        ),
        (
            "binary noise",
            |_, _, entry| fs::write(entry, b"\xff\xfe\0\0").unwrap(),
            Some(EntryFinding::Unreadable),
        ),
        (
            "a huge entry",
            |_, _, entry| fs::write(entry, vec![b'x'; 1 << 20]).unwrap(),
            Some(EntryFinding::Unreadable),
        ),
        (
            "another kernel",
            |_, _, entry| fs::write(entry, "title x\nlinux /vmlinuz\n").unwrap(),
            Some(EntryFinding::KernelElsewhere),
        ),
        (
            "other kernel arguments",
            |_, _, entry| {
                let text = fs::read_to_string(entry)
                    .unwrap()
                    .replace("quiet", "init=/bin/sh");
                fs::write(entry, text).unwrap();
            },
            None,
        ),
        ("no entry", |_, _, entry| fs::remove_file(entry).unwrap(), None),
        (
            "an empty /boot",
            |machine, _, _| {
                fs::remove_dir_all(machine.path("atomos")).unwrap();
                fs::remove_dir_all(machine.path("loader")).unwrap();
            },
            None,
        ),
    ];
    for kind in KINDS {
        for (what, damage, finding) in table {
            let machine = Machine::new(kind);
            let desired = [machine.deployment(1, "kernel")];
            machine.recover(&desired);
            let whole = machine.snapshot();
            let entry = machine.path("loader/entries").join(&machine.entry_names()[0]);
            let kernel = machine.path("atomos").join(format!("os-{}", desired[0].bootcsum));
            damage(&machine, &kernel, &entry);
            let reports = verify_entries(&machine.boot()).unwrap();
            let found = reports.first().and_then(|report| report.finding);
            assert_eq!(found, *finding, "{kind:?}: {what}");
            assert!(!machine.plan(&desired).is_empty(), "{kind:?}: {what}");
            machine.recover(&desired);
            assert_eq!(machine.snapshot(), whole, "{kind:?}: {what}");
        }
    }
}

#[test]
fn a_new_entry_never_names_kernel_files_that_were_not_read_back() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        let (old, new) = (machine.deployment(1, "a"), machine.deployment(2, "a"));
        machine.recover(std::slice::from_ref(&old));
        let kernel = machine.path("atomos").join(format!("os-{}", old.bootcsum));
        fs::write(kernel.join("vmlinuz"), "b").unwrap();
        machine.reconcile(&[old, new]).unwrap();
        assert_eq!(fs::read_to_string(kernel.join("vmlinuz")).unwrap(), "a");
    }
}

#[test]
fn files_that_are_not_what_their_bootcsum_says_are_never_offered() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        let mut desired = machine.deployment(1, "a");
        desired.bootcsum = machine.deployment(2, "b").bootcsum;
        let error = machine.reconcile(&[desired]).unwrap_err();
        assert!(matches!(error, BootError::WrongDigest { .. }), "{error}");
        assert_eq!(machine.entry_names(), Vec::<String>::new());
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        let old = machine.deployment(1, "a");
        let other_kernel = machine.deployment(9, "theirs").bootcsum;
        machine.recover(std::slice::from_ref(&old));
        let theirs = [
            (
                "loader/entries/debian-6.1.conf",
                "title Debian\nlinux /vmlinuz\n".to_owned(),
            ),
            ("loader/entries/atomos.conf", "title not of our form\n".to_owned()),
            ("loader/entries/noise.conf", "\u{1}\u{2}".to_owned()),
            // Another system with atomos that shares this partition, and one that boots a kernel of ours.
            (
                "loader/entries/atomos-5-theirs-0123456789ab.0.conf",
                format!("x-atomos-sysroot other\nlinux /atomos/theirs-{other_kernel}/vmlinuz\n"),
            ),
            (
                "loader/entries/rescue.conf",
                format!("linux /atomos/OS-{}/vmlinuz\n", old.bootcsum),
            ),
            ("atomos/notes", "a person's".to_owned()),
            ("vmlinuz", "kernel of another".to_owned()),
        ];
        let kernel = machine.path("atomos").join(format!("theirs-{other_kernel}"));
        fs::create_dir(&kernel).unwrap();
        fs::write(kernel.join("vmlinuz"), "theirs").unwrap();
        for (name, content) in &theirs {
            fs::write(machine.path(name), content).unwrap();
        }
        let boot = machine.boot_owned_by(Some("mine"));
        let new = machine.deployment(2, "b");
        let plan = plan_reconcile(&boot, std::slice::from_ref(&new), &ReconcileOptions::default()).unwrap();
        assert_eq!(
            plan.remove_kernels,
            Vec::<String>::new(),
            "rescue.conf names it, in FAT's spelling"
        );
        assert_eq!(plan.remove_entries.len(), 1);
        plan.apply(
            &boot,
            &|d| Ok(Dir::open_ambient(machine.tree(d.commit))?),
            &NoProgress,
        )
        .unwrap();
        for (name, content) in &theirs {
            assert_eq!(&fs::read_to_string(machine.path(name)).unwrap(), content);
        }
        assert!(kernel.join("vmlinuz").exists());
        let text = fs::read_to_string(
            machine
                .path("loader/entries")
                .join(new.file_name().unwrap().to_string()),
        );
        assert!(text.unwrap().starts_with("x-atomos-sysroot mine\n"));
    }
}

#[test]
fn the_last_entries_are_not_removed_because_a_list_is_empty() {
    let machine = Machine::new(BootFsKind::Posix);
    let desired = machine.deployment(1, "a");
    machine.recover(&[]);
    machine.recover(std::slice::from_ref(&desired));
    let error = machine.reconcile(&[]).unwrap_err();
    assert!(
        matches!(error, BootError::NothingToBoot { entries: 1, .. }),
        "{error}"
    );
    let options = ReconcileOptions {
        allow_leaving_nothing_to_boot: true,
        ..ReconcileOptions::default()
    };
    let plan = plan_reconcile(&machine.boot(), &[], &options).unwrap();
    assert_eq!((plan.remove_entries.len(), plan.remove_kernels.len()), (1, 1));
}
