//! The switch: one new file in `/boot/loader/entries`.
//!
//! Everything that the file names is on disk, where a loader sees it, before the file is: [`write_entry`] flushes the file
//! system first. Then
//!
//! - on a POSIX file system the file, which is on disk by then under a temporary name that no loader looks at, is renamed:
//!   **the rename is the visible step** ([`super::show`]);
//! - on FAT, where a rename is not one step, it is written under its final name with a `#` where the `linux` line
//!   begins, which makes that line a comment and the entry one that no loader offers. When that is on disk, one
//!   byte of one sector is changed: **`#` to `l` is the visible step.** No size, no allocation and no directory
//!   entry changes with it.
//!
//! Then the file system is flushed again. On a machine whose GRUB has no `blscfg`, the menu file that
//! [`super::menu`] shows after the entries is what GRUB sees, and that is the visible step.

use std::io::{Seek, SeekFrom, Write};

use crate::digest::CommitId;
use crate::failpoint::{
    self,
    watch::{self, Sync},
};
use crate::fs::{Dir, FsError};
use crate::names::StaterootName;

use super::bls::{BlsEntry, one_line};
use super::boot_dir::{FoundEntry, OWNER_KEY};
use super::bootcsum::{BootCsum, KernelFiles};
use super::flush::flush;
use super::kargs::KernelArgs;
use super::menu::{StagedMenu, stage_menu};
use super::name::{EntryName, MAX_ENTRY_NAME, Tries};
use super::show::Staged;
use super::{BootDir, BootError, BootFsKind};

/// The sort key of all our entries: the same, so that `version` alone decides among them.
pub const SORT_KEY: &str = "atomos";

/// By which kernel argument an entry says its number.
pub(crate) const ENTRY_KARG: &str = "atomos.entry";

/// A deployment as the loader is to know it. The list of these is the truth; it is kept in `/atomos`, and `/boot` is
/// derived from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredEntry {
    /// The entry's number. The highest is booted; none is ever used again.
    pub n: u64,
    /// The stateroot.
    pub stateroot: StaterootName,
    /// The commit.
    pub commit: CommitId,
    /// What distinguishes deployments of this commit.
    pub serial: u32,
    /// What the operating system calls itself, for the menu.
    pub title: String,
    /// Its version, where it has one.
    pub version: Option<String>,
    /// Kernel arguments, without `atomos=`, which is added here.
    pub kargs: KernelArgs,
    /// Which kernel files it boots with.
    pub bootcsum: BootCsum,
    /// How often it may be tried before the loader gives up on it; none where it is known to be good.
    pub tries: Option<u32>,
}

impl DesiredEntry {
    /// Returns the deployment's name, as it stands in `atomos=`: `<stateroot>/<commit>.<serial>`.
    #[must_use]
    pub fn deployment(&self) -> String {
        format!("{}/{}.{}", self.stateroot, self.commit, self.serial)
    }

    /// Returns the file name that the entry gets when it is new.
    ///
    /// # Errors
    /// When a file system would not take it.
    pub fn file_name(&self) -> Result<EntryName, BootError> {
        let name = EntryName {
            n: self.n,
            stateroot: self.stateroot.clone(),
            commit: self.commit.short(),
            serial: self.serial,
            tries: self.tries.map(|left| Tries { left, done: None }),
        };
        let text = name.to_string();
        if text.len() > MAX_ENTRY_NAME {
            return Err(BootError::NameTooLong { name: text });
        }
        Ok(name)
    }

    /// Returns the whole kernel command line.
    ///
    /// # Errors
    /// When it is longer than a kernel takes.
    pub fn options(&self) -> Result<KernelArgs, BootError> {
        let mut kargs = self.kargs.clone();
        kargs.delete_all("atomos");
        kargs.append(&format!("atomos={}", self.deployment()))?;
        Ok(kargs)
    }

    /// Returns the entry's text, given the kernel files in `/boot`.
    pub(super) fn to_entry(&self, boot: &BootDir, files: &KernelFiles) -> Result<BlsEntry, BootError> {
        let mut entry = BlsEntry::new();
        let name = self.file_name()?;
        let mut push = |key: &str, value: &str| {
            entry.push(key, value).map_err(|source| BootError::Entry {
                name: name.to_string(),
                source,
            })
        };
        // First, so that whoever finds half an entry knows whose it is.
        if let Some(owner) = boot.owner() {
            push(OWNER_KEY, owner)?;
        }
        let version = one_line(self.version.as_deref().unwrap_or_default());
        let title = one_line(&self.title);
        let title = match (title.as_str(), version.as_str()) {
            ("", "") => self.stateroot.to_string(),
            ("", version) => format!("{} {version}", self.stateroot),
            (title, version) if version.is_empty() || title.contains(version) => title.to_owned(),
            (title, version) => format!("{title} {version}"),
        };
        push("title", &title)?;
        push("version", &super::sort_version(self.n, &version))?;
        push("sort-key", SORT_KEY)?;
        let path = |file: &str| boot.loader_path(&self.stateroot, self.bootcsum, file);
        push("linux", &path("vmlinuz"))?;
        if files.has_initramfs() {
            push("initrd", &path("initramfs.img"))?;
        }
        if files.has_device_tree() {
            push("devicetree", &path("devicetree"))?;
        } else if files.has_device_trees() {
            push("fdtdir", &path("dtb"))?;
        }
        push("options", &self.options()?.to_string())?;
        Ok(entry)
    }
}

