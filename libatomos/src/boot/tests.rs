//! The switch and the reconciliation in temporary directories, on both kinds of file system, stopped everywhere.
#![allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::name::tries_of;
use super::order::{grub, grub_blscfg};
use super::verify::{EntryFinding, verify_entries};
use super::*;
use crate::digest::{CommitId, Digest};
use crate::failpoint;
use crate::fs::Dir;
use crate::progress::NoProgress;

const KINDS: [BootFsKind; 2] = [BootFsKind::Posix, BootFsKind::Vfat];

/// A `/boot`, and the trees that deployments boot.
struct Machine {
    scratch: tempfile::TempDir,
    kind: BootFsKind,
}

impl Machine {
    fn new(kind: BootFsKind) -> Self {
        // In memory where that can be: these tests sync a file system some thousand times.
        let scratch = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        fs::create_dir(scratch.path().join("boot")).unwrap();
        Self { scratch, kind }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join("boot").join(name)
    }

    fn boot(&self) -> BootDir {
        self.boot_owned_by(None)
    }

    fn boot_owned_by(&self, owner: Option<&str>) -> BootDir {
        let options = BootOptions {
            owner: owner.map(str::to_owned),
            fs_kind: Some(self.kind),
            ..BootOptions::default()
        };
        BootDir::new(
            Dir::open_ambient(self.scratch.path().join("boot")).unwrap(),
            options,
        )
        .unwrap()
    }

    /// Makes the tree of a commit with this kernel, and the entry of its deployment.
    fn deployment(&self, n: u64, kernel: &str) -> DesiredEntry {
        let commit = CommitId::new(Digest::of(format!("commit {n} {kernel}").as_bytes()));
        let modules = self.tree(commit).join("usr/lib/modules/6.1");
        fs::create_dir_all(modules.join("dtb/vendor")).unwrap();
        fs::write(modules.join("vmlinuz"), kernel).unwrap();
        fs::write(modules.join("initramfs"), format!("initramfs of {kernel}")).unwrap();
        fs::write(modules.join("dtb/vendor/board.dtb"), "device tree").unwrap();
        let tree = Dir::open_ambient(self.tree(commit)).unwrap();
        DesiredEntry {
            n,
            stateroot: "os".parse().unwrap(),
            commit,
            serial: 0,
            title: "Test OS".into(),
            version: Some("1.0".into()),
            kargs: "root=LABEL=root quiet".parse().unwrap(),
            bootcsum: KernelFiles::find(&tree).unwrap().digest().unwrap(),
            tries: None,
        }
    }

    fn tree(&self, commit: CommitId) -> PathBuf {
        self.scratch.path().join("trees").join(commit.short())
    }

    fn reconcile(&self, desired: &[DesiredEntry]) -> Result<ReconcileOutcome, BootError> {
        let boot = self.boot();
        let plan = plan_reconcile(&boot, desired, &ReconcileOptions::default())?;
        plan.apply(
            &boot,
            &|desired| Ok(Dir::open_ambient(self.tree(desired.commit))?),
            &NoProgress,
        )
    }

    fn plan(&self, desired: &[DesiredEntry]) -> ReconcilePlan {
        let options = ReconcileOptions {
            kernel_check: KernelCheck::All,
            ..ReconcileOptions::default()
        };
        plan_reconcile(&self.boot(), desired, &options).unwrap()
    }

    fn recover(&self, desired: &[DesiredEntry]) {
        let boot = self.boot();
        self.plan(desired)
            .apply(
                &boot,
                &|desired| Ok(Dir::open_ambient(self.tree(desired.commit))?),
                &NoProgress,
            )
            .unwrap();
        assert!(self.plan(desired).is_empty(), "once is enough");
    }

    fn entry_names(&self) -> Vec<String> {
        let list = self.boot().list_entries().unwrap();
        list.into_iter().map(|found| found.file_name).collect()
    }

    /// All files and directories below `/boot` with their bytes.
    fn snapshot(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, Option<Vec<u8>>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_owned();
                if path.is_dir() {
                    all.insert(name, None);
                    walk(root, &path, all);
                } else {
                    all.insert(name, Some(fs::read(path).unwrap()));
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.path(""), &self.path(""), &mut all);
        all
    }

