//! Publishing, from a repository's refs to signed records.

use std::collections::HashMap;
use std::path::Path;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId};
use crate::error::ErrorKind;
use crate::names::RefName;
use crate::progress::Progress;
use crate::repo::{Repo, RepoError};
use crate::sign::{Envelope, PublicKey, Role, Signer, TrustedKeys};
use crate::site::{FileRef, RECORD_TYPE, RELEASE_TYPE, Record, Release};

use super::consolidate::Known;
use super::site_dir::{Published, SiteWriter};
use super::{PublishError, PublishOptions, PublishReport, PublishedRef, RefOutcome};

/// Seconds that a record is believed unless the publisher says otherwise: 30 days.
const LIFETIME: i64 = 30 * 24 * 3600;

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
        earlier: options.pinned.iter().chain(&publics).cloned().collect(),
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

pub(super) struct Publisher<'a> {
    pub(super) repo: &'a Repo,
    pub(super) options: &'a PublishOptions<'a>,
    pub(super) keys: &'a TrustedKeys,
    /// Keys that machines went by before the first key set, as far as they are at hand.
    earlier: Vec<PublicKey>,
    pub(super) record_signers: Vec<&'a dyn Signer>,
    pub(super) time: i64,
    pub(super) writer: &'a SiteWriter,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a Cancel,
}

/// What is to be done for a ref.
pub(super) struct Job {
    pub(super) reference: RefName,
    pub(super) commit: CommitId,
    pub(super) previous: Option<Published>,
    pub(super) outcome: RefOutcome,
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

    fn published(&self, reference: &RefName) -> Result<Option<Published>, PublishError> {
        self.writer.site.published(reference, self.keys, &self.earlier)
    }

    fn job(&self, reference: &RefName) -> Result<Job, PublishError> {
        let commit = self
            .repo
            .ref_optional(reference)?
            .ok_or_else(|| RepoError::RefNotFound {
                name: reference.clone(),
                repo: self.repo.dir().path().to_owned(),
            })?;
        let previous = self.published(reference)?;
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

    pub(super) fn sign_release(&self, payload: Vec<u8>) -> Result<Envelope, PublishError> {
        Ok(Envelope::sign(RELEASE_TYPE, payload, &self.release_signers()?)?)
    }

    /// A ref that only the site has: its release stays as it is.
    fn orphan(&self, reference: &RefName) -> Result<Option<Job>, PublishError> {
        let previous = self.published(reference)?;
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
            let Some(published) = self.published(&reference)? else {
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
}
