//! Changes between two trees, as `diff` prints them.

use std::io::{self, Write};

use libatomos::diff::{Change, Part};
use libatomos::format::{Entry, Node};
use serde::Serialize;

use super::json::PathModel;
use super::list::{MetadataModel, NodeModel};
use super::text;

/// How many changes of each sort there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Entries that only the second tree has.
    pub added: u64,
    /// Entries that only the first tree has.
    pub deleted: u64,
    /// Entries that both have.
    pub modified: u64,
}

impl Tally {
    /// Counts one change.
    pub fn count(&mut self, change: &Change) {
        match (&change.before, &change.after) {
            (None, _) => self.added += 1,
            (_, None) => self.deleted += 1,
            _ => self.modified += 1,
        }
    }
}

/// Writes one change as a line: `M /etc/motd (content, mode 0644 -> 0600)`.
pub fn write(out: &mut dyn Write, color: bool, change: &Change) -> io::Result<()> {
    let (letter, code) = match (&change.before, &change.after) {
        (None, _) => ('A', "\x1b[32m"),
        (_, None) => ('D', "\x1b[31m"),
        _ => ('M', "\x1b[33m"),
    };
    let (begin, end) = if color { (code, "\x1b[0m") } else { ("", "") };
    write!(out, "{begin}{letter}{end} {}", text::escape_bytes(&change.path))?;
    if let (Some(before), Some(after)) = (&change.before, &change.after) {
        let parts: Vec<_> = change
            .parts
            .iter()
            .map(|part| describe(*part, before, after))
            .collect();
        write!(out, " ({})", parts.join(", "))?;
    }
    writeln!(out)
}

fn describe(part: Part, before: &Entry, after: &Entry) -> String {
    let (old, new) = (&before.metadata, &after.metadata);
    match part {
        Part::Type => format!("{} -> {}", kind(&before.node), kind(&after.node)),
        Part::Content => "content".to_owned(),
        Part::Target => "target".to_owned(),
        Part::Device => "device".to_owned(),
        Part::Mode => format!("mode {:04o} -> {:04o}", old.mode, new.mode),
        Part::Owner => format!("owner {}:{} -> {}:{}", old.uid, old.gid, new.uid, new.gid),
        Part::Xattrs => "extended attributes".to_owned(),
        Part::Mtime => format!("time {} -> {}", text::time(old.mtime), text::time(new.mtime)),
        _ => format!("{part:?}").to_lowercase(),
    }
}

/// Returns what a person calls a node.
pub const fn kind(node: &Node) -> &'static str {
    match node {
        Node::File { .. } => "file",
        Node::Dir { .. } => "directory",
        Node::Symlink { .. } => "symbolic link",
        Node::Char { .. } => "character device",
        Node::Block { .. } => "block device",
        Node::Fifo => "fifo",
    }
}

/// A change, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChangeModel<'a> {
    change: &'static str,
    #[serde(flatten)]
    path: PathModel,
    #[serde(skip_serializing_if = "<[Part]>::is_empty")]
    parts: &'a [Part],
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<SideModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<SideModel>,
}

#[derive(Debug, Serialize)]
struct SideModel {
    #[serde(flatten)]
    node: NodeModel,
    #[serde(flatten)]
    metadata: MetadataModel,
}

impl<'a> ChangeModel<'a> {
    /// Takes a change.
    pub fn new(change: &'a Change) -> Self {
        let side = |entry: &Entry| SideModel {
            node: NodeModel::new(&entry.node),
            metadata: MetadataModel::new(&entry.metadata),
        };
        Self {
            change: match (&change.before, &change.after) {
                (None, _) => "added",
                (_, None) => "deleted",
                _ => "modified",
            },
            path: PathModel::new(&change.path),
            parts: &change.parts,
            before: change.before.as_ref().map(side),
            after: change.after.as_ref().map(side),
        }
    }
}
