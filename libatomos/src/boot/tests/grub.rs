//! What GRUB makes of what we write: the counts in its environment block, and GRUB itself in a virtual machine.

use std::process::Command;

use super::*;
use crate::boot::grub_env::GrubEnv;

fn with_menu(machine: &Machine) {
    fs::create_dir_all(machine.path("grub")).unwrap();
    fs::write(machine.path("grub/atomos.enabled"), "").unwrap();
}

fn on_trial(machine: &Machine, n: u64, tries: u32) -> DesiredEntry {
    DesiredEntry {
        tries: Some(tries),
        ..machine.deployment(n, "kernel")
    }
}

fn save(machine: &Machine, n: u64, left: u32) {
    let mut block = format!("# GRUB Environment Block\natomos_left_{n}={left}\n").into_bytes();
    block.resize(1024, b'#');
    fs::write(machine.path("grub/atomos.env"), block).unwrap();
}

fn env(machine: &Machine) -> GrubEnv {
    GrubEnv::parse(&fs::read(machine.path("grub/atomos.env")).unwrap()).expect("GRUB would take it")
}

#[test]
fn what_grub_has_counted_stays_and_goes_with_the_counter() {
    for kind in KINDS {
        let machine = Machine::new(kind);
        with_menu(&machine);
        let (old, new) = (machine.deployment(1, "a"), on_trial(&machine, 2, 3));
        machine.recover(&[old.clone(), new.clone()]);
        assert_eq!(
            env(&machine),
            GrubEnv::default(),
            "a block that GRUB can write to"
        );
        save(&machine, 2, 1);
        assert_eq!(machine.boot().tries_left().unwrap().get(&2), Some(&1));
        assert!(
            machine.plan(&[old.clone(), new.clone()]).is_empty(),
            "a count is never set back"
        );
        let one_left = DesiredEntry {
            tries: Some(1),
            ..new.clone()
        };
        assert!(machine.plan(&[old.clone(), one_left]).is_empty());
        // Out of tries: the name says so from now on, whatever becomes of GRUB's own count.
        let bad = DesiredEntry {
            tries: Some(0),
            ..new.clone()
        };
        machine.recover(&[old.clone(), bad.clone()]);
        assert!(
            machine.entry_names().iter().any(|name| name.ends_with("+0.conf")),
            "{kind:?}"
        );
        fs::remove_file(machine.path("grub/atomos.env")).unwrap();
        assert_eq!(machine.boot().tries_left().unwrap().get(&2), Some(&0));
        // Good: the counter goes, and then GRUB's.
        save(&machine, 2, 1);
        let good = DesiredEntry {
            tries: None,
            ..new.clone()
        };
        machine.recover(&[old, good]);
        assert_eq!(machine.boot().tries_left().unwrap().len(), 0);
        assert_eq!(env(&machine).left(2), None);
    }
}

#[test]
fn a_block_that_grub_would_refuse_is_replaced() {
    let machine = Machine::new(BootFsKind::Posix);
    with_menu(&machine);
    let desired = [machine.deployment(1, "a"), on_trial(&machine, 2, 3)];
    machine.recover(&desired);
    for bytes in [vec![], vec![0; 1024], b"# GRUB Environment Block\n".repeat(100)] {
        fs::write(machine.path("grub/atomos.env"), bytes).unwrap();
        assert!(machine.plan(&desired).menu_outdated);
        machine.recover(&desired);
        assert_eq!(env(&machine), GrubEnv::default());
    }
}

#[test]
fn with_blscfg_a_file_beside_it_says_which_entry_to_take() {
    let machine = Machine::new(BootFsKind::Posix);
    fs::create_dir_all(machine.path("grub2")).unwrap();
    fs::write(machine.path("grub2/atomos.enabled"), "").unwrap();
    machine.recover(&[machine.deployment(1, "a"), on_trial(&machine, 2, 3)]);
    let script = fs::read_to_string(machine.path("grub2/atomos-count.cfg")).unwrap();
    assert!(!script.contains("menuentry"), "{script}");
    assert!(script.contains("+3'; fi"), "as blscfg calls it: {script}");
    assert!(machine.path("grub2/atomos.env").exists());
    check_script(&machine.path("grub2/atomos-count.cfg"));
}

