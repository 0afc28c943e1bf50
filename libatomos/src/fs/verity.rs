//! Files that the kernel verifies as they are read.
//!
//! What is verified can be renamed, linked and removed, and its owner, mode and times can change; its bytes never.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::failpoint::fault::call;
use crate::verity::VerityDigest;

use super::ioctl::{enable_verity, measure_verity};
use super::{Dir, FsError};

/// Returns the digest of an open file that the kernel verifies; `None` for one that it does not.
pub(crate) fn verity_of(file: &File, path: &Path) -> Result<Option<VerityDigest>, FsError> {
    measure_verity(file).map_err(|errno| FsError::new("measure", path, errno))
}

/// Has the kernel verify an open file from now on, and returns its digest. Durable with the next sync of the file system.
pub(crate) fn protect(file: &File, path: &Path) -> Result<VerityDigest, FsError> {
    call("enable-verity", || enable_verity(file)).map_err(|errno| FsError::new("protect", path, errno))?;
    verity_of(file, path)?.ok_or_else(|| FsError::new("measure", path, Errno::NODATA))
}

/// Returns whether the kernel verifies the open file.
pub(crate) fn is_verity(file: &File) -> bool {
    matches!(measure_verity(file), Ok(Some(_)) | Err(Errno::BADMSG))
}

/// What `statfs` calls an ext4.
const EXT4: u64 = 0xef53;

/// Exists where the kernel's ext4 can verify files.
const EXT4_CAN: &str = "/sys/fs/ext4/features";

/// The name of a file that is made to try.
const PROBE: &str = ".verity.new";

/// Tries whether the kernel verifies files of the file system that `dir` is on, with a file that it makes in `dir` and removes again. Returns
/// why not, and where it is only a feature of the file system's that is missing, the device that lacks it.
pub(crate) fn why_no_verity(dir: &Dir) -> Result<Option<(String, Option<PathBuf>)>, FsError> {
    dir.remove_file_optional(PROBE)?;
    super::write_all(&dir.create_file(PROBE, 0o600)?, b"atomos")
        .map_err(|error| FsError::new("write", dir.path().join(PROBE), error))?;
    let tried = dir
        .open_file(PROBE)
        .and_then(|file| protect(&file, &dir.path().join(PROBE)));
    dir.remove_file(PROBE)?;
    let error = match tried {
        Ok(found) if found == VerityDigest::of(b"atomos") => return Ok(None),
        Ok(found) => return Ok(Some((format!("it takes six bytes for those of {found}"), None))),
        Err(error) => error,
    };
    if is_ext4(dir)? && error.source.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) {
        let kernel_can = Dir::open_ambient(EXT4_CAN).is_ok_and(|dir| dir.exists("verity").unwrap_or(false));
        return Ok(Some(match kernel_can {
            true => (
                "it is an ext4 without the feature `verity`".to_owned(),
                device_of(dir)?,
            ),
            false => ("this kernel has no fs-verity (CONFIG_FS_VERITY)".to_owned(), None),
        }));
    }
    Ok(Some(match Errno::from_io_error(&error.source) {
        Some(Errno::NOTTY) => (
            "it is of a kind that has no fs-verity; ext4, btrfs and f2fs have".to_owned(),
            None,
        ),
        Some(Errno::OPNOTSUPP) => (
            "it has no fs-verity, or this kernel has none (CONFIG_FS_VERITY)".to_owned(),
            None,
        ),
        _ => return Err(error),
    }))
}

fn is_ext4(dir: &Dir) -> Result<bool, FsError> {
    let stat = rustix::fs::fstatfs(dir)
        .map_err(|errno| FsError::new("find the file system of", dir.path(), errno))?;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    Ok(stat.f_type as u64 & 0xffff_ffff == EXT4)
}

/// Returns the device that a directory's file system is on, as the kernel calls it.
fn device_of(dir: &Dir) -> Result<Option<PathBuf>, FsError> {
    let device = dir.stat_self()?.dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let found = Dir::open_ambient("/sys/dev/block")
        .ok()
        .and_then(|dir| dir.read_link(format!("{major}:{minor}")).ok());
    let name = found.and_then(|target| {
        let name = target.rsplit(|byte| *byte == b'/').next()?.to_vec();
        String::from_utf8(name).ok()
    });
    Ok(name.map(|name| Path::new("/dev").join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::loop_mount::LoopMount;

    #[test]
    fn what_cannot_be_verified_is_said_and_leaves_nothing() {
        // Memory keeps no trees of hashes.
        let Ok(dir) = Dir::open_ambient("/dev/shm") else {
            return println!("skipped: there is no /dev/shm");
        };
        let dir = dir
            .ensure_dir(format!("atomos-verity-{}", std::process::id()), 0o700)
            .unwrap();
        let (reason, device) = why_no_verity(&dir).unwrap().unwrap();
        assert!(reason.contains("no fs-verity"), "{reason}");
        assert_eq!(device, None);
        assert!(dir.entries().unwrap().is_empty());
        Dir::open_ambient("/dev/shm")
            .unwrap()
            .remove_tree(format!("atomos-verity-{}", std::process::id()))
            .unwrap();
    }

    #[test]
    fn an_ext4_without_the_feature_is_told_from_a_kernel_without() {
        let Some(mount) = LoopMount::smallest("ext4") else {
            return;
        };
        let dir = Dir::open_ambient(mount.path()).unwrap();
        let (reason, device) = why_no_verity(&dir).unwrap().unwrap();
        match reason.as_str() {
            "it is an ext4 without the feature `verity`" => {
                assert!(device.unwrap().starts_with("/dev"));
            }
            other => {
                assert!(other.contains("CONFIG_FS_VERITY"), "{other}");
                println!("skipped in part: {other}");
            }
        }
    }
}
