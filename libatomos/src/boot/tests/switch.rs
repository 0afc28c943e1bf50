//! What is written, and what stays as it is.

use super::*;

#[test]
fn a_deployment_becomes_an_entry_and_a_directory_of_kernel_files() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        let mut desired = machine.deployment(7, "kernel");
        desired.tries = Some(3);
        machine.reconcile(std::slice::from_ref(&desired)).unwrap();
        let (commit, csum) = (desired.commit, desired.bootcsum);
        let expected = format!(
            "title Test OS 1.0\n\
             version 7-1.0\n\
             sort-key atomos\n\
             linux /atomos/os-{csum}/vmlinuz\n\
             initrd /atomos/os-{csum}/initramfs.img\n\
             fdtdir /atomos/os-{csum}/dtb\n\
             options root=LABEL=root quiet atomos=os/{commit}.0\n"
        );
        let name = format!("loader/entries/atomos-7-os-{}.0+3.conf", commit.short());
        let expected: BTreeMap<PathBuf, Option<Vec<u8>>> = [
            ("atomos".to_owned(), None),
            (format!("atomos/os-{csum}"), None),
            (format!("atomos/os-{csum}/dtb"), None),
            (format!("atomos/os-{csum}/dtb/vendor"), None),
            (
                format!("atomos/os-{csum}/dtb/vendor/board.dtb"),
                Some("device tree".to_owned()),
            ),
            (
                format!("atomos/os-{csum}/initramfs.img"),
                Some("initramfs of kernel".to_owned()),
            ),
            (format!("atomos/os-{csum}/vmlinuz"), Some("kernel".to_owned())),
            ("loader".to_owned(), None),
            ("loader/entries".to_owned(), None),
            (name, Some(expected)),
        ]
        .into_iter()
        .map(|(name, content)| (name.into(), content.map(String::into_bytes)))
        .collect();
        assert_eq!(machine.snapshot(), expected, "{kind:?}");
        assert!(machine.plan(&[desired]).is_empty());
    }
}

#[test]
fn on_fat_the_visible_step_is_one_byte_in_place() {
    let machine = Machine::new(BootFsKind::Vfat);
    let desired = machine.deployment(1, "a");
    let (points, result) = failpoint::trace(|| machine.reconcile(std::slice::from_ref(&desired)));
    result.unwrap();
    let name = machine.path("loader/entries").join(&machine.entry_names()[0]);
    let finished = fs::read(&name).unwrap();

    let machine = Machine::new(BootFsKind::Vfat);
    machine.deployment(1, "a");
    let index = points
        .iter()
        .position(|point| *point == "boot.entry.unfinished")
        .unwrap();
    failpoint::stop_at(index, || machine.reconcile(std::slice::from_ref(&desired))).unwrap_err();
    let name = machine.path("loader/entries").join(&machine.entry_names()[0]);
    let unfinished = fs::read(&name).unwrap();
    let changed: Vec<_> = (0..finished.len())
        .filter(|i| finished[*i] != unfinished[*i])
        .collect();
    assert_eq!((unfinished.len(), changed.len()), (finished.len(), 1));
    assert_eq!((unfinished[changed[0]], finished[changed[0]]), (b'#', b'l'));
    let report = verify_entries(&machine.boot()).unwrap();
    assert_eq!(report[0].finding, Some(EntryFinding::Unfinished));
}

#[test]
fn a_number_that_is_used_twice_is_refused() {
    let machine = Machine::new(BootFsKind::Posix);
    let desired = [machine.deployment(1, "a"), machine.deployment(1, "b")];
    assert!(matches!(
        machine.reconcile(&desired),
        Err(BootError::DuplicateNumber { n: 1 })
    ));
}

#[test]
fn what_the_loader_counted_stays_until_the_deployment_is_good() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        let mut desired = machine.deployment(1, "a");
        desired.tries = Some(3);
        machine.recover(std::slice::from_ref(&desired));
        let counted = |left: &str| {
            machine
                .path("loader/entries")
                .join(format!("{}+{left}.conf", desired.file_name().unwrap().key()))
        };
        fs::rename(counted("3"), counted("2-1")).unwrap();
        assert!(machine.plan(std::slice::from_ref(&desired)).is_empty());
        // A power cut during the loader's rename left both names: the one with fewer tries counts.
        fs::copy(counted("2-1"), counted("1-2")).unwrap();
        machine.recover(std::slice::from_ref(&desired));
        assert!(machine.entry_names()[0].ends_with("+1-2.conf"));
        fs::rename(counted("1-2"), counted("0-3")).unwrap();
        assert!(machine.plan(std::slice::from_ref(&desired)).is_empty());
        // systemd-bless-boot, or `boot mark-good`.
        let good = DesiredEntry {
            tries: None,
            ..desired.clone()
        };
        machine.recover(&[good]);
        assert_eq!(tries_of(&machine.entry_names()[0]), None);
        assert!(
            machine.plan(std::slice::from_ref(&desired)).is_empty(),
            "good is not taken back"
        );
    }
}