    /// Asserts that whatever a loader offers will boot, and returns the number of the entry that each takes.
    fn booted_number(&self) -> Option<u64> {
        let reports = verify_entries(&self.boot()).unwrap();
        for report in &reports {
            assert!(
                matches!(report.finding, None | Some(EntryFinding::Unfinished)),
                "{report:?} can be chosen and will not boot"
            );
        }
        let mut offered: Vec<_> = reports.iter().filter(|report| report.finding.is_none()).collect();
        offered.sort_by(|a, b| grub_blscfg(&a.file_name, &b.file_name));
        let by_blscfg = offered.first().map(|report| report.name.n);
        offered.sort_by(|a, b| grub(&a.file_name, &b.file_name));
        assert_eq!(offered.first().map(|report| report.name.n), by_blscfg);
        if !wants_menu(&self.boot()).unwrap() {
            return by_blscfg;
        }
        // Without blscfg the menu is all that GRUB sees.
        let Ok(menu) = fs::read_to_string(self.path("grub/atomos.cfg")) else {
            return None;
        };
        for path in menu
            .lines()
            .filter_map(|line| line.strip_prefix("\tlinux \"${atomos_boot}\"'/"))
        {
            let path = path.split('\'').next().unwrap();
            assert!(self.path(path).exists(), "{path} is in the menu and not there");
        }
        let id = menu.split("--id 'atomos-").nth(1)?;
        Some(id.split('-').next().unwrap().parse().unwrap())
    }
}

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
fn every_interruption_of_every_change_boots_the_old_or_the_new_and_is_finished_by_recover() {
    type Change = fn(&Machine) -> (Vec<DesiredEntry>, Vec<DesiredEntry>);
    let changes: &[(&str, Change)] = &[
        ("the first deployment", |m| (vec![], vec![m.deployment(1, "a")])),
        ("an upgrade with a new kernel", |m| {
            let (old, new) = (m.deployment(1, "a"), m.deployment(2, "b"));
            (vec![old.clone()], vec![old, new])
        }),
        ("an upgrade with the same kernel that drops the oldest", |m| {
            let (oldest, old, new) = (m.deployment(1, "a"), m.deployment(2, "b"), m.deployment(3, "b"));
            (vec![oldest, old.clone()], vec![old, new])
        }),
        ("an upgrade that replaces all there is", |m| {
            (vec![m.deployment(1, "a")], vec![m.deployment(2, "b")])
        }),
        ("a rollback: the old deployment under a new number", |m| {
            let (old, new) = (m.deployment(1, "a"), m.deployment(2, "b"));
            let again = DesiredEntry { n: 3, ..old.clone() };
            (vec![old, new.clone()], vec![new, again])
        }),
        ("marking a deployment as good", |m| {
            let good = m.deployment(1, "a");
            let tried = DesiredEntry {
                tries: Some(3),
                ..good.clone()
            };
            (vec![tried], vec![good])
        }),
    ];
    let mut stops = 0;
    for kind in KINDS {
        for menu in [false, true] {
            for (what, change) in changes {
                let start = || {
                    let machine = Machine::new(kind);
                    if menu {
                        fs::create_dir(machine.path("grub")).unwrap();
                        fs::write(machine.path("grub/atomos.enabled"), "").unwrap();
                    }
                    let (before, after) = change(&machine);
                    machine.recover(&before);
                    (machine, before, after)
                };
                let (machine, before, after) = start();
                let (points, result) = failpoint::trace(|| machine.reconcile(&after));
                result.unwrap();
                let expected = machine.snapshot();
                let newest = |list: &[DesiredEntry]| list.iter().map(|desired| desired.n).max();
                assert_eq!(machine.booted_number(), newest(&after), "{what}");

                let mut switched = false;
                for (index, point) in points.iter().enumerate() {
                    let (machine, ..) = start();
                    let error = failpoint::stop_at(index, || machine.reconcile(&after)).unwrap_err();
                    assert!(matches!(error, BootError::Stopped(_)), "{what}: {error}");
                    let context = format!("{what}, {kind:?}, menu {menu}, stopped at {point}");
                    let booted = machine.booted_number();
                    assert!(
                        booted == newest(&before) || booted == newest(&after),
                        "{context}: boots {booted:?}"
                    );
                    assert!(
                        !switched || booted == newest(&after),
                        "{context}: what was switched does not switch back"
                    );
                    switched |= newest(&before) != newest(&after) && booted == newest(&after);
                    machine.recover(&after);
                    assert_eq!(machine.snapshot(), expected, "{context}");
                    stops += 1;
                }
            }
        }
    }
    println!("stopped {stops} times");
    assert!(stops > 200, "only {stops} interruptions");
}

