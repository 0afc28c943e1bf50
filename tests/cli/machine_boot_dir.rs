//! Where `/boot` is: on a file system of its own, beneath an overlay, shared, or not mounted.

use std::path::Path;

use libatomos::testing::LoopFs;

use super::super::common::is_root;
use super::*;

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(what: &[&str], at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let status = Command::new("mount").args(what).arg(&at).status().unwrap();
        assert!(status.success(), "mount {what:?} {}", at.display());
        Self(at)
    }

    fn bind(from: &Path, at: PathBuf) -> Self {
        Self::new(&["--bind", from.to_str().unwrap()], at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The kernels that entries name, by the entries' names.
fn kernels(boot: &Path) -> Vec<String> {
    let mut kernels: Vec<_> = fs::read_dir(boot.join("loader/entries"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("linux "));
            line.map(|path| path.trim().to_owned())
        })
        .collect();
    kernels.sort();
    kernels
}

/// An image that runs, and a transient root, are overlays: their device is not that of the physical root.
#[test]
fn a_directory_of_the_physical_root_is_no_file_system_of_its_own_beneath_an_overlay() {
    if !is_root("a boot directory that is mounted beneath another root") {
        return;
    }
    let mut machine = Machine::new();
    machine.boot();
    machine.commit("2");
    let (root, physical) = (machine.scratch.path("machine"), machine.scratch.path("physical"));
    fs::rename(&root, &physical).unwrap();
    let _root = Mounted::new(&["-t", "tmpfs", "tmpfs"], root.clone());
    let _atomos = Mounted::bind(&physical.join("atomos"), root.join("atomos"));
    let _boot = Mounted::bind(&physical.join("boot"), root.join("boot"));
    machine.atomos(&["upgrade", "--now"]).code(0);
    let kernels = kernels(&root.join("boot"));
    assert_eq!(kernels.len(), 2, "{kernels:?}");
    for path in kernels {
        assert!(path.starts_with("/boot/atomos/"), "{path}");
        assert!(physical.join(&path[1..]).exists(), "{path}");
    }
    machine.atomos(&["boot", "status"]).code(0);
}

#[test]
fn nothing_is_written_beneath_a_boot_partition_that_is_not_mounted() {
    let Some(partition) = LoopFs::new("ext4", 64) else {
        return;
    };
    let machine = Machine::new();
    let boot = machine.scratch.path("machine/boot");
    machine.commit("1");
    {
        let _boot = Mounted::bind(partition.path(), boot.clone());
        machine
            .atomos(&["deploy", "os", "--karg", "root=LABEL=root"])
            .code(0);
    }
    machine.commit("2");
    for args in [
        &["deploy", "os"][..],
        &["cleanup"],
        &["kargs", "--append", "quiet"],
        &["boot", "recover"],
    ] {
        let run = machine.atomos(args).code(10);
        assert!(
            run.err.contains("is it not mounted?") && run.err.contains("atomos boot recover --directory"),
            "{}",
            run.err
        );
    }
    // Whoever asks is not led to write there, either.
    for (args, code) in [(&["status"][..], 0), (&["boot", "status"], 6)] {
        let run = machine.atomos(args).code(code);
        assert!(run.err.contains("was a file system of its own"), "{}", run.err);
        assert!(!run.err.contains("boot recover"), "{}", run.err);
    }
    assert_eq!(fs::read_dir(&boot).unwrap().count(), 0);
    {
        let _boot = Mounted::bind(partition.path(), boot.clone());
        machine.atomos(&["deploy", "os"]).code(0);
        assert_eq!(kernels(&boot).len(), 2);
    }
    // Whoever has no boot partition any more says so.
    machine.atomos(&["boot", "recover", "--directory"]).code(0);
    assert_eq!(kernels(&boot).len(), 2);
    machine.commit("3");
    machine.atomos(&["deploy", "os"]).code(0);
}

#[test]
fn another_sysroot_s_entries_and_kernels_stay() {
    let Some(partition) = LoopFs::new("ext4", 64) else {
        return;
    };
    let (one, mut two) = (Machine::new(), Machine::new());
    let _one = Mounted::bind(partition.path(), one.scratch.path("machine/boot"));
    let _two = Mounted::bind(partition.path(), two.scratch.path("machine/boot"));
    one.commit("1");
    one.atomos(&["deploy", "os", "--karg", "root=LABEL=one"]).code(0);
    two.atomos(&["stateroot", "init", "second"]).code(0);
    fs::remove_dir_all(two.scratch.path("machine/atomos/deploy/os")).unwrap();
    two.commit("2");
    let deploy = [
        "deploy",
        "os",
        "--stateroot",
        "second",
        "--karg",
        "root=LABEL=two",
    ];
    two.atomos(&deploy).code(0);
    two.running = None;
    two.atomos(&["cleanup"]).code(0);
    let named = kernels(partition.path());
    assert_eq!(named.len(), 2, "{named:?}");
    for path in named {
        assert!(partition.path().join(&path[1..]).exists(), "{path}");
    }
}

#[test]
fn a_second_system_does_not_take_the_entries_of_the_first_for_its_own() {
    let Some(partition) = LoopFs::new("ext4", 64) else {
        return;
    };
    let (one, two) = (Machine::new(), Machine::new());
    let _one = Mounted::bind(partition.path(), one.scratch.path("machine/boot"));
    let _two = Mounted::bind(partition.path(), two.scratch.path("machine/boot"));
    for machine in [&one, &two] {
        machine.commit("1");
    }
    let deploy = ["deploy", "os", "--karg", "root=LABEL=root"];
    one.atomos(&deploy).code(0);
    let before = kernels(partition.path());
    for args in [&deploy[..], &["deploy", "os", "--dry-run"], &["cleanup"]] {
        let run = two.atomos(args).code(10);
        assert!(
            run.err
                .contains("boots another system, whose stateroot is called os too")
                && run.err.contains("--stateroot NAME"),
            "{}",
            run.err
        );
    }
    assert_eq!(kernels(partition.path()), before);
    one.atomos(&["boot", "status"]).code(0);
    // As the hint says, where the first one is gone.
    for entry in fs::read_dir(partition.path().join("loader/entries")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    two.atomos(&deploy).code(0);
    assert_eq!(kernels(partition.path()).len(), 1);
}
