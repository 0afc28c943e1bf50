//! Making the plan. It reads the three trees and writes nothing.
//!
//! The rule knows one path at a time; a tree adds two things. A directory must be there for what is in it. And where
//! the two sides are of different kinds, or the directory was deleted here, there is one conflict at the topmost
//! path instead of one for each thing beneath it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::digest::{BlobId, Digest};
use crate::fs::{Dir, FileKind, FsError};
use crate::parallel::both;

use super::conflict::Conflict;
use super::entry::{Change, EtcEntry, EtcNode};
use super::error::EtcMergeError;
use super::keyed::{self, KeyedConflict, KeyedFile};
use super::path::EtcPath;
use super::plan::{Defaults, MergePlan, PlanEntry, Source};
use super::policy::Policy;
use super::regenerate::Regeneration;
use super::rule::{self, ConflictKind, Outcome, Verdict};
use super::snapshot::{self, Snapshot, Tree};
use super::{MergeInput, lines};

/// Names directly in `/etc` that stay behind: systemd's stamp, so that `ConditionNeedsUpdate=/etc` holds at the next
/// boot, and the account tools' lock, which they make when they need it.
pub(super) const LEFT_BEHIND: [&[u8]; 2] = [b".updated", super::keyed::LOCK_FILE.as_bytes()];

/// Bytes in a file that is merged line by line.
const MAX_LINES_FILE: usize = 1024 * 1024;

/// Plans the merge; touches nothing.
///
/// # Errors
/// A directory or file that cannot be read; conflicts at paths whose policy is `fail`.
pub fn plan(input: &MergeInput<'_>, cancel: &Cancel) -> Result<MergePlan, EtcMergeError> {
    let read_defaults = || -> Result<Defaults, EtcMergeError> {
        Ok(Defaults {
            base: snapshot::read_whole(input.base, cancel)?,
            theirs: snapshot::read_whole(input.theirs, cancel)?,
        })
    };
    let (defaults, mine) = both(read_defaults, || snapshot::read(input.mine, cancel));
    plan_of(input, Arc::new(defaults?), mine?, cancel)
}

/// Plans the merge again, for the `/etc` of now.
pub(super) fn plan_again(
    plan: &MergePlan,
    input: &MergeInput<'_>,
    cancel: &Cancel,
) -> Result<MergePlan, EtcMergeError> {
    let mine = snapshot::read(input.mine, cancel)?;
    plan_of(input, Arc::clone(&plan.defaults), mine, cancel)
}

fn plan_of(
    input: &MergeInput<'_>,
    defaults: Arc<Defaults>,
    mut mine: Snapshot,
    cancel: &Cancel,
) -> Result<MergePlan, EtcMergeError> {
    mine.tree.see_through(&mine.skipped, &defaults.base);
    let trees = Trees {
        base: Some(&defaults.base),
        mine: Some(&mine.tree),
        theirs: Some(&defaults.theirs),
    };
    let mut planner = Planner {
        input,
        cancel,
        entries: Vec::new(),
        unchanged: 0,
        refused: BTreeSet::new(),
        regenerate: BTreeSet::new(),
        keyed: keyed::merge_files(input)?,
    };
    let total = planner.node(&EtcPath::root(), trees)?;
    if !planner.refused.is_empty() {
        return Err(EtcMergeError::Refused {
            paths: planner.refused.into_iter().collect(),
        });
    }
    planner.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(MergePlan {
        unchanged: planner.unchanged,
        entries: planner.entries,
        total,
        regenerate: planner.regenerate.into_iter().collect(),
        skipped: mine.skipped,
        defaults,
    })
}

/// One path in the three trees.
#[derive(Clone, Copy)]
pub(super) struct Trees<'t> {
    pub base: Option<&'t Tree>,
    pub mine: Option<&'t Tree>,
    pub theirs: Option<&'t Tree>,
}

impl<'t> Trees<'t> {
    pub fn child(self, name: &[u8]) -> Self {
        let child = |tree: Option<&'t Tree>| tree?.children.get(name);
        Self {
            base: child(self.base),
            mine: child(self.mine),
            theirs: child(self.theirs),
        }
    }

