//! One thing in `/etc`, and the ways in which two of them differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::BlobId;
use crate::format::{Metadata, Xattrs};

use super::path::{escape, unescape, unhex};

/// The kind of an entry, with its content. A directory's content is in entries of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EtcNode {
    /// A regular file.
    File {
        /// Bytes in the file.
        size: u64,
        /// The file's bytes.
        blob: BlobId,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl EtcNode {
    /// Returns whether both are of one kind, whatever their contents.
    #[must_use]
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Returns what a person calls the kind.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Dir => "directory",
            Self::Symlink { .. } => "symbolic link",
            Self::Char { .. } => "character device",
            Self::Block { .. } => "block device",
            Self::Fifo => "fifo",
        }
    }
}

/// One thing in `/etc`: what it is, and what the file system keeps about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawEntry", into = "RawEntry")]
pub struct EtcEntry {
    /// The kind, with its content.
    pub node: EtcNode,
    /// Owner, mode, time, extended attributes.
    pub metadata: Metadata,
}

/// Setuid and setgid.
pub(super) const SPECIAL: u32 = 0o6000;
/// A file's capabilities: as good as setuid.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// A hash or signature of the file's bytes: of no use with other bytes.
pub(super) const IMA: &[u8] = b"security.ima";
/// The security label, which the system may set by itself.
pub(super) const LABEL: &[u8] = b"security.selinux";
/// Who else may do what.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// What a directory gives to what is made in it.
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

impl EtcEntry {
    /// Returns whether the entry is a directory.
    #[must_use]
    pub const fn is_dir(&self) -> bool {
        matches!(self.node, EtcNode::Dir)
    }

    /// Returns the file's digest; `None` for every other kind.
    #[must_use]
    pub const fn blob(&self) -> Option<BlobId> {
        match self.node {
            EtcNode::File { blob, .. } => Some(blob),
            _ => None,
        }
    }

    /// Returns whether both are the same but for their times. A time alone is no change.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.metadata, &other.metadata);
        self.node == other.node && (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid) && a.xattrs == b.xattrs
    }

    /// Returns whether both are the same but for their times and labels. A label that the system gave is no work of
    /// a person's that could stand against a deletion.
    pub(super) fn same_but_for_label(&self, other: &Self) -> bool {
        aspects(self, other).iter().all(|aspect| *aspect == Aspect::Label)
    }
}

/// A part of an entry in which two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Aspect {
    /// A file's bytes, a link's target, a device's numbers.
    Content,
    /// User or group.
    Owner,
    /// The setuid or setgid bit.
    Setuid,
    /// Capabilities of a file.
    Capabilities,
    /// Permission bits and the sticky bit.
    Mode,
    /// An access control list.
    Acl,
    /// The security label.
    Label,
    /// Another extended attribute.
    Xattrs,
}

impl Aspect {
    /// Returns the word for people, which is also the one in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Owner => "owner",
            Self::Setuid => "setuid",
            Self::Capabilities => "capabilities",
            Self::Mode => "mode",
            Self::Acl => "acl",
            Self::Label => "label",
            Self::Xattrs => "xattrs",
        }
    }
}

/// What became of an entry on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// Nothing.
    Same,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// It is of the same kind and differs.
    Changed {
        /// In what.
        aspects: Vec<Aspect>,
    },
    /// It is of another kind now.
    Retyped,
}

impl Change {
    /// Returns what happened between the two.
    #[must_use]
    pub fn between(from: Option<&EtcEntry>, to: Option<&EtcEntry>) -> Self {
        match (from, to) {
            (None, None) => Self::Same,
            (None, Some(_)) => Self::Added,
            (Some(_), None) => Self::Deleted,
            (Some(a), Some(b)) if !a.node.same_kind(&b.node) => Self::Retyped,
            (Some(a), Some(b)) if a.same(b) => Self::Same,
            (Some(a), Some(b)) => Self::Changed {
                aspects: aspects(a, b),
            },
        }
    }

    /// Returns whether nothing happened.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        matches!(self, Self::Same)
    }
}