#[test]
fn an_interrupted_verdict_does_not_bring_back_what_grub_counted_down() {
    let start = || {
        let machine = Machine::new(BootFsKind::Posix);
        with_menu(&machine);
        let (old, new) = (machine.deployment(1, "a"), on_trial(&machine, 2, 3));
        machine.recover(&[old.clone(), new.clone()]);
        save(&machine, 2, 0);
        (
            machine,
            [
                old,
                DesiredEntry {
                    tries: Some(0),
                    ..new
                },
            ],
        )
    };
    let (machine, after) = start();
    let (points, result) = failpoint::trace(|| machine.reconcile(&after));
    result.unwrap();
    for (index, point) in points.iter().enumerate() {
        let (machine, after) = start();
        failpoint::stop_at(index, || machine.reconcile(&after)).unwrap_err();
        let left = machine.boot().tries_left().unwrap();
        assert!(
            left.values().all(|left| *left == 0),
            "stopped at {point}: {left:?}"
        );
        machine.recover(&after);
    }
}

fn check_script(path: &Path) {
    match Command::new("grub-script-check").arg(path).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{output:?}\n{}",
            fs::read_to_string(path).unwrap()
        ),
        Err(error) => println!("skipped GRUB's own check: {error}"),
    }
}

/// A kernel of 32-bit code that prints its command line to the serial port and resets the machine: enough of the boot
/// protocol for GRUB to load it.
fn printing_kernel() -> Vec<u8> {
    const CODE: [u8; 36] = [
        0x8b, 0xb6, 0x28, 0x02, 0x00, 0x00, // mov esi, [esi+0x228]: the command line
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x12, // jz end
        0x88, 0xc3, // mov bl, al
        0x66, 0xba, 0xfd, 0x03, // wait: mov dx, 0x3fd
        0xec, // in al, dx
        0xa8, 0x20, // test al, 0x20
        0x74, 0xf7, // jz wait
        0xb2, 0xf8, // mov dl, 0xf8
        0x88, 0xd8, // mov al, bl
        0xee, // out dx, al
        0xeb, 0xe9, // jmp next
        0xb0, 0xfe, // end: mov al, 0xfe
        0xe6, 0x64, // out 0x64, al: reset
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];
    let mut image = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // sectors of set-up code
    put(0x1f4, &(1u32).to_le_bytes()); // size of what follows, in 16 bytes
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x020cu16.to_le_bytes());
    put(0x211, &[1]); // loaded at 1 MiB
    put(0x214, &0x0010_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes()); // the initrd may lie anywhere
    put(0x230, &0x1000u32.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes()); // bytes of a command line
    put(0x258, &0x0010_0000u64.to_le_bytes());
    put(0x260, &0x1000u32.to_le_bytes());
    image.extend(CODE);
    image.resize(0x400 + 0x1000, 0x90);
    image
}

/// A disk with this `/boot`, and GRUB beside it.
struct Disk<'a> {
    machine: &'a Machine,
}

