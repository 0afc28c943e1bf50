//! A Debian tree made fit for a test: atomos and its hooks in it, a small initramfs, the test's agent, and without the
//! services that only cost time.
//!
//! The tree it comes from stays as it is: the changes are in the upper layer of an overlay.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Programs;
use crate::process::{Logged, run};

const AGENT: &str = include_str!("guest/agent");
const AGENT_UNIT: &str = include_str!("guest/atomos-vm-test.service");
const MASKED_UNITS: &str = include_str!("guest/masked-units.txt");

/// What is copied from `bootloader-hooks`, and where to in the tree.
const HOOKS: [(&str, &str); 3] = [
    ("initramfs-tools/hooks", "usr/share/initramfs-tools/hooks"),
    ("initramfs-tools/scripts", "usr/share/initramfs-tools/scripts"),
    (
        "systemd/systemd-journal-flush.service.d",
        "usr/lib/systemd/system/systemd-journal-flush.service.d",
    ),
];

/// The modules that the machine's disk needs. The whole set would be 60 MB to read through an emulated BIOS.
const INITRAMFS_MODULES: &str = "virtio_pci\nvirtio_blk\next4\n";
const INITRAMFS_CONF: &str = "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n";

/// Makes the initramfs. `$1` is the tree.
const MAKE_INITRAMFS: &str = r#"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
exec chroot "$1" update-initramfs -u
"#;

/// A file of the test's own in a tree: path, content, mode.
pub type TestFile<'a> = (&'a str, &'a str, u32);

/// A prepared tree. Unmounted when dropped; the overlay's upper layer stays.
#[derive(Debug)]
pub struct TestTree {
    /// Where it is mounted.
    pub path: PathBuf,
}

impl Drop for TestTree {
    fn drop(&mut self) {
        // The namespace that it is mounted in ends soon anyhow.
        let _ = run(Command::new("umount")
            .args(["--recursive", "--lazy", "--"])
            .arg(&self.path));
    }
}

/// Lays an overlay above `lower` below `work`, prepares it, and returns where it is mounted. Only inside a mount
/// namespace of the test's own.
///
/// # Errors
/// If a mount or the generation of the initramfs fails.
pub fn prepare(lower: &Path, work: &Path, programs: &Programs, files: &[TestFile<'_>]) -> Result<TestTree> {
    let test_tree = mount_overlay(lower, work)?;
    let tree = &test_tree.path;
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-hooks");
    for (from, to) in HOOKS {
        run(Command::new("cp")
            .arg("-rT")
            .arg(hooks.join(from))
            .arg(tree.join(to)))?;
    }
    copy_program(&programs.atomos, &tree.join("usr/bin/atomos"))?;
    copy_program(
        &programs.prepare_root,
        &tree.join("usr/lib/atomos/atomos-prepare-root"),
    )?;
    let own: [TestFile<'_>; 4] = [
        ("usr/lib/atomos-vm-test/agent", AGENT, 0o755),
        ("usr/lib/systemd/system/atomos-vm-test.service", AGENT_UNIT, 0o644),
        ("etc/initramfs-tools/conf.d/atomos-vm-test", INITRAMFS_CONF, 0o644),
        ("etc/initramfs-tools/modules", INITRAMFS_MODULES, 0o644),
    ];
    for (path, content, mode) in own.iter().chain(files) {
        write(&tree.join(path), content, *mode)?;
    }
    configure_units(tree)?;
    let log = Logged::create(&work.join("initramfs.log"))?;
    log.run(
        Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-euc",
                MAKE_INITRAMFS,
                "initramfs",
            ])
            .arg(tree),
    )?;
    Ok(test_tree)
}

fn mount_overlay(lower: &Path, work: &Path) -> Result<TestTree> {
    let [upper, scratch, tree] = ["upper", "scratch", "tree"].map(|name| work.join(name));
    for directory in [&upper, &scratch, &tree] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    run(Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o"])
        .arg(format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            scratch.display()
        ))
        .arg(&tree))?;
    Ok(TestTree { path: tree })
}

/// What `systemctl` would do inside the tree.
fn configure_units(tree: &Path) -> Result<()> {
    let units = tree.join("etc/systemd/system");
    let generators = tree.join("etc/systemd/system-generators");
    std::fs::create_dir_all(&generators).with_context(|| format!("cannot make {}", generators.display()))?;
    let link = |target: &str, path: PathBuf| {
        if path.symlink_metadata().is_ok() {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        symlink(target, &path).with_context(|| format!("cannot link {}", path.display()))
    };
    let names = MASKED_UNITS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace);
    for name in names {
        link("/dev/null", units.join(name))?;
    }
    // It would look for a vsock, and load three drivers to find none.
    link("/dev/null", generators.join("systemd-ssh-generator"))?;
    link(
        "/usr/lib/systemd/system/multi-user.target",
        units.join("default.target"),
    )?;
    link(
        "/usr/lib/systemd/system/atomos-vm-test.service",
        units.join("multi-user.target.wants/atomos-vm-test.service"),
    )
}

fn copy_program(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    std::fs::copy(from, to).with_context(|| format!("cannot copy {} into the tree", from.display()))?;
    set_mode(to, 0o755)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    make_parent(path)?;
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    set_mode(path, mode)
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a file in a tree has a parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot change the mode of {}", path.display()))
}
