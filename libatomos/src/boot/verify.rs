//! Looking at what is in `/boot` without believing any of it: for `boot status` and `fsck`.

use std::fmt;

use serde::Serialize;

use super::bootcsum::{BootCsum, KernelFiles, parse_kernel_dir_name};
use super::install::is_whole;
use super::name::EntryName;
use super::{BootDir, BootError};

/// Something that is wrong with an entry of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EntryFinding {
    /// It cannot be read as an entry at all.
    Unreadable,
    /// It has no `linux` line: it was never finished, and no loader offers it.
    Unfinished,
    /// Its kernel is not in a directory of ours.
    KernelElsewhere,
    /// The kernel that it names is not there.
    KernelMissing,
    /// The initramfs that it names is not there.
    InitramfsMissing,
    /// The kernel files are not what the name of their directory says.
    KernelDamaged,
    /// The deployment that it boots is not in the sysroot, or was never finished.
    DeploymentMissing,
}

impl EntryFinding {
    /// Returns the stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unfinished => "unfinished",
            Self::KernelElsewhere => "kernel-elsewhere",
            Self::KernelMissing => "kernel-missing",
            Self::InitramfsMissing => "initramfs-missing",
            Self::KernelDamaged => "kernel-damaged",
            Self::DeploymentMissing => "deployment-missing",
        }
    }
}

impl fmt::Display for EntryFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "it cannot be read",
            Self::Unfinished => "it was never finished, and no loader offers it",
            Self::KernelElsewhere => "its kernel is not in /boot/atomos",
            Self::KernelMissing => "its kernel is missing",
            Self::InitramfsMissing => "its initramfs is missing",
            Self::KernelDamaged => "its kernel files are damaged",
            Self::DeploymentMissing => "its deployment is missing",
        })
    }
}

/// One entry of ours and what is wrong with it; nothing, where it will boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryReport {
    /// The file name.
    pub file_name: String,
    /// The file name taken apart.
    pub name: EntryName,
    /// Its kernel files' directory, where it names one.
    pub bootcsum: Option<BootCsum>,
    /// What is wrong.
    pub finding: Option<EntryFinding>,
}

/// Reads every entry of ours and every file that one of them names.
pub fn verify_entries(boot: &BootDir) -> Result<Vec<EntryReport>, BootError> {
    let mut reports = Vec::new();
    let mut digested: Vec<(String, bool)> = Vec::new();
    for found in boot.list_entries()? {
        let Some(name) = found.name.clone() else {
            continue;
        };
        let kernel = found.kernel_dir().and_then(parse_kernel_dir_name);
        let finding = match (&found.entry, &kernel) {
            (Err(_), _) => Some(EntryFinding::Unreadable),
            (Ok(entry), _) if entry.linux().is_none() => Some(EntryFinding::Unfinished),
            (Ok(_), None) => Some(EntryFinding::KernelElsewhere),
            (Ok(entry), _) if !entry.linux().is_some_and(|path| boot.is_loader_path(path)) => {
                Some(EntryFinding::KernelElsewhere)
            }
            (Ok(entry), Some((stateroot, csum))) => {
                let dir = boot.kernel_dir(stateroot, *csum)?;
                let key = format!("{stateroot}-{csum}");
                let files = dir.map(KernelFiles::open);
                match files {
                    None | Some(Err(BootError::NoKernel { .. })) => Some(EntryFinding::KernelMissing),
                    Some(Err(_)) => Some(EntryFinding::KernelDamaged),
                    Some(Ok(files)) if entry.initrds().next().is_some() && !files.has_initramfs() => {
                        Some(EntryFinding::InitramfsMissing)
                    }
                    Some(Ok(files)) => {
                        let whole = match digested.iter().find(|(found, _)| *found == key) {
                            Some((_, whole)) => *whole,
                            None => {
                                let whole = is_whole(files.dir(), *csum)?;
                                digested.push((key, whole));
                                whole
                            }
                        };
                        (!whole).then_some(EntryFinding::KernelDamaged)
                    }
                }
            }
        };
        reports.push(EntryReport {
            file_name: found.file_name,
            name,
            bootcsum: kernel.map(|(_, csum)| csum),
            finding,
        });
    }
    Ok(reports)
}
