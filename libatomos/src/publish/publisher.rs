//! Publishing, from a repository's refs to signed records.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::names::RefName;
use crate::progress::Progress;
use crate::repo::{Repo, RepoError};
use crate::sign::{Envelope, PublicKey, Role, Signer, TrustedKeys};
use crate::site::{Artifact, FileRef, RECORD_TYPE, RELEASE_TYPE, Record, Release, limits, record_path};

use super::consolidate::Known;
use super::site_writer::SiteWriter;
use super::withdraw::shorten_reasons;
use super::{
    LostFiles, PublishError, PublishOptions, PublishReport, PublishedRef, RefOutcome, WithdrawnCommit,
};

/// Seconds that a record is believed unless the publisher says otherwise: 30 days.
pub(super) const LIFETIME: i64 = 30 * 24 * 3600;

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
    if let Some(reference) = refs.iter().find(|name| name.as_str().contains(':')) {
        return Err(PublishError::RemoteRef {
            reference: reference.clone(),
        });
    }
    let no_name = |name: &&String| name.is_empty() || name.len() > 200 || name.contains(char::is_control);
    if let Some(name) = options.compatible.iter().find(no_name) {
        return Err(PublishError::Compatible { name: name.clone() });
    }
    let writer = SiteWriter::open(to, &repo.config().id, &repo.patience())?;
    writer.site.check_names(&refs)?;
    writer.free_places(&refs)?;
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
    let time = options.time.unwrap_or_else(now);
    check_key_set(&keys, time)?;
    let publisher = Publisher {
        repo,
        options,
        keys: &keys,
        earlier: options.pinned.iter().chain(&publics).cloned().collect(),
        is_new_set: !is_placed,
        publics: publics.clone(),
        record_signers: signers(&options.signers, &keys.set().record, "record")?,
        time,
        images: RefCell::default(),
        writer: &writer,
        progress,
        cancel,
    };
    let key_set = options.key_set.as_deref().filter(|_| !is_placed);
    let result = publisher.run(&refs, &orphans, key_set);
    // Where a test stops it, it is as if the machine had.
    if result
        .as_ref()
        .is_err_and(|error| !matches!(error, PublishError::Failpoint(_)))
    {
        writer.clear();
    }
    result
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

/// Refuses to sign by a key set that has expired: no machine believes what it signs, however new.
pub(super) fn check_key_set(keys: &TrustedKeys, time: i64) -> Result<(), PublishError> {
    match keys.set().expires {
        Some(expires) if expires <= time => Err(PublishError::KeySetExpired {
            number: keys.number(),
            expires,
            time,
        }),
        _ => Ok(()),
    }
}

/// Returns until when a record that is signed at `time` is believed: for `lifetime` seconds, and no longer than its key set is.
pub(super) fn end_of(keys: &TrustedKeys, time: i64, lifetime: i64) -> i64 {
    let end = keys.set().expires.unwrap_or(i64::MAX);
    time.saturating_add(lifetime).min(end)
}

/// Returns a record's file.
pub(super) fn sign_record(record: &Record, signers: &[&dyn Signer]) -> Result<Vec<u8>, PublishError> {
    let bytes = Envelope::sign(RECORD_TYPE, record.to_payload(), signers)?.encode();
    check_size("record", &record.reference, &bytes, limits::MAX_RECORD)?;
    Ok(bytes)
}

/// Refuses a file that machines, and whoever publishes the next time, would not read.
pub(super) fn check_size(
    what: &'static str,
    reference: &RefName,
    bytes: &[u8],
    limit: usize,
) -> Result<(), PublishError> {
    if bytes.len() <= limit {
        return Ok(());
    }
    Err(PublishError::TooLarge {
        what,
        reference: reference.clone(),
        size: bytes.len(),
        limit,
    })
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

pub(super) struct Publisher<'a> {
    pub(super) repo: &'a Repo,
    pub(super) options: &'a PublishOptions<'a>,
    pub(super) keys: &'a TrustedKeys,
    /// Keys that machines went by before the first key set, as far as they are at hand.
    earlier: Vec<PublicKey>,
    /// Whether the key set is new, and machines start to count again.
    is_new_set: bool,
    pub(super) record_signers: Vec<&'a dyn Signer>,
    /// The keys of all who sign.
    publics: Vec<PublicKey>,
    pub(super) time: i64,
    /// Images of this run, by the root of the tree that is in them.
    pub(super) images: RefCell<HashMap<DirTreeId, Image>>,
    pub(super) writer: &'a SiteWriter,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a Cancel,
}