    fn names(self) -> BTreeSet<&'t [u8]> {
        [self.base, self.mine, self.theirs]
            .into_iter()
            .flatten()
            .flat_map(|tree| tree.children.keys().map(Vec::as_slice))
            .collect()
    }

    pub fn base(self) -> Option<&'t EtcEntry> {
        self.base.map(|tree| &tree.entry)
    }

    pub fn mine(self) -> Option<&'t EtcEntry> {
        self.mine.map(|tree| &tree.entry)
    }

    pub fn theirs(self) -> Option<&'t EtcEntry> {
        self.theirs.map(|tree| &tree.entry)
    }
}

/// An outcome, with what the rule itself does not know.
struct Decision {
    outcome: Outcome,
    merged: Option<Source>,
    keys: Vec<KeyedConflict>,
}

impl From<Outcome> for Decision {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            merged: None,
            keys: Vec::new(),
        }
    }
}

struct Planner<'a> {
    input: &'a MergeInput<'a>,
    cancel: &'a Cancel,
    entries: Vec<PlanEntry>,
    unchanged: u64,
    refused: BTreeSet<EtcPath>,
    regenerate: BTreeSet<Regeneration>,
    keyed: BTreeMap<&'static str, KeyedFile>,
}

impl Planner<'_> {
    /// Plans a path with all beneath it; returns how many entries will be there.
    fn node(&mut self, path: &EtcPath, trees: Trees<'_>) -> Result<u64, EtcMergeError> {
        self.cancel.check()?;
        let policies = self.input.policies;
        let policy = policies.find(path);
        let mut decision = self.decide(path, policy, trees)?;
        if decision.outcome.conflicts.contains(&ConflictKind::Type) {
            return self.keep_whole(path, policy, trees, decision);
        }
        let (start, unchanged) = (self.entries.len(), self.unchanged);
        let mut beneath = 0;
        for name in trees.names() {
            if path.is_root() && LEFT_BEHIND.contains(&name) {
                self.leave_behind(path.join(name), trees.child(name));
            } else {
                beneath += self.node(&path.join(name), trees.child(name))?;
            }
        }
        let is_dir = |entry: Option<&EtcEntry>| entry.is_some_and(EtcEntry::is_dir);
        if !is_dir(decision.outcome.result.as_ref()) {
            if is_dir(trees.mine()) {
                if beneath > 0 && trees.theirs.is_some() {
                    // Unchanged itself, so theirs would stand; but something of a person's is in it.
                    self.entries.truncate(start);
                    self.unchanged = unchanged;
                    decision = Outcome {
                        verdict: Verdict::Mine,
                        result: trees.mine().cloned(),
                        conflicts: vec![ConflictKind::Type],
                    }
                    .into();
                    return self.keep_whole(path, policy, trees, decision);
                }
                if beneath > 0 {
                    // Not a default any more, but needed for what is in it.
                    decision = Outcome::clean(Verdict::Mine, trees.mine()).into();
                }
            } else if is_dir(trees.theirs()) {
                // Gone here, or something else; what the new default has in it has no place.
                let open = beneath > 0 || self.entries[start..].iter().any(|entry| entry.conflict.is_some());
                self.entries.truncate(start);
                self.unchanged = unchanged;
                beneath = 0;
                if open && decision.outcome.conflicts.is_empty() && policy != Some(&Policy::KeepMine) {
                    decision.outcome.conflicts.push(if trees.mine.is_some() {
                        ConflictKind::Type
                    } else {
                        ConflictKind::DeletedHere
                    });
                }
            }
        }
        let here = u64::from(decision.outcome.result.is_some());
        self.push(path, policy, trees, decision);
        Ok(here + beneath)
    }

    /// Plans one path by itself.
    fn decide(
        &mut self,
        path: &EtcPath,
        policy: Option<&Policy>,
        trees: Trees<'_>,
    ) -> Result<Decision, EtcMergeError> {
        let (base, mine, theirs) = (trees.base(), trees.mine(), trees.theirs());
        let default = || rule::merge(base, mine, theirs);
        Ok(match policy {
            Some(Policy::KeepMine) if base.is_some() || mine.is_some() => {
                if Change::between(mine, theirs).is_same() {
                    default().into()
                } else {
                    Outcome::clean(Verdict::Mine, mine).into()
                }
            }
            Some(Policy::TakeTheirs) if base.is_some() || theirs.is_some() => {
                left_behind_by_policy(default(), theirs).into()
            }
            Some(Policy::Regenerate { command }) => {
                if !Change::between(base, mine).is_same() {
                    self.regenerate.insert(Regeneration {
                        path: path.clone(),
                        command: command.clone(),
                    });
                }
                left_behind_by_policy(default(), theirs).into()
            }
            Some(Policy::MergeLines) => self.decide_lines(path, trees, default())?,
            None => match self.keyed_file(path) {
                Some(file) => Decision {
                    outcome: merged(base, mine, theirs, &file.bytes).unwrap_or_else(default),
                    merged: Some(Source::Keyed),
                    keys: file.conflicts,
                },
                None => default().into(),
            },
            _ => default().into(),
        })
    }

    fn keyed_file(&mut self, path: &EtcPath) -> Option<KeyedFile> {
        let name = std::str::from_utf8(path.as_bytes()).ok()?;
        self.keyed.remove(name)
    }

    fn decide_lines(
        &self,
        path: &EtcPath,
        trees: Trees<'_>,
        default: Outcome,
    ) -> Result<Decision, EtcMergeError> {
        let (base, mine, theirs) = (trees.base(), trees.mine(), trees.theirs());
        if !default.conflicts.contains(&ConflictKind::Content) {
            return Ok(default.into());
        }
        let Some(bytes) = merged_lines(self.input, path)? else {
            return Ok(default.into());
        };
        Ok(Decision {
            outcome: merged(base, mine, theirs, &bytes).unwrap_or(default),
            merged: Some(Source::Lines),
            keys: Vec::new(),
        })
    }

    /// Plans what is here to stay with all beneath it, as it is: the other side is of another kind.
    fn keep_whole(
        &mut self,
        path: &EtcPath,
        policy: Option<&Policy>,
        trees: Trees<'_>,
        decision: Decision,
    ) -> Result<u64, EtcMergeError> {
        self.cancel.check()?;
        let mut count = 1;
        self.push(path, policy, trees, decision);
        for name in trees.mine.iter().flat_map(|tree| tree.children.keys()) {
            let child = trees.child(name);
            let outcome = Outcome::clean(Verdict::Mine, child.mine());
            count += self.keep_whole(&path.join(name), None, child, outcome.into())?;
        }
        Ok(count)
    }

    fn leave_behind(&mut self, path: EtcPath, trees: Trees<'_>) {
        if trees.theirs.is_some() {
            self.entries.push(PlanEntry {
                path,
                mine: Change::between(trees.base(), trees.mine()),
                theirs: Change::between(trees.base(), trees.theirs()),
                verdict: Verdict::Policy,
                result: None,
                source: None,
                conflict: None,
            });
        }
    }

    fn push(&mut self, path: &EtcPath, policy: Option<&Policy>, trees: Trees<'_>, decision: Decision) {
        let Decision {
            outcome,
            merged,
            keys,
        } = decision;
        let (base, mine, theirs) = (trees.base(), trees.mine(), trees.theirs());
        let mut kinds = outcome.conflicts;
        if !keys.is_empty() {
            kinds.push(ConflictKind::Keyed);
        }
        if !kinds.is_empty() && policy == Some(&Policy::Fail) {
            self.refused.insert(path.clone());
        }
        let (my_change, their_change) = (Change::between(base, mine), Change::between(base, theirs));
        if my_change.is_same()
            && their_change.is_same()
            && kinds.is_empty()
            && outcome.result.as_ref() == theirs
        {
            self.unchanged += u64::from(outcome.result.is_some());
            return;
        }
        let source = outcome.result.as_ref().map(|result| {
            // What both have is read from the side that nobody is writing to.
            if theirs.is_some_and(|theirs| theirs.node == result.node) {
                Source::Theirs
            } else if mine.is_some_and(|mine| mine.node == result.node) {
                Source::Mine
            } else {
                merged.expect("a content that neither side has was merged")
            }
        });
        let conflict = (!kinds.is_empty()).then(|| Conflict {
            kinds,
            base: base.cloned(),
            mine: mine.cloned(),
            theirs: theirs.cloned(),
            result: outcome.result.clone(),
            keys,
        });
        self.entries.push(PlanEntry {
            path: path.clone(),
            mine: my_change,
            theirs: their_change,
            verdict: outcome.verdict,
            result: outcome.result,
            source,
            conflict,
        });
    }
}

