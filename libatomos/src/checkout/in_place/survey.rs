//! What has to be done, found out before anything is: where the trees differ, whether the directory is what it should be
//! there, and whether the store has what is to come. Whoever changed something that would be overwritten or removed keeps it, and
//! is told. Names are looked at in parallel, on the pool of the caller.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::checkout::CheckoutError;
use crate::checkout::link::Ladder;
use crate::digest::DirTreeId;
use crate::format::{DirTree, Entry, Metadata, Node};
use crate::fs::{Dir, FileKind, Stat};
use crate::repo::{Likely, check_depth};

use super::Union;
use super::plan::{Gone, Others, Own, Plan, Put, Step, There, differ_in_time, is_dir};
use super::state::Look;

/// Files that a thread looks at before another takes some of them.
const TOGETHER: usize = 16;

/// Looks at a directory.
pub(super) struct Survey<'a> {
    pub(super) look: Look<'a>,
    pub(super) ladder: &'a Ladder<'a>,
    pub(super) cancel: &'a Cancel,
    /// Part of the work may have been done by one that was interrupted.
    pub(super) resuming: bool,
    /// Look at everything, not only at what has to change.
    pub(super) all: bool,
    pub(super) others: Others,
}

/// A name in the two trees, in one of which it may not be.
type Pair<'e> = (Option<&'e Entry>, Option<&'e Entry>);

/// What has to be done with one name.
enum Part {
    Nothing,
    /// Something in the directory of that name.
    Below(Plan),
    Added(Put),
    Changed(Put),
    Retimed(OsString, i64),
    Removed(Gone),
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
    fn load(&self, tree: &DirTreeId) -> Result<DirTree, CheckoutError> {
        Ok(self.look.repo.load_dirtree(tree)?)
    }

    /// Compares `old`, which the directory was made of, with `new`. `metadata` is what the directory itself gets.
    pub(super) fn update(
        &self,
        dir: &Dir,
        trees: (&DirTreeId, &DirTreeId),
        metadata: Option<Metadata>,
    ) -> Result<Plan, CheckoutError> {
        let place = Place {
            dir,
            path: Path::new(""),
            depth: 0,
        };
        self.update_in(&place, trees, metadata.map(Own::anew), true)
    }

