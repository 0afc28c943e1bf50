//! New key sets on a site.
//!
//! A set that machines cannot follow would lock them out for ever, so it is judged here as they will judge it: by the set
//! before it, and the first one by the keys that they were given. It is placed before any record that its keys sign.

use std::collections::BTreeSet;

use crate::error::with_causes;
use crate::names::RefName;
use crate::sign::{Envelope, KeyId, KeySetDraft, PublicKey, TrustedKeys};
use crate::site::{Artifact, FileRef, RELEASE_TYPE, Record, key_set_path, limits, record_path};

use super::PublishError;
use super::maintain::SiteFsckReport;
use super::publisher::check_size;
use super::site_dir::SiteDir;
use super::site_writer::SiteWriter;

/// Key sets that are told to be lost.
const MAX_LOST: usize = 100;

impl SiteDir {
    /// Judges the next key set. `known` are public keys that are at hand; `pinned` those that machines were given, where the
    /// publisher says so. Returns the set, and whether it is here already.
    pub(super) fn judge_key_set(
        &self,
        bytes: &[u8],
        pinned: &[PublicKey],
        known: &[PublicKey],
    ) -> Result<(TrustedKeys, bool), PublishError> {
        if bytes.len() > limits::MAX_RECORD {
            return Err(PublishError::KeySet {
                number: 0,
                reason: format!("it has {} bytes, and 64 KiB are allowed", bytes.len()),
            });
        }
        let draft = KeySetDraft::decode(bytes)?;
        let number = draft.set().number;
        let refuse = |reason: String| PublishError::KeySet { number, reason };
        if draft.set().repository != self.repository() {
            return Err(refuse(format!(
                "it is of repository {}, and this site is of {}",
                draft.set().repository,
                self.repository()
            )));
        }
        let newest = self.newest_key_set()?;
        let last = newest.as_ref().map_or(0, |set| set.number);
        if number == last && number > 0 && self.key_set_bytes(number)? == bytes {
            return Ok((TrustedKeys::given(draft.set().clone()), true));
        }
        if Some(number) != last.checked_add(1) {
            return Err(refuse(format!(
                "the site has key set {last}, and {} comes next",
                last + 1
            )));
        }
        let lacks = |role: crate::sign::Signed, whose: &str| {
            let open: Vec<_> = role.open.iter().map(ToString::to_string).collect();
            refuse(format!(
                "it takes {} signatures by {whose}, and has {}; these have not signed: {}",
                role.threshold,
                role.by.len(),
                open.join(", ")
            ))
        };
        let own = draft.signed_by_its_own();
        if own.missing() > 0 {
            return Err(lacks(own, "its own root keys"));
        }
        let before = match (newest, pinned) {
            (Some(set), _) => TrustedKeys::given(set),
            (None, []) => {
                self.judge_first_by_records(&draft, known)?;
                return Ok((TrustedKeys::given(draft.set().clone()), false));
            }
            (None, pinned) => TrustedKeys::pinned(pinned.iter().cloned())?,
        };
        let by = draft.signed_by_root_of(before.set());
        if by.missing() > 0 {
            let whose = match last {
                0 => "the keys that machines were given".to_owned(),
                last => format!("the root keys of key set {last}"),
            };
            return Err(lacks(by, &whose));
        }
        Ok((before.advance(bytes)?, false))
    }

    /// Machines that believe the records of today were given a key that signs them. One of those must have signed the first
    /// set.
    fn judge_first_by_records(&self, draft: &KeySetDraft, known: &[PublicKey]) -> Result<(), PublishError> {
        let keys = draft.set().keys.values().chain(known);
        let signed: BTreeSet<KeyId> = keys
            .filter(|key| draft.is_signed_by(key))
            .map(PublicKey::id)
            .collect();
        for reference in self.refs()? {
            let Some(record) = self
                .dir()
                .read_optional(record_path(&reference), limits::MAX_RECORD)?
            else {
                continue;
            };
            let signers: Vec<KeyId> = Envelope::decode(&record)
                .map_err(|error| self.damaged(&record_path(&reference), error))?
                .signers()
                .collect();
            if !signers.iter().any(|id| signed.contains(id)) {
                let ids: Vec<_> = signers.iter().map(ToString::to_string).collect();
                return Err(PublishError::KeySet {
                    number: draft.set().number,
                    reason: format!(
                        "the record of {reference} is signed by {}, and no key that machines were given is known to have signed the set",
                        ids.join(", ")
                    ),
                });
            }
        }
        Ok(())
    }

