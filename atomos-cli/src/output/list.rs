//! Entries of trees, as `ls` shows them.

use std::io::{self, Write};

use libatomos::digest::{BlobId, DirTreeId, hex};
use libatomos::format::{Entry, Metadata, Node};
use libatomos::verity::VerityDigest;
use serde::Serialize;

use super::json::PathModel;
use super::text;

/// How a list looks.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// With mode, owner, size and time.
    pub long: bool,
    /// With whole paths instead of names.
    pub whole_paths: bool,
}

/// Returns the path of the entry `name` in the directory `parent`; the root is nothing.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// Writes one entry of the directory `parent`.
pub fn write_entry(out: &mut dyn Write, style: Style, parent: &[u8], entry: &Entry) -> io::Result<()> {
    if style.long {
        let metadata = &entry.metadata;
        let extended = if metadata.xattrs.is_empty() { ' ' } else { '+' };
        write!(
            out,
            "{}{extended} {:>5} {:>5} {:>11} {} ",
            text::mode(entry.node.letter(), metadata.mode),
            metadata.uid,
            metadata.gid,
            size_or_device(&entry.node),
            text::time(metadata.mtime),
        )?;
    }
    if style.whole_paths {
        write!(out, "{}", text::escape_bytes(&join(parent, &entry.name)))?;
    } else {
        write!(out, "{}", text::escape_bytes(&entry.name))?;
    }
    if let (true, Node::Symlink { target }) = (style.long, &entry.node) {
        write!(out, " -> {}", text::escape_bytes(target))?;
    }
    writeln!(out)
}

fn size_or_device(node: &Node) -> String {
    match node {
        Node::File { size, .. } => size.to_string(),
        Node::Symlink { target } => target.len().to_string(),
        Node::Char { major, minor } | Node::Block { major, minor } => format!("{major}, {minor}"),
        _ => "-".to_owned(),
    }
}

/// An entry, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EntryModel {
    #[serde(flatten)]
    path: PathModel,
    #[serde(flatten)]
    node: NodeModel,
    #[serde(flatten)]
    metadata: MetadataModel,
}

impl EntryModel {
    /// Takes an entry of the directory `parent`.
    pub fn new(parent: &[u8], entry: &Entry) -> Self {
        Self {
            path: PathModel::new(&join(parent, &entry.name)),
            node: NodeModel::new(&entry.node),
            metadata: MetadataModel::new(&entry.metadata),
        }
    }
}

/// What an entry is, for programs.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NodeModel {
    /// A regular file.
    File {
        /// Its bytes.
        size: u64,
        /// Its content.
        blob: BlobId,
        /// Its fs-verity digest, where it was recorded.
        #[serde(skip_serializing_if = "Option::is_none")]
        verity: Option<VerityDigest>,
    },
    /// A directory.
    #[serde(rename = "directory")]
    Dir {
        /// Its entries.
        dirtree: DirTreeId,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: String,
        /// The same where it is not UTF-8.
        #[serde(skip_serializing_if = "Option::is_none", rename = "target-hex")]
        target_hex: Option<String>,
    },
    /// A character device.
    #[serde(rename = "character-device")]
    Char { major: u32, minor: u32 },
    /// A block device.
    #[serde(rename = "block-device")]
    Block { major: u32, minor: u32 },
    /// A named pipe.
    Fifo,
}

impl NodeModel {
    /// Takes a node.
    pub fn new(node: &Node) -> Self {
        match node {
            Node::File { size, blob, verity } => Self::File {
                size: *size,
                blob: *blob,
                verity: verity.map(VerityDigest::from_bytes),
            },
            Node::Dir { tree } => Self::Dir { dirtree: *tree },
            Node::Symlink { target } => Self::Symlink {
                target: String::from_utf8_lossy(target).into_owned(),
                target_hex: std::str::from_utf8(target).is_err().then(|| hex(target)),
            },
            Node::Char { major, minor } => Self::Char {
                major: *major,
                minor: *minor,
            },
            Node::Block { major, minor } => Self::Block {
                major: *major,
                minor: *minor,
            },
            Node::Fifo => Self::Fifo,
        }
    }
}

/// Owner, mode, time and extended attributes, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MetadataModel {
    /// In octal.
    mode: String,
    uid: u32,
    gid: u32,
    mtime: i64,
    /// Values in hex.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<XattrModel>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct XattrModel {
    name: String,
    value_hex: String,
}

impl MetadataModel {
    /// Takes metadata.
    pub fn new(metadata: &Metadata) -> Self {
        Self {
            mode: format!("{:04o}", metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
            xattrs: metadata
                .xattrs
                .iter()
                .map(|(name, value)| XattrModel {
                    name: String::from_utf8_lossy(name).into_owned(),
                    value_hex: hex(value),
                })
                .collect(),
        }
    }
}
