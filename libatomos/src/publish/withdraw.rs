//! Taking a release back.

use std::collections::BTreeSet;
use std::path::Path;

use crate::digest::CommitId;
use crate::fs::Patience;
use crate::names::RefName;
use crate::sign::{Envelope, PublicKey, Signer};
use crate::site::{Artifact, FileRef, RELEASE_TYPE, Record, Release, Withdrawn, is_selected};

use super::PublishError;
use super::maintain::Needed;
use super::publisher::{
    LIFETIME, check_clock, check_key_set, end_of, next_sequence, now, sign_record, signers,
};
use super::site_dir::SiteDir;
use super::site_writer::SiteWriter;

/// Bytes of the reason for taking a release back.
pub const MAX_REASON: usize = 1000;

/// Bytes of a record's payload above which old reasons are left out. In its envelope it is a third larger, and signatures come to it.
const LONG_PAYLOAD: usize = 40 * 1024;

/// Takes a release back: the ref's record names the newest release that was not taken back, and says why. Machines that have it go
/// back, and none takes it again. `pinned` are the keys that machines were given, as far as no signer has them: by those, records of
/// before the first key set are verified.
pub fn withdraw(
    path: &Path,
    reference: &RefName,
    selector: &str,
    reason: &str,
    given: &[&dyn Signer],
    pinned: &[PublicKey],
    time: Option<i64>,
) -> Result<Record, PublishError> {
    let options = WithdrawOptions {
        signers: given.to_vec(),
        pinned: pinned.to_vec(),
        time,
        patience: Patience::default(),
    };
    withdraw_with(path, reference, selector, reason, &options)
}

/// Who takes a release back, and how.
#[derive(Default)]
#[non_exhaustive]
pub struct WithdrawOptions<'a> {
    /// Sign the record, and a release of before a rotation.
    pub signers: Vec<&'a dyn Signer>,
    /// The keys that machines were given, as far as no signer has them.
    pub pinned: Vec<PublicKey>,
    /// What time it is, in seconds since 1970; the system's where `None`.
    pub time: Option<i64>,
    /// How another who writes to the site is waited for.
    pub patience: Patience,
}

impl std::fmt::Debug for WithdrawOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithdrawOptions")
            .field("pinned", &self.pinned)
            .finish_non_exhaustive()
    }
}

