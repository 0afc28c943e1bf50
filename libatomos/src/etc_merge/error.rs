//! What can go wrong while `/etc` is merged. A conflict is not among it: that is an outcome.

use std::path::PathBuf;

use crate::cancel::Cancelled;
use crate::error::ErrorKind;
use crate::fs::FsError;

use super::path::EtcPath;
use super::snapshot::SkipReason;

/// Why a merge of `/etc` was not planned, executed or resolved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcMergeError {
    /// A file could not be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The caller asked to stop.
    #[error("the merge of /etc was not finished")]
    Cancelled(#[from] Cancelled),
    /// A policy file cannot be parsed, or has a key that is not known.
    #[error("cannot read the merge policies in {}, line {line}: {reason}", path.display())]
    PolicySyntax {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A rule in a policy file makes no sense.
    #[error("rule {number} of the merge policies in {} is not usable: {rule}", path.display())]
    PolicyRule {
        /// The file.
        path: PathBuf,
        /// Which of its rules, from 1.
        number: usize,
        /// What is wrong with it.
        rule: String,
    },
    /// Conflicts at paths whose policy is `fail`.
    #[error("the merge of /etc is refused by policy: conflicts at {}", join(paths))]
    Refused {
        /// The paths.
        paths: Vec<EtcPath>,
    },
    /// A default that the merge leaves out where somebody made it here.
    #[error("cannot merge the default {path}: {reason}")]
    NoDefault {
        /// The default.
        path: EtcPath,
        /// Why.
        reason: SkipReason,
    },
    /// The result would be written over what it is made from.
    #[error("cannot write the merged /etc to {}: the merge reads from it", path.display())]
    TargetIsInput {
        /// The directory.
        path: PathBuf,
    },
    /// Another program is changing accounts.
    #[error("cannot lock the account files ({}) after waiting {seconds} s", path.display())]
    AccountsLocked {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A list of conflicts cannot be read.
    #[error("cannot read the conflicts in {}", path.display())]
    ConflictSyntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A list of conflicts was written by a newer program.
    #[error("the conflicts in {} are of version {found}; this program reads version {known}", path.display())]
    ConflictVersion {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: u32,
        /// The newest version that can be read.
        known: u32,
    },
    /// There is no conflict at this path.
    #[error("there is no conflict at {path}")]
    NoConflict {
        /// The path.
        path: EtcPath,
    },
    /// Taking the new default's account file would drop the accounts that were made here.
    #[error("cannot replace {path} by the new default: the accounts made here are in it; edit it instead")]
    AccountFile {
        /// The path.
        path: EtcPath,
    },
    /// Putting back the default of a directory would take away what was made or changed here beneath it.
    #[error(
        "cannot put back the default of the directory /etc/{path}: made or changed here, and lost with it in /etc: {}",
        join(lost)
    )]
    LocalChanges {
        /// The directory.
        path: EtcPath,
        /// What is beneath it.
        lost: Vec<EtcPath>,
    },
    /// `/etc` itself cannot be replaced by its default.
    #[error("cannot replace /etc as a whole: name a path in it")]
    WholeEtc,
}

impl EtcMergeError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fs(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
            Self::PolicySyntax { .. }
            | Self::PolicyRule { .. }
            | Self::TargetIsInput { .. }
            | Self::AccountFile { .. }
            | Self::WholeEtc => ErrorKind::Invalid,
            Self::Refused { .. } | Self::LocalChanges { .. } => ErrorKind::Conflict,
            Self::NoDefault { .. } | Self::ConflictVersion { .. } => ErrorKind::Unsupported,
            Self::AccountsLocked { .. } => ErrorKind::Locked,
            Self::ConflictSyntax { .. } => ErrorKind::Corrupt,
            Self::NoConflict { .. } => ErrorKind::NotFound,
        }
    }
}

/// Names the first few.
fn join(paths: &[EtcPath]) -> String {
    const SHOWN: usize = 10;
    let mut text: Vec<_> = paths.iter().take(SHOWN).map(ToString::to_string).collect();
    if paths.len() > SHOWN {
        text.push(format!("{} more", paths.len() - SHOWN));
    }
    text.join(", ")
}
