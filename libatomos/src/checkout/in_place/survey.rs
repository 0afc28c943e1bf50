//! What has to be done, found out before anything is: where the trees differ, and whether the directory is what it should be
//! there. Whoever changed something that would be overwritten or removed keeps it, and is told.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::checkout::CheckoutError;
use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, Metadata, Node};
use crate::fs::{Dir, FileKind};
use crate::repo::check_depth;

use super::Union;
use super::state::Look;

/// Paths that are named when something was changed.
pub(super) const NAMED: usize = 20;

/// What becomes of one directory that exists.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// From the checkout's root.
    pub(super) path: PathBuf,
    pub(super) remove: Vec<OsString>,
    pub(super) put: Vec<Put>,
    /// What the directory's own becomes.
    pub(super) metadata: Option<Metadata>,
}

/// A name that comes to lead to something else.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) name: OsString,
    /// Which of the staged entries it gets.
    pub(super) staged: usize,
    /// Whether what is there goes first: no rename puts a file in the place of a directory, or a directory in that of a file.
    pub(super) in_the_way: bool,
}

/// What has to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What has to be made, under the numbers that [`Put::staged`] has.
    pub(super) staged: Vec<Entry>,
    /// Entries that are new, other, and gone.
    pub(super) added: u64,
    pub(super) changed: u64,
    pub(super) removed: u64,
}

/// Looks at a directory.
pub(super) struct Survey<'a> {
    pub(super) look: Look<'a>,
    pub(super) cancel: &'a Cancel,
    /// Part of the work may have been done by one that was interrupted.
    pub(super) resuming: bool,
    /// Look at everything, not only at what has to change.
    pub(super) all: bool,
    pub(super) plan: Plan,
    /// What is not as it should be: the first of it, and how much.
    pub(super) others: Vec<PathBuf>,
    pub(super) other_count: u64,
}

/// A directory, in which something is to be done.
struct Place<'a> {
    dir: &'a Dir,
    path: &'a Path,
    depth: usize,
}

impl Place<'_> {
    fn below(&self, entry: &Entry) -> PathBuf {
        self.path.join(OsStr::from_bytes(&entry.name))
    }
}