/// The file of an image, and how long its frames are.
pub(super) type Image = (FileRef, Vec<u64>);

/// What is to be done for a ref.
pub(super) struct Job {
    pub(super) reference: RefName,
    pub(super) commit: CommitId,
    pub(super) previous: Option<Previous>,
    pub(super) outcome: RefOutcome,
    /// What the ref names in the repository, where it was withdrawn and is not published for that.
    withdrawn: Option<WithdrawnCommit>,
}

/// What is published of a ref.
#[derive(Clone)]
pub(super) struct Previous {
    pub(super) record: Record,
    /// Its release; `None` where the site has lost it.
    pub(super) release: Option<Release>,
    /// The release before it, where that is the last one that is left.
    pub(super) earlier: Option<(FileRef, Release)>,
    /// What the release needs and the site has lost.
    lost: Vec<(Artifact, FileRef)>,
}

impl Job {
    /// The release stays as it is.
    fn renewing(reference: &RefName, previous: Previous) -> Self {
        Self {
            reference: reference.clone(),
            commit: previous.record.commit,
            outcome: match &previous.release {
                Some(_) => RefOutcome::Renewed,
                None => RefOutcome::Released,
            },
            previous: Some(previous),
            withdrawn: None,
        }
    }
}

impl Previous {
    fn lost_of(&self, reference: &RefName) -> LostFiles {
        let files = self.lost.iter();
        LostFiles {
            reference: reference.clone(),
            files: files.map(|(kind, file)| kind.path(&file.digest)).collect(),
        }
    }
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
            key_set_expires: self.keys.set().expires,
            ..PublishReport::default()
        };
        let mut jobs = refs
            .iter()
            .map(|name| self.job(name))
            .collect::<Result<Vec<_>, _>>()?;
        for reference in orphans {
            match self.previous(reference)? {
                // Nobody can make another release of it.
                Some(previous) if previous.release.is_none() => report.lost.push(previous.lost_of(reference)),
                Some(previous) => jobs.push(Job::renewing(reference, previous)),
                None => {}
            }
        }
        for job in jobs.iter().filter(|job| job.outcome != RefOutcome::Unchanged) {
            self.check_clock(job)?;
        }
        let first: Vec<RefName> = jobs
            .iter()
            .filter(|job| job.previous.is_none())
            .map(|job| job.reference.clone())
            .collect();
        let mut known = HashMap::new();
        if jobs.iter().any(|job| job.outcome == RefOutcome::Released) {
            self.release_signers()?;
            self.collect_known(&mut known)?;
            report.withdrawn_elsewhere = self.withdrawn_elsewhere(&jobs)?;
        }
        let mut records = Vec::new();
        for mut job in jobs {
            self.cancel.check()?;
            report.withdrawn.extend(job.withdrawn.take());
            let previous = job.previous.as_ref();
            if let Some(previous) = previous.filter(|previous| !previous.lost.is_empty()) {
                report.lost.push(previous.lost_of(&job.reference));
            }
            let kept = previous.and_then(|previous| Some((&previous.record, previous.release.as_ref()?)));
            let (file, release) = match (job.outcome, kept) {
                (RefOutcome::Renewed, Some((record, release))) => {
                    let sign = |payload| self.sign_release(payload);
                    let file = self
                        .writer
                        .release_signed_by(record, self.keys, &self.publics, sign)?;
                    (file, release.clone())
                }
                (RefOutcome::Unchanged, Some((record, release))) => {
                    let file = FileRef {
                        digest: record.release,
                        size: record.release_size,
                    };
                    (file, release.clone())
                }
                _ => self.release(&job, &mut known, &mut report)?,
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
                compatible: release.compatible.clone(),
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
        self.writer.begin(&first)?;
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
        self.writer.finish()?;
        if self.options.refs.is_empty() {
            report.not_here = self.writer.site.refs()?;
            let is_done = |name: &RefName| report.refs.iter().any(|done| done.reference == *name);
            report.not_here.retain(|name| !is_done(name));
        }
        report.lost_key_sets = self.writer.site.lost_key_sets()?;
        report.old_key_set = self.writer.site.refs_of_older_keys(self.keys)?;
        Ok(report)
    }

    /// Reads what is published of a ref, and verifies it. What the site has lost of it is no error.
    fn previous(&self, reference: &RefName) -> Result<Option<Previous>, PublishError> {
        let site = &self.writer.site;
        let Some((record, keys)) = site.record(reference, self.keys, &self.earlier)? else {
            if self.is_new_set || self.options.anew || self.writer.has_begun(reference) {
                return Ok(None);
            }
            // Machines that have seen it would refuse what begins anew, for good; but under other keys. Without a key set those that
            // machines were given besides count with these.
            let keys = site.keys_of(self.keys.number(), self.keys, &self.earlier)?;
            let counts = |envelope: &Envelope| keys.verify_release(envelope, RELEASE_TYPE).is_ok();
            return match site.last_release_of(reference, |envelope, _| counts(envelope))? {
                Some((_, release)) => Err(PublishError::RecordLost {
                    path: site.dir().path().join(record_path(reference)),
                    number: release.number,
                }),
                None => Ok(None),
            };
        };
        let release = match site.release_of(&record, &keys) {
            Ok(release) => Some(release),
            Err(PublishError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let lost = match &release {
            Some(release) => site.lost_of(release)?,
            None => {
                let file = FileRef {
                    digest: record.release,
                    size: record.release_size,
                };
                vec![(Artifact::Release, file)]
            }
        };
        let earlier = match &release {
            Some(_) => None,
            None => {
                // The older ones may have the signatures of then.
                let sets: Vec<_> = (0..=record.keys)
                    .filter_map(|number| site.keys_of(number, self.keys, &self.earlier).ok())
                    .collect();
                site.last_release_of(reference, |envelope, release| {
                    let is_signed = |keys: &TrustedKeys| keys.verify_release(envelope, RELEASE_TYPE).is_ok();
                    release.number < record.number && sets.iter().any(is_signed)
                })?
            }
        };
        Ok(Some(Previous {
            record,
            release,
            earlier,
            lost,
        }))
    }

    fn job(&self, reference: &RefName) -> Result<Job, PublishError> {
        let commit = self
            .repo
            .ref_optional(reference)?
            .ok_or_else(|| RepoError::RefNotFound {
                name: reference.clone(),
                repo: self.repo.dir().path().to_owned(),
            })?;
        let previous = self.previous(reference)?;
        let outcome = match &previous {
            Some(previous) => {
                if let Some(one) = previous.record.withdrawn.iter().find(|one| one.commit == commit) {
                    let withdrawn = WithdrawnCommit::new(reference, reference, one);
                    return Ok(self.job_of_withdrawn(previous.clone(), withdrawn));
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
            withdrawn: None,
        })
    }

    /// What the ref names was withdrawn: the release that took its place stays, and is signed for as long as nothing else is published.
    /// The other refs are not to wait for that, nor the machines that believe no record for ever.
    fn job_of_withdrawn(&self, previous: Previous, withdrawn: WithdrawnCommit) -> Job {
        let is_due = self.is_due(&previous.record);
        let mut job = Job::renewing(&withdrawn.reference, previous);
        if job.outcome == RefOutcome::Renewed && !is_due {
            job.outcome = RefOutcome::Unchanged;
        }
        job.withdrawn = Some(withdrawn);
        job
    }

    /// Returns those of the new releases whose commits were withdrawn of other refs of the site.
    fn withdrawn_elsewhere(&self, jobs: &[Job]) -> Result<Vec<WithdrawnCommit>, PublishError> {
        let mut found = Vec::new();
        let released = || jobs.iter().filter(|job| job.outcome == RefOutcome::Released);
        let site = &self.writer.site;
        for other in site.refs()? {
            let Some((record, _)) = site.record(&other, self.keys, &self.earlier)? else {
                continue;
            };
            for job in released().filter(|job| job.reference != other) {
                let same = record.withdrawn.iter().find(|one| one.commit == job.commit);
                found.extend(same.map(|one| WithdrawnCommit::new(&job.reference, &other, one)));
            }
        }
        Ok(found)
    }

    /// Returns who signs releases: often by keys that are not at hand when records are renewed, so only who makes a release
    /// asks for them.
    fn release_signers(&self) -> Result<Vec<&dyn Signer>, PublishError> {
        let set = self.keys.set();
        let role = set.release.as_ref().unwrap_or(&set.record);
        signers(&self.options.signers, role, "release")
    }

    pub(super) fn sign_release(&self, payload: Vec<u8>) -> Result<Envelope, PublishError> {
        Ok(Envelope::sign(RELEASE_TYPE, payload, &self.release_signers()?)?)
    }

    fn outcome(&self, previous: &Previous, commit: &CommitId) -> RefOutcome {
        let record = &previous.record;
        let other_terms = (self.options.for_all && !record.compatible.is_empty())
            || (!self.options.compatible.is_empty() && self.options.compatible != record.compatible)
            || self
                .options
                .min_from
                .is_some_and(|number| number != record.min_from);
        if record.commit != *commit || other_terms || !self.options.patch_from.is_empty() {
            return RefOutcome::Released;
        }
        // What the site has lost is made anew; whoever only renews may not have the keys for that.
        if previous.release.is_none() || (!previous.lost.is_empty() && !self.options.renew) {
            return RefOutcome::Released;
        }
        match self.is_due(record) {
            true => RefOutcome::Renewed,
            false => RefOutcome::Unchanged,
        }
    }

    /// Returns whether a record is to be signed anew though it says nothing new.
    fn is_due(&self, record: &Record) -> bool {
        let life = record.expires - record.time;
        let left = record.expires - self.time;
        let other_keys = record.keys != self.keys.number();
        self.options.renew || other_keys || left < life / 3
    }

    /// Collects where blobs lie already, for all refs of the site.
    fn collect_known(&self, known: &mut HashMap<BlobId, Known>) -> Result<(), PublishError> {
        let site = &self.writer.site;
        for reference in site.refs()? {
            self.cancel.check()?;
            let release = self.previous(&reference)?.and_then(|previous| previous.release);
            let Some(release) = release else {
                continue;
            };
            let Some(manifest) = site.manifest_unless_lost(&release)? else {
                continue;
            };
            let packs = &manifest.index.packs;
            let is_there = packs
                .iter()
                .map(|pack| site.has_artifact(Artifact::Pack, pack))
                .collect::<Result<Vec<_>, _>>()?;
            let there = manifest.index.places.iter();
            for place in there.filter(|place| is_there[place.pack as usize]) {
                let id = manifest.blobs.blobs()[place.blob as usize].id;
                known.entry(id).or_insert_with(|| Known::of(place, packs));
            }
        }
        Ok(())
    }

    fn check_clock(&self, job: &Job) -> Result<(), PublishError> {
        let previous = job.previous.as_ref().map(|previous| &previous.record);
        let previous = previous.filter(|record| record.keys == self.keys.number());
        let commit = match self.repo.load_commit(&job.commit) {
            Ok(commit) => Some(commit.time),
            // Only the site has it.
            Err(RepoError::ObjectMissing { .. }) => None,
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
        end_of(self.keys, self.time, self.options.lifetime.unwrap_or(LIFETIME))
    }

    fn record(
        &self,
        job: &Job,
        release: &Release,
        file: FileRef,
        sequence: u64,
    ) -> Result<Vec<u8>, PublishError> {
        let mut record = Record {
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
        shorten_reasons(&mut record);
        sign_record(&record, &self.record_signers)
    }
}
