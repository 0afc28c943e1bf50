//! The patches of a release.
//!
//! They are made from the releases 1, 2, 4, 8, … back, and from whichever the publisher names; a pair of blobs that the
//! site has a patch for is left alone. What earlier releases made for blobs that are still in the tree is carried along, so
//! that a machine that comes from far back finds the patches of the steps in between.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::sync::{Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId};
use crate::fs::{FsError, hash_file};
use crate::patch::{BaseFinder, Job, MadeFrame, MakerOptions, Making, PatchError, make};
use crate::progress::PhaseGuard;
use crate::repo::{ObjectKind, Repo, RepoError};
use crate::site::{
    Artifact, BlobList, FileRef, HistoryEntry, Manifest, NOT_IN_TREE, PatchFrame, PatchTarget, for_each_file,
};

use super::PublishError;
use super::consolidate::Known;
use super::manifests::prefix;
use super::pack::{Output, damaged};
use super::site_dir::SiteDir;
use super::site_writer::SiteWriter;

/// Releases back from the new one that patches are made from.
const BACK: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Files of patches that a manifest names at most.
const MAX_FILES: usize = 48;

/// A patch and the file that it lies in.
pub(super) type Placed = (FileRef, PatchFrame);

/// Returns the commits that patches are to be made from, as far as the repository has them.
pub(super) fn bases(
    repo: &Repo,
    commit: &CommitId,
    history: &[HistoryEntry],
    named: &[CommitId],
) -> Result<Vec<CommitId>, PublishError> {
    let back = BACK
        .iter()
        .filter_map(|back| history.get(back - 1))
        .map(|entry| entry.commit);
    let mut seen = HashSet::from([*commit]);
    let mut bases = Vec::new();
    for base in back.chain(named.iter().copied()) {
        if seen.insert(base) && repo.has_object(ObjectKind::Commit, base.digest())? {
            bases.push(base);
        }
    }
    Ok(bases)
}

/// Returns the patches of an earlier release that make blobs of this tree, as far as the site has them still.
pub(super) fn carry(
    site: &SiteDir,
    previous: &Manifest,
    blobs: &BlobList,
) -> Result<Vec<Placed>, PublishError> {
    let is_there = previous
        .index
        .patch_files
        .iter()
        .map(|file| site.has_artifact(Artifact::Patch, file))
        .collect::<Result<Vec<_>, _>>()?;
    let index_of = |old: u32| {
        let blob = previous.blobs.blobs().get(old as usize)?;
        blobs.index_of(&blob.id)
    };
    let mut files = BTreeSet::new();
    let mut carried = Vec::new();
    let patches = previous.index.patches.iter();
    for patch in patches.filter(|patch| is_there[patch.file() as usize]) {
        let mut patch = patch.clone();
        let alive = match &mut patch {
            PatchFrame::Prefix { blob, .. } => match index_of(*blob) {
                Some(index) => {
                    *blob = index;
                    true
                }
                None => false,
            },
            PatchFrame::Group { targets, .. } => {
                for target in targets.iter_mut() {
                    target.blob = index_of(target.blob).unwrap_or(NOT_IN_TREE);
                }
                targets.iter().any(|target| target.blob != NOT_IN_TREE)
            }
        };
        let file = previous.index.patch_files[patch.file() as usize];
        if alive && (files.contains(&file.digest) || files.len() < MAX_FILES) {
            files.insert(file.digest);
            carried.push((file, patch));
        }
    }
    Ok(carried)
}

/// Opens blobs for the maker.
struct Blobs<'a> {
    repo: &'a Repo,
    /// Those whose bytes are what their names say.
    verified: Mutex<HashSet<BlobId>>,
}

impl Making for Blobs<'_> {
    fn open(&self, blob: &BlobId) -> Result<File, PatchError> {
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if !verified().contains(blob) {
            // Every machine would fetch the patch of a damaged blob in vain.
            let file = self.repo.open_blob(blob)?;
            let (found, _) =
                hash_file(&file).map_err(|error| RepoError::from(FsError::new("read", "a blob", error)))?;
            if found != *blob {
                return Err(damaged(blob).into());
            }
            verified().insert(*blob);
        }
        Ok(self.repo.open_blob(blob)?)
    }
}

/// What is patched, and into what.
pub(super) struct Patching<'a> {
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a CommitId,
    pub(super) blobs: &'a BlobList,
    pub(super) places: &'a [Known],
    pub(super) options: MakerOptions,
    pub(super) writer: &'a SiteWriter,
    pub(super) cancel: &'a Cancel,
}

