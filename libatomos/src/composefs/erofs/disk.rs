//! The shapes that the kernel reads (`fs/erofs/erofs_fs.h`): all numbers are little-endian.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a block.
pub(in crate::composefs) const BLOCK: usize = 4096;

/// What inodes are aligned to, and counted in.
pub(in crate::composefs) const SLOT: usize = 32;

/// Where the super block begins.
const SUPER_OFFSET: usize = 1024;

/// Where in it the number of blocks is.
const BLOCKS: usize = 36;

/// Where the first inode is: after the super block of 128 bytes.
pub(in crate::composefs) const FIRST_INODE: u64 = (SUPER_OFFSET + 128) as u64;

/// Bytes of an extended inode: the compact one has no time.
pub(in crate::composefs) const INODE: usize = 64;

/// Bytes before an inode's own attributes.
const XATTR_HEADER: usize = 12;

/// Bytes of an entry of a directory, without its name.
pub(in crate::composefs) const DIRENT: usize = 12;

/// Bytes that say where a chunk of a file is.
pub(in crate::composefs) const CHUNK: usize = 4;

const MAGIC: u32 = 0xE0F5_E1E2;

/// Inodes have times of modification, not of change.
const COMPAT_MTIME: u32 = 2;

/// There are files in chunks.
const INCOMPAT_CHUNKED: u32 = 4;

/// How the data of an inode lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::composefs) enum Layout {
    /// In blocks.
    Plain = 0,
    /// In blocks, and the rest behind the inode.
    Inline = 2,
    /// In chunks, any of which may be a hole.
    Chunked = 4,
}

/// A chunk of more bytes than any file has: one for each file.
pub(in crate::composefs) const ONE_CHUNK: u32 = 31;

/// A chunk that is a hole.
pub(in crate::composefs) const HOLE: [u8; CHUNK] = [0xff; CHUNK];

/// What a directory's entry says of the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::composefs) enum Kind {
    File = 1,
    Dir = 2,
    Char = 3,
    Block = 4,
    Fifo = 5,
    Symlink = 7,
}