impl Disk<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.machine.scratch.path().join(name)
    }

    /// Returns whether all that is needed is there.
    fn make(&self) -> bool {
        const MODULES: &str =
            "normal linux test echo configfile serial terminal biosdisk ext2 loadenv halt reboot ls cat";
        let lnxboot = Path::new("/usr/lib/grub/i386-pc/lnxboot.img");
        let core = self.path("core.img");
        let made = run(Command::new("grub-mkimage")
            .args(["-O", "i386-pc", "-p", "(hd0)/grub", "-o"])
            .arg(&core)
            .args(MODULES.split(' ')))
            && run(Command::new("qemu-system-x86_64").arg("--version"));
        if !made || !lnxboot.exists() {
            println!("skipped: GRUB for BIOS or QEMU is missing");
            return false;
        }
        let mut image = fs::read(lnxboot).unwrap();
        image.extend(fs::read(core).unwrap());
        fs::write(self.path("grub.lnx"), image).unwrap();
        // As it is installed, without the wait for a person.
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-hooks/grub/grub.cfg");
        fs::copy(hook, self.machine.path("grub/grub.cfg")).unwrap();
        fs::write(self.machine.path("grub/custom.cfg"), "set timeout=0\n").unwrap();
        self.write()
    }

    /// Writes `/boot` to the disk.
    fn write(&self) -> bool {
        let image = self.path("disk.img");
        let _ = fs::remove_file(&image);
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-O", "^metadata_csum,^64bit", "-d"])
            .arg(self.machine.path(""))
            .arg(&image)
            .arg("32M"))
    }

    /// Starts the machine once, and returns what its kernel was told, and all that was printed.
    fn boot(&self) -> (String, String) {
        // To a file: of what goes into a pipe, the machine's end may cut off the last.
        let serial = self.path("serial");
        let output = Command::new("timeout")
            .args(["--kill-after=10", "900", "qemu-system-x86_64"])
            .args([
                "-accel",
                "tcg",
                "-m",
                "64",
                "-nodefaults",
                "-no-reboot",
                "-display",
                "none",
            ])
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-kernel")
            .arg(self.path("grub.lnx"))
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=ide",
                self.path("disk.img").display()
            ))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&fs::read(serial).unwrap()).into_owned();
        let booted = text.split("atomos=os/").nth(1).unwrap_or_default();
        (booted.chars().take(12).collect(), format!("{text}\n{output:?}"))
    }

    /// Reads GRUB's counts back from the disk.
    fn read_env(&self) -> GrubEnv {
        let copy = self.path("env");
        assert!(run(Command::new("debugfs")
            .arg("-R")
            .arg(format!("dump /grub/atomos.env {}", copy.display()))
            .arg(self.path("disk.img"))));
        GrubEnv::parse(&fs::read(copy).unwrap()).expect("GRUB left a block")
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn bootable(machine: &Machine, n: u64, tries: Option<u32>) -> DesiredEntry {
    let desired = machine.deployment(n, &format!("kernel {n}"));
    let modules = machine.tree(desired.commit).join("usr/lib/modules/6.1");
    let mut kernel = printing_kernel();
    // Within its page: GRUB copies whole ones.
    kernel[0x800..0x808].copy_from_slice(&n.to_le_bytes());
    fs::write(modules.join("vmlinuz"), kernel).unwrap();
    fs::remove_dir_all(modules.join("dtb")).unwrap();
    let tree = Dir::open_ambient(machine.tree(desired.commit)).unwrap();
    DesiredEntry {
        bootcsum: KernelFiles::find(&tree).unwrap().digest().unwrap(),
        tries,
        ..desired
    }
}

#[test]
fn grub_tries_a_version_as_often_as_it_may_and_then_takes_the_one_before() {
    let machine = Machine::new(BootFsKind::Posix);
    with_menu(&machine);
    let (old, new) = (bootable(&machine, 1, None), bootable(&machine, 2, Some(2)));
    machine.recover(&[old.clone(), new.clone()]);
    check_script(&machine.path("grub/atomos.cfg"));
    let disk = Disk { machine: &machine };
    if !disk.make() {
        return;
    }
    for left in [1, 0] {
        let (booted, text) = disk.boot();
        assert_eq!(booted, new.commit.short(), "{text}");
        assert_eq!(disk.read_env().left(2), Some(left), "{text}");
    }
    for _ in 0..2 {
        let (booted, text) = disk.boot();
        assert_eq!(booted, old.commit.short(), "out of tries: {text}");
        assert_eq!(disk.read_env().left(2), Some(0));
    }

    // A block that cannot be written: nothing is tried that cannot be counted.
    fs::remove_file(machine.path("grub/atomos.env")).unwrap();
    assert!(disk.write());
    let (booted, text) = disk.boot();
    assert_eq!(booted, old.commit.short(), "{text}");

    // A kernel that cannot be loaded costs its try, and the next one is taken at once.
    machine.recover(&[old.clone(), new.clone()]);
    let kernel = machine.path(&format!("atomos/os-{}/vmlinuz", new.bootcsum));
    fs::write(kernel, "no kernel").unwrap();
    assert!(disk.write());
    let (booted, text) = disk.boot();
    assert_eq!(booted, old.commit.short(), "{text}");
    assert_eq!(disk.read_env().left(2), Some(1));
}

#[test]
fn grub_takes_what_there_is_where_all_are_out_of_tries() {
    let machine = Machine::new(BootFsKind::Posix);
    with_menu(&machine);
    let (old, new) = (bootable(&machine, 1, Some(0)), bootable(&machine, 2, Some(1)));
    machine.recover(&[old.clone(), new.clone()]);
    let disk = Disk { machine: &machine };
    if !disk.make() {
        return;
    }
    let (booted, text) = disk.boot();
    assert_eq!(booted, new.commit.short(), "{text}");
    let (booted, text) = disk.boot();
    assert_eq!(booted, old.commit.short(), "the oldest: {text}");
    // Nothing else is left, so it is tried though it cannot be counted.
    machine.recover(&[DesiredEntry {
        tries: Some(1),
        ..new.clone()
    }]);
    fs::remove_file(machine.path("grub/atomos.env")).unwrap();
    assert!(disk.write());
    let (booted, text) = disk.boot();
    assert_eq!(booted, new.commit.short(), "{text}");
}