fn left_behind_by_policy(default: Outcome, theirs: Option<&EtcEntry>) -> Outcome {
    if default.conflicts.is_empty() && Change::between(default.result.as_ref(), theirs).is_same() {
        default
    } else {
        Outcome::clean(Verdict::Policy, theirs)
    }
}

/// Merges the units of three files whose contents were merged into `bytes`; `None` unless both sides are files.
///
/// The content counts as mine: some of it is, so a mode from the new default must not open it further.
fn merged(
    base: Option<&EtcEntry>,
    mine: Option<&EtcEntry>,
    theirs: Option<&EtcEntry>,
    bytes: &[u8],
) -> Option<Outcome> {
    let node = EtcNode::File {
        size: bytes.len() as u64,
        blob: BlobId::new(Digest::of(bytes)),
    };
    let with = |entry: &EtcEntry, node: &EtcNode| EtcEntry {
        node: node.clone(),
        metadata: entry.metadata.clone(),
    };
    let (mine, theirs) = (mine?, theirs?);
    if mine.blob().is_none() || theirs.blob().is_none() {
        return None;
    }
    let base = base.filter(|base| base.blob().is_some());
    let unmerged = base.map_or(&node, |base| &base.node);
    let mut outcome = rule::merge(base, Some(&with(mine, &node)), Some(&with(theirs, unmerged)));
    outcome.verdict = Verdict::Merged;
    Some(outcome)
}

