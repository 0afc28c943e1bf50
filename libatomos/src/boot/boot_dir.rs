//! `/boot`: what is in it, and what its file system can promise.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::fs::{Dir, FileKind, FsError};
use crate::names::StaterootName;

use super::BootError;
use super::bls::{BlsEntry, BlsError, MAX_ENTRY};
use super::bootcsum::{BootCsum, kernel_dir_name};
use super::grub_env::read_env;
use super::menu::SCRIPTS;
use super::name::EntryName;

/// Where kernels are, below `/boot`.
pub(super) const KERNELS: &str = "atomos";

/// Where entries are, below `/boot`.
pub(crate) const ENTRIES: &str = "loader/entries";

/// The key that says which sysroot an entry belongs to, where several share one boot partition.
pub(super) const OWNER_KEY: &str = "x-atomos-sysroot";

/// Entries that are looked at. No loader shows a thousand.
const MAX_ENTRIES: usize = 4096;

/// What the file system of `/boot` can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootFsKind {
    /// It renames atomically.
    Posix,
    /// FAT, which every UEFI firmware reads: no journal, and a rename that is cut short can leave two names on one
    /// chain of clusters. Files are written under their final names and finished by one byte.
    Vfat,
}

/// What the boot directory does not say of itself.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BootOptions {
    /// Where the loader finds `/boot` on its file system: empty where it is a file system of its own, else `/boot`.
    /// Found by [`BootDir::open_in`].
    pub path_prefix: String,
    /// The sysroot's identity, where the boot partition may be shared with another. Entries that carry another
    /// identity are not ours.
    pub owner: Option<String>,
    /// The stateroots that the sysroot has: entries and kernels of any other are another sysroot's. All are ours where it is not said.
    pub stateroots: Option<Vec<StaterootName>>,
    /// Takes the file system for this kind, whatever it is.
    pub fs_kind: Option<BootFsKind>,
}

/// An open `/boot`.
#[derive(Debug)]
pub struct BootDir {
    pub(super) dir: Dir,
    kind: BootFsKind,
    is_mount: bool,
    options: BootOptions,
}

/// A file in `loader/entries` that a loader would look at, or one of our leftovers.
#[derive(Debug, Clone)]
pub struct FoundEntry {
    /// The file name.
    pub file_name: String,
    /// The file name taken apart, where it is one of ours.
    pub name: Option<EntryName>,
    /// What it says, where that can be read.
    pub entry: Result<BlsEntry, BlsError>,
}

impl FoundEntry {
    /// Returns the directory below `/boot/atomos` that its kernel is in.
    #[must_use]
    pub fn kernel_dir(&self) -> Option<&str> {
        let entry = self.entry.as_ref().ok()?;
        let mut parts = entry.linux()?.rsplit('/');
        let (_file, dir, parent) = (parts.next()?, parts.next()?, parts.next()?);
        (parent == KERNELS).then_some(dir)
    }
}

impl BootDir {
    /// Takes an open boot directory.
    pub fn new(dir: Dir, options: BootOptions) -> Result<Self, BootError> {
        let stat = rustix::fs::fstatfs(&dir)
            .map_err(|errno| FsError::new("find the file system of", dir.path(), errno))?;
        // MSDOS_SUPER_MAGIC, which vfat has too. The field's type differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        let is_fat = stat.f_type as u64 & 0xffff_ffff == 0x4d44;
        let kind = options.fs_kind.unwrap_or(if is_fat {
            BootFsKind::Vfat
        } else {
            BootFsKind::Posix
        });
        Ok(Self {
            dir,
            kind,
            is_mount: options.path_prefix.is_empty(),
            options,
        })
    }

    /// Opens `boot` in the root of a sysroot, and makes it if it is missing. Loaders are told paths from the root of the file system
    /// that it is on: `storage` is a directory of the physical root, which has a device of its own where what runs as `/` is an
    /// overlay over it, as an image or a transient root is.
    pub fn open_in(root: &Dir, storage: &Dir, mut options: BootOptions) -> Result<Self, BootError> {
        let dir = root.ensure_dir("boot", 0o755)?;
        let device = dir.stat_self()?.dev;
        let is_mount = device != root.stat_self()?.dev && device != storage.stat_self()?.dev;
        options.path_prefix = if is_mount {
            String::new()
        } else {
            "/boot".to_owned()
        };
        Self::new(dir, options)
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns what its file system can do.
    #[must_use]
    pub fn kind(&self) -> BootFsKind {
        self.kind
    }

    /// Returns whether it is a file system of its own.
    #[must_use]
    pub fn is_mount(&self) -> bool {
        self.is_mount
    }

    pub(super) fn owner(&self) -> Option<&str> {
        self.options.owner.as_deref()
    }

    /// Returns whether the sysroot has the stateroot, as far as that was said.
    pub(super) fn has_stateroot(&self, stateroot: &StaterootName) -> bool {
        let own = self.options.stateroots.as_ref();
        own.is_none_or(|own| own.contains(stateroot))
    }

    /// Returns the path of a kernel file as the loader must be told it.
    #[must_use]
    pub fn loader_path(&self, stateroot: &StaterootName, csum: BootCsum, name: &str) -> String {
        format!("{}/{KERNELS}/{stateroot}-{csum}/{name}", self.options.path_prefix)
    }

    /// Returns whether a loader that looks from the root of `/boot`'s file system finds one of our kernel files by this path.
    pub(super) fn is_loader_path(&self, path: &str) -> bool {
        path.strip_prefix(self.options.path_prefix.as_str())
            .and_then(|path| path.strip_prefix('/'))
            .and_then(|path| path.strip_prefix(KERNELS))
            .is_some_and(|path| path.starts_with('/'))
    }

    /// Returns a loader's path as seen from `/boot`.
    pub(super) fn strip_prefix<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(self.options.path_prefix.as_str())
            .unwrap_or(path)
    }

