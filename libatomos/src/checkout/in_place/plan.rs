//! What has to be done, as plain data.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::checkout::link::Inode;
use crate::format::{Entry, Metadata, Node};
use crate::fs::Stat;

/// Paths that are named when something was changed.
const NAMED: usize = 20;

/// What has to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Entries that are new, other, and gone.
    pub(super) added: u64,
    pub(super) changed: u64,
    pub(super) removed: u64,
}

/// What becomes of one directory that exists.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// From the checkout's root.
    pub(super) path: PathBuf,
    pub(super) remove: Vec<Gone>,
    pub(super) put: Vec<Put>,
    /// Names of which nothing but the time changes, and which share it with no other name.
    pub(super) retime: Vec<(OsString, i64)>,
    /// What the directory's own becomes.
    pub(super) own: Option<Own>,
}

/// A name that goes.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) name: OsString,
    /// What is in it, where it is a directory: all that was there when somebody looked.
    pub(super) below: Option<Vec<Gone>>,
}

/// A name that comes to lead to something else.
#[derive(Debug)]
pub(super) struct Put {
    /// What it becomes.
    pub(super) entry: Entry,
    /// The store's inode of it, which gets the name. Whatever has none is built.
    pub(super) inode: Option<Inode>,
    /// Which of the built ones it is, once that is known.
    pub(super) built: Option<usize>,
    pub(super) there: There,
}

/// What has a name that something else gets.
#[derive(Debug)]
pub(super) enum There {
    Nothing,
    /// A file, in whose place another comes by a rename.
    File,
    /// What goes first: no rename puts a file in the place of a directory, or a directory in that of a file.
    InTheWay(Gone),
}

/// A directory's own metadata.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) metadata: Metadata,
    /// Whether all but the time is known to be what it becomes.
    pub(super) time_alone: bool,
}

/// What is not as it should be, found on whatever thread: how much, and the first of it.
#[derive(Debug, Default)]
pub(super) struct Others(Mutex<(u64, BTreeSet<PathBuf>)>);

impl Others {
    pub(super) fn add(&self, path: PathBuf) {
        let mut others = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, first) = &mut *others;
        *count += 1;
        first.insert(path);
        if first.len() > NAMED {
            first.pop_last();
        }
    }

    /// Returns how many there are, and the paths of the first.
    pub(super) fn into_inner(self) -> (u64, Vec<PathBuf>) {
        let (count, first) = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        (count, first.into_iter().collect())
    }
}

impl Plan {
    /// Returns every name that comes to lead to something else.
    pub(super) fn puts(&self) -> impl Iterator<Item = &Put> {
        self.steps.iter().flat_map(|step| &step.put)
    }

    /// Adds what is to be done elsewhere.
    pub(super) fn join(&mut self, mut other: Self) {
        self.steps.append(&mut other.steps);
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
    }
}

impl Put {
    pub(super) fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.entry.name)
    }

    /// Returns whether what is there, which has `stat`, is the very inode that is to come: entries may differ in what no inode has, such as a
    /// recorded digest. A rename between two names of one inode would do nothing, and leave both.
    pub(super) fn is_there(&self, stat: &Stat) -> bool {
        self.inode
            .as_ref()
            .is_some_and(|inode| inode.id == (stat.dev, stat.ino))
    }

    pub(super) const fn is_device(&self) -> bool {
        matches!(self.entry.node, Node::Char { .. } | Node::Block { .. })
    }
}

impl There {
    /// What has to become of what is there for `entry` to get its name.
    pub(super) fn under(entry: &Entry, gone: Gone) -> Self {
        match gone.below.is_some() || is_dir(entry) {
            true => Self::InTheWay(gone),
            false => Self::File,
        }
    }
}

impl Own {
    /// For a directory that has `before`, and gets `after`.
    pub(super) fn changed(before: &Metadata, after: &Metadata) -> Self {
        Self {
            time_alone: differ_in_time(before, after),
            metadata: after.clone(),
        }
    }

    /// For a directory that may have whatever it has.
    pub(super) const fn anew(metadata: Metadata) -> Self {
        Self {
            metadata,
            time_alone: false,
        }
    }
}

pub(super) fn is_dir(entry: &Entry) -> bool {
    matches!(entry.node, Node::Dir { .. })
}

/// Whether they are the same in all but the time, and perhaps in that.
pub(super) fn differ_in_time(before: &Metadata, after: &Metadata) -> bool {
    let of = |metadata: &Metadata| (metadata.mode, metadata.uid, metadata.gid);
    of(before) == of(after) && before.xattrs == after.xattrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_whoever_found_them_first() {
        let others = Others::default();
        for number in (10..90).rev() {
            others.add(PathBuf::from(number.to_string()));
        }
        let (count, first) = others.into_inner();
        assert_eq!(count, 80);
        let wanted: Vec<PathBuf> = (10..30).map(|number| number.to_string().into()).collect();
        assert_eq!(first, wanted);
    }
}
