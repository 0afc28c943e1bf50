//! The three-way merge of `/etc`.
//!
//! A tree keeps its defaults in `/usr/etc`; `/etc` belongs to the machine. When a machine moves to a new version, its
//! `/etc` is made of three directories: *base*, the defaults it had; *mine*, its `/etc`; *theirs*, the new defaults.
//! What was not changed here follows the defaults; what was changed here stays.
//!
//! - [`rule`] is the pure function for one path; `docs/etc-merge.md` holds it as a table that a test runs;
//! - [`plan`] reads the three trees and says what will happen at every path, touching nothing;
//! - [`apply`] writes the result into an empty directory, which nobody sees until its deployment is complete;
//! - [`Conflicts`] is what is left for a person to [`resolve`]; it is kept beside the deployment.
//!
//! The invariant: a conflict never stops a deployment and never loses a person's work. What is here stays in place,
//! and nothing is written beside it, since many programs read every file in their directories.
//!
//! Account files are merged record by record (`keyed`); particular paths may have a [`Policy`].

mod acl;
mod apply;
mod conflict;
mod diff;
mod entry;
mod error;
mod glob;
mod keyed;
mod lines;
mod path;
mod plan;
mod planner;
mod policy;
mod regenerate;
mod resolve;
pub mod rule;
mod snapshot;
mod write;

use crate::fs::Dir;

pub use apply::{MergeReport, apply};
pub use conflict::{Conflict, ConflictRecord, Conflicts};
pub use diff::{DiffEntry, EtcDiff, diff};
pub use entry::{Aspect, Change, EtcEntry, EtcNode};
pub use error::EtcMergeError;
pub use keyed::{AccountFile, AccountsLock, KeyedConflict, Renumbered};
pub use path::{EtcPath, InvalidEtcPath};
pub use plan::{Counts, MergePlan, PlanEntry, Source};
pub use planner::plan;
pub use policy::{Policies, Policy};
pub use regenerate::{CommandRunner, Regeneration, regenerate};
pub use resolve::{Resolution, lost_by_reset, reset, reset_all, resolve};
pub use rule::{ConflictKind, Verdict};
pub use snapshot::{SkipReason, Skipped};

/// The three directories of a merge, and what to do other than by the rule.
#[derive(Debug, Clone, Copy)]
pub struct MergeInput<'a> {
    /// `usr/etc` of the deployment that is merged from.
    pub base: &'a Dir,
    /// Its `etc`.
    pub mine: &'a Dir,
    /// `usr/etc` of the new deployment.
    pub theirs: &'a Dir,
    /// Policies by path.
    pub policies: &'a Policies,
}

#[cfg(test)]
mod tests;
