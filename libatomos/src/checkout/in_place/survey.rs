//! What has to be done, found out before anything is: where the trees differ, and whether the directory is what it should be
//! there. Whoever changed something that would be overwritten or removed keeps it, and is told. Directories are looked at in
//! parallel, on the pool of the caller.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

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
#[derive(Debug, Clone, Copy)]
pub(super) struct Survey<'a> {
    pub(super) look: Look<'a>,
    pub(super) cancel: &'a Cancel,
    /// Part of the work may have been done by one that was interrupted.
    pub(super) resuming: bool,
    /// Look at everything, not only at what has to change.
    pub(super) all: bool,
}

/// What was found in a directory, or in several.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) plan: Plan,
    /// What is not as it should be: the first of it, and how much.
    pub(super) others: Vec<PathBuf>,
    pub(super) other_count: u64,
}

/// A directory of a place that has to be looked at, by itself.
enum Below<'e> {
    /// It is in both trees.
    Changed(&'e Entry, &'e Entry),
    /// It is to be gone, or something else comes to its place.
    Gone(&'e Entry),
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

impl Found {
    fn other(&mut self, path: PathBuf) {
        self.other_count += 1;
        if self.others.len() < NAMED {
            self.others.push(path);
        }
    }

    /// Has `entry` made. `there` says of what is in its place whether that is a directory.
    fn stage(&mut self, step: &mut Step, entry: &Entry, there: Option<bool>) {
        let is_dir = matches!(entry.node, Node::Dir { .. });
        step.put.push(Put {
            name: OsStr::from_bytes(&entry.name).to_owned(),
            staged: self.plan.staged.len(),
            in_the_way: there.is_some_and(|is_dir_there| is_dir || is_dir_there),
        });
        self.plan.staged.push(entry.clone());
    }

    /// Adds what was found elsewhere.
    fn join(&mut self, mut found: Self) {
        let before = self.plan.staged.len();
        for put in found.plan.steps.iter_mut().flat_map(|step| &mut step.put) {
            put.staged += before;
        }
        self.plan.steps.append(&mut found.plan.steps);
        self.plan.staged.append(&mut found.plan.staged);
        self.plan.added += found.plan.added;
        self.plan.changed += found.plan.changed;
        self.plan.removed += found.plan.removed;
        let room = NAMED - self.others.len();
        self.others.extend(found.others.into_iter().take(room));
        self.other_count += found.other_count;
    }
}

impl Survey<'_> {
    fn load(&self, tree: &DirTreeId) -> Result<DirTree, CheckoutError> {
        Ok(self.look.repo.load_dirtree(tree)?)
    }

    /// Compares `old`, which the directory was made of, with `new`.
    pub(super) fn update(
        &self,
        dir: &Dir,
        trees: (&DirTreeId, &DirTreeId),
        metadata: Option<Metadata>,
    ) -> Result<Found, CheckoutError> {
        let place = Place {
            dir,
            path: Path::new(""),
            depth: 0,
        };
        self.update_in(&place, trees, metadata)
    }

    /// `metadata` is what the directory gets where that changes, or where something in the directory does.
    fn update_in(
        &self,
        place: &Place<'_>,
        (old, new): (&DirTreeId, &DirTreeId),
        metadata: Option<Metadata>,
    ) -> Result<Found, CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        let mut step = Step {
            path: place.path.to_owned(),
            ..Step::default()
        };
        let mut found = Found::default();
        let mut below = Vec::new();
        let (old, new) = (self.load(old)?, self.load(new)?);
        for (before, after) in side_by_side(old.entries(), new.entries()) {
            self.cancel.check()?;
            match (before, after) {
                (Some(before), Some(after)) if before == after && !self.all => {}
                (Some(before), Some(after)) if is_dir(before) && is_dir(after) => {
                    below.push(Below::Changed(before, after));
                }
                (Some(before), Some(after)) => self.changed(place, &mut found, &mut step, before, after)?,
                (Some(before), None) => {
                    // It is to be gone, and where it is, nobody loses anything.
                    let name = OsStr::from_bytes(&before.name);
                    if place.dir.exists(name)? {
                        below.push(Below::Gone(before));
                    }
                }
                (None, Some(after)) => self.added(place, &mut found, &mut step, after)?,
                (None, None) => {}
            }
        }
        let looked: Vec<(Found, bool)> = below
            .par_iter()
            .map(|below| match below {
                Below::Changed(before, after) => Ok((self.both(place, before, after)?, false)),
                Below::Gone(before) => self.whole(place, before),
            })
            .collect::<Result<_, CheckoutError>>()?;
        for ((more, goes), below) in looked.into_iter().zip(&below) {
            found.join(more);
            if let (true, Below::Gone(entry)) = (goes, below) {
                found.plan.removed += 1;
                step.remove.push(OsStr::from_bytes(&entry.name).to_owned());
            }
        }
        let is_touched = !step.put.is_empty() || !step.remove.is_empty() || self.resuming;
        step.metadata = metadata.filter(|_| is_touched || place.depth == 0);
        if is_touched || step.metadata.is_some() {
            found.plan.steps.push(step);
        }
        Ok(found)
    }

    /// A directory that stays one.
    fn both(&self, place: &Place<'_>, before: &Entry, after: &Entry) -> Result<Found, CheckoutError> {
        let mut found = Found::default();
        let (Node::Dir { tree: old }, Node::Dir { tree: new }) = (&before.node, &after.node) else {
            return Ok(found);
        };
        let name = OsStr::from_bytes(&before.name);
        // What was interrupted may have left a directory with neither's metadata.
        let is_ours = match self.resuming {
            true => place
                .dir
                .stat_optional(name)?
                .is_some_and(|stat| stat.kind == FileKind::Dir),
            false => self.look.is(place.dir, before)?,
        };
        let path = place.below(before);
        if !is_ours {
            found.other(path);
            return Ok(found);
        }
        if old != new || self.all {
            let dir = place.dir.open_dir(name)?;
            let below = Place {
                dir: &dir,
                path: &path,
                depth: place.depth + 1,
            };
            found = self.update_in(&below, (old, new), Some(after.metadata.clone()))?;
        }
        if before.metadata != after.metadata {
            found.plan.changed += 1;
            // Nothing in it had to change, and its own metadata has to.
            if !found.plan.steps.iter().any(|step| step.path == path) {
                found.plan.steps.push(Step {
                    path,
                    metadata: Some(after.metadata.clone()),
                    ..Step::default()
                });
            }
        }
        Ok(found)
    }

    /// A name that leads to something else, one of the two not a directory.
    fn changed(
        &self,
        place: &Place<'_>,
        found: &mut Found,
        step: &mut Step,
        before: &Entry,
        after: &Entry,
    ) -> Result<(), CheckoutError> {
        let name = OsStr::from_bytes(&before.name);
        if before == after {
            if !self.look.is(place.dir, before)? {
                found.other(place.below(before));
            }
            return Ok(());
        }
        // What an interrupted update put here came by one rename: it is whole.
        if self.resuming && self.look.is(place.dir, after)? {
            return Ok(());
        }
        let absent = self.resuming && !place.dir.exists(name)?;
        if absent || self.is_whole(place, found, before)? {
            found.plan.changed += 1;
            let there = (!absent).then_some(is_dir(before));
            found.stage(step, after, there);
        }
        Ok(())
    }

    fn added(
        &self,
        place: &Place<'_>,
        found: &mut Found,
        step: &mut Step,
        after: &Entry,
    ) -> Result<(), CheckoutError> {
        let name = OsStr::from_bytes(&after.name);
        if place.dir.exists(name)? {
            if !(self.resuming && self.look.is(place.dir, after)?) {
                found.other(place.below(after));
            }
            return Ok(());
        }
        found.plan.added += 1;
        found.stage(step, after, None);
        Ok(())
    }

    fn is_whole(&self, place: &Place<'_>, found: &mut Found, entry: &Entry) -> Result<bool, CheckoutError> {
        let (more, is_whole) = self.whole(place, entry)?;
        found.join(more);
        Ok(is_whole)
    }

    /// Returns whether everything that is there of `entry` is as it was made, and nothing else is there; names what is not.
    fn whole(&self, place: &Place<'_>, entry: &Entry) -> Result<(Found, bool), CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        self.cancel.check()?;
        let mut found = Found::default();
        if !self.look.is(place.dir, entry)? {
            found.other(place.below(entry));
            return Ok((found, false));
        }
        let Node::Dir { tree } = &entry.node else {
            return Ok((found, true));
        };
        let (dir, path) = (
            place.dir.open_dir(OsStr::from_bytes(&entry.name))?,
            place.below(entry),
        );
        let below = Place {
            dir: &dir,
            path: &path,
            depth: place.depth + 1,
        };
        let tree = self.load(tree)?;
        let looked: Vec<(Found, bool)> = dir
            .entries()?
            .par_iter()
            .map(|there| match tree.get(there.name.as_bytes()) {
                Some(entry) => self.whole(&below, entry),
                None => {
                    let mut found = Found::default();
                    found.other(path.join(&there.name));
                    Ok((found, false))
                }
            })
            .collect::<Result<_, CheckoutError>>()?;
        let mut is_whole = true;
        for (more, whole) in looked {
            found.join(more);
            is_whole &= whole;
        }
        Ok((found, is_whole))
    }

    /// Lays the tree over what is in `dir`.
    pub(super) fn union(
        &self,
        dir: &Dir,
        tree: &DirTreeId,
        metadata: Option<Metadata>,
        union: Union,
    ) -> Result<Found, CheckoutError> {
        let place = Place {
            dir,
            path: Path::new(""),
            depth: 0,
        };
        let mut found = Found::default();
        self.union_in(&mut found, &place, tree, metadata, union)?;
        Ok(found)
    }

    fn union_in(
        &self,
        all: &mut Found,
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
                all.plan.added += 1;
                all.stage(&mut step, entry, None);
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
                    self.union_in(all, &below, tree, Some(entry.metadata.clone()), union)?;
                }
                _ if union == Union::Add => {}
                // Neither a directory with all that is in it nor a link that stands for one is given up for a name.
                (Node::Dir { .. }, _) | (_, FileKind::Dir) => all.other(place.below(entry)),
                _ if self.look.is(place.dir, entry)? => {}
                _ if union == Union::Identical => all.other(place.below(entry)),
                _ => {
                    all.plan.changed += 1;
                    all.stage(&mut step, entry, Some(false));
                }
            }
        }
        let is_touched = !step.put.is_empty() || step.metadata.is_some();
        if is_touched {
            all.plan.steps.push(step);
        }
        Ok(())
    }
}

fn is_dir(entry: &Entry) -> bool {
    matches!(entry.node, Node::Dir { .. })
}

/// The entries of two directories, which are sorted by their names, in pairs of one name.
fn side_by_side<'e>(
    old: &'e [Entry],
    new: &'e [Entry],
) -> impl Iterator<Item = (Option<&'e Entry>, Option<&'e Entry>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        Some((before, after))
    })
}
