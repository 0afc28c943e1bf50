//! The UUID of a file system, from its first bytes.
//!
//! Four kinds are read: those that a loader and an initramfs can be expected to find by UUID. `blkid` knows more, but is
//! a program, and `/dev/disk/by-uuid` takes a udev that has seen the disk, which containers that build images have not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

/// Where each kind has its magic number and its UUID, in bytes from the start of the device.
const KINDS: [(&str, u64, &[u8], u64); 5] = [
    ("ext4", 0x438, b"\x53\xef", 0x468),
    ("ext3", 0x438, b"\x53\xef", 0x468),
    ("ext2", 0x438, b"\x53\xef", 0x468),
    ("xfs", 0, b"XFSB", 32),
    ("btrfs", 0x1_0040, b"_BHRfS_M", 0x1_0020),
];

/// Where FAT32, and FAT12 and FAT16, have their name and their volume's serial number.
const FAT: [(u64, &[u8], u64); 2] = [(82, b"FAT32", 67), (54, b"FAT1", 39)];

/// Returns the UUID of the file system `kind` on `device`, as `/etc/fstab` would name it; `None` where the device cannot
/// be read, or is none, or the kind is not known.
pub(super) fn read_uuid(device: &Path, kind: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(device, flags, Mode::empty()).ok()?;
    let mode = rustix::fs::fstat(&fd).ok()?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::BlockDevice {
        return None;
    }
    of_file(&File::from(fd), kind)
}

fn of_file(file: &File, kind: &str) -> Option<String> {
    let has = |at: u64, magic: &[u8]| {
        let mut bytes = vec![0; magic.len()];
        file.read_exact_at(&mut bytes, at).is_ok() && bytes == magic
    };
    if matches!(kind, "vfat" | "msdos") {
        let (_, _, at) = FAT.iter().find(|(at, magic, _)| has(*at, magic))?;
        let mut serial = [0; 4];
        file.read_exact_at(&mut serial, *at).ok()?;
        let serial = u32::from_le_bytes(serial);
        return Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff));
    }
    let (_, at, magic, uuid_at) = KINDS.iter().find(|(name, ..)| *name == kind)?;
    if !has(*at, magic) {
        return None;
    }
    let mut uuid = [0; 16];
    file.read_exact_at(&mut uuid, *uuid_at).ok()?;
    let hex: Vec<String> = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let groups = [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]];
    (uuid != [0; 16]).then(|| groups.map(<[String]>::concat).join("-"))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Tests arrange by path.
mod tests {
    use super::*;
    use std::process::Command;

    /// Makes a file system with its own `mkfs` and asks `blkid`, whose answer is the reference.
    fn compare(kind: &str, mkfs: &[&str], megabytes: u64) {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output();
        let asked = Command::new("blkid")
            .args(["-p", "-o", "value", "-s", "UUID"])
            .arg(&image)
            .output();
        let (Ok(made), Ok(asked)) = (made, asked) else {
            return println!("skipped: there is no {} or no blkid", mkfs[0]);
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let expected = String::from_utf8(asked.stdout).unwrap();
        let file = File::open(&image).unwrap();
        assert_eq!(of_file(&file, kind).as_deref(), Some(expected.trim()), "{mkfs:?}");
        assert!(!expected.trim().is_empty());
    }

    #[test]
    fn it_is_what_blkid_says() {
        compare("ext4", &["mkfs.ext4", "-q", "-F"], 4);
        compare("ext2", &["mkfs.ext2", "-q", "-F"], 4);
        compare("xfs", &["mkfs.xfs", "-q"], 320);
        compare("btrfs", &["mkfs.btrfs", "-q"], 128);
        compare("vfat", &["mkfs.vfat", "-F", "32", "-i", "0badcafe"], 64);
        compare("vfat", &["mkfs.vfat", "-F", "16", "-i", "00c0ffee"], 16);
        compare("vfat", &["mkfs.vfat", "-F", "12"], 2);
    }

    #[test]
    fn what_is_no_such_file_system_has_none() {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        std::fs::write(&image, vec![0; 512]).unwrap();
        let file = File::open(&image).unwrap();
        for kind in ["ext4", "xfs", "btrfs", "vfat", "zfs"] {
            assert_eq!(of_file(&file, kind), None, "{kind}");
        }
        assert_eq!(read_uuid(&image, "ext4"), None, "a file is no device");
        assert_eq!(read_uuid(Path::new("/dev/null"), "ext4"), None);
        assert_eq!(read_uuid(Path::new("/nonexistent"), "ext4"), None);
    }
}