#[test]
fn write_entry_is_the_switch_alone() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        let (old, new) = (machine.deployment(1, "a"), machine.deployment(2, "b"));
        machine.recover(std::slice::from_ref(&old));
        let boot = machine.boot();
        assert!(matches!(
            write_entry(&boot, &new),
            Err(BootError::NoKernel { .. })
        ));
        let files = KernelFiles::find(&Dir::open_ambient(machine.tree(new.commit)).unwrap()).unwrap();
        let install = || install_kernel(&boot, &new.stateroot, new.bootcsum, &files, &NoProgress).unwrap();
        assert_eq!(install(), InstallOutcome::Installed);
        assert_eq!(install(), InstallOutcome::AlreadyPresent);
        assert_eq!(machine.booted_number(), Some(1));
        write_entry(&boot, &new).unwrap();
        assert_eq!(machine.booted_number(), Some(2));
        let before = machine.snapshot();
        write_entry(&boot, &new).unwrap();
        assert_eq!(machine.snapshot(), before);
        assert!(machine.plan(&[old, new]).is_empty());
    }
}

#[test]
fn a_hostile_title_and_arguments_stay_in_their_place() {
    let machine = Machine::new(BootFsKind::Posix);
    fs::create_dir(machine.path("grub")).unwrap();
    fs::write(machine.path("grub/atomos.cfg"), "").unwrap();
    let mut desired = machine.deployment(1, "a");
    desired.title = "-x' ; reboot\n}\nlinux /evil \\' \"$(x)\" ${root}".into();
    desired.version = Some("1\n' }".into());
    desired.kargs = r#"a="b c" d='e $f" g"'; -- x} {"#.parse().unwrap();
    machine.recover(std::slice::from_ref(&desired));
    let entry = machine.boot().list_entries().unwrap().remove(0).entry.unwrap();
    assert_eq!(entry.get_all("linux").count(), 1);
    assert_eq!(entry.version(), Some("1-1"));
    let options: KernelArgs = entry.options().parse().unwrap();
    assert_eq!(options.get("a").as_deref(), Some("b c"));
    assert_eq!(options.get("atomos"), Some(desired.deployment().into()));
    let menu = fs::read_to_string(machine.path("grub/atomos.cfg")).unwrap();
    let csum = desired.bootcsum;
    let deployment = desired.deployment();
    let key = desired.file_name().unwrap().key();
    assert_eq!(
        menu.split_once("again.\n").unwrap().1,
        format!(
            "menuentry ' -x'\\'' ; reboot }} linux /evil \\'\\'' \"$(x)\" ${{root}} 1 '\\'' }}' --id '{key}' {{\n\
             \tlinux \"${{atomos_boot}}\"'/atomos/os-{csum}/vmlinuz' 'a=b c' 'd='\\''e' '$f g'\\'';' 'atomos={deployment}' '--' 'x}}' '{{'\n\
             \tinitrd \"${{atomos_boot}}\"'/atomos/os-{csum}/initramfs.img'\n\
             }}\n"
        )
    );
    match std::process::Command::new("grub-script-check")
        .arg(machine.path("grub/atomos.cfg"))
        .output()
    {
        Ok(output) => assert!(output.status.success(), "{output:?}\n{menu}"),
        Err(error) => println!("skipped GRUB's own check of the menu: {error}"),
    }
}

#[test]
fn numbers_of_every_sysroot_on_the_partition_count() {
    let machine = Machine::new(BootFsKind::Vfat);
    assert_eq!(machine.boot().highest_number().unwrap(), 0);
    machine.recover(&[machine.deployment(3, "a")]);
    fs::write(
        machine.path("loader/entries/atomos-8-other-0123456789ab.0.conf"),
        "x-atomos-sysroot other\nlinux /atomos/x/vmlinuz\n",
    )
    .unwrap();
    assert_eq!(machine.boot_owned_by(Some("mine")).highest_number().unwrap(), 8);
}

#[test]
fn a_menu_that_somebody_asks_for_later_is_planned_and_written() {
    let machine = Machine::new(BootFsKind::Posix);
    let desired = [machine.deployment(1, "a")];
    machine.recover(&desired);
    fs::create_dir(machine.path("grub")).unwrap();
    assert!(machine.plan(&desired).is_empty());
    fs::write(machine.path("grub/atomos.enabled"), "").unwrap();
    assert!(machine.plan(&desired).menu_outdated);
    machine.recover(&desired);
    assert_eq!(machine.booted_number(), Some(1));
}
