//! Which record to believe, and which release to take.
//!
//! The attacks are those of The Update Framework's list; `docs/threat-model.md` has them with the tests that try them. A
//! record counts when the keys of the newest key set signed it, when it is this ref's of this repository, not older
//! than what this machine has seen, and not expired. Order is the signed counter, never a clock. A mirror that lags, or
//! lies, is passed over for the next one; what is wrong with the last one is the error.

use crate::digest::{CommitId, Digest};
use crate::names::RefName;
use crate::progress::Event;
use crate::remote::{Fetched, Meta, Rejection, RemoteConfig, RemoteName, RemoteState, Source};
use crate::sign::{Envelope, SignError, TrustedKeys};
use crate::site::{
    Artifact, FileRef, HistoryEntry, RECORD_TYPE, RELEASE_TYPE, Record, Release, is_selected, key_set_path,
    limits, record_path,
};
use crate::transport::{Request, TransportErrorKind};

use super::PullError;

/// Key sets that a client follows at once.
const MAX_KEY_SETS: u64 = 1024;

/// Releases whose history is looked through for a version: 32,000 releases.
const MAX_HISTORY_FILES: usize = 1000;

/// Which release of a ref is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selector {
    /// The one that the record names.
    #[default]
    Newest,
    /// A certain commit, or one whose digest starts with these digits, twelve at least; or a version that looks like that.
    Commit(String),
    /// A certain version.
    Version(String),
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newest => f.write_str("newest version"),
            Self::Commit(text) => write!(f, "commit {text}"),
            Self::Version(text) => write!(f, "version {text}"),
        }
    }
}

/// What a judge goes by.
#[derive(Debug)]
pub(super) struct Trust<'a> {
    pub(super) name: &'a RemoteName,
    pub(super) config: &'a RemoteConfig,
    pub(super) source: &'a Source<'a>,
    /// The latest of this machine's clock, of what signed records say, and of the build.
    pub(super) now: i64,
    /// Take what is older than what is here.
    pub(super) allow_downgrade: bool,
    /// Believe a record that has expired.
    pub(super) accept_expired: bool,
}