impl Survey<'_> {
    fn other(&mut self, path: PathBuf) {
        self.other_count += 1;
        if self.others.len() < NAMED {
            self.others.push(path);
        }
    }

    fn load(&self, tree: &DirTreeId) -> Result<DirTree, CheckoutError> {
        Ok(self.look.repo.load_dirtree(tree)?)
    }

    /// Has `entry` made. `there` says of what is in its place whether that is a directory.
    fn stage(&mut self, step: &mut Step, entry: &Entry, there: Option<bool>) {
        let number = self.plan.staged.len();
        let is_dir = matches!(entry.node, Node::Dir { .. });
        step.put.push(Put {
            name: OsStr::from_bytes(&entry.name).to_owned(),
            staged: number,
            in_the_way: there.is_some_and(|is_dir_there| is_dir || is_dir_there),
        });
        self.plan.staged.push(Entry {
            name: number.to_string().into_bytes(),
            ..entry.clone()
        });
    }

    /// Compares `old`, which the directory was made of, with `new`.
    pub(super) fn update(
        &mut self,
        dir: &Dir,
        (old, new): (&DirTreeId, &DirTreeId),
        metadata: Option<Metadata>,
    ) -> Result<(), CheckoutError> {
        let place = Place {
            dir,
            path: Path::new(""),
            depth: 0,
        };
        self.update_in(&place, (old, new), metadata)
    }

    /// `metadata` is what the directory gets where that changes, or where something in the directory does.
    fn update_in(
        &mut self,
        place: &Place<'_>,
        (old, new): (&DirTreeId, &DirTreeId),
        metadata: Option<Metadata>,
    ) -> Result<(), CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        let mut step = Step {
            path: place.path.to_owned(),
            ..Step::default()
        };
        let (old, new) = (self.load(old)?.into_entries(), self.load(new)?.into_entries());
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            self.cancel.check()?;
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (before, after) {
                (Some(before), Some(after)) => self.changed(place, &mut step, before, after)?,
                (Some(before), None) => self.gone(place, &mut step, before)?,
                (None, Some(after)) => self.added(place, &mut step, after)?,
                (None, None) => {}
            }
        }
        let is_touched = !step.put.is_empty() || !step.remove.is_empty() || self.resuming;
        step.metadata = metadata.filter(|_| is_touched || place.depth == 0);
        if is_touched || step.metadata.is_some() {
            self.plan.steps.push(step);
        }
        Ok(())
    }

    fn changed(
        &mut self,
        place: &Place<'_>,
        step: &mut Step,
        before: &Entry,
        after: &Entry,
    ) -> Result<(), CheckoutError> {
        if before == after && !self.all {
            return Ok(());
        }
        let name = OsStr::from_bytes(&before.name);
        if let (Node::Dir { tree: old }, Node::Dir { tree: new }) = (&before.node, &after.node) {
            // What was interrupted may have left a directory with neither's metadata.
            let is_ours = match self.resuming {
                true => place
                    .dir
                    .stat_optional(name)?
                    .is_some_and(|stat| stat.kind == FileKind::Dir),
                false => self.look.is(place.dir, before)?,
            };
            if !is_ours {
                self.other(place.below(before));
                return Ok(());
            }
            let path = place.below(before);
            if before.metadata != after.metadata {
                self.plan.changed += 1;
            }
            if old == new && !self.all {
                if before.metadata != after.metadata {
                    self.plan.steps.push(Step {
                        path,
                        metadata: Some(after.metadata.clone()),
                        ..Step::default()
                    });
                }
                return Ok(());
            }
            let dir = place.dir.open_dir(name)?;
            let below = Place {
                dir: &dir,
                path: &path,
                depth: place.depth + 1,
            };
            let steps = self.plan.steps.len();
            self.update_in(&below, (old, new), Some(after.metadata.clone()))?;
            // Nothing in it had to change, and its own metadata has to.
            if before.metadata != after.metadata
                && !self.plan.steps[steps..].iter().any(|step| step.path == path)
            {
                self.plan.steps.push(Step {
                    path,
                    metadata: Some(after.metadata.clone()),
                    ..Step::default()
                });
            }
            return Ok(());
        }
        if before == after {
            if !self.look.is(place.dir, before)? {
                self.other(place.below(before));
            }
            return Ok(());
        }
        // What an interrupted update put here came by one rename: it is whole.
        if self.resuming && self.look.is(place.dir, after)? {
            return Ok(());
        }
        let absent = self.resuming && !place.dir.exists(name)?;
        if absent || self.is_whole(place, before)? {
            self.plan.changed += 1;
            let there = (!absent).then_some(matches!(before.node, Node::Dir { .. }));
            self.stage(step, after, there);
        }
        Ok(())
    }

    fn gone(&mut self, place: &Place<'_>, step: &mut Step, before: &Entry) -> Result<(), CheckoutError> {
        let name = OsStr::from_bytes(&before.name);
        // It is to be gone, and is: nobody loses anything.
        if !place.dir.exists(name)? {
            return Ok(());
        }
        if self.is_whole(place, before)? {
            self.plan.removed += 1;
            step.remove.push(name.to_owned());
        }
        Ok(())
    }

    fn added(&mut self, place: &Place<'_>, step: &mut Step, after: &Entry) -> Result<(), CheckoutError> {
        let name = OsStr::from_bytes(&after.name);
        if place.dir.exists(name)? {
            if !(self.resuming && self.look.is(place.dir, after)?) {
                self.other(place.below(after));
            }
            return Ok(());
        }
        self.plan.added += 1;
        self.stage(step, after, None);
        Ok(())
    }

    /// Returns whether everything that is there of `entry` is as it was made, and nothing else is there; names what is not.
    fn is_whole(&mut self, place: &Place<'_>, entry: &Entry) -> Result<bool, CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        self.cancel.check()?;
        let path = place.below(entry);
        let Node::Dir { tree } = &entry.node else {
            let is_whole = self.look.is(place.dir, entry)?;
            if !is_whole {
                self.other(path);
            }
            return Ok(is_whole);
        };
        let name = OsStr::from_bytes(&entry.name);
        if !self.look.is(place.dir, entry)? {
            self.other(path);
            return Ok(false);
        }
        let dir = place.dir.open_dir(name)?;
        let below = Place {
            dir: &dir,
            path: &path,
            depth: place.depth + 1,
        };
        let tree = self.load(tree)?;
        let mut is_whole = true;
        for found in dir.entries()? {
            match tree.get(found.name.as_bytes()) {
                Some(entry) => is_whole &= self.is_whole(&below, entry)?,
                None => {
                    self.other(path.join(&found.name));
                    is_whole = false;
                }
            }
        }
        Ok(is_whole)
    }

    /// Lays the tree over what is in `dir`.
    pub(super) fn union(
        &mut self,
        dir: &Dir,
        tree: &DirTreeId,
        metadata: Option<Metadata>,
        union: Union,
    ) -> Result<(), CheckoutError> {
        let place = Place {
            dir,
            path: Path::new(""),
            depth: 0,
        };
        self.union_in(&place, tree, metadata, union)
    }

    fn union_in(
        &mut self,
        place: &Place<'_>,
        tree: &DirTreeId,
        metadata: Option<Metadata>,
        union: Union,
    ) -> Result<(), CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        let mut step = Step {
            path: place.path.to_owned(),
            metadata: metadata.filter(|_| union == Union::Replace),
            ..Step::default()
        };
        for entry in self.load(tree)?.entries() {
            self.cancel.check()?;
            let name = OsStr::from_bytes(&entry.name);
            let Some(found) = place.dir.stat_optional(name)? else {
                self.plan.added += 1;
                self.stage(&mut step, entry, None);
                continue;
            };
            match (&entry.node, found.kind) {
                (Node::Dir { tree }, FileKind::Dir) => {
                    let (dir, path) = (place.dir.open_dir(name)?, place.below(entry));
                    let below = Place {
                        dir: &dir,
                        path: &path,
                        depth: place.depth + 1,
                    };
                    self.union_in(&below, tree, Some(entry.metadata.clone()), union)?;
                }
                _ if union == Union::Add => {}
                // Neither a directory with all that is in it nor a link that stands for one is given up for a name.
                (Node::Dir { .. }, _) | (_, FileKind::Dir) => self.other(place.below(entry)),
                _ if self.look.is(place.dir, entry)? => {}
                _ if union == Union::Identical => self.other(place.below(entry)),
                _ => {
                    self.plan.changed += 1;
                    self.stage(&mut step, entry, Some(false));
                }
            }
        }
        let is_touched = !step.put.is_empty() || step.metadata.is_some();
        if is_touched {
            self.plan.steps.push(step);
        }
        Ok(())
    }
}
