//! Whether there is room in `/boot`, asked before anything is written.

use std::path::Path;

use crate::fs::{Dir, FileKind, FsError};
use crate::names::StaterootName;

use super::bootcsum::{BootCsum, kernel_dir_name};
use super::{BootDir, BootError};

/// Bytes that must stay free beside the kernel files: for entries, the menu, directories, and what a file system takes
/// for itself as it fills.
pub const MARGIN: u64 = 1024 * 1024;

/// Kernel files that are to be in `/boot`, with their sizes. These come from a tree, or from dirtrees alone, before
/// anything has been downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededKernel {
    /// The stateroot.
    pub stateroot: StaterootName,
    /// The digest, where it is known already; files that are in `/boot` need no room.
    pub bootcsum: Option<BootCsum>,
    /// Bytes of each file.
    pub sizes: Vec<u64>,
}

/// A deployment whose kernel could go to make room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovableKernel {
    /// What a person calls the deployment, and can pass to `undeploy`.
    pub deployment: String,
    /// The stateroot.
    pub stateroot: StaterootName,
    /// The digest.
    pub bootcsum: BootCsum,
}

/// What there is and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceReport {
    /// Bytes needed, in whole blocks, with [`MARGIN`]; 0 where every kernel is there already.
    pub needed: u64,
    /// Bytes that can be written.
    pub available: u64,
}

/// Checks that `needed` fits. `removable` lists, for the error, the deployments that the caller could drop; a kernel
/// that several of them share is counted for the last of them.
///
/// # Errors
/// [`BootError::NoSpace`] with all the numbers.
pub fn check_space(
    boot: &BootDir,
    needed: &[NeededKernel],
    removable: &[RemovableKernel],
) -> Result<SpaceReport, BootError> {
    let stat = rustix::fs::fstatvfs(boot.dir())
        .map_err(|errno| FsError::new("measure the space of", boot.dir().path(), errno))?;
    let block = stat.f_frsize.max(1);
    // Root may use the blocks that ext4 holds back, and root it is who writes to /boot.
    let free = if rustix::process::geteuid().is_root() {
        stat.f_bfree
    } else {
        stat.f_bavail
    };
    let available = free.saturating_mul(block);
    let mut bytes = 0u64;
    let mut seen = Vec::new();
    for kernel in needed {
        if let Some(csum) = kernel.bootcsum {
            let name = kernel_dir_name(&kernel.stateroot, csum);
            if seen.contains(&name) || boot.kernel_dir(&kernel.stateroot, csum)?.is_some() {
                continue;
            }
            seen.push(name);
        }
        let blocks = kernel
            .sizes
            .iter()
            .map(|size| size.div_ceil(block).saturating_mul(block));
        // One block for the directory, and one for each file's share of the file system's own records.
        let overhead = block.saturating_mul(kernel.sizes.len() as u64 + 1);
        bytes = blocks.fold(bytes.saturating_add(overhead), u64::saturating_add);
    }
    let needed = if bytes == 0 {
        0
    } else {
        bytes.saturating_add(MARGIN)
    };
    if needed <= available {
        return Ok(SpaceReport { needed, available });
    }
    Err(BootError::NoSpace {
        path: boot.dir().path().to_owned(),
        needed,
        available,
        droppable: droppable(boot, removable)?,
    })
}

fn droppable(boot: &BootDir, removable: &[RemovableKernel]) -> Result<Vec<(String, u64)>, BootError> {
    let mut list = Vec::new();
    for (index, kernel) in removable.iter().enumerate() {
        let is_last_user = !removable[index + 1..]
            .iter()
            .any(|other| (&other.stateroot, other.bootcsum) == (&kernel.stateroot, kernel.bootcsum));
        let freed = match boot.kernel_dir(&kernel.stateroot, kernel.bootcsum)? {
            Some(dir) if is_last_user => allocated(&dir)?,
            _ => 0,
        };
        list.push((kernel.deployment.clone(), freed));
    }
    Ok(list)
}

/// Returns the bytes that a kernel's files take in `/boot`; 0 where they are not there.
pub fn kernel_space(boot: &BootDir, stateroot: &StaterootName, bootcsum: BootCsum) -> Result<u64, BootError> {
    match boot.kernel_dir(stateroot, bootcsum)? {
        Some(dir) => Ok(allocated(&dir)?),
        None => Ok(0),
    }
}

fn allocated(dir: &Dir) -> Result<u64, FsError> {
    let mut bytes = 0;
    for entry in dir.entries()? {
        let name = Path::new(&entry.name);
        let stat = dir.stat(name)?;
        bytes += stat.allocated;
        if stat.kind == FileKind::Dir {
            bytes += allocated(&dir.open_dir(name)?)?;
        }
    }
    Ok(bytes)
}