impl Patching<'_> {
    /// Returns what is worth a try: blobs of the tree that `base` lacks, with what they may be made of.
    pub(super) fn jobs(&self, base: &CommitId, have: &[Placed]) -> Result<Vec<Job>, PublishError> {
        let done: HashSet<(u32, [u8; 8])> = have.iter().flat_map(|(_, patch)| pairs(patch)).collect();
        let along: HashSet<u32> = have.iter().flat_map(|(_, patch)| plain(patch)).collect();
        let base_root = self.repo.load_commit(base)?.root;
        let mut finder = BaseFinder::default();
        let mut old = HashSet::new();
        for_each_file(self.repo, &base_root, &mut |path, blob, size| {
            finder.add(path, blob, size);
            old.insert(blob);
        })?;
        let root = self.repo.load_commit(self.commit)?.root;
        let mut taken = HashSet::new();
        let mut jobs = Vec::new();
        for_each_file(self.repo, &root, &mut |path, blob, size| {
            let Some(target) = self.blobs.index_of(&blob) else {
                return;
            };
            if old.contains(&blob) || !taken.insert(target) {
                return;
            }
            let base = finder.find(path, size);
            let is_done = base.is_some_and(|base| done.contains(&(target, prefix(&base.0))));
            let along = !along.contains(&target);
            if !is_done && (base.is_some() || along) {
                jobs.push(Job {
                    target,
                    blob,
                    size,
                    base,
                    plain_len: self.places[target as usize].len(),
                    along,
                });
            }
        })?;
        jobs.sort_by_key(|job| job.target);
        Ok(jobs)
    }

    /// Makes the patches of `jobs` into one file. Returns them and the file's size; nothing where none was worth it.
    pub(super) fn write(
        &self,
        jobs: &[Job],
        phase: &PhaseGuard<'_>,
    ) -> Result<(Vec<Placed>, u64), PublishError> {
        if jobs.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let mut output = Output::create(self.writer)?;
        let mut frames = Vec::new();
        let mut failed = None;
        let blobs = Blobs {
            repo: self.repo,
            verified: Mutex::default(),
        };
        let made = make(jobs, &blobs, &self.options, self.cancel, &mut |made| {
            let offset = output.size();
            let (patch, bytes) = match made {
                MadeFrame::Windows { job, frames } => {
                    let job = &jobs[job];
                    let Some((base, _)) = &job.base else {
                        return Err(PatchError::Damaged("its maker had no base"));
                    };
                    let patch = PatchFrame::Prefix {
                        file: 0,
                        offset,
                        windows: frames.iter().map(|frame| frame.len() as u64).collect(),
                        blob: job.target,
                        base: prefix(base),
                    };
                    (patch, frames)
                }
                MadeFrame::Group { frame, targets } => {
                    let targets = targets
                        .iter()
                        .map(|made| PatchTarget {
                            blob: jobs[made.job].target,
                            base: (jobs[made.job].base)
                                .filter(|_| !made.plain)
                                .map(|(base, _)| prefix(&base)),
                            stream_len: made.stream_len,
                        })
                        .collect();
                    let patch = PatchFrame::Group {
                        file: 0,
                        offset,
                        len: frame.len() as u64,
                        targets,
                    };
                    (patch, vec![frame])
                }
                MadeFrame::Done { jobs: done } => {
                    phase.advance(done.iter().map(|job| jobs[*job].size).sum());
                    return Ok(());
                }
            };
            frames.push(patch);
            for frame in bytes {
                if let Err(error) = output.write(&frame) {
                    failed = Some(error);
                    return Err(PatchError::Damaged("it cannot be written"));
                }
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        made?;
        if frames.is_empty() {
            output.discard(self.writer)?;
            return Ok((Vec::new(), 0));
        }
        let file = output.finish(Artifact::Patch, self.writer)?;
        Ok((frames.into_iter().map(|frame| (file, frame)).collect(), file.size))
    }
}

/// Returns what a patch makes of what.
fn pairs(patch: &PatchFrame) -> Vec<(u32, [u8; 8])> {
    match patch {
        PatchFrame::Prefix { blob, base, .. } => vec![(*blob, *base)],
        PatchFrame::Group { targets, .. } => targets
            .iter()
            .filter(|target| target.blob != NOT_IN_TREE)
            .filter_map(|target| Some((target.blob, target.base?)))
            .collect(),
    }
}

/// Returns what goes along with patches as it is.
fn plain(patch: &PatchFrame) -> Vec<u32> {
    match patch {
        PatchFrame::Prefix { .. } => Vec::new(),
        PatchFrame::Group { targets, .. } => targets
            .iter()
            .filter(|target| target.blob != NOT_IN_TREE && target.base.is_none())
            .map(|target| target.blob)
            .collect(),
    }
}
