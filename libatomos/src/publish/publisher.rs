//! Publishing, from a repository's refs to signed records.

use std::collections::HashMap;
use std::path::Path;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId};
use crate::error::ErrorKind;
use crate::format::{Commit, Node};
use crate::names::RefName;
use crate::patch::MakerOptions;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{Repo, RepoError};
use crate::sign::{Envelope, PublicKey, Role, Signer, TrustedKeys};
use crate::site::{
    Artifact, BlobList, FileRef, HistoryEntry, Manifest, RECORD_TYPE, RELEASE_TYPE, Record, Release, Totals,
    TreeTable, blob_frames, image_frames, limits,
};

use super::consolidate::{Known, consolidate};
use super::manifests::{number, write_relative};
use super::pack::write_frames;
use super::patches::{self, Patching, Placed};
use super::site_dir::{Published, SiteWriter};
use super::{Profile, PublishError, PublishOptions, PublishReport, PublishedRef, RefOutcome};

/// Seconds that a record is believed unless the publisher says otherwise: 30 days.
const LIFETIME: i64 = 30 * 24 * 3600;

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

/// Publishes refs of `repo` to the site at `to`, which is made if there is nothing.
///
/// The visible step is the replacement of each ref's record. On error no record has changed, unless some of several were
/// replaced and then the disk failed; each of them is whole.
pub fn publish(
    repo: &Repo,
    to: &Path,
    options: &PublishOptions<'_>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<PublishReport, PublishError> {
    let _shared = repo.lock_shared()?;
    let mut refs = options.refs.clone();
    if refs.is_empty() {
        let own = |name: &RefName| !name.as_str().contains(':');
        refs = repo.refs()?.into_keys().filter(own).collect();
    }
    if refs.is_empty() {
        return Err(PublishError::NoRefs {
            path: repo.dir().path().to_owned(),
        });
    }
    refs.sort();
    refs.dedup();
    let writer = SiteWriter::open(to, &repo.config().id)?;
    let publics: Vec<PublicKey> = options.signers.iter().map(|signer| signer.public()).collect();
    let (keys, is_placed) = match &options.key_set {
        Some(bytes) => writer.site.judge_key_set(bytes, &options.pinned, &publics)?,
        None => (writer.site.trusted_keys(&publics)?, true),
    };
    // What is on the site and no longer here is signed by the keys of today, too.
    let orphans = if options.refs.is_empty() {
        let mut orphans = writer.site.refs_of_older_keys(&keys)?;
        orphans.retain(|name| !refs.contains(name));
        orphans
    } else {
        Vec::new()
    };
    let publisher = Publisher {
        repo,
        options,
        keys: &keys,
        record_signers: signers(&options.signers, &keys.set().record, "record")?,
        time: options.time.unwrap_or_else(now),
        writer: &writer,
        progress,
        cancel,
    };
    let key_set = options.key_set.as_deref().filter(|_| !is_placed);
    publisher.run(&refs, &orphans, key_set)
}

pub(super) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() as i64)
}

/// Returns those of the given signers that the role knows; enough of them, or an error before any work is done.
pub(super) fn signers<'a>(
    given: &[&'a dyn Signer],
    role: &Role,
    what: &'static str,
) -> Result<Vec<&'a dyn Signer>, PublishError> {
    let found: Vec<_> = given
        .iter()
        .copied()
        .filter(|signer| role.keys.contains(&signer.public().id()))
        .collect();
    if found.len() < role.threshold {
        return Err(PublishError::MissingKeys {
            what,
            threshold: role.threshold,
            given: found.len(),
            keys: role.keys.iter().copied().collect(),
        });
    }
    Ok(found)
}

/// Returns the sequence of what follows `record`: one more, or the first of a new key set.
pub(super) fn next_sequence(record: &Record, keys: &TrustedKeys) -> Result<u64, PublishError> {
    if record.keys != keys.number() {
        return Ok(1);
    }
    let next = record.sequence.checked_add(1);
    next.ok_or_else(|| PublishError::LastSequence {
        reference: record.reference.clone(),
    })
}

/// Refuses what machines would not believe. They take it that it is at least as late as the last record said, and as the
/// system that they run was made; what is signed must not have expired by then.
pub(super) fn check_clock(
    reference: &RefName,
    expires: i64,
    last: Option<i64>,
    commit: Option<i64>,
) -> Result<(), PublishError> {
    for (time, what) in [(last, "last record"), (commit, "commit")] {
        if let Some(time) = time.filter(|time| expires <= *time) {
            return Err(PublishError::Clock {
                reference: reference.clone(),
                what,
                time,
                expires,
            });
        }
    }
    Ok(())
}

struct Publisher<'a> {
    repo: &'a Repo,
    options: &'a PublishOptions<'a>,
    keys: &'a TrustedKeys,
    record_signers: Vec<&'a dyn Signer>,
    time: i64,
    writer: &'a SiteWriter,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

/// What is to be done for a ref.
struct Job {
    reference: RefName,
    commit: CommitId,
    previous: Option<Published>,
    outcome: RefOutcome,
}

