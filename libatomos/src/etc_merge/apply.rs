//! Executing a plan into the new deployment's `etc`.
//!
//! The new directory is built in one pass over the new default: what the plan does not name is copied from there,
//! what it names comes from where it says. Nothing is ever written to one of the inputs.
//!
//! The local `/etc` may be in use meanwhile. When everything is written the merge is planned again; where the new
//! plan differs from the executed one, or a file was not what the plan had said when it was copied, that path is
//! built again. So a file that had vanished for a moment, because an editor replaces it by renaming, counts as
//! deleted only if it is still missing at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, Digest};
use crate::fs::{Dir, FileKind, FsError, hash_file, read_xattrs, remove_tree_contents};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::MergeInput;
use super::conflict::Conflicts;
use super::entry::EtcEntry;
use super::error::EtcMergeError;
use super::keyed::{self, Renumbered};
use super::path::EtcPath;
use super::plan::{Counts, MergePlan, PlanEntry, Source};
use super::planner;
use super::regenerate::Regeneration;
use super::snapshot::{Skipped, is_other_kind, open_beneath};
use super::write::{self, Content};

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MergeReport {
    /// How many paths have which verdict.
    pub counts: Counts,
    /// What is left to resolve; to be kept beside the deployment.
    pub conflicts: Conflicts,
    /// Commands to be run in the new root. Until then the new default's files stand in these places.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regenerate: Vec<Regeneration>,
    /// What took no part in the merge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// Users and groups that have another id now: what they own in `/var` is somebody else's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renumbered: Vec<Renumbered>,
    /// What was still being changed at the last look. The new `/etc` has it as it was found then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<EtcPath>,
}

/// Looks at the local `/etc` after the first pass. One is enough for an editor; whatever changes for longer than
/// three passes changes all the time.
const LOOKS: u32 = 3;

/// Writes the merged tree into `target`, the new `etc`. What an interrupted run left there is removed first, so
/// running it again gives the same. Not durable on return: the caller syncs the file system.
///
/// # Errors
/// A file that cannot be read or written, or a target that is one of the inputs. The target is then unfinished, and
/// the inputs are as they were.
pub fn apply(
    plan: &MergePlan,
    input: &MergeInput<'_>,
    target: &Dir,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<MergeReport, EtcMergeError> {
    let same = |a: &Dir, b: &Dir| -> Result<bool, FsError> {
        let (a, b) = (a.stat_self()?, b.stat_self()?);
        Ok((a.dev, a.ino) == (b.dev, b.ino))
    };
    for dir in [input.base, input.mine, input.theirs] {
        if same(dir, target)? {
            return Err(EtcMergeError::TargetIsInput {
                path: target.path().to_owned(),
            });
        }
    }
    let phase = PhaseGuard::begin(progress, Phase::MergeEtc, Some(plan.total), Unit::Items);
    remove_tree_contents(target)?;
    let first = Pass::new(plan, input, target, cancel, Some(&phase));
    let mut doubtful = first.run()?;
    let mut newer = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let next = planner::plan_again(plan, input, cancel)?;
        let changed = differences(newer.as_ref().unwrap_or(plan), &next, doubtful);
        if changed.is_empty() || looks > LOOKS {
            let plan = newer.as_ref().unwrap_or(plan);
            // A merge that is done does not fail for what is only told.
            let renumbered = keyed::renumbered(input.mine, target).unwrap_or_default();
            return Ok(report(plan, renumbered, changed));
        }
        doubtful = Pass::new(&next, input, target, cancel, None).rebuild(&changed)?;
        newer = Some(next);
    }
}

fn report(plan: &MergePlan, renumbered: Vec<Renumbered>, unsettled: Vec<EtcPath>) -> MergeReport {
    MergeReport {
        counts: plan.counts(),
        conflicts: plan.conflicts().collect(),
        regenerate: plan.regenerate.clone(),
        skipped: plan.skipped.clone(),
        renumbered,
        unsettled,
    }
}

/// Returns the topmost paths that the two plans treat differently, or that `doubtful` names.
fn differences(executed: &MergePlan, now: &MergePlan, doubtful: BTreeSet<EtcPath>) -> Vec<EtcPath> {
    fn by_path(plan: &MergePlan) -> BTreeMap<&EtcPath, &PlanEntry> {
        plan.entries.iter().map(|entry| (&entry.path, entry)).collect()
    }
    let (old, new) = (by_path(executed), by_path(now));
    let mut changed = doubtful;
    let paths = old.keys().chain(new.keys());
    changed.extend(
        paths
            .filter(|path| old.get(*path) != new.get(*path))
            .map(|path| (*path).clone()),
    );
    let mut topmost: Vec<EtcPath> = Vec::new();
    for path in changed {
        // Sorted, a directory comes before what is in it.
        if !topmost.last().is_some_and(|last| last.contains(&path)) {
            topmost.push(path);
        }
    }
    topmost
}