    /// `own` is what the directory itself gets where something in it changes, or where that `must` be.
    fn update_in(
        &self,
        place: &Place<'_>,
        (old, new): (&DirTreeId, &DirTreeId),
        own: Option<Own>,
        must: bool,
    ) -> Result<Plan, CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        let (old, new) = (self.load(old)?, self.load(new)?);
        let differing = side_by_side(old.entries(), new.entries()).filter(|(a, b)| self.all || a != b);
        // A directory is as much work as all files of another one.
        let (dirs, files): (Vec<Pair<'_>>, Vec<Pair<'_>>) =
            differing.partition(|(before, after)| before.is_some_and(is_dir) || after.is_some_and(is_dir));
        let look = |pair: &Pair<'_>| self.name(place, *pair);
        let dirs: Vec<Part> = dirs.par_iter().map(look).collect::<Result<_, _>>()?;
        let files: Vec<Part> = files
            .par_iter()
            .with_min_len(TOGETHER)
            .map(look)
            .collect::<Result<_, _>>()?;
        let mut step = Step {
            path: place.path.to_owned(),
            ..Step::default()
        };
        let mut plan = Plan::default();
        for part in dirs.into_iter().chain(files) {
            match part {
                Part::Nothing => {}
                Part::Below(below) => plan.join(below),
                Part::Added(put) => {
                    plan.added += 1;
                    step.put.push(put);
                }
                Part::Changed(put) => {
                    plan.changed += 1;
                    step.put.push(put);
                }
                Part::Retimed(name, time) => {
                    plan.changed += 1;
                    step.retime.push((name, time));
                }
                Part::Removed(gone) => {
                    plan.removed += 1;
                    step.remove.push(gone);
                }
            }
        }
        // A name's own time is not the directory's business.
        let is_touched = !step.put.is_empty() || !step.remove.is_empty() || self.resuming;
        step.own = own.filter(|_| is_touched || must);
        if is_touched || step.own.is_some() || !step.retime.is_empty() {
            plan.steps.push(step);
        }
        Ok(plan)
    }

    fn name(&self, place: &Place<'_>, pair: Pair<'_>) -> Result<Part, CheckoutError> {
        self.cancel.check()?;
        match pair {
            (Some(before), Some(after)) if is_dir(before) && is_dir(after) => self.both(place, before, after),
            (Some(before), Some(after)) => self.changed(place, before, after),
            (Some(before), None) => self.gone(place, before),
            (None, Some(after)) => self.added(place, after),
            (None, None) => Ok(Part::Nothing),
        }
    }

    /// A directory that stays one.
    fn both(&self, place: &Place<'_>, before: &Entry, after: &Entry) -> Result<Part, CheckoutError> {
        let (Node::Dir { tree: old }, Node::Dir { tree: new }) = (&before.node, &after.node) else {
            return Ok(Part::Nothing);
        };
        let name = OsStr::from_bytes(&before.name);
        // What was interrupted may have left a directory with neither's metadata.
        let (is_ours, own) = match self.resuming {
            true => {
                let stat = place.dir.stat_optional(name)?;
                let is_ours = stat.is_some_and(|stat| stat.kind == FileKind::Dir);
                (is_ours, Own::anew(after.metadata.clone()))
            }
            false => {
                let own = Own::changed(&before.metadata, &after.metadata);
                (self.look.is(place.dir, before)?, own)
            }
        };
        let path = place.below(before);
        if !is_ours {
            self.others.add(path);
            return Ok(Part::Nothing);
        }
        let is_changed = before.metadata != after.metadata;
        let mut plan = if old != new || self.all {
            let dir = place.dir.open_dir(name)?;
            let below = Place {
                dir: &dir,
                path: &path,
                depth: place.depth + 1,
            };
            self.update_in(&below, (old, new), Some(own), is_changed)?
        } else {
            let step = Step {
                path,
                own: is_changed.then_some(own),
                ..Step::default()
            };
            Plan {
                steps: vec![step],
                ..Plan::default()
            }
        };
        plan.changed += u64::from(is_changed);
        Ok(Part::Below(plan))
    }

    /// A name that leads to something else, one of the two not a directory.
    fn changed(&self, place: &Place<'_>, before: &Entry, after: &Entry) -> Result<Part, CheckoutError> {
        if before == after {
            if !self.look.is(place.dir, before)? {
                self.others.add(place.below(before));
            }
            return Ok(Part::Nothing);
        }
        // What an interrupted update put here came by one step: it is whole.
        if self.resuming && self.look.is(place.dir, after)? {
            return Ok(Part::Nothing);
        }
        let name = OsStr::from_bytes(&before.name);
        let Some(stat) = place.dir.stat_optional(name)? else {
            if self.resuming || self.look.is_left_out(before) {
                return Ok(Part::Changed(self.put(
                    place,
                    after,
                    There::Nothing,
                    Likely::Blob,
                )?));
            }
            self.others.add(place.below(before));
            return Ok(Part::Nothing);
        };
        let Some(gone) = self.whole(place, before, &stat)? else {
            return Ok(Part::Nothing);
        };
        let likely = match (&before.node, &after.node) {
            (Node::File { blob: before, .. }, Node::File { blob: after, .. }) if before == after => {
                Likely::Variant
            }
            _ => Likely::Blob,
        };
        let put = self.put(place, after, There::under(after, gone), likely)?;
        if likely == Likely::Variant && put.is_there(&stat) {
            return Ok(Part::Nothing);
        }
        // What has an inode of its own that can keep it, as links have, is not made anew for a time.
        let stays = before.node == after.node && differ_in_time(&before.metadata, &after.metadata);
        if stays && stat.nlink == 1 && put.inode.is_none() && self.ladder.may_keep(&after.node) {
            return Ok(Part::Retimed(name.to_owned(), after.metadata.mtime));
        }
        Ok(Part::Changed(put))
    }

    fn added(&self, place: &Place<'_>, after: &Entry) -> Result<Part, CheckoutError> {
        if !place.dir.exists(OsStr::from_bytes(&after.name))? {
            return Ok(Part::Added(self.put(
                place,
                after,
                There::Nothing,
                Likely::Blob,
            )?));
        }
        if !(self.resuming && self.look.is(place.dir, after)?) {
            self.others.add(place.below(after));
        }
        Ok(Part::Nothing)
    }

    /// Where it is gone already, nobody loses anything.
    fn gone(&self, place: &Place<'_>, before: &Entry) -> Result<Part, CheckoutError> {
        let Some(stat) = place.dir.stat_optional(OsStr::from_bytes(&before.name))? else {
            return Ok(Part::Nothing);
        };
        let gone = self.whole(place, before, &stat)?;
        Ok(gone.map_or(Part::Nothing, Part::Removed))
    }

    /// Has `entry` take the place of what is `there`.
    fn put(
        &self,
        place: &Place<'_>,
        entry: &Entry,
        there: There,
        likely: Likely,
    ) -> Result<Put, CheckoutError> {
        let inode = match &entry.node {
            Node::File { blob, size, .. } => {
                let name = Path::new(OsStr::from_bytes(&entry.name));
                self.ladder
                    .inode(place.dir, name, (blob, *size), &entry.metadata, likely)?
            }
            _ => None,
        };
        Ok(Put {
            entry: entry.clone(),
            inode,
            built: None,
            there,
        })
    }

    /// Returns what goes with `entry`, which has `stat`, if everything that is there of it is as it was made, and nothing else is
    /// there; names what is not.
    fn whole(&self, place: &Place<'_>, entry: &Entry, stat: &Stat) -> Result<Option<Gone>, CheckoutError> {
        if !self.look.may_go(place.dir, entry, stat)? {
            self.others.add(place.below(entry));
            return Ok(None);
        }
        let name = OsStr::from_bytes(&entry.name).to_owned();
        let Node::Dir { tree } = &entry.node else {
            return Ok(Some(Gone { name, below: None }));
        };
        check_depth(place.depth, &place.path.to_string_lossy())?;
        let (mut dir, path) = (place.dir.open_dir(&name)?, place.below(entry));
        let there = dir.entries_once()?;
        let below = Place {
            dir: &dir,
            path: &path,
            depth: place.depth + 1,
        };
        let tree = self.load(tree)?;
        let looked: Vec<(Option<Gone>, bool)> = there
            .par_iter()
            .map(|there| {
                self.cancel.check()?;
                let Some(entry) = tree.get(there.name.as_bytes()) else {
                    self.others.add(path.join(&there.name));
                    return Ok((None, false));
                };
                let Some(stat) = dir.stat_optional(&there.name)? else {
                    return Ok((None, true));
                };
                let gone = self.whole(&below, entry, &stat)?;
                let is_whole = gone.is_some();
                Ok((gone, is_whole))
            })
            .collect::<Result<_, CheckoutError>>()?;
        let is_whole = looked.iter().all(|(_, is_whole)| *is_whole);
        let below = Some(looked.into_iter().filter_map(|(gone, _)| gone).collect());
        Ok(is_whole.then_some(Gone { name, below }))
    }

    /// Lays the tree over what is in `dir`.
    pub(super) fn union(
        &self,
        dir: &Dir,
        tree: &DirTreeId,
        metadata: Option<Metadata>,
        union: Union,
    ) -> Result<Plan, CheckoutError> {
        let place = Place {
            dir,
            path: Path::new(""),
            depth: 0,
        };
        let mut plan = Plan::default();
        self.union_in(&mut plan, &place, tree, metadata, union)?;
        Ok(plan)
    }

    fn union_in(
        &self,
        plan: &mut Plan,
        place: &Place<'_>,
        tree: &DirTreeId,
        metadata: Option<Metadata>,
        union: Union,
    ) -> Result<(), CheckoutError> {
        check_depth(place.depth, &place.path.to_string_lossy())?;
        let mut step = Step {
            path: place.path.to_owned(),
            own: metadata.filter(|_| union == Union::Replace).map(Own::anew),
            ..Step::default()
        };
        for entry in self.load(tree)?.entries() {
            self.cancel.check()?;
            let name = OsStr::from_bytes(&entry.name);
            let Some(found) = place.dir.stat_optional(name)? else {
                plan.added += 1;
                step.put
                    .push(self.put(place, entry, There::Nothing, Likely::Blob)?);
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
                    self.union_in(plan, &below, tree, Some(entry.metadata.clone()), union)?;
                }
                _ if union == Union::Add => {}
                // Neither a directory with all that is in it nor a link that stands for one is given up for a name.
                (Node::Dir { .. }, _) | (_, FileKind::Dir) => self.others.add(place.below(entry)),
                _ if self.look.has(place.dir, entry, &found)? => {}
                _ if union == Union::Identical => self.others.add(place.below(entry)),
                _ => {
                    let put = self.put(place, entry, There::File, Likely::Blob)?;
                    if !put.is_there(&found) {
                        plan.changed += 1;
                        step.put.push(put);
                    }
                }
            }
        }
        let is_touched = !step.put.is_empty() || step.own.is_some();
        if is_touched {
            plan.steps.push(step);
        }
        Ok(())
    }
}

/// The entries of two directories, which are sorted by their names, in pairs of one name.
fn side_by_side<'e>(old: &'e [Entry], new: &'e [Entry]) -> impl Iterator<Item = Pair<'e>> {
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