/// Writes the entry of one deployment, and GRUB's menu where there is one, durably. Its kernel files must have been
/// installed. The caller holds the sysroot's lock.
///
/// An entry that is there already under this number, whatever its counter, is left as it is if it says the same, and
/// written again under its own name if it does not.
pub fn write_entry(boot: &BootDir, desired: &DesiredEntry) -> Result<(), BootError> {
    let files = boot
        .kernel_dir(&desired.stateroot, desired.bootcsum)?
        .ok_or_else(|| BootError::NoKernel {
            tree: boot.dir().path().join("atomos"),
        })
        .and_then(KernelFiles::open)?;
    let entry = desired.to_entry(boot, &files)?;
    let name = desired.file_name()?;
    let mut file_name = name.to_string();
    for found in boot.list_entries()? {
        if found.name.is_some_and(|found| found.is_same_entry(&name)) {
            if found.entry.is_ok_and(|found| boots_the_same(&found, &entry)) {
                return Ok(());
            }
            file_name = found.file_name;
        }
    }
    let entries = boot.ensure_entries()?;
    let mut found = boot.list_entries()?;
    let staged = StagedEntry::stage(boot, &entries, &file_name, &entry)?;
    staged.add_to(&mut found, entry);
    let menu = stage_menu(boot, &found, &[])?;
    flush(boot)?;
    failpoint::hit("boot.entry.kernels-synced")?;
    staged.show()?;
    menu.iter().try_for_each(StagedMenu::show)?;
    flush(boot)?;
    staged.forget()?;
    menu.iter().try_for_each(StagedMenu::forget)
}

/// Returns whether an entry boots the same as the one that is wanted, in the same place of the order. A person may have edited a
/// title; and what was written before entries said their number is not worth being written again, which takes it away for a moment on FAT.
pub(super) fn boots_the_same(a: &BlsEntry, b: &BlsEntry) -> bool {
    const KEYS: [&str; 7] = [
        OWNER_KEY,
        "version",
        "sort-key",
        "machine-id",
        "linux",
        "devicetree",
        "fdtdir",
    ];
    KEYS.iter().all(|key| a.get(key) == b.get(key))
        && a.initrds().eq(b.initrds())
        && same_options(&a.options(), &b.options())
}

fn same_options(is: &str, wanted: &str) -> bool {
    if is == wanted {
        return true;
    }
    let (Ok(is), Ok(mut wanted)) = (is.parse::<KernelArgs>(), wanted.parse::<KernelArgs>()) else {
        return false;
    };
    is.get(ENTRY_KARG).is_none() && wanted.delete_all(ENTRY_KARG) > 0 && is.to_string() == wanted.to_string()
}

/// An entry that is written and that no loader sees yet.
#[derive(Debug)]
pub(super) struct StagedEntry {
    file_name: String,
    how: How,
}

#[derive(Debug)]
enum How {
    /// It lies beside its place.
    Beside(Staged),
    /// It is written when it is shown.
    InPlace { entries: Dir, text: String },
}

impl StagedEntry {
    /// Writes one entry file where no loader looks.
    pub(super) fn stage(
        boot: &BootDir,
        entries: &Dir,
        file_name: &str,
        entry: &BlsEntry,
    ) -> Result<Self, BootError> {
        let text = entry.to_string();
        failpoint::hit("boot.entry.begin")?;
        let entries = entries.try_clone()?;
        let how = match boot.kind() {
            BootFsKind::Posix => How::Beside(Staged::stage(entries, file_name, text.as_bytes())?),
            BootFsKind::Vfat => How::InPlace { entries, text },
        };
        failpoint::hit("boot.entry.staged")?;
        Ok(Self {
            file_name: file_name.to_owned(),
            how,
        })
    }

    /// Makes the list of entries what it will be.
    pub(super) fn add_to(&self, found: &mut Vec<FoundEntry>, entry: BlsEntry) {
        found.retain(|found| found.file_name != self.file_name);
        found.push(FoundEntry {
            file_name: self.file_name.clone(),
            name: self.file_name.parse().ok(),
            entry: Ok(entry),
        });
    }

    /// Lets loaders see it. Durable after the next flush, whole at any time.
    pub(super) fn show(&self) -> Result<(), BootError> {
        match &self.how {
            How::Beside(staged) => staged.show()?,
            How::InPlace { entries, text } => write_in_place(entries, &self.file_name, text)?,
        }
        Ok(failpoint::hit("boot.entry.written")?)
    }

    /// Removes what it has replaced.
    pub(super) fn forget(&self) -> Result<(), BootError> {
        match &self.how {
            How::Beside(staged) => Ok(staged.forget()?),
            How::InPlace { .. } => Ok(()),
        }
    }
}

fn write_in_place(entries: &Dir, file_name: &str, text: &str) -> Result<(), BootError> {
    let fail = |error: std::io::Error| FsError::new("write", entries.path().join(file_name), error);
    // Only `linux` at the start of a line: no value begins one.
    let offset = match text.find("\nlinux ") {
        Some(newline) => newline + 1,
        None => 0,
    };
    let mut unfinished = text.as_bytes().to_vec();
    unfinished[offset] = b'#';
    // What is there already is an unfinished or a damaged entry, which no loader can boot from.
    entries.remove_file_optional(file_name)?;
    let mut file = entries.create_file(file_name, 0o644)?;
    failpoint::hit("boot.entry.created")?;
    file.write_all(&unfinished).map_err(fail)?;
    if watch::syncs(Sync::File) {
        file.sync_all().map_err(fail)?;
    }
    entries.sync_fs()?;
    failpoint::hit("boot.entry.unfinished")?;
    file.seek(SeekFrom::Start(offset as u64))
        .and_then(|_| file.write_all(&text.as_bytes()[offset..=offset]))
        .map_err(fail)?;
    if watch::syncs(Sync::File) {
        file.sync_all().map_err(fail)?;
    }
    Ok(())
}
