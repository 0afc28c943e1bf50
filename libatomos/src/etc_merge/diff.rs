//! What was changed in `/etc`, against its defaults.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::fs::Dir;

use super::entry::{Change, EtcEntry};
use super::error::EtcMergeError;
use super::path::EtcPath;
use super::planner::LEFT_BEHIND;
use super::snapshot::{self, Skipped, Tree, open_beneath};

/// One path that is not as its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiffEntry {
    /// Where.
    pub path: EtcPath,
    /// What was changed.
    #[serde(flatten)]
    pub change: Change,
    /// The default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<EtcEntry>,
    /// What is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mine: Option<EtcEntry>,
}

impl DiffEntry {
    /// Returns the letter for it: `A`dded, `D`eleted, `M`odified, `T` for another kind.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self.change {
            Change::Added => 'A',
            Change::Deleted => 'D',
            Change::Retyped => 'T',
            Change::Same | Change::Changed { .. } => 'M',
        }
    }
}

/// All paths that are not as their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EtcDiff {
    /// The paths, sorted.
    pub entries: Vec<DiffEntry>,
    /// What could not be compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

/// Compares an `/etc` with the defaults it was made from, `usr/etc` of the same deployment. Times and what the merge
/// leaves behind are not compared.
pub fn diff(base: &Dir, mine: &Dir, cancel: &Cancel) -> Result<EtcDiff, EtcMergeError> {
    let old = snapshot::read(base, cancel)?;
    let mut new = snapshot::read(mine, cancel)?;
    new.tree.see_through(&new.skipped, &old.tree);
    let mut entries = Vec::new();
    compare(&EtcPath::root(), Some(&old.tree), Some(&new.tree), &mut entries);
    Ok(EtcDiff {
        entries,
        skipped: new.skipped,
    })
}

/// Returns the paths beneath the directory `path` of `mine` at which something was made or changed here, sorted: what is gone when the default
/// takes the directory's place. What could not be compared is among them, and what was deleted here is not, for it comes back. Nothing where
/// there is no directory.
pub(super) fn changed_beneath(
    path: &EtcPath,
    base: &Dir,
    mine: &Dir,
    cancel: &Cancel,
) -> Result<Vec<EtcPath>, EtcMergeError> {
    let Some(mine) = open_beneath(mine, path)? else {
        return Ok(Vec::new());
    };
    let old = match open_beneath(base, path)? {
        Some(base) => Some(snapshot::read(&base, cancel)?.tree),
        None => None,
    };
    let new = snapshot::read(&mine, cancel)?;
    let mut entries = Vec::new();
    compare(path, old.as_ref(), Some(&new.tree), &mut entries);
    let changed = entries
        .into_iter()
        .filter(|entry| entry.change != Change::Deleted);
    let skipped = new.skipped.into_iter().map(|skipped| {
        let names = skipped.path.names();
        names.fold(path.clone(), |path, name| path.join(name))
    });
    let paths: BTreeSet<_> = changed.map(|entry| entry.path).chain(skipped).collect();
    // Whoever names the directory means its own mode.
    Ok(paths.into_iter().filter(|found| found != path).collect())
}

fn compare(path: &EtcPath, old: Option<&Tree>, new: Option<&Tree>, entries: &mut Vec<DiffEntry>) {
    let (base, mine) = (old.map(|tree| &tree.entry), new.map(|tree| &tree.entry));
    let change = Change::between(base, mine);
    if !change.is_same() {
        entries.push(DiffEntry {
            path: path.clone(),
            change,
            base: base.cloned(),
            mine: mine.cloned(),
        });
    }
    let names: BTreeSet<_> = [old, new]
        .into_iter()
        .flatten()
        .flat_map(|tree| tree.children.keys())
        .collect();
    for name in names {
        if path.is_root() && LEFT_BEHIND.contains(&name.as_slice()) {
            continue;
        }
        compare(
            &path.join(name),
            old.and_then(|tree| tree.children.get(name)),
            new.and_then(|tree| tree.children.get(name)),
            entries,
        );
    }
}
