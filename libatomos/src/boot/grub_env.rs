//! The environment block in which GRUB keeps its count.
//!
//! GRUB cannot rename a file, and can write 1024 bytes that are there already: `save_env` replaces the sectors of a file,
//! and nothing of its name, size or place. So the count of an entry, which systemd-boot keeps in the file name, is the
//! variable `atomos_left_<N>` in `/boot/grub/atomos.env`. The number of an entry is used once, so that a variable never
//! speaks of another entry than the one it was written for. It is a file of our own and not `grubenv`: nobody else
//! writes it, so that it cannot be filled, and nobody's `grub-editenv` races with us.
//!
//! The entry's file name has the number of tries that it began with. Of the two the lower counts.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::failpoint;
use crate::fs::{Dir, FileKind, FsError};

use super::flush::flush;
use super::show::Staged;
use super::{BootDir, BootError, BootFsKind};

/// The file's name, in GRUB's directory.
pub(super) const ENV: &str = "atomos.env";

/// What the variables' names begin with; the entry's number follows.
pub(super) const LEFT: &str = "atomos_left_";

/// GRUB takes a block of exactly this size.
const SIZE: usize = 1024;

/// What it begins with.
const HEADER: &str = "# GRUB Environment Block\n";

/// A file system on which GRUB does not write, by its magic number: it checks sums over what GRUB would replace.
const CHECKSUMMED: [u64; 3] = [
    0x9123_683e, // btrfs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
];

/// The counts that GRUB keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrubEnv {
    left: BTreeMap<u64, u32>,
}

impl GrubEnv {
    /// Reads a block; none where it is not one that GRUB would take. Lines that are not ours are passed over.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SIZE {
            return None;
        }
        let body = bytes.strip_prefix(HEADER.as_bytes())?;
        let mut env = Self::default();
        for line in body.split(|byte| *byte == b'\n') {
            let variable = std::str::from_utf8(line)
                .ok()
                .and_then(|line| line.strip_prefix(LEFT))
                .and_then(|line| line.split_once('='));
            if let Some((n, left)) = variable
                && let (Ok(n), Ok(left)) = (n.parse(), left.parse())
            {
                env.left.insert(n, left);
            }
        }
        Some(env)
    }

    /// Returns how many tries the entry has left, where GRUB has booted it.
    #[must_use]
    pub fn left(&self, n: u64) -> Option<u32> {
        self.left.get(&n).copied()
    }

    /// Returns the block. Where it does not hold all, the counts of the newest entries are kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = HEADER.to_owned();
        for (n, left) in self.left.iter().rev() {
            let before = text.len();
            writeln!(text, "{LEFT}{n}={left}").expect("a string takes what is written to it");
            if text.len() > SIZE {
                text.truncate(before);
                break;
            }
        }
        let mut bytes = text.into_bytes();
        bytes.resize(SIZE, b'#');
        bytes
    }

    fn retain(&mut self, wanted: &dyn Fn(u64) -> bool) {
        self.left.retain(|n, _| wanted(*n));
    }
}

/// Returns whether GRUB can count in this `/boot`, as far as the file system tells. Below LVM or RAID it cannot either.
pub fn grub_can_write(boot: &BootDir) -> Result<bool, BootError> {
    let stat = rustix::fs::fstatfs(boot.dir())
        .map_err(|errno| FsError::new("find the file system of", boot.dir().path(), errno))?;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let magic = stat.f_type as u64 & 0xffff_ffff;
    Ok(!CHECKSUMMED.contains(&magic))
}

/// Reads the counts in GRUB's directory `dir`; none where there is no block that GRUB would take.
pub(super) fn read_env(dir: &Dir) -> Result<Option<GrubEnv>, FsError> {
    match dir.read_optional(ENV, SIZE) {
        // Larger than any block: GRUB refuses it, too.
        Err(error) if error.source.kind() == std::io::ErrorKind::Other => Ok(None),
        other => Ok(other?.and_then(|bytes| GrubEnv::parse(&bytes))),
    }
}