/// Returns in what two entries differ, times aside.
pub(super) fn aspects(a: &EtcEntry, b: &EtcEntry) -> Vec<Aspect> {
    let (am, bm) = (&a.metadata, &b.metadata);
    let differ = |name: &[u8]| am.xattrs.get(name) != bm.xattrs.get(name);
    let others = |xattrs: &Xattrs| -> Vec<(Vec<u8>, Vec<u8>)> {
        xattrs
            .iter()
            .filter(|(name, _)| is_plain_xattr(name))
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect()
    };
    [
        (Aspect::Content, a.node != b.node || differ(IMA)),
        (Aspect::Owner, (am.uid, am.gid) != (bm.uid, bm.gid)),
        (Aspect::Setuid, am.mode & SPECIAL != bm.mode & SPECIAL),
        (Aspect::Capabilities, differ(CAPABILITY)),
        (Aspect::Mode, am.mode & !SPECIAL != bm.mode & !SPECIAL),
        (Aspect::Acl, differ(ACL_ACCESS) || differ(ACL_DEFAULT)),
        (Aspect::Label, differ(LABEL)),
        (Aspect::Xattrs, others(&am.xattrs) != others(&bm.xattrs)),
    ]
    .into_iter()
    .filter_map(|(aspect, differs)| differs.then_some(aspect))
    .collect()
}

/// Returns whether an attribute belongs to no unit and is merged by itself.
pub(super) fn is_plain_xattr(name: &[u8]) -> bool {
    ![CAPABILITY, IMA, LABEL, ACL_ACCESS, ACL_DEFAULT].contains(&name)
}

/// An entry as JSON has it.
#[derive(Serialize, Deserialize)]
struct RawEntry {
    #[serde(flatten)]
    node: RawNode,
    mode: String,
    uid: u32,
    gid: u32,
    mtime: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum RawNode {
    File { size: u64, blob: BlobId },
    Dir,
    Symlink { target: String },
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

impl From<EtcEntry> for RawEntry {
    fn from(entry: EtcEntry) -> Self {
        let metadata = entry.metadata;
        Self {
            node: match entry.node {
                EtcNode::File { size, blob } => RawNode::File { size, blob },
                EtcNode::Dir => RawNode::Dir,
                EtcNode::Symlink { target } => RawNode::Symlink {
                    target: escape(&target),
                },
                EtcNode::Char { major, minor } => RawNode::Char { major, minor },
                EtcNode::Block { major, minor } => RawNode::Block { major, minor },
                EtcNode::Fifo => RawNode::Fifo,
            },
            mode: format!("{:04o}", metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
            xattrs: metadata
                .xattrs
                .iter()
                .map(|(name, value)| (escape(name), crate::digest::hex(value)))
                .collect(),
        }
    }
}

impl TryFrom<RawEntry> for EtcEntry {
    type Error = &'static str;

    fn try_from(raw: RawEntry) -> Result<Self, &'static str> {
        let mode = u32::from_str_radix(&raw.mode, 8)
            .ok()
            .filter(|mode| *mode <= crate::format::limits::MODE_MASK)
            .ok_or("a mode has at most four octal digits, 7777 at most")?;
        let xattrs = raw
            .xattrs
            .iter()
            .map(|(name, value)| Some((unescape(name)?, unhex(value.as_bytes())?)))
            .collect::<Option<Xattrs>>()
            .ok_or("an extended attribute is an escaped name with a hexadecimal value")?;
        Ok(Self {
            node: match raw.node {
                RawNode::File { size, blob } => EtcNode::File { size, blob },
                RawNode::Dir => EtcNode::Dir,
                RawNode::Symlink { target } => EtcNode::Symlink {
                    target: unescape(&target).ok_or("a link's target is escaped wrongly")?,
                },
                RawNode::Char { major, minor } => EtcNode::Char { major, minor },
                RawNode::Block { major, minor } => EtcNode::Block { major, minor },
                RawNode::Fifo => EtcNode::Fifo,
            },
            metadata: Metadata {
                mode,
                uid: raw.uid,
                gid: raw.gid,
                mtime: raw.mtime,
                xattrs,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_json() {
        let entry = EtcEntry {
            node: EtcNode::Symlink {
                target: b"../\xff\\x".to_vec(),
            },
            metadata: Metadata {
                xattrs: [(b"user.\xfe".to_vec(), vec![0, 255])].into_iter().collect(),
                mtime: -3,
                ..Metadata::with_mode(0o4755)
            },
        };
        let json = serde_json::to_string(&entry).unwrap();
        assert!(json.contains(r#""mode":"4755""#), "{json}");
        assert_eq!(serde_json::from_str::<EtcEntry>(&json).unwrap(), entry);
        assert!(serde_json::from_str::<EtcEntry>(&json.replace("4755", "17777")).is_err());
    }
}
