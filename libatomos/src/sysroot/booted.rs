//! Which deployment is running.
//!
//! The kernel argument says what was asked for; the running root says what was had. So a deployment is booted when the
//! device and inode of `/` are those of its directory; where `/` is an image over it, `/run/atomos/booted` names the
//! backing directory's.
//!
//! One deployment has two entries while its kernel arguments are on trial, and gets another one when they are changed while it runs.
//! So each entry has `atomos.entry=<N>` among its arguments, which the kernel passes over.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::boot::KernelArgs;
use crate::composefs::FilesAre;
use crate::digest::Digest;
use crate::fs::Dir;
use crate::sign::{KeyId, PublicKey};

use super::{DeploymentId, SysrootError};

/// Where the initramfs leaves word of what it mounted.
pub const BOOTED: &str = "run/atomos/booted";

/// The contents of `/run/atomos/booted`, in JSON. Unknown keys are ignored: the file is of one boot, and its writer may
/// be newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootedRecord {
    /// The stateroot.
    pub stateroot: String,
    /// The deployment, `<commit>.<serial>`.
    pub deployment: String,
    /// Where the backing directory lies in the running system.
    pub path: PathBuf,
    /// The device that the backing directory is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Whether the root is the deployment's image.
    #[serde(default)]
    pub composefs: bool,
    /// Where the image was verified, the bytes of the public key that had sealed it, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Digest>,
}

pub(super) use crate::boot::ENTRY_KARG;

/// Bytes of the kernel's own files that are read.
const MAX_PROC: usize = 64 * 1024;

/// What is running as `/`: its device and inode, and of which boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RunningRoot {
    directory: (u64, u64),
    backing: Option<(u64, u64)>,
    /// Whether the root is the deployment's image.
    pub(super) image: bool,
    /// The key that had sealed it, where it was verified.
    pub(super) verified_by: Option<KeyId>,
    /// Names the boot, as the journal does; none where the kernel does not say.
    pub(super) boot_id: Option<String>,
    /// Which entry was booted, where it said so.
    pub(super) entry: Option<u64>,
    /// Which deployment the loader's entry named, which may be another than was booted.
    pub(super) requested: Option<DeploymentId>,
}

impl RunningRoot {
    /// Looks at `root`, which is `/` but in tests.
    pub(super) fn detect(root: &Dir) -> Result<Self, SysrootError> {
        let stat = root.stat_self()?;
        let record = root.read_optional(BOOTED, 64 * 1024)?;
        // A record that cannot be read must not stop anybody from repairing the machine: `/` itself still counts.
        let record = record.and_then(|bytes| serde_json::from_slice::<BootedRecord>(&bytes).ok());
        let boot_id = root.read_optional("proc/sys/kernel/random/boot_id", MAX_PROC);
        let cmdline = root.read_optional("proc/cmdline", MAX_PROC).ok().flatten();
        let arguments: KernelArgs = cmdline
            .and_then(|line| String::from_utf8_lossy(&line).trim().parse().ok())
            .unwrap_or_default();
        let number = |text: std::borrow::Cow<'_, str>| text.parse().ok();
        let named = |text: std::borrow::Cow<'_, str>| text.parse().ok();
        Ok(Self {
            directory: (stat.dev, stat.ino),
            backing: record.as_ref().map(|record| (record.device, record.inode)),
            image: record.as_ref().is_some_and(|record| record.composefs),
            verified_by: record
                .and_then(|record| PublicKey::from_bytes(record.verified?.as_bytes()).ok())
                .map(|key| key.id()),
            boot_id: boot_id.ok().flatten().and_then(|bytes| parse_boot_id(&bytes)),
            entry: arguments.get(ENTRY_KARG).and_then(number),
            requested: arguments.get("atomos").and_then(named),
        })
    }

    /// What is mounted of it once more is to be as well protected.
    pub(super) fn files_are(&self) -> FilesAre {
        match self.verified_by {
            Some(_) => FilesAre::Verified,
            None => FilesAre::Believed,
        }
    }

    pub(super) fn is(&self, deployment: &Dir) -> Result<bool, SysrootError> {
        let stat = deployment.stat_self()?;
        let identity = (stat.dev, stat.ino);
        Ok(identity == self.directory || Some(identity) == self.backing)
    }
}

/// Returns the 32 digits of a boot's id, as the kernel or `atomos-prepare-root` wrote it.
pub(super) fn parse_boot_id(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let hexadecimal = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hexadecimal && text.len() <= 36).then(|| digits.to_ascii_lowercase())
}
