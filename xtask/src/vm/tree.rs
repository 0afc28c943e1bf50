//! A Debian tree made fit for a test: atomos and its hooks in it, a small initramfs, the test's agent, and without the
//! services that only cost time.
//!
//! The tree it comes from stays as it is: the changes are in the upper layer of an overlay. A version that differs little from another
//! is one more layer above that.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::programs::Programs;
use super::units;
use super::versions::{Initramfs, Version};
use crate::process::{Logged, run};

const AGENT: &str = include_str!("guest/agent");
const AGENT_UNIT: &str = include_str!("guest/atomos-vm-test.service");

/// What is copied from `bootloader-hooks`, and where to in the tree.
const HOOKS: [(&str, &str); 3] = [
    ("initramfs-tools/hooks", "usr/share/initramfs-tools/hooks"),
    ("initramfs-tools/scripts", "usr/share/initramfs-tools/scripts"),
    ("dracut/50atomos", "usr/lib/dracut/modules.d/50atomos"),
];

/// The modules that the machine's disk needs. The whole set would be 60 MB to read through an emulated BIOS.
const INITRAMFS_MODULES: &str = "virtio_pci\nvirtio_blk\next4\nxfs\nbtrfs\ni6300esb\n";
const INITRAMFS_CONF: &str = "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n";

/// Every version has a check that passes.
const HEALTH_CHECK: &str = "#!/bin/sh\nexec test -e /run/atomos/booted\n";
/// A machine that gets a tenth of a processor is slow, and well.
const LONG_DEADLINE: &str = "[Timer]\nOnBootSec=\nOnBootSec=6h\n";
const SLOW_WATCHDOG: &str = "[Manager]\nRuntimeWatchdogSec=10min\nRebootWatchdogSec=30min\n";

/// Makes the initramfs. `$1` is the tree.
const MAKE_INITRAMFS: &str = r#"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
exec chroot "$1" update-initramfs -u
"#;

/// The same by dracut, in its place.
const MAKE_DRACUT_INITRAMFS: &str = r#"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mount -t tmpfs tmpfs "$1/run"
version=$(ls "$1/usr/lib/modules")
exec chroot "$1" dracut --force --no-hostonly --no-early-microcode --compress 'zstd -1' \
    --modules 'base systemd systemd-initrd rootfs-block kernel-modules fs-lib atomos' \
    --drivers 'virtio_pci virtio_blk ext4 xfs btrfs i6300esb' "/boot/initrd.img-$version" "$version"
"#;

/// A file of the test's own in a tree: path, content, mode.
pub type TestFile<'a> = (&'a str, &'a str, u32);

/// A prepared tree. Unmounted when dropped; the overlay's upper layer stays.
#[derive(Debug)]
pub struct TestTree {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The directories that it consists of, the highest first.
    layers: Vec<PathBuf>,
}

impl Drop for TestTree {
    fn drop(&mut self) {
        // The namespace that it is mounted in ends soon anyhow.
        let _ = run(Command::new("umount")
            .args(["--recursive", "--lazy", "--"])
            .arg(&self.path));
    }
}

impl TestTree {
    /// Lays an empty layer above the others, or takes up the one that an earlier call has left below `work`.
    ///
    /// # Errors
    /// If the mount fails.
    fn mount(lower: &[PathBuf], work: &Path) -> Result<Self> {
        let [upper, scratch, tree] = ["upper", "scratch", "tree"].map(|name| work.join(name));
        for directory in [&upper, &scratch, &tree] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let lower_dirs: Vec<_> = lower.iter().map(|layer| layer.display().to_string()).collect();
        run(Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o"])
            .arg(format!(
                "lowerdir={},upperdir={},workdir={}",
                lower_dirs.join(":"),
                upper.display(),
                scratch.display()
            ))
            .arg(&tree))?;
        let mut layers = vec![upper];
        layers.extend_from_slice(lower);
        Ok(Self { path: tree, layers })
    }

