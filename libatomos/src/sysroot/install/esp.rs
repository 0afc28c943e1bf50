//! What an EFI system partition has already under the name that firmware starts.
//!
//! Whatever is there boots something: another system on the same disk, perhaps.

use std::path::{Path, PathBuf};

use crate::fs::Dir;

use super::{InstallOptions, SysrootError, refuse};

/// Bytes in a loader. Those of today have 150,000, and GRUB's some millions.
pub(super) const MAX_LOADER: usize = 16 * 1024 * 1024;

/// Refuses an EFI system partition, at `place` below the target, whose loader is not `ours` and would be overwritten; unless that was
/// asked for, or an interrupted run may have put it there.
pub(super) fn check(
    target: &Path,
    place: &Path,
    options: &InstallOptions,
    resumes: bool,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<(), SysrootError> {
    if options.existing || resumes {
        return Ok(());
    }
    let esp = Dir::open_ambient(target)?.open_dir(place)?;
    let Some((efi, dir)) = open(&esp, "EFI")? else {
        return Ok(());
    };
    let Some((boot, dir)) = open(&dir, "BOOT")? else {
        return Ok(());
    };
    for entry in dir.entries()? {
        let name = entry.name.to_string_lossy().to_ascii_uppercase();
        if !(name.starts_with("BOOT") && name.ends_with(".EFI")) {
            continue;
        }
        let stat = dir.stat(&entry.name)?;
        let is_ours = stat.size <= MAX_LOADER as u64 && ours(&dir.read(&entry.name, MAX_LOADER)?);
        if !is_ours {
            let path = place.join(&efi).join(&boot).join(&entry.name);
            return Err(another(target, &path));
        }
    }
    Ok(())
}

/// Says that a loader is in the way.
pub(super) fn another(target: &Path, path: &Path) -> SysrootError {
    refuse(target, format!("/{} is another boot loader", path.display()))
}

/// Opens a directory of a FAT, where names have no case; elsewhere, one that stands in another case is taken.
pub(super) fn open(parent: &Dir, name: &str) -> Result<Option<(PathBuf, Dir)>, SysrootError> {
    let found = parent.entries()?.into_iter().find(|entry| {
        let other = entry.name.to_str();
        other.is_some_and(|other| other.eq_ignore_ascii_case(name))
    });
    found
        .map(|entry| Ok((PathBuf::from(&entry.name), parent.open_dir(&entry.name)?)))
        .transpose()
}
