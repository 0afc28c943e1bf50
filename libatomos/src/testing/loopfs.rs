//! A file system in a file, mounted for as long as a value lives.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system of a chosen kind. Takes root, loop devices and the file system's `mkfs`.
#[derive(Debug)]
pub struct LoopFs {
    scratch: tempfile::TempDir,
    mount: PathBuf,
}

impl LoopFs {
    /// Makes a file system `kind` (`ext4`, `xfs`, `btrfs`) of `megabytes` and mounts it; says why where it cannot.
    #[must_use]
    pub fn new(kind: &str, megabytes: u64) -> Option<Self> {
        let what = format!("a {kind} file system on a loop device");
        if !super::is_root_or_skip(&what) {
            return None;
        }
        let scratch = tempfile::Builder::new().prefix("atomos-loop-").tempdir().unwrap();
        let image = scratch.path().join("image");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(megabytes << 20))
            .unwrap();
        let mount = scratch.path().join("mnt");
        std::fs::create_dir(&mount).unwrap();
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        if kind == "ext4" {
            // A small one would get small blocks, which hold neither long links nor attributes.
            mkfs.args(["-b", "4096"]);
        }
        let (image, target) = (image.as_os_str(), mount.as_os_str());
        if run(mkfs.arg("-q").arg(image), &what)
            && run(
                Command::new("mount").args(["-o", "loop"]).args([image, target]),
                &what,
            )
        {
            Some(Self { scratch, mount })
        } else {
            None
        }
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it again read-only, or for writing.
    #[must_use]
    pub fn set_read_only(&self, read_only: bool) -> bool {
        let option = if read_only { "remount,ro" } else { "remount,rw" };
        let target = self.mount.as_os_str();
        run(
            Command::new("mount").args(["-o", option]).arg(target),
            "mounting again",
        )
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Lazily: a test that fails may still hold something open, and the loop device goes with its last user.
        run(
            Command::new("umount").arg("--lazy").arg(&self.mount),
            "unmounting",
        );
        debug_assert!(self.mount.starts_with(self.scratch.path()));
    }
}

fn run(command: &mut Command, what: &str) -> bool {
    match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            super::skip(what, String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            super::skip(what, &format!("{:?}: {error}", command.get_program()));
            false
        }
    }
}