/// Sees to it that GRUB finds a block that it can write to, before a menu that counts is there.
pub(super) fn ensure_env(boot: &BootDir, dir: &Dir) -> Result<(), BootError> {
    if read_env(dir)?.is_none() {
        replace_env(boot, dir, &GrubEnv::default())?;
    }
    Ok(())
}

/// Drops the counts of entries that have none any more, so that the block never fills. To be called when a menu that
/// asks for them is gone, durably: an entry without its count would be tried anew.
pub(super) fn prune_env(boot: &BootDir, dir: &Dir, wanted: &dyn Fn(u64) -> bool) -> Result<(), BootError> {
    let Some(found) = read_env(dir)? else {
        return Ok(());
    };
    let mut kept = found.clone();
    kept.retain(wanted);
    if kept != found {
        replace_env(boot, dir, &kept)?;
    }
    Ok(())
}

/// Where there is a block already, its sectors are written as GRUB writes them: nothing of its name, size or place changes,
/// and whatever of it reaches the disk, its beginning is the same.
fn replace_env(boot: &BootDir, dir: &Dir, env: &GrubEnv) -> Result<(), BootError> {
    failpoint::hit("boot.env.begin")?;
    let bytes = env.to_bytes();
    let present = dir.stat_optional(ENV)?;
    let in_place = present.is_some_and(|stat| stat.kind == FileKind::File && stat.size == SIZE as u64);
    if in_place || boot.kind() == BootFsKind::Vfat {
        let file = dir.open_or_create_file(ENV, 0o644)?;
        let fail = |error: std::io::Error| FsError::new("write", dir.path().join(ENV), error);
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).map_err(fail)?;
        file.set_len(SIZE as u64).map_err(fail)?;
        flush(boot)?;
    } else {
        let staged = Staged::stage(dir.try_clone()?, ENV, &bytes)?;
        flush(boot)?;
        staged.show()?;
        flush(boot)?;
        staged.forget()?;
    }
    failpoint::hit("boot.env.written")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(pairs: &[(u64, u32)]) -> GrubEnv {
        GrubEnv {
            left: pairs.iter().copied().collect(),
        }
    }

    #[test]
    fn what_grub_writes_is_read_and_what_it_would_refuse_is_not() {
        let mut bytes =
            format!("{HEADER}saved_entry=x\natomos_left_7=2\natomos_left_x=2\natomos_left_8=-1\n")
                .into_bytes();
        bytes.resize(SIZE, b'#');
        assert_eq!(GrubEnv::parse(&bytes), Some(env(&[(7, 2)])));
        assert_eq!(GrubEnv::parse(&bytes[..SIZE - 1]), None);
        bytes.push(b'#');
        assert_eq!(GrubEnv::parse(&bytes), None);
        assert_eq!(GrubEnv::parse(&[0; SIZE]), None);
        assert_eq!(GrubEnv::parse(&[b'#'; SIZE]), None);
    }

    #[test]
    fn a_full_block_keeps_the_newest() {
        let many: GrubEnv = env(&(1000..2000).map(|n| (n, 3)).collect::<Vec<_>>());
        let kept = GrubEnv::parse(&many.to_bytes()).unwrap();
        assert_eq!(kept.left(1999), Some(3));
        assert_eq!(kept.left(1000), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(pairs in proptest::collection::btree_map(0u64..10_000, 0u32..100, 0..40)) {
            let env = GrubEnv { left: pairs };
            prop_assert_eq!(GrubEnv::parse(&env.to_bytes()), Some(env));
        }

        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1100), whole: bool) {
            if whole {
                bytes.resize(SIZE, b'#');
                bytes[..HEADER.len()].copy_from_slice(HEADER.as_bytes());
            }
            let _ = GrubEnv::parse(&bytes);
        }
    }
}
