//! What a machine needs besides to boot for real: Debian's kernel, an initramfs with `atomos-prepare-root`, a user space
//! of one program, and a disk with GRUB.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::debian::{self, Availability};
use crate::process::{capture, run};
use crate::vm;
use crate::workspace;

/// One static program that is a whole user space.
pub const BUSYBOX: &str = "/bin/busybox";

/// The kernel's modules for the disks and their file systems, those they need apart.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

/// Kernel arguments of a machine that boots. Its disks are the loader's, that of `/boot`, and the root.
pub const KARGS: &str = "--karg root=/dev/vdc --karg console=ttyS0 --karg quiet --karg panic=-1";

/// The parts.
#[derive(Debug, Clone)]
pub struct Kit {
    kernel: PathBuf,
    modules: Vec<PathBuf>,
    prepare_root: PathBuf,
    /// A disk with GRUB on it, and nothing else.
    pub loader: PathBuf,
}

impl Kit {
    /// Fetches and builds the parts in the directory `place`.
    ///
    /// # Errors
    /// If Debian's archive does not answer, or a program fails.
    pub fn make(place: &Path) -> Result<Self> {
        std::fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let archive = match debian::find_archive(&debian::Options::default().release)? {
            Availability::Answers(archive) => archive,
            Availability::Unavailable(why) => bail!("{why}"),
        };
        let package = debian::download_kernel(&archive, &workspace::root().join("target/xtask/kernel"))?;
        let tree = place.join("package");
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree))?;
        let link = tree.join("lib");
        if !link.exists() {
            std::os::unix::fs::symlink("usr/lib", &link)?;
        }
        let version = only_name(&tree.join("usr/lib/modules"))?;
        let kernel = place.join("vmlinuz");
        std::fs::copy(tree.join(format!("boot/vmlinuz-{version}")), &kernel)
            .context("the package has no kernel")?;
        run(Command::new("depmod").arg("-b").arg(&tree).arg(&version))?;
        let modules = unpack_modules(&tree, &version, place)?;
        std::fs::remove_dir_all(&tree)?;
        let loader = place.join("loader");
        let disk = File::create(&loader).with_context(|| format!("cannot make {}", loader.display()))?;
        disk.set_len(4 << 20)?;
        let code = vm::install_grub(place, &disk)?;
        disk.write_all_at(&code, 0)?;
        disk.write_all_at(&[0x55, 0xaa], 510)?;
        Ok(Self {
            kernel,
            modules,
            prepare_root: vm::build_prepare_root()?,
            loader,
        })
    }

    /// Makes a tree of version `version` one that boots.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_to(&self, tree: &Path, release: &str, version: u64) -> Result<()> {
        let copy = |from: &Path, to: &str| {
            std::fs::copy(from, tree.join(to)).with_context(|| format!("cannot copy {}", from.display()))
        };
        copy(&self.kernel, &format!("boot/vmlinuz-{release}"))?;
        let initramfs = self.initramfs(version)?;
        std::fs::write(tree.join(format!("boot/initrd.img-{release}")), initramfs)?;
        copy(Path::new(BUSYBOX), "usr/bin/busybox")?;
        let init = tree.join("usr/sbin/init");
        std::fs::write(&init, include_str!("guest/init"))?;
        std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(
            tree.join("usr/bin/busybox"),
            std::fs::Permissions::from_mode(0o755),
        )?;
        for (name, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
            std::os::unix::fs::symlink(target, tree.join(name))?;
        }
        for name in ["dev", "proc", "sys"] {
            std::fs::create_dir_all(tree.join(name))?;
        }
        Ok(())
    }

    fn initramfs(&self, version: u64) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for name in ["bin", "dev", "modules", "proc", "root", "run", "sys"] {
            archive.add(name, 0o040_755, &[]);
        }
        let read =
            |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        archive.add("init", 0o100_755, include_bytes!("guest/initramfs-init"));
        archive.add("version", 0o100_644, format!("{version}\n").as_bytes());
        archive.add("bin/busybox", 0o100_755, &read(Path::new(BUSYBOX))?);
        archive.add("bin/atomos-prepare-root", 0o100_755, &read(&self.prepare_root)?);
        for (number, path) in self.modules.iter().enumerate() {
            archive.add(&format!("modules/{number:02}"), 0o100_644, &read(path)?);
        }
        Ok(archive.end())
    }
}

fn only_name(directory: &Path) -> Result<String> {
    let mut entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let entry = entries
        .next()
        .with_context(|| format!("{} is empty", directory.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Returns the modules and those they need, as files, in the order in which they are loaded.
fn unpack_modules(tree: &Path, version: &str, place: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for name in MODULES {
        let mut command = Command::new("modprobe");
        command
            .arg("-d")
            .arg(tree)
            .args(["-S", version, "--show-depends", name]);
        for line in capture(&mut command)?.lines() {
            // A module that is built in is none.
            if let Some(path) = line.trim().strip_prefix("insmod ") {
                let path = PathBuf::from(path.trim());
                if !found.contains(&path) {
                    found.push(path);
                }
            }
        }
    }
    let mut unpacked = Vec::new();
    for path in found {
        let name = path.file_stem().context("a module has a name")?;
        let target = place.join(name);
        let out = File::create(&target).with_context(|| format!("cannot make {}", target.display()))?;
        let mut command = Command::new("xz");
        command.arg("-dc").arg(&path).stdout(Stdio::from(out));
        run(&mut command)?;
        unpacked.push(target);
    }
    Ok(unpacked)
}

/// An archive as the kernel unpacks it: cpio's `newc`.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.files += 1;
        let links = 1;
        let length = u32::try_from(bytes.len()).expect("a file of an initramfs is small");
        let name_length = u32::try_from(name.len()).expect("a name is short") + 1;
        let fields = [
            self.files,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    /// Everything begins at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_writes() {
        let mut archive = Archive::default();
        archive.add("a", 0o100_644, b"text\n");
        let bytes = archive.end();
        assert_eq!(&bytes[..22], b"07070100000001000081a4");
        // 110 bytes of header and a name of two, then the file at a multiple of four.
        assert_eq!(&bytes[110..117], b"a\0text\n");
        assert_eq!(&bytes[120..126], b"070701");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0") && bytes.len().is_multiple_of(4));
    }
}
