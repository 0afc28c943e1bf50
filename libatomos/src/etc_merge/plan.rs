//! What the merge will do at every path, as plain data that can be shown.

use std::sync::Arc;

use serde::Serialize;

use super::conflict::{Conflict, ConflictRecord};
use super::entry::{Change, EtcEntry};
use super::path::EtcPath;
use super::regenerate::Regeneration;
use super::rule::Verdict;
use super::snapshot::{Skipped, Tree};

/// Where a file's bytes, or a link's target, come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Source {
    /// What is here.
    Mine,
    /// The new default.
    Theirs,
    /// Both sides, line by line.
    Lines,
    /// Both sides, account by account.
    Keyed,
}

/// What the merge does at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlanEntry {
    /// Where.
    pub path: EtcPath,
    /// What was done here since the last deployment.
    pub mine: Change,
    /// What the new version does to the default.
    pub theirs: Change,
    /// Which side the outcome comes from.
    pub verdict: Verdict,
    /// What will be there; `None` for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<EtcEntry>,
    /// Where its content comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// In what the sides exclude each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
}

/// How many paths have which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Changed on neither side.
    pub unchanged: u64,
    /// The new default stands, and differs from the old.
    pub default: u64,
    /// What is here stands.
    pub mine: u64,
    /// Both sides made the same change.
    pub agreed: u64,
    /// Some from here, some from the new default.
    pub mixed: u64,
    /// Merged line by line, or account by account.
    pub merged: u64,
    /// What is here is left behind because a policy says so.
    pub policy: u64,
    /// Of all these, how many are in conflict.
    pub conflicts: u64,
}

/// What both versions have as defaults. Nobody writes to either.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Defaults {
    pub base: Tree,
    pub theirs: Tree,
}

/// What a merge will do. Entries are there for the paths where a side changed something; everywhere else the result
/// is the new default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergePlan {
    pub(super) entries: Vec<PlanEntry>,
    /// Entries in the merged tree.
    pub(super) total: u64,
    pub(super) unchanged: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) regenerate: Vec<Regeneration>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) skipped: Vec<Skipped>,
    /// What it was made from besides `/etc`, for whoever makes it again.
    #[serde(skip)]
    pub(super) defaults: Arc<Defaults>,
}

impl MergePlan {
    /// Returns the paths where a side changed something, sorted.
    #[must_use]
    pub fn entries(&self) -> &[PlanEntry] {
        &self.entries
    }

    /// Returns the conflicts, sorted by path.
    pub fn conflicts(&self) -> impl Iterator<Item = ConflictRecord> {
        self.entries.iter().filter_map(|entry| {
            Some(ConflictRecord {
                path: entry.path.clone(),
                conflict: entry.conflict.clone()?,
            })
        })
    }

    /// Returns how many paths have which verdict.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            unchanged: self.unchanged,
            ..Counts::default()
        };
        for entry in &self.entries {
            *match entry.verdict {
                Verdict::Unchanged => &mut counts.unchanged,
                Verdict::Default => &mut counts.default,
                Verdict::Mine => &mut counts.mine,
                Verdict::Agreed => &mut counts.agreed,
                Verdict::Mixed => &mut counts.mixed,
                Verdict::Merged => &mut counts.merged,
                Verdict::Policy => &mut counts.policy,
            } += 1;
            counts.conflicts += u64::from(entry.conflict.is_some());
        }
        counts
    }

    /// Returns the commands to run in the new root after the merge.
    #[must_use]
    pub fn regenerate(&self) -> &[Regeneration] {
        &self.regenerate
    }

    /// Returns what takes no part in the merge.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Returns how many entries the merged tree has.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}
