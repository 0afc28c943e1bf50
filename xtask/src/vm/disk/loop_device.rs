//! A part of an image as a block device.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Partition;
use crate::process::{capture, run};

/// A loop device over one partition. It goes away with this value, and with this process however that ends.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    /// The last user of a device that is to be detached: the kernel detaches it when this is closed.
    _held: File,
}

impl LoopDevice {
    /// Attaches `partition` of the image.
    ///
    /// # Errors
    /// If there is no loop device to be had.
    pub fn attach(image: &Path, partition: Partition) -> Result<Self> {
        let path = capture(
            Command::new("losetup")
                .args(["--find", "--show", "--offset"])
                .arg(partition.start.to_string())
                .arg("--sizelimit")
                .arg(partition.len().to_string())
                .arg(image),
        )?;
        let path = PathBuf::from(path.trim());
        let held = File::open(&path).with_context(|| format!("cannot open {}", path.display()));
        // While it is open this only marks it to be detached at the last close.
        run(Command::new("losetup").arg("--detach").arg(&path))?;
        Ok(Self { path, _held: held? })
    }

    /// The device's node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
