//! Values for the laws: biased to what is empty, extreme, binary and odd.

use libatomos::digest::{BlobId, CommitId, Digest, DirTreeId};
use libatomos::format::{Commit, DirTree, Entry, Metadata, MetadataValue, Node, Xattrs};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

/// A name that a directory can hold.
pub fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("allowed in a name", |byte| *byte != 0 && *byte != b'/');
    prop_oneof![
        6 => "[a-z]{1,12}".prop_map(String::into_bytes),
        3 => vec(byte.clone(), 1..20),
        1 => vec(byte, 255),
        1 => Just(b"...".to_vec()),
    ]
    .prop_filter("not a directory itself", |name| name != b"." && name != b"..")
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    let byte = any::<u8>().prop_filter("allowed in a name", |byte| *byte != 0);
    let pair = (vec(byte, 1..30), vec(any::<u8>(), 0..40));
    prop_oneof![
        4 => Just(Xattrs::new()),
        2 => vec(pair, 1..5).prop_map(Xattrs::from_iter),
    ]
}

fn owner() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 0..70_000u32, Just(u32::MAX - 1)]
}

/// Metadata of anything but a link.
pub fn metadata() -> impl Strategy<Value = Metadata> {
    let mtime = prop_oneof![Just(0), any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just(-1)];
    (0..=0o7777u32, owner(), owner(), mtime, xattrs()).prop_map(|(mode, uid, gid, mtime, xattrs)| Metadata {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    })
}

fn node() -> impl Strategy<Value = Node> {
    let byte = any::<u8>().prop_filter("allowed in a target", |byte| *byte != 0);
    prop_oneof![
        Just(Node::File {
            size: 0,
            blob: BlobId::new(Digest::of(b"")),
            verity: None
        }),
        (1..=u64::MAX, digest(), proptest::option::of(any::<[u8; 32]>())).prop_map(|(size, blob, verity)| {
            Node::File {
                size,
                blob: BlobId::new(blob),
                verity,
            }
        }),
        digest().prop_map(|tree| Node::Dir {
            tree: DirTreeId::new(tree)
        }),
        prop_oneof![vec(byte.clone(), 1..40), vec(byte, 4095)].prop_map(|target| Node::Symlink { target }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Node::Char { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Node::Block { major, minor }),
        Just(Node::Fifo),
    ]
}

/// Any directory.
pub fn dirtree() -> impl Strategy<Value = DirTree> {
    btree_map(name(), (metadata(), node()), 0..12).prop_map(|entries| {
        let entries = entries.into_iter().map(|(name, (mut metadata, node))| {
            if matches!(node, Node::Symlink { .. }) {
                metadata.mode = 0o777;
            }
            Entry { name, metadata, node }
        });
        DirTree::new(entries.rev().collect()).unwrap()
    })
}

fn value() -> impl Strategy<Value = MetadataValue> {
    prop_oneof![
        any::<String>().prop_map(MetadataValue::Text),
        any::<u64>().prop_map(MetadataValue::Number),
        any::<bool>().prop_map(MetadataValue::Bool),
        vec(any::<u8>(), 0..40).prop_map(MetadataValue::Bytes),
    ]
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[^\n\0]{0,30}"]
}

/// Any commit.
pub fn commit() -> impl Strategy<Value = Commit> {
    (
        (digest(), metadata(), proptest::option::of(digest()), any::<i64>()),
        (line(), any::<String>(), line(), btree_map(line(), value(), 0..6)),
    )
        .prop_map(
            |((root, root_metadata, parent, time), (subject, body, version, metadata))| Commit {
                root: DirTreeId::new(root),
                root_metadata,
                parent: parent.map(CommitId::new),
                time,
                subject,
                body,
                version,
                metadata,
            },
        )
}

/// A way to spoil bytes.
#[derive(Debug, Clone)]
pub enum Spoil {
    Flip(usize, u8),
    Set(usize, u8),
    Truncate(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
}

/// Ways to spoil bytes, places given as positions modulo the length.
pub fn spoil() -> impl Strategy<Value = Spoil> {
    let at = any::<u16>().prop_map(usize::from);
    prop_oneof![
        4 => (at.clone(), 0..8u8).prop_map(|(at, bit)| Spoil::Flip(at, bit)),
        2 => (at.clone(), prop_oneof![Just(0), Just(1), Just(0x7f), Just(0xff), any::<u8>()]).prop_map(|(at, byte)| Spoil::Set(at, byte)),
        1 => at.clone().prop_map(Spoil::Truncate),
        1 => (at.clone(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Spoil::Insert(at, bytes)),
        1 => (at.clone(), 1..40usize).prop_map(|(at, len)| Spoil::Remove(at, len)),
        1 => (at, 1..80usize).prop_map(|(at, len)| Spoil::Repeat(at, len)),
    ]
}

impl Spoil {
    /// Returns `bytes`, spoiled.
    pub fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let len = bytes.len();
        if len == 0 {
            return bytes;
        }
        match self {
            Self::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
            Self::Set(at, byte) => bytes[at % len] = *byte,
            Self::Truncate(at) => bytes.truncate(at % len),
            Self::Insert(at, more) => {
                bytes.splice(at % len..at % len, more.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at % len;
                bytes.drain(at..len.min(at + count));
            }
            Self::Repeat(at, count) => {
                let at = at % len;
                let piece = bytes[at..len.min(at + count)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
        bytes
    }
}