    /// Lays an overlay above `lower` below `work` and prepares it. Only inside a mount namespace of the test's own.
    ///
    /// # Errors
    /// If a mount or the generation of the initramfs fails.
    pub fn prepare(lower: &Path, work: &Path, programs: &Programs, version: &Version) -> Result<Self> {
        let test_tree = Self::mount(&[lower.to_owned()], work)?;
        let tree = &test_tree.path;
        for (from, to) in HOOKS {
            make_parent(&tree.join(to))?;
            run(Command::new("cp")
                .args(["-dr", "--no-target-directory"])
                .arg(hooks().join(from))
                .arg(tree.join(to)))?;
        }
        units::install_hooks(&hooks().join("systemd"), tree)?;
        copy_program(&programs.atomos, &tree.join("usr/bin/atomos"))?;
        copy_program(
            &programs.prepare_root,
            &tree.join("usr/lib/atomos/atomos-prepare-root"),
        )?;
        let own: [TestFile<'_>; 10] = [
            ("usr/lib/atomos/health.d/10-vm-test", HEALTH_CHECK, 0o755),
            (
                "usr/lib/systemd/system/atomos-boot-deadline.timer.d/90-vm-test.conf",
                LONG_DEADLINE,
                0o644,
            ),
            (
                "usr/lib/systemd/system.conf.d/90-vm-test.conf",
                SLOW_WATCHDOG,
                0o644,
            ),
            ("usr/lib/atomos-vm-test/agent", AGENT, 0o755),
            ("usr/lib/systemd/system/atomos-vm-test.service", AGENT_UNIT, 0o644),
            ("etc/initramfs-tools/conf.d/atomos-vm-test", INITRAMFS_CONF, 0o644),
            ("etc/initramfs-tools/modules", INITRAMFS_MODULES, 0o644),
            ("etc/atomos-vm-test/edited", "a default\n", 0o644),
            ("etc/atomos-vm-test/deleted", "a default\n", 0o644),
            ("etc/atomos-vm-test/closed/default", "a default\n", 0o644),
        ];
        for (path, content, mode) in own {
            write(&tree.join(path), content, mode)?;
        }
        units::configure(tree)?;
        test_tree.add_version(version)?;
        test_tree.make_initramfs(work, version)?;
        Ok(test_tree)
    }

    /// Takes up what [`TestTree::prepare`] has left below `work`.
    ///
    /// # Errors
    /// If the mount fails.
    pub fn open(lower: &Path, work: &Path) -> Result<Self> {
        Self::mount(&[lower.to_owned()], work)
    }

    /// Makes a version that differs from this one in what `version` says and in what `change` does to it. This tree must not
    /// change any more.
    ///
    /// # Errors
    /// If a mount, the change or the generation of the initramfs fails.
    pub fn derive(
        &self,
        work: &Path,
        version: &Version,
        change: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let derived = Self::mount(&self.layers, work)?;
        change(&derived.path)?;
        derived.add_version(version)?;
        if version.own_initramfs {
            derived.make_initramfs(work, version)?;
        }
        Ok(derived)
    }

    fn add_version(&self, version: &Version) -> Result<()> {
        write(
            &self.path.join("usr/lib/atomos-vm-test/version"),
            version.name,
            0o644,
        )?;
        write(
            &self.path.join("etc/atomos-vm-test/followed"),
            &version.followed(),
            0o644,
        )?;
        for (path, content, mode) in version.files {
            write(&self.path.join(path), content, *mode)?;
        }
        Ok(())
    }

    fn make_initramfs(&self, work: &Path, version: &Version) -> Result<()> {
        let script = match version.initramfs {
            Initramfs::InitramfsTools => MAKE_INITRAMFS,
            Initramfs::Dracut => MAKE_DRACUT_INITRAMFS,
        };
        let log = Logged::create(&work.join("initramfs.log"))?;
        log.run(
            Command::new("unshare")
                .args(["--mount", "--propagation", "private"])
                .args(["sh", "-euc", script, "initramfs"])
                .arg(&self.path),
        )
    }
}

fn copy_program(from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    std::fs::copy(from, to).with_context(|| format!("cannot copy {} into the tree", from.display()))?;
    set_mode(to, 0o755)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    make_parent(path)?;
    if path.is_symlink() {
        // The link is replaced, not what it names.
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
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

/// Everything that goes into every tree, for telling whether an old one is of use.
///
/// # Errors
/// If a hook cannot be read.
pub fn ingredients() -> Result<String> {
    let mut text = [
        AGENT,
        AGENT_UNIT,
        units::ingredients(),
        INITRAMFS_MODULES,
        INITRAMFS_CONF,
        HEALTH_CHECK,
        LONG_DEADLINE,
        SLOW_WATCHDOG,
        MAKE_INITRAMFS,
        MAKE_DRACUT_INITRAMFS,
    ]
    .join("\0");
    for (from, to) in HOOKS.into_iter().chain([("systemd", "systemd")]) {
        for (path, content) in files_below(&hooks().join(from))? {
            text.push_str(&format!("\0{to}/{path}\0{content}"));
        }
    }
    Ok(text)
}

/// Every file below a directory of texts, sorted: its path from there, and what it holds.
fn files_below(directory: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry
                .with_context(|| format!("cannot list {}", next.display()))?
                .path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let content =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(directory).unwrap_or(&path);
            files.push((name.to_string_lossy().into_owned(), content));
        }
    }
    files.sort();
    Ok(files)
}

fn hooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bootloader-hooks")
}
