//! A small file system of its own, for tests of what only a real one does.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image, unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct LoopMount {
    _scratch: tempfile::TempDir,
    path: PathBuf,
}

impl LoopMount {
    /// Makes an ext4 of `size` bytes and mounts it; where that cannot be done, says why and returns `None`.
    pub(crate) fn ext4(size: u64) -> Option<Self> {
        Self::new(size, "mkfs.ext4", &["-q", "-F", "-m", "0", "-O", "^resize_inode"])
    }

    fn new(size: u64, mkfs: &str, arguments: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can mount an image");
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (image, path) = (scratch.path().join("image"), scratch.path().join("mount"));
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => true,
            Ok(output) => {
                println!(
                    "skipped: {command:?}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                false
            }
            Err(error) => {
                println!("skipped: {command:?}: {error}");
                false
            }
        };
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&image)
            .unwrap();
        file.set_len(size).unwrap();
        std::fs::DirBuilder::new().create(&path).unwrap();
        let made = run(Command::new(mkfs).args(arguments).arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path));
        made.then_some(Self {
            _scratch: scratch,
            path,
        })
    }

    /// Returns where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        // Lazily: what a failed test still holds open must not keep the image.
        if let Err(error) = Command::new("umount").arg("--lazy").arg(&self.path).status() {
            println!("cannot unmount {}: {error}", self.path.display());
        }
    }
}
