//! What a file system keeps about an entry besides its bytes: owner, mode, time and extended attributes.

use super::cursor::Cursor;
use super::{FormatError, limits};

/// Extended attributes, sorted by name, each name once. ACLs and file capabilities are among them
/// (`system.posix_acl_access`, `security.capability`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Xattrs(Vec<(Vec<u8>, Vec<u8>)>);

impl Xattrs {
    /// Returns an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets the attribute `name`, replacing a value that it had.
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        match self.0.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => self.0.insert(index, (name, value)),
        }
    }

    /// Returns the value of the attribute `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let index = self
            .0
            .binary_search_by(|(other, _)| other.as_slice().cmp(name))
            .ok()?;
        Some(&self.0[index].1)
    }

    /// Removes the attribute `name` and returns its value.
    pub fn remove(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let index = self
            .0
            .binary_search_by(|(other, _)| other.as_slice().cmp(name))
            .ok()?;
        Some(self.0.remove(index).1)
    }

    /// Keeps only the attributes for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// Returns names and values in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn encoded_len(&self) -> usize {
        self.0
            .iter()
            .map(|(name, value)| 6 + name.len() + value.len())
            .sum()
    }

    /// Appends the canonical bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        for (name, value) in &self.0 {
            check_xattr_name(name, 0)?;
            within(
                "an extended attribute's value",
                value.len(),
                limits::MAX_XATTR_VALUE,
            )?;
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(value);
        }
        Ok(())
    }

    /// Reads canonical bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut cursor = Cursor::new(bytes);
        while cursor.remaining() > 0 {
            let offset = cursor.offset();
            let name_len = usize::from(cursor.u16("an extended attribute's name length")?);
            let value_len = cursor.u32("an extended attribute's value length")? as usize;
            within(
                "an extended attribute's value",
                value_len,
                limits::MAX_XATTR_VALUE,
            )?;
            let name = cursor.bytes(name_len, "an extended attribute's name")?;
            check_xattr_name(name, offset)?;
            let value = cursor.bytes(value_len, "an extended attribute's value")?;
            if pairs.last().is_some_and(|(last, _)| last.as_slice() >= name) {
                return Err(FormatError::Unsorted { name: name.to_vec() });
            }
            pairs.push((name.to_vec(), value.to_vec()));
        }
        Ok(Self(pairs))
    }
}

impl FromIterator<(Vec<u8>, Vec<u8>)> for Xattrs {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Vec<u8>)>>(pairs: I) -> Self {
        let mut xattrs = Self::new();
        for (name, value) in pairs {
            xattrs.insert(name, value);
        }
        xattrs
    }
}

fn check_xattr_name(name: &[u8], offset: usize) -> Result<(), FormatError> {
    if name.is_empty() || name.len() > limits::MAX_XATTR_NAME || name.contains(&0) {
        return Err(FormatError::Invalid {
            field: "an extended attribute's name",
            offset,
            rule: "has 1 to 255 bytes and no NUL",
        });
    }
    Ok(())
}

/// Owner, permission bits, modification time and extended attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metadata {
    /// Permission bits with setuid, setgid and sticky, `0o0` to `0o7777`; the file type is the entry's kind.
    pub mode: u32,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Modification time in whole seconds since 1970, UTC.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// Bytes of the fixed part: mode, uid, gid, mtime, length of the extended attributes.
const FIXED: usize = 24;