impl Publisher<'_> {
    fn run(
        &self,
        refs: &[RefName],
        orphans: &[RefName],
        key_set: Option<&[u8]>,
    ) -> Result<PublishReport, PublishError> {
        let mut report = PublishReport {
            key_set: self.keys.number(),
            ..PublishReport::default()
        };
        let mut jobs = refs
            .iter()
            .map(|name| self.job(name))
            .collect::<Result<Vec<_>, _>>()?;
        for name in orphans {
            jobs.extend(self.orphan(name)?);
        }
        for job in jobs.iter().filter(|job| job.outcome != RefOutcome::Unchanged) {
            self.check_clock(job)?;
        }
        let mut known = HashMap::new();
        if jobs.iter().any(|job| job.outcome == RefOutcome::Released) {
            self.release_signers()?;
            self.collect_known(&mut known)?;
        }
        let mut records = Vec::new();
        for job in jobs {
            self.cancel.check()?;
            let (file, release) = match (job.outcome, &job.previous) {
                (RefOutcome::Renewed, Some(previous)) => {
                    let sign = |payload| self.sign_release(payload);
                    let file = self.writer.release_signed_by(&previous.record, self.keys, sign)?;
                    (file, previous.release.clone())
                }
                (RefOutcome::Released, _) => self.release(&job, &mut known, &mut report)?,
                (_, Some(previous)) => {
                    let file = FileRef {
                        digest: previous.record.release,
                        size: previous.record.release_size,
                    };
                    (file, previous.release.clone())
                }
                (_, None) => unreachable!("a ref without a record gets a release"),
            };
            let sequence = match &job.previous {
                Some(previous) => next_sequence(&previous.record, self.keys)?,
                None => 1,
            };
            report.refs.push(PublishedRef {
                reference: job.reference.clone(),
                commit: release.commit,
                version: release.version.clone(),
                number: release.number,
                sequence: match (&job.previous, job.outcome) {
                    (Some(previous), RefOutcome::Unchanged) => previous.record.sequence,
                    _ => sequence,
                },
                outcome: job.outcome,
            });
            if job.outcome != RefOutcome::Unchanged {
                let record = self.record(&job, &release, file, sequence)?;
                records.push((job.reference, record));
            }
        }
        self.writer.place_artifacts()?;
        if let Some(bytes) = key_set {
            self.writer.write_key_set(self.keys.number(), bytes)?;
        }
        for (reference, record) in &records {
            self.writer.write_record(reference, record)?;
        }
        if !records.is_empty() {
            self.writer.sync()?;
        }
        report.old_key_set = self.writer.site.refs_of_older_keys(self.keys)?;
        Ok(report)
    }

    fn job(&self, reference: &RefName) -> Result<Job, PublishError> {
        let commit = self
            .repo
            .ref_optional(reference)?
            .ok_or_else(|| RepoError::RefNotFound {
                name: reference.clone(),
                repo: self.repo.dir().path().to_owned(),
            })?;
        let previous = self.writer.site.published(reference, self.keys)?;
        let outcome = match &previous {
            Some(previous) => {
                let withdrawn = previous.record.withdrawn.iter().find(|one| one.commit == commit);
                // Its place is taken, and that has to be signed for as long as nothing else is published.
                if withdrawn.is_some() && (self.options.renew || self.options.key_set.is_some()) {
                    return Ok(Job {
                        reference: reference.clone(),
                        commit: previous.record.commit,
                        outcome: RefOutcome::Renewed,
                        previous: Some(previous.clone()),
                    });
                }
                if let Some(withdrawn) = withdrawn {
                    return Err(PublishError::Withdrawn {
                        reference: reference.clone(),
                        commit,
                        reason: withdrawn.reason.clone(),
                    });
                }
                self.outcome(previous, &commit)
            }
            None => RefOutcome::Released,
        };
        Ok(Job {
            reference: reference.clone(),
            commit,
            previous,
            outcome,
        })
    }

    /// Returns who signs releases: often by keys that are not at hand when records are renewed, so only who makes a release
    /// asks for them.
    fn release_signers(&self) -> Result<Vec<&dyn Signer>, PublishError> {
        let set = self.keys.set();
        let role = set.release.as_ref().unwrap_or(&set.record);
        signers(&self.options.signers, role, "release")
    }

    fn sign_release(&self, payload: Vec<u8>) -> Result<Envelope, PublishError> {
        Ok(Envelope::sign(RELEASE_TYPE, payload, &self.release_signers()?)?)
    }

    /// A ref that only the site has: its release stays as it is.
    fn orphan(&self, reference: &RefName) -> Result<Option<Job>, PublishError> {
        let previous = self.writer.site.published(reference, self.keys)?;
        Ok(previous.map(|previous| Job {
            reference: reference.clone(),
            commit: previous.record.commit,
            outcome: RefOutcome::Renewed,
            previous: Some(previous),
        }))
    }

    fn outcome(&self, previous: &Published, commit: &CommitId) -> RefOutcome {
        let release = &previous.release;
        let other_terms = (!self.options.compatible.is_empty()
            && self.options.compatible != release.compatible)
            || self
                .options
                .min_from
                .is_some_and(|number| number != release.min_from);
        if release.commit != *commit || other_terms || !self.options.patch_from.is_empty() {
            return RefOutcome::Released;
        }
        let life = previous.record.expires - previous.record.time;
        let left = previous.record.expires - self.time;
        let other_keys = previous.record.keys != self.keys.number();
        if self.options.renew || other_keys || left < life / 3 {
            RefOutcome::Renewed
        } else {
            RefOutcome::Unchanged
        }
    }

    /// Collects where blobs lie already, for all refs of the site.
    fn collect_known(&self, known: &mut HashMap<BlobId, Known>) -> Result<(), PublishError> {
        for reference in self.writer.site.refs()? {
            self.cancel.check()?;
            let Some(published) = self.writer.site.published(&reference, self.keys)? else {
                continue;
            };
            let manifest = self.writer.site.manifest(&published.release)?;
            for place in &manifest.index.places {
                let id = manifest.blobs.blobs()[place.blob as usize].id;
                known
                    .entry(id)
                    .or_insert_with(|| Known::of(place, &manifest.index.packs));
            }
        }
        Ok(())
    }

    fn check_clock(&self, job: &Job) -> Result<(), PublishError> {
        let previous = job.previous.as_ref().map(|previous| &previous.record);
        let previous = previous.filter(|record| record.keys == self.keys.number());
        let commit = match self.repo.load_commit(&job.commit) {
            Ok(commit) => Some(commit.time),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        check_clock(
            &job.reference,
            self.expires(),
            previous.map(|record| record.time),
            commit,
        )
    }

    fn expires(&self) -> i64 {
        self.time
            .saturating_add(self.options.lifetime.unwrap_or(LIFETIME))
    }

    fn record(
        &self,
        job: &Job,
        release: &Release,
        file: FileRef,
        sequence: u64,
    ) -> Result<Vec<u8>, PublishError> {
        let record = Record {
            repository: release.repository.clone(),
            reference: job.reference.clone(),
            keys: self.keys.number(),
            sequence,
            time: self.time,
            expires: self.expires(),
            release: file.digest,
            release_size: file.size,
            number: release.number,
            commit: release.commit,
            version: release.version.clone(),
            compatible: release.compatible.clone(),
            min_from: release.min_from,
            withdrawn: job
                .previous
                .as_ref()
                .map(|previous| previous.record.withdrawn.clone())
                .unwrap_or_default(),
            extensions: Default::default(),
            critical: Vec::new(),
        };
        Ok(Envelope::sign(RECORD_TYPE, record.to_payload(), &self.record_signers)?.encode())
    }

    /// Writes everything that a new release needs.
    fn release(
        &self,
        job: &Job,
        known: &mut HashMap<BlobId, Known>,
        report: &mut PublishReport,
    ) -> Result<(FileRef, Release), PublishError> {
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

        let image = self.image(&blobs, levels.image, threads, report)?;
        let history = history(job);
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
            compatible: if self.options.compatible.is_empty() {
                previous
                    .map(|previous| previous.release.compatible.clone())
                    .unwrap_or_default()
            } else {
                self.options.compatible.clone()
            },
            min_from: self
                .options
                .min_from
                .or(previous.map(|previous| previous.release.min_from))
                .unwrap_or(0),
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
        let file = self.writer.add_bytes(Artifact::Release, &envelope.encode())?;
        Ok((file, release))
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
        let carried = match &job.previous {
            Some(previous) => patches::carry(&self.writer.site.manifest(&previous.release)?, blobs),
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
        blobs: &BlobList,
        level: i32,
        threads: usize,
        report: &mut PublishReport,
    ) -> Result<Option<(FileRef, Vec<u64>)>, PublishError> {
        if self.options.no_image || blobs.is_empty() {
            return Ok(None);
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
        report.image_bytes += image.0.size;
        Ok(Some(image))
    }
}

/// Returns a number that no release of the ref has had, those that were withdrawn included.
fn next_number(job: &Job) -> Result<u64, PublishError> {
    let Some(previous) = &job.previous else {
        return Ok(1);
    };
    let withdrawn = previous.record.withdrawn.iter().map(|one| one.number).max();
    let last = previous.release.number.max(withdrawn.unwrap_or(0));
    last.checked_add(1).ok_or_else(|| PublishError::LastSequence {
        reference: job.reference.clone(),
    })
}

/// Returns the new release's history: the previous release, and what it had.
fn history(job: &Job) -> Vec<HistoryEntry> {
    let Some(previous) = &job.previous else {
        return Vec::new();
    };
    let mut history = previous.release.history.clone();
    let release = &previous.release;
    history.insert(
        0,
        HistoryEntry {
            number: release.number,
            version: release.version.clone(),
            commit: release.commit,
            release: FileRef {
                digest: previous.record.release,
                size: previous.record.release_size,
            },
            time: release.time,
            min_from: release.min_from,
        },
    );
    history.truncate(limits::HISTORY);
    history
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
