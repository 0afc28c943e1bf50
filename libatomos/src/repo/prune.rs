//! Removing objects that nothing leads to.

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::fs::{Dir, FileLock};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::layout::TMP;
use super::traverse::{Ancestry, parse_variant_bits};
use super::{ObjectKind, Reachable, Repo, RepoError};

/// How to prune.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What pruning removed, or would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PruneReport {
    /// Whether nothing was removed because only a report was asked for.
    pub dry_run: bool,
    /// Commits that are kept.
    pub commits_kept: u64,
    /// Commits removed.
    pub commits_removed: u64,
    /// Dirtrees removed.
    pub dirtrees_removed: u64,
    /// Blobs removed.
    pub blobs_removed: u64,
    /// Inode variants removed whose blob is kept.
    pub variants_removed: u64,
    /// Staging directories of interrupted runs removed.
    pub staging_removed: u64,
    /// Bytes in the removed files. Space is free only once no checkout links to them.
    pub bytes_removed: u64,
}

impl Repo {
    /// Removes what no ref, deployment or mount leads to. Takes the exclusive lock: commits that are running are
    /// waited for, so nothing that they rely on is removed.
    ///
    /// Commits go first, blobs last: an interruption leaves objects that nothing leads to, never the other way.
    pub fn prune(
        &self,
        options: &PruneOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<PruneReport, RepoError> {
        self.check_writable()?;
        let _lock = self.lock_exclusive()?;
        let reachable = {
            let _phase = PhaseGuard::begin(progress, Phase::Mark, None, Unit::Items);
            self.reachable(cancel)?
        };
        let mut report = PruneReport {
            dry_run: options.dry_run,
            commits_kept: reachable.commits.len() as u64,
            ..PruneReport::default()
        };
        let phase = PhaseGuard::begin(progress, Phase::Sweep, None, Unit::Items);
        for kind in [ObjectKind::Commit, ObjectKind::DirTree, ObjectKind::Blob] {
            self.sweep(kind, &reachable, &mut report, &phase, cancel)?;
            crate::failpoint::hit("prune.kind")?;
            if !options.dry_run {
                // The order must hold on disk too.
                // No power cut shows this sync: journals keep the order of removals. It is for file systems without one.
                self.dir().sync_fs()?;
            }
        }
        self.sweep_staging(&mut report)?;
        if !options.dry_run {
            self.forget_partial(|commit| !reachable.commits.contains(commit))?;
        }
        Ok(report)
    }

    /// Returns everything that refs and roots lead to.
    pub(crate) fn reachable(&self, cancel: &Cancel) -> Result<Reachable, RepoError> {
        let mut reachable = Reachable::default();
        for commit in self.refs()?.values() {
            reachable.add_commit(self, commit, Ancestry::Follow, cancel)?;
        }
        for (_, record) in self.list_roots()? {
            for commit in &record.commits {
                reachable.add_commit(self, commit, Ancestry::Stop, cancel)?;
            }
            reachable.blobs.extend(&record.blobs);
        }
        Ok(reachable)
    }

    fn sweep(
        &self,
        kind: ObjectKind,
        reachable: &Reachable,
        report: &mut PruneReport,
        phase: &PhaseGuard<'_>,
        cancel: &Cancel,
    ) -> Result<(), RepoError> {
        let dry_run = report.dry_run;
        self.visit_objects(kind, |dir, name, parsed| {
            cancel.check()?;
            phase.advance(1);
            let Some((digest, variant)) = parsed else {
                return Ok(());
            };
            let (keep, counter) = match (kind, &variant) {
                (ObjectKind::Commit, _) => (
                    reachable.commits.contains(&CommitId::new(digest)),
                    &mut report.commits_removed,
                ),
                (ObjectKind::DirTree, _) => (
                    reachable.dirtrees.contains(&DirTreeId::new(digest)),
                    &mut report.dirtrees_removed,
                ),
                (ObjectKind::Blob, None) => (
                    reachable.blobs.contains(&BlobId::new(digest)),
                    &mut report.blobs_removed,
                ),
                (ObjectKind::Blob, Some(variant)) => (
                    reachable
                        .variants
                        .contains(&(BlobId::new(digest), parse_variant_bits(variant))),
                    &mut report.variants_removed,
                ),
            };
            if keep {
                return Ok(());
            }
            *counter += 1;
            report.bytes_removed += dir.stat(name)?.size;
            if !dry_run {
                dir.remove_file(name)?;
            }
            Ok(())
        })
    }

    /// The exclusive lock is held, so a staging directory that is here belongs to nobody who lives.
    fn sweep_staging(&self, report: &mut PruneReport) -> Result<(), RepoError> {
        let Some(tmp) = self.dir().open_dir_optional(TMP)? else {
            return Ok(());
        };
        for entry in tmp.entries()? {
            let Some(dir): Option<Dir> = tmp.open_dir_optional(&entry.name)? else {
                continue;
            };
            if FileLock::try_acquire_dir(&dir)?.is_none() {
                continue;
            }
            report.staging_removed += 1;
            if !report.dry_run {
                tmp.remove_tree(&entry.name)?;
            }
        }
        Ok(())
    }
}
