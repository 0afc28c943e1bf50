//! systemd-boot: files on the EFI system partition.
//!
//! ```text
//! EFI/systemd/systemd-bootx64.efi   the loader, where `bootctl update` looks for it
//! EFI/BOOT/BOOTX64.EFI              the same bytes, under the name that firmware starts where nothing else was said
//! loader/loader.conf                its settings, written where there are none
//! ```
//!
//! No variable of the firmware is written: the disk boots in whatever machine it is put into.

use std::path::{Path, PathBuf};

use crate::digest::{BlobId, Digest};
use crate::fs::Dir;

use super::esp::{self, MAX_LOADER};
use super::probe::{Esp, Layout};
use super::{InstallOptions, InstallPlan, SysrootError, refuse};

/// Where a tree has the loader.
pub(in crate::sysroot) const DIRECTORY: &str = "usr/lib/systemd/boot/efi";

/// Architectures, as UEFI abbreviates them.
const ARCHITECTURES: [&str; 6] = ["x64", "aa64", "ia32", "arm", "riscv64", "loongarch64"];

/// What every systemd-boot has in it, by which `bootctl` knows one, too.
const MARK: &[u8] = b"#### LoaderInfo: systemd-boot ";

const LOADER_CONF: &str =
    "# The newest entry of atomos is the first, so none is named here as the default.\ntimeout 3\n";

/// Refuses what systemd-boot could not boot from, and where another loader is in its place.
pub(super) fn check(layout: &Layout, options: &InstallOptions, resumes: bool) -> Result<(), SysrootError> {
    let Some(esp) = &layout.esp else {
        return Err(refuse(
            &layout.target,
            "systemd-boot needs an EFI system partition, and none is mounted at /efi, /boot/efi or /boot",
        ));
    };
    if layout.boot.is_none() {
        return Err(refuse(
            &layout.target,
            "systemd-boot reads entries from the EFI system partition, or from an extended boot loader partition: mount \
             one of them at /boot",
        ));
    }
    esp::check(&layout.target, &esp.path, options, resumes, |bytes| {
        contains(bytes, MARK)
    })
}

/// What the tree has of the loader: the architecture, and the bytes. `check` is told where each was found, and the digest of what
/// was read there: firmware starts it, and nothing looks at it again.
fn loaders(tree: &Dir, check: &CheckRecorded<'_>) -> Result<Vec<(&'static str, Vec<u8>)>, SysrootError> {
    let mut found = Vec::new();
    let Some(dir) = tree.open_dir_optional(DIRECTORY)? else {
        return Ok(found);
    };
    for architecture in ARCHITECTURES {
        // The one that is signed for Secure Boot, where there is one, as `bootctl` does.
        for suffix in [".signed", ""] {
            let name = format!("systemd-boot{architecture}.efi{suffix}");
            if let Some(bytes) = dir.read_optional(&name, MAX_LOADER)? {
                check(&Path::new(DIRECTORY).join(name), BlobId::new(Digest::of(&bytes)))?;
                found.push((architecture, bytes));
                break;
            }
        }
    }
    Ok(found)
}

/// Fails where a file of the deployed tree is not what its commit records: its path, and the digest of what was read there.
pub(super) type CheckRecorded<'a> = dyn Fn(&Path, BlobId) -> Result<(), SysrootError> + 'a;

/// Copies the loader of `tree`. What the firmware starts is last. Returns what was written.
pub(super) fn install(
    plan: &InstallPlan,
    root: &Dir,
    tree: &Dir,
    check: &CheckRecorded<'_>,
) -> Result<Vec<PathBuf>, SysrootError> {
    let place = plan.esp.as_deref().unwrap_or(Path::new("boot"));
    let esp = root.open_dir(place)?;
    let loaders = loaders(tree, check)?;
    if loaders.is_empty() {
        let reason = format!("its tree has no /{DIRECTORY}/systemd-boot*.efi");
        return Err(refuse(&plan.target, reason));
    }
    let efi = ensure_dir(&esp, "EFI")?;
    let (own, fallback) = (ensure_dir(&efi, "systemd")?, ensure_dir(&efi, "BOOT")?);
    // Before anything is written.
    for (architecture, bytes) in &loaders {
        let name = fallback_name(architecture);
        let other = fallback.read_optional(&name, MAX_LOADER)?;
        let is_other = other.is_some_and(|other| other != *bytes && !contains(&other, MARK));
        if is_other && !plan.existing {
            return Err(esp::another(&plan.target, &place.join("EFI/BOOT").join(name)));
        }
    }
    let mut written = Vec::new();
    let settings = ensure_dir(&esp, "loader")?;
    if !settings.exists("loader.conf")? {
        settings.write_atomic("loader.conf", LOADER_CONF.as_bytes(), 0o644)?;
        written.push(place.join("loader/loader.conf"));
    }
    for (architecture, bytes) in &loaders {
        let name = format!("systemd-boot{architecture}.efi");
        if write_changed(&own, &name, bytes)? {
            written.push(place.join("EFI/systemd").join(name));
        }
    }
    esp.sync_fs()?;
    crate::failpoint::hit("install.loader-prepared")?;
    for (architecture, bytes) in &loaders {
        let name = fallback_name(architecture);
        if write_changed(&fallback, &name, bytes)? {
            written.push(place.join("EFI/BOOT").join(name));
        }
    }
    esp.sync_fs()?;
    Ok(written)
}

fn fallback_name(architecture: &str) -> String {
    format!("BOOT{}.EFI", architecture.to_uppercase())
}

fn ensure_dir(parent: &Dir, name: &str) -> Result<Dir, SysrootError> {
    match esp::open(parent, name)? {
        Some((_, dir)) => Ok(dir),
        None => Ok(parent.ensure_dir(name, 0o755)?),
    }
}

fn write_changed(dir: &Dir, name: &str, bytes: &[u8]) -> Result<bool, SysrootError> {
    if dir
        .read_optional(name, MAX_LOADER)?
        .is_some_and(|there| there == bytes)
    {
        return Ok(false);
    }
    dir.write_atomic(name, bytes, 0o644)?;
    Ok(true)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

impl Esp {
    /// Returns whether firmware could read it.
    pub(super) fn is_fat(&self) -> bool {
        self.mount.as_ref().is_some_and(super::MountedFs::is_fat)
    }
}
