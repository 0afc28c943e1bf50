//! Making a change visible to a loader that reads the file system by itself.

use crate::failpoint;

use super::{BootDir, BootError};

/// How a change was made to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushMethod {
    /// `syncfs` alone.
    Synced,
}

/// Waits until everything written to `/boot` is on disk, where the loader looks.
pub(super) fn flush(boot: &BootDir) -> Result<FlushMethod, BootError> {
    failpoint::hit("boot.flush.begin")?;
    boot.dir().sync_fs()?;
    failpoint::hit("boot.flush.synced")?;
    Ok(FlushMethod::Synced)
}