/// The plan's entries as a tree.
#[derive(Default)]
struct Node<'p> {
    entry: Option<&'p PlanEntry>,
    children: BTreeMap<&'p [u8], Node<'p>>,
}

impl<'p> Node<'p> {
    fn tree(plan: &'p MergePlan) -> Self {
        let mut root = Self::default();
        for entry in &plan.entries {
            let mut node = &mut root;
            for name in entry.path.names() {
                node = node.children.entry(name).or_default();
            }
            node.entry = Some(entry);
        }
        root
    }
}

/// A directory in the sides that have one at the path, and in the target.
struct Place<'a> {
    path: EtcPath,
    mine: Option<Dir>,
    theirs: Option<Dir>,
    target: Dir,
    node: Option<&'a Node<'a>>,
}

struct Pass<'a> {
    root: Node<'a>,
    input: &'a MergeInput<'a>,
    target: &'a Dir,
    cancel: &'a Cancel,
    phase: Option<&'a PhaseGuard<'a>>,
}

impl<'a> Pass<'a> {
    fn new(
        plan: &'a MergePlan,
        input: &'a MergeInput<'a>,
        target: &'a Dir,
        cancel: &'a Cancel,
        phase: Option<&'a PhaseGuard<'a>>,
    ) -> Self {
        Self {
            root: Node::tree(plan),
            input,
            target,
            cancel,
            phase,
        }
    }

    /// Writes the whole tree; returns the paths that were not as planned.
    fn run(&self) -> Result<BTreeSet<EtcPath>, EtcMergeError> {
        let mut doubtful = BTreeSet::new();
        let place = self.place(&EtcPath::root())?;
        if let Some(place) = place {
            self.fill(&place, &mut doubtful)?;
        }
        Ok(doubtful)
    }

    /// Writes what is at `paths` anew.
    fn rebuild(&self, paths: &[EtcPath]) -> Result<BTreeSet<EtcPath>, EtcMergeError> {
        let mut doubtful = BTreeSet::new();
        for path in paths {
            let Some((parent, name)) = path.split_last() else {
                remove_tree_contents(self.target)?;
                return self.run();
            };
            if let Some(place) = self.place(&parent)? {
                // It has its own mode already, which may keep its owner from writing to it.
                rustix::fs::fchmod(&place.target, rustix::fs::Mode::RWXU)
                    .map_err(|errno| FsError::new("open for writing", place.target.path(), errno))?;
                place.target.remove_tree(OsStr::from_bytes(name))?;
                self.make(&place, name, &mut doubtful)?;
                self.finish(&place)?;
            }
        }
        Ok(doubtful)
    }

