//! Which deployment is running.
//!
//! The kernel argument says what was asked for; the running root says what was had. So a deployment is booted when the
//! device and inode of `/` are those of its directory; where `/` is an image over it, `/run/atomos/booted` names the
//! backing directory's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fs::Dir;

use super::SysrootError;

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
}

/// Device and inode of what is running as `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunningRoot {
    directory: (u64, u64),
    backing: Option<(u64, u64)>,
}

impl RunningRoot {
    /// Looks at `root`, which is `/` but in tests.
    pub(super) fn detect(root: &Dir) -> Result<Self, SysrootError> {
        let stat = root.stat_self()?;
        let record = root.read_optional(BOOTED, 64 * 1024)?;
        // A record that cannot be read must not stop anybody from repairing the machine: `/` itself still counts.
        let backing = record
            .and_then(|bytes| serde_json::from_slice::<BootedRecord>(&bytes).ok())
            .map(|record| (record.device, record.inode));
        Ok(Self {
            directory: (stat.dev, stat.ino),
            backing,
        })
    }

    pub(super) fn is(&self, deployment: &Dir) -> Result<bool, SysrootError> {
        let stat = deployment.stat_self()?;
        let identity = (stat.dev, stat.ino);
        Ok(identity == self.directory || Some(identity) == self.backing)
    }
}