impl Metadata {
    /// Returns metadata of root's, of 1970, without extended attributes.
    #[must_use]
    pub const fn with_mode(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Xattrs::new(),
        }
    }

    /// Returns the canonical bytes: the fixed part and the extended attributes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::with_capacity(FIXED + self.xattrs.encoded_len());
        self.encode_fixed(&mut out)?;
        self.xattrs.encode(&mut out)?;
        Ok(out)
    }

    /// Returns the 128 bits that name the inode variant of a blob with this metadata, as 32 hexadecimal digits.
    ///
    /// The name finds a variant; the metadata is compared before it is used (`repo-format.md`, "Inode variants").
    pub fn variant_name(&self) -> Result<String, FormatError> {
        Ok(crate::digest::hex(&self.variant_hash()?))
    }

    /// Returns the bytes that the name has the digits of.
    pub(crate) fn variant_hash(&self) -> Result<[u8; 16], FormatError> {
        let hash = blake3::derive_key("atomos 2026 inode variant", &self.encode()?);
        Ok(*hash.first_chunk().expect("the hash has 32 bytes"))
    }

    pub(super) fn encode_fixed(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if self.mode & !limits::MODE_MASK != 0 {
            return Err(FormatError::Invalid {
                field: "the mode",
                offset: 0,
                rule: "is at most 07777",
            });
        }
        check_owner(self.uid, self.gid, out.len())?;
        let xattrs_len = self.xattrs.encoded_len();
        within("the extended attributes", xattrs_len, limits::MAX_XATTRS)?;
        out.extend_from_slice(&self.mode.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.gid.to_le_bytes());
        out.extend_from_slice(&self.mtime.to_le_bytes());
        out.extend_from_slice(&(xattrs_len as u32).to_le_bytes());
        Ok(())
    }

    pub(super) fn encode_xattrs(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        self.xattrs.encode(out)
    }

    /// Reads the fixed part and returns it with the length of the extended attributes, which come later.
    pub(super) fn decode_fixed(cursor: &mut Cursor<'_>) -> Result<(Self, usize), FormatError> {
        let offset = cursor.offset();
        let mode = cursor.u32("the mode")?;
        if mode & !limits::MODE_MASK != 0 {
            return Err(FormatError::Invalid {
                field: "the mode",
                offset,
                rule: "is at most 07777",
            });
        }
        let uid = cursor.u32("the uid")?;
        let gid = cursor.u32("the gid")?;
        check_owner(uid, gid, offset)?;
        let mtime = cursor.i64("the mtime")?;
        let xattrs_len = cursor.u32("the length of the extended attributes")? as usize;
        within("the extended attributes", xattrs_len, limits::MAX_XATTRS)?;
        Ok((
            Self {
                mode,
                uid,
                gid,
                mtime,
                xattrs: Xattrs::new(),
            },
            xattrs_len,
        ))
    }

    pub(super) fn decode_xattrs(&mut self, cursor: &mut Cursor<'_>, len: usize) -> Result<(), FormatError> {
        self.xattrs = Xattrs::decode(cursor.bytes(len, "the extended attributes")?)?;
        Ok(())
    }
}

/// The last number is no owner: `chown(2)` takes it for "leave as it is", which would leave root's.
fn check_owner(uid: u32, gid: u32, offset: usize) -> Result<(), FormatError> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(FormatError::Invalid {
            field: "the owner",
            offset,
            rule: "is a user and a group below 4294967295",
        });
    }
    Ok(())
}

pub(super) fn within(field: &'static str, found: usize, limit: usize) -> Result<(), FormatError> {
    if found > limit {
        Err(FormatError::TooLarge { field, found, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_name_depends_on_every_field() {
        let base = Metadata::with_mode(0o644);
        let mut seen = vec![base.variant_name().unwrap()];
        for changed in [
            Metadata {
                mode: 0o4644,
                ..base.clone()
            },
            Metadata {
                uid: 1,
                ..base.clone()
            },
            Metadata {
                gid: 1,
                ..base.clone()
            },
            Metadata {
                mtime: 1,
                ..base.clone()
            },
            Metadata {
                xattrs: [(b"user.a".to_vec(), Vec::new())].into_iter().collect(),
                ..base.clone()
            },
        ] {
            let name = changed.variant_name().unwrap();
            assert!(!seen.contains(&name), "{changed:?}");
            seen.push(name);
        }
    }
}
