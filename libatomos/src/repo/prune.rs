//! Removing objects that nothing leads to.

use std::collections::HashMap;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
use crate::fs::{Dir, FileLock, Stat};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};

use super::layout::{DAMAGED, TMP, variant_path};
use super::stats::visit_files;
use super::traverse::parse_variant_bits;
use super::{ObjectKind, Reachable, Repo, RepoError};

/// How to prune.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PruneOptions {
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Parents of each ref's commit that are kept; all where `None` and nothing is said of their age either.
    pub depth: Option<u64>,
    /// Keep parents that were committed at this time or later, in seconds since 1970, even beyond `depth`.
    pub keep_younger_than: Option<i64>,
}

impl PruneOptions {
    /// Returns whether a parent is kept, `distance` steps behind a ref's commit, which was committed at `time`. A history
    /// ends with the first one that is not.
    fn keeps(&self, distance: u64, time: i64) -> bool {
        match (self.depth, self.keep_younger_than) {
            (None, None) => true,
            (depth, younger) => {
                depth.is_some_and(|depth| distance <= depth) || younger.is_some_and(|least| time >= least)
            }
        }
    }
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
    /// Space on disk of those of them that have no other name: what becomes free, unless blocks are shared.
    pub bytes_freed: u64,
}

impl PruneReport {
    /// Counts the bytes of a file that is removed.
    fn count(&mut self, stat: &Stat) {
        self.bytes_removed += stat.size;
        if stat.nlink == 1 {
            self.bytes_freed += stat.allocated;
        }
    }
}

impl Repo {
    /// Removes what no ref, deployment or mount leads to. Takes the exclusive lock: whoever relies on objects that no ref
    /// or root leads to has the shared one, so nothing that anybody relies on is removed.
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
        if !options.dry_run {
            self.forget_earlier_boots()?;
        }
        let reachable = {
            let _phase = PhaseGuard::begin(progress, Phase::Mark, None, Unit::Items);
            self.reachable(options, cancel)?
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
        self.sweep_damaged(&reachable, &mut report)?;
        if !options.dry_run {
            self.forget_partial(|commit| !reachable.commits.contains(commit))?;
        }
        Ok(report)
    }

    /// Returns everything that refs and roots lead to, as far back as `options` keep it. Only names are remembered.
    pub(crate) fn reachable(&self, options: &PruneOptions, cancel: &Cancel) -> Result<Reachable, RepoError> {
        let mut reachable = Reachable::default();
        // How near to a ref each commit was seen: another ref may keep more of the same history.
        let mut nearest: HashMap<CommitId, u64> = HashMap::new();
        for tip in self.refs()?.into_values() {
            let (mut next, mut distance) = (Some(tip), 0);
            while let Some(id) = next {
                cancel.check()?;
                if nearest.get(&id).is_some_and(|before| *before <= distance) {
                    break;
                }
                if distance > 0 && !self.has_object(ObjectKind::Commit, id.digest())? {
                    break;
                }
                let commit = self.load_commit(&id)?;
                if distance > 0 && !options.keeps(distance, commit.time) {
                    break;
                }
                nearest.insert(id, distance);
                if reachable.commits.insert(id) {
                    reachable.add_tree(self, &commit.root, cancel)?;
                }
                next = commit.parent;
                distance += 1;
            }
        }
        for (_, record) in self.list_roots()? {
            for commit in &record.commits {
                reachable.add_commit(self, commit, cancel)?;
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
            report.count(&dir.stat(name)?);
            if !dry_run {
                dir.remove_file(name)?;
            }
            Ok(())
        })
    }

    /// What was set aside is kept as long as something lacks the object: its bytes may be better than none.
    fn sweep_damaged(&self, reachable: &Reachable, report: &mut PruneReport) -> Result<(), RepoError> {
        let Some(damaged) = self.dir().open_dir_optional(DAMAGED)? else {
            return Ok(());
        };
        for entry in damaged.entries()? {
            let Some((kind, digest)) = set_aside(&entry.name) else {
                continue;
            };
            let needed = match kind {
                ObjectKind::Commit => reachable.commits.contains(&CommitId::new(digest)),
                ObjectKind::DirTree => reachable.dirtrees.contains(&DirTreeId::new(digest)),
                ObjectKind::Blob => reachable.blobs.contains(&BlobId::new(digest)),
            };
            if needed && !self.has_object(kind, &digest)? {
                continue;
            }
            report.count(&damaged.stat(&entry.name)?);
            if !report.dry_run {
                damaged.remove_tree(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Returns the objects that a repair set aside and that are not here again. Looks at what was set aside, and at no tree.
    pub(crate) fn lacking_set_aside(&self) -> Result<Vec<(ObjectKind, Digest)>, RepoError> {
        let mut lacking = Vec::new();
        let entries = match self.dir().open_dir_optional(DAMAGED) {
            Ok(None) => return Ok(lacking),
            Ok(Some(damaged)) => damaged.entries(),
            Err(error) => Err(error),
        };
        let entries = match entries {
            // Who may not look there stores nothing anew.
            Err(error) if error.is_denied() => return Ok(lacking),
            entries => entries?,
        };
        for entry in entries {
            let Some((kind, digest)) = set_aside(&entry.name) else {
                continue;
            };
            let variant = entry.name.to_str().and_then(|name| name.split_once('.'));
            let is_here = match variant {
                Some((_, variant)) => self.kind_dir(kind).exists(variant_path(&digest, variant))?,
                None => self.has_object(kind, &digest)?,
            };
            if !is_here {
                lacking.push((kind, digest));
            }
        }
        Ok(lacking)
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
            visit_files(dir, |stat| report.count(stat))?;
            if !report.dry_run {
                tmp.remove_tree(&entry.name)?;
            }
        }
        Ok(())
    }
}

/// Returns which object a file among those that were set aside was.
fn set_aside(name: &std::ffi::OsStr) -> Option<(ObjectKind, Digest)> {
    let (kind, digest) = name.to_str()?.split_once('-')?;
    let kind = ObjectKind::ALL.into_iter().find(|one| one.to_string() == kind)?;
    Some((kind, digest.split('.').next()?.parse().ok()?))
}
