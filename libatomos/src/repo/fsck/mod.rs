//! Verifying a repository: every digest, every reference, every inode variant.
//!
//! An `Err` means that something could not be looked at; what was looked at and is bad is a [`Finding`].

mod listing;
mod references;
mod seen;
mod survey;

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::progress::Progress;
use crate::verity::VerityDigest;

use super::layout::ALIASES;
use super::{ObjectKind, PartialCommits, Repo, RepoError};

pub(super) use seen::Seen;
pub(super) use survey::{BadFile, FileState, Survey};

/// How to verify.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FsckOptions {
    /// Threads to read and hash with. Where `None`, one for each processor, and eight at least: where files have to come from a disk, it is
    /// the disk that is waited for, and it does several things at a time.
    pub threads: Option<usize>,
}

impl FsckOptions {
    const LEAST_THREADS: usize = 8;

    fn threads(&self) -> usize {
        self.threads
            .unwrap_or_else(|| crate::parallel::threads(None).max(Self::LEAST_THREADS))
    }
}

/// What is wrong with an object. The names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// Something refers to it, and it is not there.
    Missing,
    /// Its bytes have another digest than its name.
    WrongDigest {
        /// The digest of the bytes.
        found: Digest,
    },
    /// Its bytes are not an encoding of its kind.
    Malformed {
        /// Which rule they break.
        reason: String,
    },
    /// An entry says another size than the blob has.
    WrongSize {
        /// What the entry says.
        recorded: u64,
        /// What the blob has.
        found: u64,
    },
    /// A dirtree records another fs-verity digest than a file of it has.
    WrongVerity {
        /// The file's bytes.
        blob: BlobId,
        /// What the dirtree says.
        recorded: VerityDigest,
        /// What the bytes have.
        found: VerityDigest,
    },
    /// The inode under a variant's name has other metadata than the name says.
    WrongInode {
        /// The variant's name.
        variant: String,
    },
    /// A file of a tree has no inode with its metadata, so a checkout must copy it.
    MissingVariant {
        /// The variant's name.
        variant: String,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is missing"),
            Self::WrongDigest { found } => write!(f, "is damaged: its bytes have the digest {found}"),
            Self::Malformed { reason } => write!(f, "is malformed: {reason}"),
            Self::WrongSize { recorded, found } => {
                write!(f, "has {found} bytes, and a tree records {recorded}")
            }
            Self::WrongVerity {
                blob,
                recorded,
                found,
            } => {
                write!(
                    f,
                    "records the fs-verity digest {recorded} of blob {blob}, which has {found}"
                )
            }
            Self::WrongInode { variant } => {
                write!(
                    f,
                    "has an inode variant {variant} whose owner, mode, time or attributes were changed"
                )
            }
            Self::MissingVariant { variant } => write!(f, "lacks the inode variant {variant}"),
            Self::Unreadable { reason } => write!(f, "cannot be read: {reason}"),
        }
    }
}

/// Where a bad object is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectUse {
    /// The ref, deployment or mount.
    pub root: String,
    /// The commit.
    pub commit: CommitId,
    /// The path in its tree; `/` for the commit and its root.
    pub path: String,
}

/// A bad object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub digest: Digest,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
    /// Where it is used: the first few places.
    pub used_by: Vec<ObjectUse>,
}

/// A file of the repository's own that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct FileFinding {
    /// Its name in the repository.
    pub file: String,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FsckReport {
    /// Commits verified.
    pub commits: u64,
    /// Dirtrees verified.
    pub dirtrees: u64,
    /// Blobs verified.
    pub blobs: u64,
    /// Inode variants verified beside the blobs' own.
    pub variants: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Files in the store that no writer of ours has named. They do no harm.
    pub strangers: u64,
    /// Commits of which only some paths were pulled. What they lack is no damage, unless a ref names them.
    #[serde(skip_serializing_if = "PartialCommits::is_empty")]
    pub partial: PartialCommits,
    /// Every bad object.
    pub findings: Vec<Finding>,
    /// Files of the repository's own that cannot be used, and without which everything else could be verified.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileFinding>,
}

impl FsckReport {
    /// Returns whether everything is whole.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.files.is_empty()
    }
}

/// Uses listed per bad object.
pub(super) const MAX_USES: usize = 8;

impl Repo {
    /// Verifies every object and every reference. Takes the shared lock.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<FsckReport, RepoError> {
        let _lock = self.lock_shared()?;
        let Survey {
            seen,
            mut report,
            bad,
        } = self.survey(options, progress, cancel)?;
        let damaged: HashSet<_> = bad.iter().map(BadFile::object).collect();
        let load = |id: &DirTreeId| self.load_dirtree(id);
        let referred = self.check_references(&seen, &report.partial, &damaged, &load, options)?;
        report.findings.extend(referred);
        if !report.findings.is_empty() {
            self.note_uses(&seen, &mut report.findings)?;
        }
        sort(&mut report.findings);
        report.files = self.check_files();
        Ok(report)
    }

    /// Looks at the aliases, which keep nothing and lead nowhere by themselves.
    pub(super) fn check_files(&self) -> Vec<FileFinding> {
        let problem = match self.aliases() {
            Ok(_) => return Vec::new(),
            Err(RepoError::Aliases { reason, .. }) => Problem::Malformed { reason },
            Err(error) => Problem::Unreadable {
                reason: match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                },
            },
        };
        vec![FileFinding {
            file: ALIASES.to_owned(),
            problem,
        }]
    }

    /// Says of each finding where its object is used: the first few places.
    fn note_uses(&self, seen: &Seen, findings: &mut [Finding]) -> Result<(), RepoError> {
        let mut uses: HashMap<(ObjectKind, Digest), Vec<ObjectUse>> = findings
            .iter()
            .map(|finding| ((finding.kind, finding.digest), Vec::new()))
            .collect();
        self.walk_uses(seen, &|id| self.load_dirtree(id), &mut |one| {
            if let Some(list) = uses.get_mut(&(one.kind, one.digest))
                && list.len() < MAX_USES
            {
                list.push(one.to_object_use());
            }
        })?;
        for finding in findings {
            finding.used_by = uses
                .get(&(finding.kind, finding.digest))
                .cloned()
                .unwrap_or_default();
        }
        Ok(())
    }
}

/// Sorts findings as they are reported.
pub(super) fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (finding.kind, finding.digest));
}