impl Kind {
    /// The kind's bits in an inode's mode.
    const fn mode(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// Everything in the super block that differs from image to image.
pub(in crate::composefs) struct Super {
    pub(in crate::composefs) inodes: u64,
    pub(in crate::composefs) blocks: u32,
    pub(in crate::composefs) uuid: [u8; 16],
}

/// Returns whether a file has the super block of such an image, and the blocks that this speaks of.
pub(in crate::composefs) fn is_image(file: &File) -> bool {
    let word = |offset: usize| -> Option<u32> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, (SUPER_OFFSET + offset) as u64)
            .ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let blocks = word(BLOCKS).map_or(0, |blocks| u64::from(blocks) * BLOCK as u64);
    word(0) == Some(MAGIC) && file.metadata().is_ok_and(|metadata| metadata.len() >= blocks)
}

impl Super {
    /// Returns what the image begins with, up to the first inode.
    pub(in crate::composefs) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; FIRST_INODE as usize];
        let mut put = |offset: usize, bytes: &[u8]| {
            out[SUPER_OFFSET + offset..SUPER_OFFSET + offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT_MTIME.to_le_bytes());
        put(12, &[BLOCK.trailing_zeros() as u8]);
        put(14, &((FIRST_INODE / SLOT as u64) as u16).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(BLOCKS, &self.blocks.to_le_bytes());
        put(48, &self.uuid);
        put(80, &INCOMPAT_CHUNKED.to_le_bytes());
        out
    }
}

/// An inode's numbers.
pub(in crate::composefs) struct Inode {
    pub(in crate::composefs) kind: Kind,
    pub(in crate::composefs) layout: Layout,
    /// Bytes of attributes behind it.
    pub(in crate::composefs) xattrs: usize,
    pub(in crate::composefs) mode: u32,
    pub(in crate::composefs) size: u64,
    /// The first block, the device, or the size of chunks.
    pub(in crate::composefs) place: u32,
    pub(in crate::composefs) number: u32,
    pub(in crate::composefs) uid: u32,
    pub(in crate::composefs) gid: u32,
    pub(in crate::composefs) mtime: i64,
    pub(in crate::composefs) links: u32,
}

impl Inode {
    pub(in crate::composefs) fn encode(&self, out: &mut Vec<u8>) {
        let xattrs = match self.xattrs {
            0 => 0,
            bytes => (bytes - XATTR_HEADER) / 4 + 1,
        };
        let start = out.len();
        out.extend_from_slice(&(1 | (self.layout as u16) << 1).to_le_bytes());
        out.extend_from_slice(&(xattrs as u16).to_le_bytes());
        out.extend_from_slice(&(self.kind.mode() | self.mode as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.place.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.gid.to_le_bytes());
        out.extend_from_slice(&self.mtime.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.links.to_le_bytes());
        out.resize(start + INODE, 0);
    }
}

/// Returns a device's number as inodes have it.
pub(in crate::composefs) const fn device(major: u32, minor: u32) -> Option<u32> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    Some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// Extended attributes, as they stand behind an inode.
#[derive(Debug, Default)]
pub(in crate::composefs) struct Xattrs(Vec<u8>);

impl Xattrs {
    /// Appends one; returns whether it can be had: its name must begin as one of those that the kernel knows, and its value
    /// is less than 64 KiB.
    pub(in crate::composefs) fn push(&mut self, name: &[u8], value: &[u8]) -> bool {
        let prefixes: [(&[u8], u8); 5] = [
            (b"user.", 1),
            (b"system.posix_acl_access", 2),
            (b"system.posix_acl_default", 3),
            (b"trusted.", 4),
            (b"security.", 6),
        ];
        let found = prefixes
            .into_iter()
            .find_map(|(prefix, index)| Some((index, name.strip_prefix(prefix)?)));
        let Some((index, rest)) = found else {
            return false;
        };
        let whole = matches!(index, 2 | 3);
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(rest.len()), u16::try_from(value.len())) else {
            return false;
        };
        if whole != rest.is_empty() {
            return false;
        }
        if self.0.is_empty() {
            // What a file of the store has, and little more.
            self.0.reserve(128);
            self.0.resize(XATTR_HEADER, 0);
        }
        self.0.extend_from_slice(&[name_len, index]);
        self.0.extend_from_slice(&value_len.to_le_bytes());
        self.0.extend_from_slice(rest);
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        // An inode counts words in 16 bits.
        self.0.len() < XATTR_HEADER + 4 * 0xffff
    }

    /// Has none any more, and keeps the room for others.
    pub(in crate::composefs) fn clear(&mut self) {
        self.0.clear();
    }

    pub(in crate::composefs) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_as_the_kernel_has_them() {
        assert_eq!(device(8, 1), Some(0x801));
        assert_eq!(device(259, 300), Some(259 << 8 | 44 | 0x100 << 12));
        assert_eq!(device(1 << 12, 0), None);
        assert_eq!(device(0, 1 << 20), None);
    }

    #[test]
    fn attributes_of_unknown_kinds_are_refused() {
        let mut xattrs = Xattrs::default();
        assert!(xattrs.push(b"user.a", b"1"));
        assert!(xattrs.push(b"system.posix_acl_access", b"12345678"));
        assert!(!xattrs.push(b"system.posix_acl_access2", b""));
        assert!(!xattrs.push(b"system.other", b""));
        assert!(!xattrs.push(b"user.", b""));
        assert!(!xattrs.push(b"user.large", &[0; 65_536]));
    }

    #[test]
    fn shapes_have_their_sizes() {
        let empty = Super {
            inodes: 1,
            blocks: 1,
            uuid: [0; 16],
        };
        assert_eq!(empty.encode().len(), 1152);
        let mut out = Vec::new();
        let inode = Inode {
            kind: Kind::Fifo,
            layout: Layout::Plain,
            xattrs: 0,
            mode: 0o644,
            size: 0,
            place: 0,
            number: 1,
            uid: 0,
            gid: 0,
            mtime: -1,
            links: 1,
        };
        inode.encode(&mut out);
        assert_eq!(out.len(), INODE);
        assert_eq!(out[4..6], 0o010_644u16.to_le_bytes());
    }
}