#[test]
fn an_interrupted_change_can_be_taken_back_as_well_as_finished() {
    for kind in KINDS {
        let start = || {
            let machine = Machine::new(kind);
            let (old, new) = (machine.deployment(1, "a"), machine.deployment(2, "b"));
            machine.recover(std::slice::from_ref(&old));
            (machine, old, new)
        };
        let (machine, old, new) = start();
        let before = machine.snapshot();
        let (points, _) = failpoint::trace(|| machine.reconcile(&[old.clone(), new.clone()]));
        for (index, point) in points.iter().enumerate() {
            let (machine, ..) = start();
            failpoint::stop_at(index, || machine.reconcile(&[old.clone(), new.clone()])).unwrap_err();
            machine.recover(std::slice::from_ref(&old));
            assert_eq!(machine.snapshot(), before, "{kind:?}, stopped at {point}");
        }
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

/// `/boot` as a small ext4 of its own.
fn small_boot(size: u64) -> Option<(crate::fs::loop_mount::LoopMount, Machine)> {
    let mount = crate::fs::loop_mount::LoopMount::ext4(size)?;
    let machine = Machine::new(BootFsKind::Posix);
    let boot = machine.scratch.path().join("boot");
    fs::remove_dir(&boot).unwrap();
    std::os::unix::fs::symlink(mount.path(), boot).unwrap();
    Some((mount, machine))
}

#[test]
fn a_boot_of_its_own_is_frozen_and_thawed_and_one_that_is_not_is_not() {
    let machine = Machine::new(BootFsKind::Posix);
    let outcome = machine.reconcile(&[machine.deployment(1, "a")]).unwrap();
    assert_eq!(outcome.flushed, FlushMethod::Synced);
    let Some((_mount, machine)) = small_boot(8 << 20) else {
        return;
    };
    let outcome = machine.reconcile(&[machine.deployment(1, "a")]).unwrap();
    assert_eq!(outcome.flushed, FlushMethod::FrozenAndThawed);
    assert_eq!(machine.booted_number(), Some(1));
}

#[test]
fn a_full_boot_is_found_out_before_and_survived_after() {
    let Some((_mount, machine)) = small_boot(12 << 20) else {
        return;
    };
    let kernel = |byte: char| byte.to_string().repeat(4 << 20);
    let old = machine.deployment(1, &kernel('a'));
    machine.recover(std::slice::from_ref(&old));
    let before = machine.snapshot();
    let new = machine.deployment(2, &kernel('b'));
    let boot = machine.boot();

    let sizes = |desired: &DesiredEntry| {
        let files = KernelFiles::find(&Dir::open_ambient(machine.tree(desired.commit)).unwrap()).unwrap();
        NeededKernel {
            stateroot: desired.stateroot.clone(),
            bootcsum: Some(desired.bootcsum),
            sizes: files.sizes().collect(),
        }
    };
    let removable = RemovableKernel {
        deployment: old.deployment(),
        stateroot: old.stateroot.clone(),
        bootcsum: old.bootcsum,
    };
    assert_eq!(
        check_space(&boot, &[sizes(&old)], &[]).unwrap().needed,
        0,
        "it is there already"
    );
    let error = check_space(&boot, &[sizes(&new)], std::slice::from_ref(&removable)).unwrap_err();
    let BootError::NoSpace {
        needed,
        available,
        droppable,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(*needed > 8 << 20 && *available < 4 << 20, "{error}");
    assert!(
        matches!(droppable.as_slice(), [(name, freed)] if *name == old.deployment() && *freed >= 8 << 20)
    );
    assert!(error.to_string().contains(&old.deployment()));
    assert_eq!(error.kind(), crate::error::ErrorKind::NoSpace);

    let error = machine.reconcile(&[old.clone(), new.clone()]).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::NoSpace, "{error}");
    assert_eq!(
        machine.snapshot(),
        before,
        "what could not be finished does not fill the disk"
    );
    assert_eq!(machine.booted_number(), Some(1));
    // Two steps: the caller drops the old kernel, then there is room.
    assert!(
        matches!(machine.reconcile(std::slice::from_ref(&new)), Err(error) if error.kind() == crate::error::ErrorKind::NoSpace)
    );
    let options = ReconcileOptions {
        allow_leaving_nothing_to_boot: true,
        ..ReconcileOptions::default()
    };
    let nothing = plan_reconcile(&boot, &[], &options).unwrap();
    nothing
        .apply(&boot, &|_| unreachable!("nothing is installed"), &NoProgress)
        .unwrap();
    check_space(&boot, &[sizes(&new)], &[]).unwrap();
    machine.recover(std::slice::from_ref(&new));
    assert_eq!(machine.booted_number(), Some(2));
}