/// Returns both sides' lines of the file at `path`; `None` when they are no lines of text, too many, or not there.
pub(super) fn merged_lines(input: &MergeInput<'_>, path: &EtcPath) -> Result<Option<Vec<u8>>, FsError> {
    let base = read_text(input.base, path, MAX_LINES_FILE)?;
    let (Text::Bytes(mine), Text::Bytes(theirs)) = (
        read_text(input.mine, path, MAX_LINES_FILE)?,
        read_text(input.theirs, path, MAX_LINES_FILE)?,
    ) else {
        return Ok(None);
    };
    let base = match base {
        Text::Bytes(bytes) => bytes,
        Text::NoFile => Vec::new(),
        Text::TooLarge => return Ok(None),
    };
    let is_binary = |bytes: &Vec<u8>| bytes.contains(&0);
    if [&base, &mine, &theirs].into_iter().any(is_binary) {
        return Ok(None);
    }
    Ok(Some(lines::merge(&base, &mine, &theirs)))
}

/// What there is to merge by lines.
pub(super) enum Text {
    Bytes(Vec<u8>),
    TooLarge,
    NoFile,
}

/// Reads the regular file at `path`, if it is one.
pub(super) fn read_text(dir: &Dir, path: &EtcPath, limit: usize) -> Result<Text, FsError> {
    match dir.stat_optional(path.as_path())? {
        Some(stat) if stat.kind != FileKind::File => return Ok(Text::NoFile),
        Some(stat) if stat.size > limit as u64 => return Ok(Text::TooLarge),
        Some(_) => {}
        None => return Ok(Text::NoFile),
    }
    // It may be growing, or be gone by now.
    Ok(match dir.read_optional(path.as_path(), 2 * limit)? {
        Some(bytes) => Text::Bytes(bytes),
        None => Text::NoFile,
    })
}
