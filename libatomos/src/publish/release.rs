//! What a release consists of: packs, patches, an image, manifests, and the signed release that names them.

use std::collections::HashMap;

use crate::digest::{BlobId, DirTreeId};
use crate::format::{Commit, Node};
use crate::patch::MakerOptions;
use crate::progress::{Phase, PhaseGuard, Unit};
use crate::repo::Repo;
use crate::site::{
    Artifact, BlobList, FileRef, HistoryEntry, Manifest, Release, Totals, TreeTable, blob_frames,
    image_frames, limits,
};

use super::consolidate::{Known, consolidate};
use super::manifests::{number, write_relative};
use super::pack::write_frames;
use super::patches::{self, Patching, Placed};
use super::publisher::{Image, Job, Publisher, check_size};
use super::{Profile, PublishError, PublishReport};

/// Levels of zstd.
struct Levels {
    /// Of a ref's first release, which few machines take from packs: new ones take the image.
    first_pack: i32,
    /// Of what a release adds, which every machine takes.
    pack: i32,
    image: i32,
    manifest: i32,
    patch: i32,
    bsdiff: bool,
}

impl Profile {
    const fn levels(self) -> Levels {
        match self {
            Self::Fast => Levels {
                first_pack: 2,
                pack: 9,
                image: 4,
                manifest: 9,
                patch: 7,
                bsdiff: false,
            },
            Self::Thorough => Levels {
                first_pack: 19,
                pack: 19,
                image: 19,
                manifest: 19,
                patch: 19,
                bsdiff: true,
            },
        }
    }
}