    pub(super) fn kernels(&self) -> Result<Option<Dir>, FsError> {
        self.dir.open_dir_optional(KERNELS)
    }

    pub(super) fn ensure_kernels(&self) -> Result<Dir, FsError> {
        self.dir.ensure_dir(KERNELS, 0o755)
    }

    pub(super) fn kernel_dir(
        &self,
        stateroot: &StaterootName,
        csum: BootCsum,
    ) -> Result<Option<Dir>, FsError> {
        self.dir
            .open_dir_optional(Path::new(KERNELS).join(kernel_dir_name(stateroot, csum)))
    }

    pub(super) fn entries(&self) -> Result<Option<Dir>, FsError> {
        self.dir.open_dir_optional(ENTRIES)
    }

    pub(super) fn ensure_entries(&self) -> Result<Dir, FsError> {
        self.dir.ensure_dir_all(ENTRIES, 0o755)
    }

    /// Returns every `.conf` file in `loader/entries`, sorted by name, ours and others'.
    pub fn list_entries(&self) -> Result<Vec<FoundEntry>, BootError> {
        let Some(dir) = self.entries()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for entry in dir.entries()?.into_iter().take(MAX_ENTRIES) {
            let Some(file_name) = loader_name(&entry.name, entry.kind) else {
                continue;
            };
            // A file that is larger than any entry is as good as one that cannot be understood.
            let parsed = match dir.read_optional(file_name, MAX_ENTRY) {
                Ok(None) => continue,
                Ok(Some(bytes)) => BlsEntry::parse(&bytes),
                Err(error) if error.source.kind() == std::io::ErrorKind::Other => Err(BlsError::TooLarge),
                Err(error) => return Err(error.into()),
            };
            let foreign = match (&parsed, self.owner()) {
                (Ok(entry), Some(owner)) => entry.get(OWNER_KEY).is_some_and(|found| found != owner),
                _ => false,
            };
            found.push(FoundEntry {
                name: file_name
                    .parse()
                    .ok()
                    .filter(|name: &EntryName| !foreign && self.has_stateroot(&name.stateroot)),
                file_name: file_name.to_owned(),
                entry: parsed,
            });
        }
        Ok(found)
    }
}

impl BootDir {
    /// Returns how many tries each of our entries has left, by its number, for those that have a counter: what the file
    /// name says, or what GRUB has counted, whichever is lower.
    pub fn tries_left(&self) -> Result<BTreeMap<u64, u32>, BootError> {
        self.tries_left_of(&self.list_entries()?)
    }

    pub(super) fn tries_left_of(&self, found: &[FoundEntry]) -> Result<BTreeMap<u64, u32>, BootError> {
        let mut by_grub = Vec::new();
        for script in SCRIPTS {
            if let Some(dir) = self.dir.open_dir_optional(script.dir)? {
                by_grub.extend(read_env(&dir)?);
            }
        }
        let mut left = BTreeMap::new();
        for name in found.iter().filter_map(|found| found.name.as_ref()) {
            let Some(tries) = name.tries else {
                continue;
            };
            let counted = by_grub.iter().filter_map(|env| env.left(name.n)).min();
            let lowest = counted.map_or(tries.left, |counted| counted.min(tries.left));
            let entry = left.entry(name.n).or_insert(lowest);
            *entry = lowest.min(*entry);
        }
        Ok(left)
    }

    /// Returns the highest number that an entry of this form has, ours or that of another sysroot on the same boot
    /// partition; 0 where there is none. A new entry takes a higher one, so that it is first for every loader.
    pub fn highest_number(&self) -> Result<u64, BootError> {
        let names = self.list_entries()?;
        let numbers = names
            .iter()
            .filter_map(|found| found.file_name.parse::<EntryName>().ok())
            .map(|name| name.n);
        Ok(numbers.max().unwrap_or(0))
    }
}

/// Both loaders look at files ending in `.conf` that do not begin with a dot.
fn loader_name(name: &OsStr, kind: FileKind) -> Option<&str> {
    let name = name.to_str()?;
    let wanted = matches!(kind, FileKind::File | FileKind::Unknown)
        && name.ends_with(".conf")
        && !name.starts_with('.');
    wanted.then_some(name)
}

/// The name that a directory of kernel files has until it is whole.
pub(super) fn temporary_kernel_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(TEMPORARY_PREFIX);
    temporary.push(name);
    temporary
}

/// What the names of unfinished directories begin with.
pub(super) const TEMPORARY_PREFIX: &str = ".new-";