/// Takes a release back as [`withdraw`] does.
pub fn withdraw_with(
    path: &Path,
    reference: &RefName,
    selector: &str,
    reason: &str,
    options: &WithdrawOptions<'_>,
) -> Result<Record, PublishError> {
    let (given, pinned) = (options.signers.as_slice(), options.pinned.as_slice());
    if reason.len() > MAX_REASON {
        return Err(PublishError::Reason { len: reason.len() });
    }
    let repository = SiteDir::open(path)?.repository().to_owned();
    let writer = SiteWriter::open(path, &repository, &options.patience)?;
    let publics: Vec<_> = given.iter().map(|signer| signer.public()).collect();
    let keys = writer.site.trusted_keys(&publics)?;
    let time = options.time.unwrap_or_else(now);
    check_key_set(&keys, time)?;
    let record_signers = signers(given, &keys.set().record, "record")?;
    let no_such = |selector: &str| PublishError::NoSuchRelease {
        reference: reference.clone(),
        selector: selector.to_owned(),
    };
    let published = writer
        .site
        .published(reference, &keys, &[pinned, &publics].concat())?
        .ok_or_else(|| writer.site.no_such_ref(reference))?;
    let already = published
        .record
        .withdrawn
        .iter()
        .find(|one| is_selected(selector, &one.commit, &one.version));
    if let Some(one) = already {
        return Err(PublishError::Withdrawn {
            reference: reference.clone(),
            commit: one.commit,
            reason: one.reason.clone(),
        });
    }
    let mut needed = Needed::default();
    writer.site.collect(
        &published.record,
        published.release.clone(),
        0,
        i64::MAX,
        &mut needed,
    )?;
    let matches = |release: &&Release| is_selected(selector, &release.commit, &release.version);
    let gone = needed
        .releases
        .iter()
        .find(matches)
        .ok_or_else(|| no_such(selector))?;
    let mut record = published.record.clone();
    if !record.withdrawn.iter().any(|one| one.commit == gone.commit) {
        record.withdrawn.push(Withdrawn {
            number: gone.number,
            commit: gone.commit,
            version: gone.version.clone(),
            reason: reason.to_owned(),
        });
    }
    let withdrawn: BTreeSet<CommitId> = record.withdrawn.iter().map(|one| one.commit).collect();
    let mut newest = None;
    for release in &needed.releases {
        // One that was pruned cannot be pulled.
        let manifest = Artifact::Manifest.path(&release.manifest.digest);
        if !withdrawn.contains(&release.commit)
            && newest.is_none_or(|newest: &Release| newest.number < release.number)
            && writer.site.dir().exists(manifest)?
        {
            newest = Some(release);
        }
    }
    let newest = newest.ok_or_else(|| PublishError::NothingLeft {
        reference: reference.clone(),
    })?;
    let file = needed_file(&writer.site, &published.record, &published.release, newest)?;
    record.release = file.digest;
    record.release_size = file.size;
    // One of before a rotation has the signatures of then.
    let file = writer.release_signed_by(&record, &keys, &publics, |payload| {
        let role = keys.set().release.as_ref().unwrap_or(&keys.set().record);
        let signers = signers(given, role, "release")?;
        Ok(Envelope::sign(RELEASE_TYPE, payload, &signers)?)
    })?;
    record.sequence = next_sequence(&record, &keys)?;
    let set_before = match record.keys {
        0 => None,
        number => writer.site.key_set(number)?.expires,
    };
    // The end of a set that is replaced by now says nothing of how long records are to be believed.
    let life = match set_before {
        Some(end) if record.keys != keys.number() && record.expires == end => LIFETIME,
        _ => record.expires - record.time,
    };
    let last = (record.keys == keys.number()).then_some(record.time);
    record.keys = keys.number();
    record.time = time;
    record.expires = end_of(&keys, time, life);
    check_clock(reference, record.expires, last, None)?;
    record.release = file.digest;
    record.release_size = file.size;
    record.number = newest.number;
    record.commit = newest.commit;
    record.version.clone_from(&newest.version);
    record.compatible.clone_from(&newest.compatible);
    record.min_from = newest.min_from;
    shorten_reasons(&mut record);
    let bytes = sign_record(&record, &record_signers)?;
    writer.place_artifacts()?;
    writer.write_record(reference, &bytes)?;
    writer.sync()?;
    Ok(record)
}

impl SiteDir {
    /// Returns the refs of the site that still offer a commit: as their newest release, or as an older one that can be asked for by its
    /// version. Nothing is verified but digests.
    pub fn refs_that_offer(&self, commit: &CommitId) -> Result<Vec<RefName>, PublishError> {
        let mut found = Vec::new();
        for reference in self.refs()? {
            let Some((record, release)) = self.published_unverified(&reference)? else {
                continue;
            };
            if record.withdrawn.iter().any(|one| one.commit == *commit) {
                continue;
            }
            let mut needed = Needed::default();
            self.collect(&record, release, 0, i64::MAX, &mut needed)?;
            for release in needed.releases.iter().filter(|release| release.commit == *commit) {
                // One that was pruned cannot be pulled.
                if self
                    .dir()
                    .exists(Artifact::Manifest.path(&release.manifest.digest))?
                {
                    found.push(reference);
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// Leaves out the reasons of what was withdrawn first where the record grows too long. What was withdrawn stays so for ever, and
/// the list must not end where nothing more can be withdrawn.
pub(super) fn shorten_reasons(record: &mut Record) {
    for index in 0..record.withdrawn.len().saturating_sub(1) {
        if record.to_payload().len() <= LONG_PAYLOAD {
            return;
        }
        record.withdrawn[index].reason.clear();
    }
}

/// Finds the file of a release in the histories.
fn needed_file(
    site: &SiteDir,
    record: &Record,
    newest: &Release,
    wanted: &Release,
) -> Result<FileRef, PublishError> {
    if newest.number == wanted.number && newest.commit == wanted.commit {
        return Ok(FileRef {
            digest: record.release,
            size: record.release_size,
        });
    }
    let mut release = newest.clone();
    loop {
        if let Some(entry) = release.history.iter().find(|entry| entry.number == wanted.number) {
            return Ok(entry.release);
        }
        match release.history.last() {
            Some(oldest) => release = site.release(&oldest.release)?,
            None => {
                return Err(PublishError::NoSuchRelease {
                    reference: wanted.reference.clone(),
                    selector: wanted.number.to_string(),
                });
            }
        }
    }
}
