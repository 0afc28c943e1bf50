//! OSTree's objects: bytes to values.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::format::{Metadata, Xattrs, limits};

use super::gvariant::{Malformed, Member, array, text, tuple, u32_be, u64_be, variant, write_file_header};

use Member::{Fixed, Variable};

/// File types of `mode`.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

/// The SHA-256 that names an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(pub(crate) [u8; 32]);

impl Checksum {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64
            || !digits
                .iter()
                .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(bytes))
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes
            .try_into()
            .map_err(|_| "a checksum in it has not 32 bytes")?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::hex(&self.0))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

/// A commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OstreeCommit {
    pub(crate) parent: Option<Checksum>,
    pub(crate) subject: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) time: i64,
    pub(crate) tree: Checksum,
    pub(crate) meta: Checksum,
    /// Its `version`, where it has one that is text.
    pub(crate) version: Option<Vec<u8>>,
}

impl OstreeCommit {
    /// Reads `(a{sv}aya(say)sstayay)`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let [metadata, parent, _related, subject, body, time, tree, meta] = tuple(
            bytes,
            [
                Variable(8),
                Variable(1),
                Variable(1),
                Variable(1),
                Variable(1),
                Fixed(8),
                Variable(1),
                Variable(1),
            ],
        )?;
        let mut version = None;
        for entry in array(metadata, 8)? {
            let [key, value] = tuple(entry, [Variable(1), Variable(8)])?;
            if text(key)? == b"version"
                && let (b"s", value) = variant(value)?
            {
                version = Some(text(value)?.to_vec());
            }
        }
        Ok(Self {
            parent: match parent {
                [] => None,
                bytes => Some(Checksum::from_bytes(bytes)?),
            },
            subject: text(subject)?.to_vec(),
            body: text(body)?.to_vec(),
            time: i64::try_from(u64_be(time)?).map_err(|_| "its time is no time")?,
            tree: Checksum::from_bytes(tree)?,
            meta: Checksum::from_bytes(meta)?,
            version,
        })
    }
}

/// One directory: files, and directories with their metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OstreeDirTree {
    pub(crate) files: Vec<(Vec<u8>, Checksum)>,
    pub(crate) dirs: Vec<(Vec<u8>, Checksum, Checksum)>,
}

impl OstreeDirTree {
    /// Reads `(a(say)a(sayay))`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let [files, dirs] = tuple(bytes, [Variable(1), Variable(1)])?;
        let files = array(files, 1)?
            .into_iter()
            .map(|file| {
                let [name, checksum] = tuple(file, [Variable(1), Variable(1)])?;
                Ok((text(name)?.to_vec(), Checksum::from_bytes(checksum)?))
            })
            .collect::<Result<_, Malformed>>()?;
        let dirs = array(dirs, 1)?
            .into_iter()
            .map(|dir| {
                let [name, tree, meta] = tuple(dir, [Variable(1), Variable(1), Variable(1)])?;
                let tree = Checksum::from_bytes(tree)?;
                Ok((text(name)?.to_vec(), tree, Checksum::from_bytes(meta)?))
            })
            .collect::<Result<_, Malformed>>()?;
        Ok(Self { files, dirs })
    }
}

/// A directory's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OstreeDirMeta(pub(crate) Metadata);

impl OstreeDirMeta {
    /// Reads `(uuua(ayay))`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (owner, xattrs) = owner_and_xattrs(bytes)?;
        if owner.mode & TYPE != DIRECTORY {
            return Err("its mode is not that of a directory");
        }
        Ok(Self(owner.metadata(decode_xattrs(xattrs)?)))
    }
}

/// Owner and mode, with the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Owner {
    fn metadata(self, xattrs: Xattrs) -> Metadata {
        Metadata {
            mode: self.mode & limits::MODE_MASK,
            uid: self.uid,
            gid: self.gid,
            // OSTree keeps no times: what it checks out is of 1970.
            mtime: 0,
            xattrs,
        }
    }

    pub(super) const fn is_symlink(self) -> bool {
        self.mode & TYPE == SYMLINK
    }
}

/// Reads `(uuua(ayay))` as far as the attributes, which are left as they are.
pub(super) fn owner_and_xattrs(bytes: &[u8]) -> Result<(Owner, &[u8]), Malformed> {
    let [uid, gid, mode, xattrs] = tuple(bytes, [Fixed(4), Fixed(4), Fixed(4), Variable(1)])?;
    let owner = Owner {
        uid: u32_be(uid)?,
        gid: u32_be(gid)?,
        mode: u32_be(mode)?,
    };
    Ok((owner, xattrs))
}

/// A file's header: all of it but the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OstreeFile {
    pub(super) owner: Owner,
    /// Where a link points.
    pub(super) target: Vec<u8>,
    /// Attributes, as they are hashed.
    pub(super) xattrs: Vec<u8>,
}

impl OstreeFile {
    /// Reads an archive's `(tuuuusa(ayay))`; returns the size of the bytes, too.
    pub(super) fn decode_archived(bytes: &[u8]) -> Result<(Self, u64), Malformed> {
        let [size, uid, gid, mode, _device, target, xattrs] = tuple(
            bytes,
            [
                Fixed(8),
                Fixed(4),
                Fixed(4),
                Fixed(4),
                Fixed(4),
                Variable(1),
                Variable(1),
            ],
        )?;
        let owner = Owner {
            uid: u32_be(uid)?,
            gid: u32_be(gid)?,
            mode: u32_be(mode)?,
        };
        let file = Self {
            owner,
            target: text(target)?.to_vec(),
            xattrs: xattrs.to_vec(),
        };
        Ok((file, u64_be(size)?))
    }

    /// Returns the bytes that are hashed before the file's own.
    pub(super) fn hashed_header(&self) -> Vec<u8> {
        let Owner { uid, gid, mode } = self.owner;
        let header = write_file_header(uid, gid, mode, &self.target, &self.xattrs);
        let mut out = (header.len() as u32).to_be_bytes().to_vec();
        // To where eight bytes would begin.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&header);
        out
    }

    pub(super) fn check(&self) -> Result<(), Malformed> {
        match self.owner.mode & TYPE {
            REGULAR if self.target.is_empty() => Ok(()),
            SYMLINK if !self.target.is_empty() && self.target.len() <= limits::MAX_LINK_TARGET => Ok(()),
            _ => Err("it is neither a regular file nor a symbolic link"),
        }
    }

    /// Returns where the link points; `None` for a regular file.
    pub(crate) fn link(&self) -> Option<&[u8]> {
        self.owner.is_symlink().then_some(self.target.as_slice())
    }

    pub(super) fn metadata(&self) -> Result<Metadata, Malformed> {
        let mut metadata = self.owner.metadata(decode_xattrs(&self.xattrs)?);
        if self.owner.is_symlink() {
            metadata.mode = 0o777;
        }
        Ok(metadata)
    }
}

/// Reads `a(ayay)`.
fn decode_xattrs(bytes: &[u8]) -> Result<Xattrs, Malformed> {
    array(bytes, 1)?
        .into_iter()
        .map(|pair| {
            let [name, value] = tuple(pair, [Variable(1), Variable(1)])?;
            Ok((text(name)?.to_vec(), value.to_vec()))
        })
        .collect()
}