    /// Opens the directory at `path` on every side that has it; `None` when the target has none.
    fn place(&self, path: &EtcPath) -> Result<Option<Place<'_>>, EtcMergeError> {
        let Some(target) = open_beneath(self.target, path)? else {
            return Ok(None);
        };
        Ok(Some(Place {
            mine: open_beneath(self.input.mine, path)?,
            theirs: open_beneath(self.input.theirs, path)?,
            target,
            node: path
                .names()
                .try_fold(&self.root, |node, name| node.children.get(name)),
            path: path.clone(),
        }))
    }

    /// Makes everything in a directory, then sets the directory's own metadata.
    fn fill(&self, place: &Place<'_>, doubtful: &mut BTreeSet<EtcPath>) -> Result<(), EtcMergeError> {
        let mut names: BTreeSet<Vec<u8>> = match &place.theirs {
            Some(theirs) => theirs
                .entries()?
                .into_iter()
                .map(|entry| entry.name.as_bytes().to_vec())
                .collect(),
            None => BTreeSet::new(),
        };
        if let Some(node) = place.node {
            names.extend(node.children.keys().map(|name| name.to_vec()));
        }
        for name in names {
            self.make(place, &name, doubtful)?;
        }
        self.finish(place)
    }

    fn finish(&self, place: &Place<'_>) -> Result<(), EtcMergeError> {
        let planned = place
            .node
            .and_then(|node| node.entry)
            .and_then(|entry| entry.result.as_ref());
        let (target, path) = (&place.target, place.target.path());
        match (planned, &place.theirs) {
            (Some(entry), _) => write::set_metadata(target, &entry.metadata, path)?,
            (None, Some(theirs)) => {
                let entry = super::snapshot::dir_entry(theirs, &theirs.stat_self()?)?;
                write::set_metadata(target, &entry.metadata, path)?;
            }
            (None, None) => {}
        }
        self.advance();
        Ok(())
    }

    fn advance(&self) {
        if let Some(phase) = self.phase {
            phase.advance(1);
        }
    }

    /// Makes `name` in a directory, as the plan says, or else as the new default has it.
    fn make(
        &self,
        place: &Place<'_>,
        name: &[u8],
        doubtful: &mut BTreeSet<EtcPath>,
    ) -> Result<(), EtcMergeError> {
        self.cancel.check()?;
        if place.path.is_root() && planner::LEFT_BEHIND.contains(&name) {
            return Ok(());
        }
        let node = place.node.and_then(|node| node.children.get(name));
        let path = place.path.join(name);
        let os_name = OsStr::from_bytes(name);
        let planned = match node.and_then(|node| node.entry) {
            Some(entry) => match (&entry.result, entry.source) {
                (Some(result), Some(source)) => Some((result, source)),
                _ => return Ok(()),
            },
            None => None,
        };
        let is_dir = match (planned, &place.theirs) {
            (Some((result, _)), _) => result.is_dir(),
            (None, Some(theirs)) => match theirs.stat_optional(os_name)? {
                Some(stat) => stat.kind == FileKind::Dir,
                None => return Ok(()),
            },
            // Named only because something beneath it was planned, and its parent is not a default.
            (None, None) => return Ok(()),
        };
        if is_dir {
            place.target.create_dir(os_name, 0o700)?;
            let open = |dir: &Option<Dir>| match dir {
                Some(dir) => dir_optional(dir, os_name),
                None => Ok(None),
            };
            let child = Place {
                mine: open(&place.mine)?,
                theirs: open(&place.theirs)?,
                target: place.target.open_dir(os_name)?,
                node,
                path,
            };
            return self.fill(&child, doubtful);
        }
        let made = match planned {
            Some((result, source)) => self.make_planned(place, &path, os_name, result, source)?,
            None => {
                if let Some(theirs) = &place.theirs {
                    self.copy_default(theirs, os_name, &place.target)?;
                }
                true
            }
        };
        if !made {
            doubtful.insert(path);
        }
        self.advance();
        Ok(())
    }

    /// Copies what the plan does not name, which is as the new default has it.
    fn copy_default(&self, theirs: &Dir, name: &OsStr, target: &Dir) -> Result<(), EtcMergeError> {
        let stat = theirs.stat(name)?;
        if stat.kind != FileKind::File {
            return Ok(crate::fs::copy_tree(theirs, name, target, name)?);
        }
        let from = theirs.open_file(name)?;
        let metadata = super::snapshot::metadata(&stat, read_xattrs(&from, &theirs.path().join(name))?);
        write::make_file(target, name, &Content::File(&from), &metadata)?;
        Ok(())
    }

    /// Makes one file, link or device; returns whether its content was what the plan says.
    fn make_planned(
        &self,
        place: &Place<'_>,
        path: &EtcPath,
        name: &OsStr,
        result: &EtcEntry,
        source: Source,
    ) -> Result<bool, EtcMergeError> {
        let Some(wanted) = result.blob() else {
            write::make_special(&place.target, name, result)?;
            return Ok(true);
        };
        let from = match source {
            Source::Mine => &place.mine,
            Source::Theirs => &place.theirs,
            Source::Lines => {
                let bytes = planner::merged_lines(self.input, path)?;
                return make_merged(&place.target, name, bytes, wanted, result);
            }
            Source::Keyed => {
                let bytes = keyed::merged_file(self.input, path)?;
                return make_merged(&place.target, name, bytes, wanted, result);
            }
        };
        let Some(dir) = from else {
            return Ok(false);
        };
        let file = match dir.open_file(name) {
            Ok(file) => file,
            Err(error) if error.is_not_found() || is_other_kind(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut made = write::make_file(&place.target, name, &Content::File(&file), &result.metadata)?;
        if source == Source::Theirs {
            return Ok(true);
        }
        let read = |error| FsError::new("read", place.target.path().join(name), error);
        made.seek(SeekFrom::Start(0)).map_err(read)?;
        let (found, _) = hash_file(&made).map_err(read)?;
        Ok(found == wanted)
    }
}

fn make_merged(
    target: &Dir,
    name: &OsStr,
    bytes: Option<Vec<u8>>,
    wanted: BlobId,
    result: &EtcEntry,
) -> Result<bool, EtcMergeError> {
    let Some(bytes) = bytes else {
        return Ok(false);
    };
    write::make_file(target, name, &Content::Bytes(&bytes), &result.metadata)?;
    Ok(BlobId::new(Digest::of(&bytes)) == wanted)
}

/// Opens a directory; anything else, or nothing, is `None`.
fn dir_optional(dir: &Dir, name: &OsStr) -> Result<Option<Dir>, FsError> {
    match dir.open_dir(name) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.is_not_found() || is_other_kind(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
