//! Putting kernel files into `/boot`.
//!
//! A directory `/boot/atomos/<stateroot>-<bootcsum>/` is written once and shared by all deployments with these files. It
//! is never trusted by its name alone: before an entry is made to point to it, its files are compared with the tree's
//! and those that differ are written again.
//!
//! On a POSIX file system a new directory is built under a temporary name, synced, and renamed. On FAT it is written
//! in place: nothing points to it yet, and after an interruption the comparison finds what is missing.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::failpoint;
use crate::fs::{Dir, FsError, copy_file_data, remove_tree_contents};
use crate::names::StaterootName;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::boot_dir::temporary_kernel_name;
use super::bootcsum::{BootCsum, KernelFile, KernelFiles, kernel_dir_name};
use super::{BootDir, BootError, BootFsKind};

/// What [`install_kernel`] found, and so did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallOutcome {
    /// The files were there, whole.
    AlreadyPresent,
    /// The files are there now.
    Installed,
    /// Some of the files were there; what was missing or damaged was written again.
    Repaired,
}

/// Makes `/boot` hold `files`, a tree's kernel files whose digest is `csum`. On return all of them have been read back
/// and are what the digest says; they are durable after the next [`Dir::sync_fs`] of the boot directory, which
/// [`super::write_entry`] begins with.
///
/// # Errors
/// [`BootError::WrongDigest`] when `files` are not what `csum` says, or changed meanwhile.
pub fn install_kernel(
    boot: &BootDir,
    stateroot: &StaterootName,
    csum: BootCsum,
    files: &KernelFiles,
    progress: &dyn Progress,
) -> Result<InstallOutcome, BootError> {
    let name = kernel_dir_name(stateroot, csum);
    let present = boot.kernel_dir(stateroot, csum)?;
    if let Some(dir) = &present
        && is_whole(dir, csum)?
    {
        return Ok(InstallOutcome::AlreadyPresent);
    }
    let kernels = boot.ensure_kernels()?;
    let total = files.sizes().sum();
    let phase = PhaseGuard::begin(progress, Phase::Kernel, Some(total), Unit::Bytes);
    failpoint::hit("boot.kernel.begin")?;
    let outcome = match (present, boot.kind()) {
        (Some(dir), kind) => {
            repair(&dir, files, kind, &phase)?;
            InstallOutcome::Repaired
        }
        (None, BootFsKind::Vfat) => {
            kernels.create_dir(&name, 0o755)?;
            failpoint::hit("boot.kernel.directory")?;
            copy_all(files, &kernels.open_dir(&name)?, &phase)?;
            InstallOutcome::Installed
        }
        (None, BootFsKind::Posix) => {
            install_by_rename(&kernels, &name, files, &phase)?;
            InstallOutcome::Installed
        }
    };
    failpoint::hit("boot.kernel.installed")?;
    let installed = kernels.open_dir(&name)?;
    if is_whole(&installed, csum)? {
        Ok(outcome)
    } else {
        Err(BootError::WrongDigest {
            path: installed.path().to_owned(),
        })
    }
}

/// Returns whether the directory's files are what `csum` says. Files that cannot be read are not.
pub(super) fn is_whole(dir: &Dir, csum: BootCsum) -> Result<bool, BootError> {
    match KernelFiles::open(dir.try_clone()?).and_then(|files| files.digest()) {
        Ok(found) => Ok(found == csum),
        // Looked, and it is bad: a missing kernel, a link, a directory, a block that the disk does not give back.
        Err(
            BootError::NoKernel { .. } | BootError::NotAFile { .. } | BootError::TooManyDeviceTrees { .. },
        ) => Ok(false),
        Err(BootError::Fs(error)) if !error.is_denied() => Ok(false),
        Err(error) => Err(error),
    }
}

fn install_by_rename(
    kernels: &Dir,
    name: &OsStr,
    files: &KernelFiles,
    phase: &PhaseGuard<'_>,
) -> Result<(), BootError> {
    let temporary = temporary_kernel_name(name);
    kernels.remove_tree(&temporary)?;
    kernels.create_dir(&temporary, 0o755)?;
    failpoint::hit("boot.kernel.directory")?;
    if let Err(error) = copy_all(files, &kernels.open_dir(&temporary)?, phase) {
        // A full /boot must not stay full because of what could not be finished.
        if matches!(&error, BootError::Fs(error) if error.is_no_space()) {
            kernels.remove_tree(&temporary)?;
        }
        return Err(error);
    }
    // The name must not be there before the data is.
    // No power cut shows this sync or order: what is found under the name is compared with its digest, and the flush before an
    // entry leads there would do. It keeps a directory that is there from being a half one for whoever else looks.
    kernels.sync_fs()?;
    failpoint::hit("boot.kernel.synced")?;
    kernels.rename(&temporary, kernels, name)?;
    Ok(())
}