impl Publisher<'_> {
    /// Writes everything that a new release needs.
    pub(super) fn release(
        &self,
        job: &Job,
        known: &mut HashMap<BlobId, Known>,
        report: &mut PublishReport,
    ) -> Result<(FileRef, Release), PublishError> {
        let history = self.history(job)?;
        let min_from = self.min_from(job, &history)?;
        let levels = self.options.profile.levels();
        let threads = crate::parallel::threads(self.options.threads);
        let commit = self.repo.load_commit(&job.commit)?;
        let table = TreeTable::encode(self.repo, &job.commit)?;
        let blobs = BlobList::of_tree(self.repo, &commit.root)?;

        // What is new becomes one pack.
        let new: Vec<u32> = (0..blobs.len())
            .filter(|index| !known.contains_key(&blobs.blobs()[*index as usize].id))
            .collect();
        let frames: Vec<_> = new
            .iter()
            .flat_map(|index| blob_frames(*index, blobs.size(*index)))
            .collect();
        let new_bytes: u64 = new.iter().map(|index| blobs.size(*index)).sum();
        report.new_blobs += new.len() as u64;
        report.new_blob_bytes += new_bytes;
        if !frames.is_empty() {
            let phase = PhaseGuard::begin(self.progress, Phase::Compress, Some(new_bytes), Unit::Bytes);
            let (pack, lens) = write_frames(
                self.repo,
                &blobs,
                &frames,
                Artifact::Pack,
                match &job.previous {
                    Some(_) => levels.pack,
                    None => levels.first_pack,
                },
                threads,
                self.writer,
                &phase,
                self.cancel,
            )?;
            report.pack_bytes += pack.size;
            let (mut offset, mut lens) = (0, lens.into_iter());
            for index in &new {
                let count = blob_frames(*index, blobs.size(*index)).count();
                let frames: Vec<u64> = lens.by_ref().take(count).collect();
                let place = Known { pack, offset, frames };
                offset += place.len();
                known.insert(blobs.blobs()[*index as usize].id, place);
            }
        }
        let mut places: Vec<Known> = blobs.blobs().iter().map(|blob| known[&blob.id].clone()).collect();
        self.consolidate(&blobs, &new, &mut places, known, report)?;

        let image = self.image(&commit.root, &blobs, levels.image, threads, report)?;
        let patches = self.patches(job, &blobs, &places, &history, threads, report)?;
        let index = number((0..blobs.len()).zip(places.iter().cloned()), &patches, image);
        let whole = Manifest::encode(&job.commit, &table, &index, None, levels.manifest)?;
        report.manifest_bytes += whole.len() as u64;
        let manifest = self.writer.add_bytes(Artifact::Manifest, &whole)?;
        let (manifests, bytes) = write_relative(
            self.repo,
            &job.commit,
            &table,
            &blobs,
            &places,
            &patches,
            &history,
            levels.manifest,
            self.writer,
        )?;
        report.manifest_bytes += bytes;
        let previous = job.previous.as_ref();
        let release = Release {
            repository: self.repo.config().id.clone(),
            reference: job.reference.clone(),
            number: next_number(job)?,
            time: self.time,
            commit: job.commit,
            root: commit.root,
            version: commit.version.clone(),
            subject: commit.subject.clone(),
            compatible: if self.options.compatible.is_empty() && !self.options.for_all {
                previous
                    .map(|previous| previous.record.compatible.clone())
                    .unwrap_or_default()
            } else {
                self.options.compatible.clone()
            },
            min_from,
            totals: Totals {
                files: blobs.files(),
                blobs: u64::from(blobs.len()),
                bytes: blobs.bytes(),
                dirtrees: blobs.dirtrees(),
            },
            boot_bytes: boot_bytes(self.repo, &commit)?,
            manifest,
            manifests,
            history,
        };
        let envelope = self.sign_release(release.to_payload())?;
        let bytes = envelope.encode();
        check_size("release", &job.reference, &bytes, limits::MAX_RELEASE)?;
        let file = self.writer.add_bytes(Artifact::Release, &bytes)?;
        Ok((file, release))
    }

    /// Returns the new release's history: the previous release, and what it had, as far as the site has it still.
    fn history(&self, job: &Job) -> Result<Vec<HistoryEntry>, PublishError> {
        let Some(previous) = &job.previous else {
            return Ok(Vec::new());
        };
        let (file, release) = match (&previous.release, &previous.earlier) {
            (Some(release), _) => {
                let file = FileRef {
                    digest: previous.record.release,
                    size: previous.record.release_size,
                };
                (file, release)
            }
            (None, Some((file, release))) => (*file, release),
            (None, None) => return Ok(Vec::new()),
        };
        let mut history = vec![HistoryEntry {
            number: release.number,
            version: release.version.clone(),
            commit: release.commit,
            release: file,
            time: release.time,
            min_from: release.min_from,
        }];
        for entry in &release.history {
            if history.len() < limits::HISTORY
                && self.writer.site.has_artifact(Artifact::Release, &entry.release)?
            {
                history.push(entry.clone());
            }
        }
        Ok(history)
    }

    /// Returns the release that machines must have had before the new one: as asked for, which must be one that leads to it; else as before.
    fn min_from(&self, job: &Job, history: &[HistoryEntry]) -> Result<u64, PublishError> {
        // A long history goes on in its oldest release.
        let leads = |number: u64| {
            number == 0
                || history.iter().any(|entry| entry.number == number)
                || (history.len() == limits::HISTORY
                    && history.last().is_some_and(|last| number < last.number))
        };
        match (self.options.min_from, &job.previous) {
            (Some(min_from), _) if leads(min_from) => Ok(min_from),
            (Some(min_from), _) => Err(PublishError::MinFrom {
                reference: job.reference.clone(),
                min_from,
            }),
            (None, Some(previous)) if leads(previous.record.min_from) => Ok(previous.record.min_from),
            // That one is lost: the next after it has what it was for, too.
            (None, Some(previous)) => {
                let later = history.iter().map(|entry| entry.number);
                Ok(later
                    .filter(|number| *number > previous.record.min_from)
                    .min()
                    .unwrap_or(0))
            }
            (None, None) => Ok(0),
        }
    }

    fn consolidate(
        &self,
        blobs: &BlobList,
        new: &[u32],
        places: &mut [Known],
        known: &mut HashMap<BlobId, Known>,
        report: &mut PublishReport,
    ) -> Result<(), PublishError> {
        // The new pack stays by itself: for whoever comes from the last release it is the one file to get.
        let mut is_new = vec![false; places.len()];
        new.iter().for_each(|index| is_new[*index as usize] = true);
        let old: Vec<usize> = (0..places.len()).filter(|index| !is_new[*index]).collect();
        let mut old_places: Vec<Known> = old.iter().map(|index| places[*index].clone()).collect();
        report.consolidated_bytes += consolidate(&mut old_places, self.writer, self.cancel)?;
        for (index, place) in old.into_iter().zip(old_places) {
            known.insert(blobs.blobs()[index].id, place.clone());
            places[index] = place;
        }
        Ok(())
    }

    fn patches(
        &self,
        job: &Job,
        blobs: &BlobList,
        places: &[Known],
        history: &[HistoryEntry],
        threads: usize,
        report: &mut PublishReport,
    ) -> Result<Vec<Placed>, PublishError> {
        if self.options.no_patches {
            return Ok(Vec::new());
        }
        let site = &self.writer.site;
        let release = job
            .previous
            .as_ref()
            .and_then(|previous| previous.release.as_ref());
        let manifest = match release {
            Some(release) => site.manifest_unless_lost(release)?,
            None => None,
        };
        let carried = match manifest {
            Some(manifest) => patches::carry(site, &manifest, blobs)?,
            None => Vec::new(),
        };
        let levels = self.options.profile.levels();
        let patching = Patching {
            repo: self.repo,
            commit: &job.commit,
            blobs,
            places,
            options: MakerOptions {
                level: levels.patch,
                bsdiff: levels.bsdiff,
                threads,
            },
            writer: self.writer,
            cancel: self.cancel,
        };
        let mut all: Vec<Placed> = Vec::new();
        let bases = patches::bases(self.repo, &job.commit, history, &self.options.patch_from)?;
        for base in bases {
            let have: Vec<Placed> = all.iter().chain(&carried).cloned().collect();
            let jobs = patching.jobs(&base, &have)?;
            let bytes = jobs.iter().map(|job| job.size).sum();
            let phase = PhaseGuard::begin(self.progress, Phase::Patch, Some(bytes), Unit::Bytes);
            let (made, size) = patching.write(&jobs, &phase)?;
            report.patches += made.len() as u64;
            report.patch_bytes += size;
            all.extend(made);
        }
        // The newest first: when there are too many files, the oldest are left behind.
        all.extend(carried);
        Ok(all)
    }

    fn image(
        &self,
        root: &DirTreeId,
        blobs: &BlobList,
        level: i32,
        threads: usize,
        report: &mut PublishReport,
    ) -> Result<Option<Image>, PublishError> {
        if self.options.no_image || blobs.is_empty() {
            return Ok(None);
        }
        // Several refs may have one tree.
        if let Some(image) = self.images.borrow().get(root) {
            return Ok(Some(image.clone()));
        }
        let frames = image_frames(blobs);
        let phase = PhaseGuard::begin(self.progress, Phase::Image, Some(blobs.bytes()), Unit::Bytes);
        let image = write_frames(
            self.repo,
            blobs,
            &frames,
            Artifact::Image,
            level,
            threads,
            self.writer,
            &phase,
            self.cancel,
        )?;
        // The same blobs make the same image.
        let mut images = self.images.borrow_mut();
        let is_counted = images.values().any(|(file, _)| *file == image.0);
        if !is_counted && !self.writer.site.has_artifact(Artifact::Image, &image.0)? {
            report.image_bytes += image.0.size;
        }
        images.insert(*root, image.clone());
        Ok(Some(image))
    }
}