    /// Returns the key sets before the newest that are gone.
    pub(super) fn lost_key_sets(&self) -> Result<Vec<String>, PublishError> {
        let mut lost = Vec::new();
        for number in 1..self.newest_key_set_number()? {
            let path = key_set_path(number);
            if !self.dir().exists(&path)? {
                lost.push(path);
            }
            // A number that somebody made up is no list to go through.
            if lost.len() == MAX_LOST {
                break;
            }
        }
        Ok(lost)
    }

    /// Returns the refs whose record is signed by an earlier key set than `keys`.
    pub(super) fn refs_of_older_keys(&self, keys: &TrustedKeys) -> Result<Vec<RefName>, PublishError> {
        let mut old = Vec::new();
        for reference in self.refs()? {
            if self
                .record_unverified(&reference)?
                .is_some_and(|record| record.keys < keys.number())
            {
                old.push(reference);
            }
        }
        Ok(old)
    }

    /// Follows the key sets from `pinned` on, or from the first one, as a machine would. What it could not follow is a
    /// finding. Returns the keys that it would go by.
    pub(super) fn follow_key_sets(
        &self,
        pinned: Option<&TrustedKeys>,
        report: &mut SiteFsckReport,
    ) -> Result<Option<TrustedKeys>, PublishError> {
        let last = self.newest_key_set_number()?;
        let mut keys = pinned.cloned();
        let first = keys.as_ref().map_or(0, TrustedKeys::number) + 1;
        for number in first..=last {
            let name = key_set_path(number);
            let next = self
                .key_set(number)
                .map_err(|error| with_causes(&error))
                .and_then(|set| match &keys {
                    Some(keys) => {
                        let bytes = self.key_set_bytes(number).map_err(|error| with_causes(&error))?;
                        keys.advance(&bytes).map_err(|error| with_causes(&error))
                    }
                    None => Ok(TrustedKeys::given(set)),
                });
            match next {
                Ok(next) => keys = Some(next),
                Err(problem) => {
                    report.add(name, &problem);
                    // What comes after it can still be judged.
                    keys = self.key_set(number).ok().map(TrustedKeys::given);
                }
            }
        }
        Ok(keys.filter(|_| pinned.is_some()))
    }
}

impl SiteWriter {
    /// Returns the file of a release that `keys` verify: the one that there is, or one that `sign` makes of it. What names it must have been
    /// verified. Without a key set each of the `signers` must have signed it: a machine may have been given that one alone.
    pub(super) fn release_signed_by(
        &self,
        record: &Record,
        keys: &TrustedKeys,
        signers: &[PublicKey],
        sign: impl FnOnce(Vec<u8>) -> Result<Envelope, PublishError>,
    ) -> Result<FileRef, PublishError> {
        let file = FileRef {
            digest: record.release,
            size: record.release_size,
        };
        let envelope = self.site.release_envelope(&file)?;
        let is_enough = keys.number() > 0 || signers.iter().all(|key| envelope.is_signed_by(key));
        if is_enough && keys.verify_release(&envelope, RELEASE_TYPE).is_ok() {
            return Ok(file);
        }
        let signed = sign(envelope.unverified_payload().to_vec())?;
        let bytes = signed.encode();
        check_size("release", &record.reference, &bytes, limits::MAX_RELEASE)?;
        self.add_bytes(Artifact::Release, &bytes)
    }
}