fn copy_all(files: &KernelFiles, target: &Dir, phase: &PhaseGuard<'_>) -> Result<(), BootError> {
    for file in files.files() {
        copy_one(files, file, target, &file.name, phase)?;
        failpoint::hit("boot.kernel.file")?;
    }
    Ok(())
}

/// Copies one file to `name` in `target`, where nothing may be.
fn copy_one(
    files: &KernelFiles,
    file: &KernelFile,
    target: &Dir,
    name: &Path,
    phase: &PhaseGuard<'_>,
) -> Result<(), BootError> {
    if let Some(parent) = name.parent() {
        target.ensure_dir_all(parent, 0o755)?;
    }
    let source = files.open_file(file)?;
    let copy = target.create_file(name, 0o644)?;
    copy_file_data(&source, &copy)
        .map_err(|error| FsError::new("copy to", target.path().join(name), error))?;
    phase.advance(file.size);
    Ok(())
}

/// Makes `dir`, which an earlier run left unfinished or a disk damaged, hold `files` and nothing else. An entry may
/// point to it, so what is right in it stays in place.
fn repair(dir: &Dir, files: &KernelFiles, kind: BootFsKind, phase: &PhaseGuard<'_>) -> Result<(), BootError> {
    remove_strangers(dir, Path::new(""), files)?;
    for file in files.files() {
        if has_same_bytes(dir, files, file)? {
            phase.advance(file.size);
            continue;
        }
        match kind {
            BootFsKind::Posix => {
                let temporary = Path::new(".new");
                dir.remove_tree(temporary)?;
                copy_one(files, file, dir, temporary, phase)?;
                dir.sync_fs()?;
                failpoint::hit("boot.kernel.repair.synced")?;
                if let Some(parent) = file.name.parent() {
                    dir.ensure_dir_all(parent, 0o755)?;
                }
                dir.rename(temporary, dir, &file.name)?;
            }
            BootFsKind::Vfat => {
                dir.remove_tree(&file.name)?;
                copy_one(files, file, dir, &file.name, phase)?;
            }
        }
        failpoint::hit("boot.kernel.repaired")?;
    }
    Ok(())
}

/// Removes what is in `dir` and not in `files`, or is there as something other than a file.
fn remove_strangers(dir: &Dir, path: &Path, files: &KernelFiles) -> Result<(), BootError> {
    let here = if path.as_os_str().is_empty() {
        dir.try_clone()?
    } else {
        dir.open_dir(path)?
    };
    for entry in here.entries()? {
        let name = path.join(&entry.name);
        let is_dir = here.stat(&entry.name)?.kind == crate::fs::FileKind::Dir;
        let is_file = files.files().iter().any(|file| file.name == name);
        let is_parent = files
            .files()
            .iter()
            .any(|file| file.name != name && file.name.starts_with(&name));
        match (is_dir, is_file, is_parent) {
            (true, _, true) => remove_strangers(dir, &name, files)?,
            (false, true, _) => {}
            _ => here.remove_tree(&entry.name)?,
        }
    }
    Ok(())
}

fn has_same_bytes(dir: &Dir, files: &KernelFiles, file: &KernelFile) -> Result<bool, BootError> {
    let Some(stat) = dir.stat_optional(&file.name)? else {
        return Ok(false);
    };
    if stat.kind != crate::fs::FileKind::File || stat.size != file.size {
        return Ok(false);
    }
    let hash = |opened: File| -> io::Result<_> { crate::fs::hash_file(&opened).map(|(blob, _)| blob) };
    let theirs = hash(files.open_file(file)?)
        .map_err(|error| FsError::new("read", files.dir().path().join(&file.source), error))?;
    // What cannot be read is not the same.
    Ok(hash(dir.open_file(&file.name)?).is_ok_and(|ours| ours == theirs))
}

/// Removes the directory `name` below `/boot/atomos`. No entry may name it any more, durably.
pub(super) fn remove_kernel(boot: &BootDir, name: &str) -> Result<(), BootError> {
    let Some(kernels) = boot.kernels()? else {
        return Ok(());
    };
    if let Some(dir) = kernels.open_dir_optional(name)? {
        remove_tree_contents(&dir)?;
    }
    failpoint::hit("boot.kernel.emptied")?;
    kernels.remove_tree(name)?;
    Ok(())
}