impl Trust<'_> {
    /// Looks at a ref's record, by one request that brings nothing where nothing changed and it came within a day. What was learnt is in `state`
    /// then, and is to be saved before it is acted upon.
    pub(super) fn look(&self, reference: &RefName, state: &mut RemoteState) -> Result<Record, PullError> {
        let pinned = self
            .config
            .pinned_keys()
            .map_err(|reason| crate::remote::RemoteError::Config {
                path: format!("remotes/{}.toml", self.name).into(),
                reason,
            })?;
        if state.begin_with(pinned.clone()) {
            let text = format!(
                "other keys are given for the remote {} than before: what was seen of it is forgotten",
                self.name
            );
            self.source.progress().report(Event::Warning { text: &text });
        }
        if let Some(pinned) = pinned {
            self.show_beginning(&pinned, state)?;
        }
        let seen = state.refs.get(reference).cloned();
        let known = match &seen {
            Some(seen) => self
                .judge(reference, seen.record.as_bytes(), "what was seen", state)
                .ok(),
            None => None,
        };
        let path = record_path(reference);
        let request = Request::whole(&path, limits::MAX_RECORD as u64);
        let unchanged = seen
            .as_ref()
            .filter(|_| known.is_some())
            .and_then(|seen| seen.condition(self.now));
        let mut why = None;
        let mut learnt = state.clone();
        let fetched = self.source.read_if_changed(&request, unchanged, |bytes, meta| {
            let mut next = state.clone();
            match self.accept(reference, &bytes, meta, &mut next) {
                Ok(record) => {
                    learnt = next;
                    Ok(record)
                }
                Err(error) => {
                    // Key sets that were learnt are true whatever the record is.
                    if let Some(keys) = next.keys {
                        learnt.go_over_to(keys);
                    }
                    let rejection = Rejection::new(explain(&error));
                    why = Some(or_web_page(error, meta));
                    Err(rejection)
                }
            }
        });
        *state = learnt;
        match (fetched, known) {
            (Ok(Fetched::New(record)), _) => Ok(record),
            (Ok(Fetched::NotModified), Some(record)) => Ok(record),
            (Ok(Fetched::NotModified), None) => unreachable!("the question was not conditional"),
            (Err(source), _) if source.kind == TransportErrorKind::NotFound => Err(PullError::NoSuchRef {
                remote: self.name.clone(),
                reference: reference.clone(),
                source: Box::new(source),
            }),
            (Err(error), _) => Err(match why {
                // The last mirror's answer came, and was not good enough.
                Some(why) if error.kind == TransportErrorKind::Protocol => why,
                _ => error.into(),
            }),
        }
    }

    fn accept(
        &self,
        reference: &RefName,
        bytes: &[u8],
        meta: &Meta,
        state: &mut RemoteState,
    ) -> Result<Record, PullError> {
        if !self.config.no_verify {
            self.follow_keys(bytes, meta, state)?;
        }
        let record = self.judge(reference, bytes, &meta.url, state)?;
        let seen = state.refs.entry(reference.clone()).or_default();
        if !self.config.no_verify {
            if record.order() < seen.order {
                return Err(PullError::Older {
                    url: meta.url.clone(),
                    seen: seen.order,
                    found: record.order(),
                });
            }
            if record.order() == seen.order
                && let Ok(old) = Envelope::decode(seen.record.as_bytes())
                && Record::from_payload(old.unverified_payload()).is_ok_and(|old| old != record)
            {
                return Err(PullError::Equivocation {
                    url: meta.url.clone(),
                    sequence: record.sequence,
                });
            }
            seen.order = record.order();
            state.newest_time = state.newest_time.max(record.time);
            state.repository.get_or_insert_with(|| record.repository.clone());
        }
        seen.record = String::from_utf8_lossy(bytes).into_owned();
        seen.note_fetched(self.now, &meta.site, meta.etag.as_deref());
        Ok(record)
    }

    /// Fetches the key sets between the one that is trusted and the one that the record names. The name is only a hint:
    /// each set is signed by the one before it.
    fn follow_keys(&self, bytes: &[u8], meta: &Meta, state: &mut RemoteState) -> Result<(), PullError> {
        let untrusted = |source| PullError::Untrusted {
            url: meta.url.clone(),
            source,
        };
        let envelope = Envelope::decode(bytes).map_err(untrusted)?;
        let hint = Record::from_payload(envelope.unverified_payload()).map_err(|source| PullError::Site {
            url: meta.url.clone(),
            source,
        })?;
        let mut keys = self.keys(state)?.clone();
        if hint.keys > keys.number().saturating_add(MAX_KEY_SETS) {
            return Err(untrusted(SignError::InvalidKeySet {
                reason: format!(
                    "it names key set {}, and {} is the last one known",
                    hint.keys,
                    keys.number()
                ),
            }));
        }
        while keys.number() < hint.keys {
            keys = self.next_keys(&keys)?;
            state.go_over_to(keys.clone());
        }
        Ok(())
    }

    /// Fetches the key set that comes after `keys`.
    fn next_keys(&self, keys: &TrustedKeys) -> Result<TrustedKeys, PullError> {
        let path = key_set_path(keys.number() + 1);
        let request = Request::whole(&path, limits::MAX_RECORD as u64);
        let mut why = None;
        let next = self.source.read(&request, |bytes, meta| {
            keys.advance(&bytes).map_err(|source| {
                let rejection = Rejection::new(&source);
                why = Some(PullError::Untrusted {
                    url: meta.url.clone(),
                    source,
                });
                rejection
            })
        });
        match next {
            Ok(Fetched::New(next)) => Ok(next),
            Ok(Fetched::NotModified) => unreachable!("the question was not conditional"),
            Err(error) => Err(why.unwrap_or_else(|| error.into())),
        }
    }

    /// Where a memory does not say which keys its chain began with, follows it once more, from those that are given now: it must
    /// lead to the set in use. Where the site has lost a set, nobody can tell, and the set in use counts as before.
    fn show_beginning(&self, pinned: &TrustedKeys, state: &mut RemoteState) -> Result<(), PullError> {
        if state.pinned.is_some() {
            return Ok(());
        }
        let in_use = self.keys(state)?;
        let mut keys = pinned.clone();
        let mut is_lost = false;
        while keys.number() < in_use.number() && !is_lost {
            match self.next_keys(&keys) {
                Ok(next) => keys = next,
                // Some servers deny what is not there.
                Err(PullError::Transport(error))
                    if matches!(
                        error.kind,
                        TransportErrorKind::NotFound | TransportErrorKind::Denied
                    ) =>
                {
                    is_lost = true;
                }
                Err(error) => return Err(error),
            }
        }
        if !is_lost && keys != *in_use {
            return Err(PullError::Untrusted {
                url: key_set_path(in_use.number()),
                source: SignError::InvalidKeySet {
                    reason: "the keys that are given for the remote lead to another set than the one in use"
                        .to_owned(),
                },
            });
        }
        state.note_beginning(pinned);
        Ok(())
    }

    fn keys<'s>(&self, state: &'s RemoteState) -> Result<&'s TrustedKeys, PullError> {
        state.keys.as_ref().ok_or_else(|| {
            PullError::Remote(crate::remote::RemoteError::Config {
                path: format!("remotes/{}.toml", self.name).into(),
                reason: "there is no key".to_owned(),
            })
        })
    }

    /// Verifies a record by what is known without asking anybody.
    fn judge(
        &self,
        reference: &RefName,
        bytes: &[u8],
        url: &str,
        state: &RemoteState,
    ) -> Result<Record, PullError> {
        let untrusted = |source| PullError::Untrusted {
            url: url.to_owned(),
            source,
        };
        let envelope = Envelope::decode(bytes).map_err(untrusted)?;
        let payload = if self.config.no_verify {
            envelope.unverified_payload()
        } else {
            let keys = self.keys(state)?;
            let hint = Record::from_payload(envelope.unverified_payload());
            if let Ok(hint) = hint
                && hint.keys < keys.number()
            {
                let seen = state.refs.get(reference).map_or((0, 0), |seen| seen.order);
                return Err(PullError::Older {
                    url: url.to_owned(),
                    seen: seen.max((keys.number(), 0)),
                    found: hint.order(),
                });
            }
            keys.verify_record(&envelope, RECORD_TYPE).map_err(untrusted)?
        };
        let record = Record::from_payload(payload).map_err(|source| PullError::Site {
            url: url.to_owned(),
            source,
        })?;
        let other = |what, expected: &str, found: &str| PullError::OtherRecord {
            url: url.to_owned(),
            what,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        if record.reference != *reference {
            return Err(other("ref", reference.as_str(), record.reference.as_str()));
        }
        if self.config.no_verify {
            return Ok(record);
        }
        if let Some(repository) = state.repository.as_ref().filter(|id| **id != record.repository) {
            return Err(other("repository", repository, &record.repository));
        }
        let set = self.keys(state)?.set();
        if !set.repository.is_empty() && set.repository != record.repository {
            return Err(other("repository", &set.repository, &record.repository));
        }
        let now = self.now.max(state.newest_time);
        let end_of_set = set.expires.unwrap_or(i64::MAX);
        // A new record alone would not help where the set has ended.
        let key_set = (end_of_set < now).then_some(set.number);
        let expires = key_set.map_or(record.expires, |_| end_of_set);
        if expires < now && !self.accept_expired {
            return Err(PullError::Expired {
                url: url.to_owned(),
                key_set,
                expires,
                now,
            });
        }
        Ok(record)
    }

    /// Returns the release to take: the record's, a certain earlier one, or the barrier that comes first. `from` is what
    /// the ref was here.
    pub(super) fn choose(
        &self,
        record: &Record,
        selector: &Selector,
        from: Option<&CommitId>,
        state: &RemoteState,
    ) -> Result<Release, PullError> {
        let newest = self.signed_release(record, state)?;
        let withdrawn = |commit: &CommitId| record.withdrawn.iter().find(|one| one.commit == *commit);
        let have = match from {
            Some(commit) => self.number_of(commit, record, &newest, state)?,
            None => None,
        };
        let release = match selector {
            Selector::Newest => self.up_to_barrier(newest, from, have)?,
            _ => self.find(&newest, selector)?.ok_or_else(|| {
                let wanted = |one: &&crate::site::Withdrawn| match selector {
                    Selector::Commit(digits) => is_selected(digits, &one.commit, &one.version),
                    Selector::Version(version) => one.version == *version,
                    Selector::Newest => false,
                };
                match record
                    .withdrawn
                    .iter()
                    .find(wanted)
                    .filter(|_| !self.allow_downgrade)
                {
                    Some(one) => PullError::Withdrawn {
                        reference: record.reference.clone(),
                        version: one.version.clone(),
                        commit: one.commit,
                        reason: one.reason.clone(),
                    },
                    None => PullError::NoSuchRelease {
                        remote: self.name.clone(),
                        reference: record.reference.clone(),
                        selector: selector.to_string(),
                    },
                }
            })?,
        };
        if !self.allow_downgrade {
            if let Some(withdrawn) = withdrawn(&release.commit) {
                return Err(PullError::Withdrawn {
                    reference: record.reference.clone(),
                    version: release.version.clone(),
                    commit: release.commit,
                    reason: withdrawn.reason.clone(),
                });
            }
            // A publisher who takes back what is here says so, and then the way back is the way.
            if let (Some(have), Some(from)) = (have, from)
                && release.number < have
                && withdrawn(from).is_none()
            {
                return Err(PullError::Downgrade {
                    reference: record.reference.clone(),
                    version: release.version.clone(),
                    found: release.number,
                    have,
                });
            }
        }
        let fits = |wanted: &[String]| {
            wanted.is_empty() || wanted.iter().any(|name| self.config.compatible.contains(name))
        };
        if !fits(&release.compatible) {
            return Err(PullError::Incompatible {
                reference: record.reference.clone(),
                version: release.version.clone(),
                wanted: release.compatible.clone(),
                have: self.config.compatible.clone(),
            });
        }
        Ok(release)
    }

    /// Goes back to the last barrier that this machine has not passed.
    fn up_to_barrier(
        &self,
        newest: Release,
        from: Option<&CommitId>,
        have: Option<u64>,
    ) -> Result<Release, PullError> {
        let Some(from) = from else {
            // Nothing is here: a barrier is about what an older version left behind.
            return Ok(newest);
        };
        let mut release = newest;
        while release.min_from > 0 {
            let barrier = || PullError::Barrier {
                reference: release.reference.clone(),
                barrier: release.min_from,
                from: *from,
            };
            match have {
                Some(have) if have >= release.min_from => break,
                None => return Err(barrier()),
                Some(_) => {}
            }
            let wanted = release.min_from;
            let entry = self
                .entry(&release, &|entry| entry.number == wanted)?
                .ok_or_else(barrier)?;
            if entry.number >= release.number {
                return Err(barrier());
            }
            let text = format!(
                "{} has to be reached by way of {} first",
                release.version, entry.version
            );
            self.source.progress().report(Event::Note { text: &text });
            release = self.old_release(&entry.release)?;
        }
        Ok(release)
    }

    fn number_of(
        &self,
        commit: &CommitId,
        record: &Record,
        newest: &Release,
        state: &RemoteState,
    ) -> Result<Option<u64>, PullError> {
        if record.commit == *commit {
            return Ok(Some(record.number));
        }
        let seen = state.refs.get(&record.reference);
        if let Some(number) = seen.and_then(|seen| seen.releases.get(commit)) {
            return Ok(Some(*number));
        }
        if newest.min_from == 0 {
            // Only a barrier is worth a walk through old releases.
            let entry = newest.history.iter().find(|entry| entry.commit == *commit);
            return Ok(entry.map(|entry| entry.number));
        }
        Ok(self
            .entry(newest, &|entry| entry.commit == *commit)?
            .map(|entry| entry.number))
    }

    fn find(&self, newest: &Release, selector: &Selector) -> Result<Option<Release>, PullError> {
        let matches = |commit: &CommitId, version: &str| match selector {
            Selector::Newest => true,
            Selector::Commit(digits) => is_selected(digits, commit, version),
            Selector::Version(wanted) => version == wanted,
        };
        if matches(&newest.commit, &newest.version) {
            return Ok(Some(newest.clone()));
        }
        match self.entry(newest, &|entry| matches(&entry.commit, &entry.version))? {
            Some(entry) => self.old_release(&entry.release).map(Some),
            None => Ok(None),
        }
    }

    /// Looks for an entry in the history, and in the histories of older releases.
    fn entry(
        &self,
        newest: &Release,
        wanted: &dyn Fn(&HistoryEntry) -> bool,
    ) -> Result<Option<HistoryEntry>, PullError> {
        let mut release = newest.clone();
        for _ in 0..MAX_HISTORY_FILES {
            if let Some(entry) = release.history.iter().find(|entry| wanted(entry)) {
                return Ok(Some(entry.clone()));
            }
            match release.history.last() {
                Some(oldest) if release.history.len() == limits::HISTORY => {
                    release = self.old_release(&oldest.release)?;
                }
                _ => break,
            }
        }
        Ok(None)
    }

    /// Returns every release that the site knows, the newest first.
    pub(super) fn history(
        &self,
        record: &Record,
        state: &RemoteState,
    ) -> Result<Vec<HistoryEntry>, PullError> {
        let newest = self.signed_release(record, state)?;
        let mut all = vec![HistoryEntry {
            number: newest.number,
            version: newest.version.clone(),
            commit: newest.commit,
            release: FileRef {
                digest: record.release,
                size: record.release_size,
            },
            time: newest.time,
            min_from: newest.min_from,
        }];
        let mut release = newest;
        for _ in 0..MAX_HISTORY_FILES {
            all.extend(release.history.iter().cloned());
            match release.history.last() {
                Some(oldest) if release.history.len() == limits::HISTORY => {
                    release = self.old_release(&oldest.release)?;
                }
                _ => break,
            }
        }
        Ok(all)
    }

    /// Fetches the release that a record names. Its own signature counts, too: it may be by keys that are kept offline.
    pub(super) fn signed_release(&self, record: &Record, state: &RemoteState) -> Result<Release, PullError> {
        let file = FileRef {
            digest: record.release,
            size: record.release_size,
        };
        let (envelope, url) = self.release_envelope(&file)?;
        let payload = if self.config.no_verify {
            envelope.unverified_payload()
        } else {
            self.keys(state)?
                .verify_release(&envelope, RELEASE_TYPE)
                .map_err(|source| PullError::Untrusted {
                    url: url.clone(),
                    source,
                })?
        };
        let release = Release::from_payload(payload).map_err(|source| PullError::Site {
            url: url.clone(),
            source,
        })?;
        let same = release.reference == record.reference
            && release.repository == record.repository
            && release.commit == record.commit
            && release.number == record.number
            && release.compatible == record.compatible
            && release.min_from == record.min_from;
        if !same {
            return Err(PullError::OtherRecord {
                url,
                what: "release",
                expected: format!("{} {}", record.reference, record.number),
                found: format!("{} {}", release.reference, release.number),
            });
        }
        Ok(release)
    }

    /// Fetches an older release, which a newer one names by its digest.
    pub(super) fn old_release(&self, file: &FileRef) -> Result<Release, PullError> {
        let (envelope, url) = self.release_envelope(file)?;
        Release::from_payload(envelope.unverified_payload()).map_err(|source| PullError::Site { url, source })
    }

    fn release_envelope(&self, file: &FileRef) -> Result<(Envelope, String), PullError> {
        if file.size > limits::MAX_RELEASE as u64 {
            return Err(PullError::Site {
                url: Artifact::Release.path(&file.digest),
                source: crate::site::SiteError::Text {
                    what: "a release",
                    reason: format!("it has {} bytes, and 4 MiB are allowed", file.size),
                },
            });
        }
        let (bytes, url) = read_artifact(self.source, Artifact::Release, file)?;
        match Envelope::decode(&bytes) {
            Ok(envelope) => Ok((envelope, url)),
            Err(source) => Err(PullError::Untrusted { url, source }),
        }
    }
}

/// Reads a file that is named by its digest, from the first mirror that has it whole.
pub(super) fn read_artifact(
    source: &Source<'_>,
    kind: Artifact,
    file: &FileRef,
) -> Result<(Vec<u8>, String), PullError> {
    let path = kind.path(&file.digest);
    let fetched = source.read(&Request::whole(&path, file.size), |bytes, meta| {
        if bytes.len() as u64 != file.size || Digest::of(&bytes) != file.digest {
            return Err(Rejection::new("its bytes are not those of its name"));
        }
        Ok((bytes, meta.url.clone()))
    })?;
    match fetched {
        Fetched::New(read) => Ok(read),
        Fetched::NotModified => unreachable!("the question was not conditional"),
    }
}

/// Says of what is no record at all what the server calls it, where that is a web page.
fn or_web_page(error: PullError, meta: &Meta) -> PullError {
    match (error, &meta.content_type) {
        (
            PullError::Untrusted {
                url,
                source: source @ SignError::InvalidEnvelope { .. },
            },
            Some(content_type),
        ) if content_type.contains("html") => PullError::WebPage {
            url,
            content_type: content_type.clone(),
            source,
        },
        (error, _) => error,
    }
}

/// An error and its sources on one line.
fn explain(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