/// Returns a number that no release of the ref has had, those that were withdrawn included.
fn next_number(job: &Job) -> Result<u64, PublishError> {
    let Some(previous) = &job.previous else {
        return Ok(1);
    };
    let withdrawn = previous.record.withdrawn.iter().map(|one| one.number).max();
    let last = previous.record.number.max(withdrawn.unwrap_or(0));
    last.checked_add(1).ok_or_else(|| PublishError::LastSequence {
        reference: job.reference.clone(),
    })
}

/// Returns the bytes of kernels and initramfs in the tree, by which `/boot` will grow.
fn boot_bytes(repo: &Repo, commit: &Commit) -> Result<u64, PublishError> {
    let mut tree = repo.load_dirtree(&commit.root)?;
    for part in ["usr", "lib", "modules"] {
        match tree.get(part.as_bytes()).map(|entry| &entry.node) {
            Some(Node::Dir { tree: id }) => tree = repo.load_dirtree(id)?,
            _ => return Ok(0),
        }
    }
    let mut bytes = 0;
    for entry in tree.entries() {
        if let Node::Dir { tree: id } = &entry.node {
            let version = repo.load_dirtree(id)?;
            for name in ["vmlinuz", "initramfs.img", "initramfs"] {
                if let Some(Node::File { size, .. }) = version.get(name.as_bytes()).map(|entry| &entry.node) {
                    bytes += size;
                }
            }
        }
    }
    Ok(bytes)
}
