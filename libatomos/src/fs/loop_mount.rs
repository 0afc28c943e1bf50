//! A small file system of its own, for tests of what only a real one does.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted image, unmounted and removed when dropped.
#[derive(Debug)]
pub(crate) struct LoopMount {
    scratch: tempfile::TempDir,
    path: PathBuf,
}

impl LoopMount {
    /// Makes an ext4 of `size` bytes and mounts it; where that cannot be done, says why and returns `None`.
    pub(crate) fn ext4(size: u64) -> Option<Self> {
        Self::make(&["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode"], size)
    }

    /// Makes the smallest file system of this kind that its `mkfs` makes, and mounts it.
    pub(crate) fn smallest(kind: &str) -> Option<Self> {
        match kind {
            "xfs" => Self::make(&["mkfs.xfs", "-q"], 300 << 20),
            "btrfs" => Self::make(&["mkfs.btrfs", "-q"], 128 << 20),
            _ => Self::ext4(8 << 20),
        }
    }

    fn make(mkfs: &[&str], size: u64) -> Option<Self> {
        let loop_mount = Self::unmounted()?;
        let image = loop_mount.image();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&image)
            .unwrap();
        file.set_len(size).unwrap();
        let made = run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(image)) && loop_mount.mount("loop");
        made.then_some(loop_mount)
    }

    /// Mounts a copy of what is on the disk by now: what a power cut at this moment would leave.
    pub(crate) fn after_power_cut(&self, options: &str) -> Self {
        let copy = Self::unmounted().expect("this test is run by root");
        let (mut from, mut to) = (
            std::fs::OpenOptions::new().read(true).open(self.image()).unwrap(),
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(copy.image())
                .unwrap(),
        );
        std::io::copy(&mut from, &mut to).unwrap();
        assert!(
            copy.mount(&format!("loop,{options}")),
            "what is on the disk can be mounted"
        );
        copy
    }

    fn unmounted() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can mount an image");
            return None;
        }
        let scratch = scratch();
        let path = scratch.path().join("mount");
        std::fs::DirBuilder::new().create(&path).unwrap();
        Some(Self { scratch, path })
    }

    /// Returns the file that the file system is in.
    pub(crate) fn image(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    fn mount(&self, options: &str) -> bool {
        run(Command::new("mount")
            .args(["-o", options])
            .arg(self.image())
            .arg(&self.path))
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

/// In memory where there is room for a few images: what is tested on them is synced all the time.
fn scratch() -> tempfile::TempDir {
    const ROOM: u64 = 1 << 30;
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize > ROOM);
    let in_memory = room.then(|| tempfile::tempdir_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

fn run(command: &mut Command) -> bool {
    match command.output() {
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
    }
}
