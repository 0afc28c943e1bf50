//! A site's directory: reading what is published.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::fs::{Dir, FileKind};
use crate::names::RefName;
use crate::sign::{Envelope, KeySet, PublicKey, SignError, TrustedKeys};
use crate::site::{
    Artifact, FileRef, INFO, KEYS, Manifest, RECORD_TYPE, REFS, RELEASE_TYPE, Record, Release, SiteInfo,
    key_set_path, limits, record_path,
};

use super::PublishError;

/// A published ref: its record and its release.
#[derive(Debug, Clone)]
pub struct Published {
    /// The record.
    pub record: Record,
    /// The release.
    pub release: Release,
}

/// A site on this machine's disk.
#[derive(Debug)]
pub struct SiteDir {
    dir: Dir,
    info: SiteInfo,
}

impl SiteDir {
    /// Opens a site.
    pub fn open(path: &Path) -> Result<Self, PublishError> {
        Self::with_dir(Dir::open_ambient(path)?)
    }

    pub(super) fn with_dir(dir: Dir) -> Result<Self, PublishError> {
        let bytes = dir.read_optional(INFO, limits::MAX_INFO)?;
        let bytes = bytes.ok_or_else(|| PublishError::NotASite {
            path: dir.path().to_owned(),
        })?;
        let info = SiteInfo::parse(&bytes)?;
        Ok(Self { dir, info })
    }

    /// A site that is to be made in a directory that has none.
    pub(super) const fn new(dir: Dir, info: SiteInfo) -> Self {
        Self { dir, info }
    }

    pub(super) const fn info(&self) -> &SiteInfo {
        &self.info
    }

    /// Returns the repository's id.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.info.repository
    }

    /// Returns the directory.
    #[must_use]
    pub const fn dir(&self) -> &Dir {
        &self.dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn damaged(&self, name: &str, reason: impl ToString) -> PublishError {
        PublishError::Damaged {
            path: self.path(name),
            reason: reason.to_string(),
        }
    }

    /// Returns the names of all published refs, sorted.
    pub fn refs(&self) -> Result<Vec<RefName>, PublishError> {
        let mut names = Vec::new();
        let mut stack = vec![String::new()];
        while let Some(prefix) = stack.pop() {
            let path = format!("{REFS}{prefix}");
            let Some(dir) = self.dir.open_dir_optional(&path)? else {
                continue;
            };
            for entry in dir.entries()? {
                let Some(name) = entry.name.to_str().filter(|name| !name.starts_with('.')) else {
                    continue;
                };
                let name = format!("{prefix}/{name}");
                if dir.stat(&entry.name)?.kind == FileKind::Dir {
                    stack.push(name);
                } else if let Ok(name) = name[1..].parse() {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns the number of the newest key set; 0 where there is none.
    pub(super) fn newest_key_set_number(&self) -> Result<u64, PublishError> {
        let Some(dir) = self.dir.open_dir_optional(KEYS)? else {
            return Ok(0);
        };
        let numbers = dir
            .entries()?
            .into_iter()
            .filter_map(|entry| entry.name.to_str()?.parse::<u64>().ok());
        Ok(numbers.max().unwrap_or(0))
    }

    /// Returns the newest key set, with those before it unlooked at: the publisher's own disk is not a network.
    pub fn newest_key_set(&self) -> Result<Option<KeySet>, PublishError> {
        match self.newest_key_set_number()? {
            0 => Ok(None),
            number => self.key_set(number).map(Some),
        }
    }

    /// Returns the file of key set `number`.
    pub(super) fn key_set_bytes(&self, number: u64) -> Result<Vec<u8>, PublishError> {
        Ok(self.dir.read(key_set_path(number), limits::MAX_RECORD)?)
    }

    /// Returns key set `number`.
    pub fn key_set(&self, number: u64) -> Result<KeySet, PublishError> {
        let name = key_set_path(number);
        let bytes = self.key_set_bytes(number)?;
        let envelope = Envelope::decode(&bytes).map_err(|error| self.damaged(&name, error))?;
        let set = KeySet::from_payload(envelope.unverified_payload())
            .map_err(|error| self.damaged(&name, error))?;
        if set.number != number || set.repository != self.info.repository {
            return Err(self.damaged(&name, "it is another key set"));
        }
        Ok(set)
    }

    /// Returns the keys that the site's newest records are signed by: its newest key set, or `pinned`.
    pub fn trusted_keys(&self, pinned: &[PublicKey]) -> Result<TrustedKeys, PublishError> {
        let pinned = || TrustedKeys::pinned(pinned.iter().cloned());
        Ok(match self.newest_key_set()? {
            Some(set) => TrustedKeys::given(set),
            None => pinned()?,
        })
    }

    /// Reads a ref's record and release, and verifies both by the key set that the record names: `keys`, or an earlier one of their chain.
    /// `given` are the keys that machines went by before the first set, as far as they are at hand.
    ///
    /// # Errors
    /// Among others [`PublishError::OtherKeys`] where they are not signed so: what they say would be signed anew.
    pub fn published(
        &self,
        reference: &RefName,
        keys: &TrustedKeys,
        given: &[PublicKey],
    ) -> Result<Option<Published>, PublishError> {
        let Some((record, keys)) = self.record(reference, keys, given)? else {
            return Ok(None);
        };
        let release = self.release_of(&record, &keys)?;
        Ok(Some(Published { record, release }))
    }

    /// Reads a ref's record as [`SiteDir::published`] does, and returns it with the keys that have signed it.
    pub(super) fn record(
        &self,
        reference: &RefName,
        keys: &TrustedKeys,
        given: &[PublicKey],
    ) -> Result<Option<(Record, TrustedKeys)>, PublishError> {
        let name = record_path(reference);
        let Some(bytes) = self.dir.read_optional(&name, limits::MAX_RECORD)? else {
            return Ok(None);
        };
        let envelope = Envelope::decode(&bytes).map_err(|error| self.damaged(&name, error))?;
        let record = Record::from_payload(envelope.unverified_payload())?;
        if record.keys > keys.number() {
            let reason = format!(
                "it names key set {}, and the newest one here is {}",
                record.keys,
                keys.number()
            );
            return Err(self.damaged(&name, reason));
        }
        let keys = self.keys_of(record.keys, keys, given)?;
        keys.verify_record(&envelope, RECORD_TYPE)
            .map_err(|source| self.other_keys(&name, source))?;
        if record.reference != *reference || record.repository != self.info.repository {
            return Err(self.damaged(&name, "it is another ref's record"));
        }
        Ok(Some((record, keys)))
    }

    /// Reads the release that a verified record names, and verifies it by the same keys.
    pub(super) fn release_of(&self, record: &Record, keys: &TrustedKeys) -> Result<Release, PublishError> {
        let file = FileRef {
            digest: record.release,
            size: record.release_size,
        };
        let name = Artifact::Release.path(&file.digest);
        let envelope = self.release_envelope(&file)?;
        keys.verify_release(&envelope, RELEASE_TYPE)
            .map_err(|source| self.other_keys(&name, source))?;
        let release = Release::from_payload(envelope.unverified_payload())?;
        let is_of_record = release.repository == record.repository
            && release.reference == record.reference
            && (release.commit, release.number) == (record.commit, record.number);
        if !is_of_record {
            let reason = "its release is another one than it says";
            return Err(self.damaged(&record_path(&record.reference), reason));
        }
        Ok(release)
    }

    /// Returns the release of the ref with the highest number that `is_wanted`, of all that the site has, whatever leads to them. Nothing
    /// is verified but digests.
    pub(super) fn last_release_of(
        &self,
        reference: &RefName,
        is_wanted: impl Fn(&Envelope, &Release) -> bool,
    ) -> Result<Option<(FileRef, Release)>, PublishError> {
        let Some(dir) = self.dir.open_dir_optional(Artifact::Release.dir())? else {
            return Ok(None);
        };
        let mut last: Option<(FileRef, Release)> = None;
        for entry in dir.entries()? {
            let Some(digest) = entry.name.to_str().and_then(|name| name.parse::<Digest>().ok()) else {
                continue;
            };
            let size = dir.stat(&entry.name)?.size;
            let file = FileRef { digest, size };
            // What is damaged is as good as gone.
            let Ok(envelope) = self.release_envelope(&file) else {
                continue;
            };
            let Ok(release) = Release::from_payload(envelope.unverified_payload()) else {
                continue;
            };
            let is_of_ref = release.reference == *reference && release.repository == self.info.repository;
            let is_later = last.as_ref().is_none_or(|(_, last)| last.number < release.number);
            if is_of_ref && is_later && is_wanted(&envelope, &release) {
                last = Some((file, release));
            }
        }
        Ok(last)
    }

    fn other_keys(&self, name: &str, source: SignError) -> PublishError {
        PublishError::OtherKeys {
            path: self.path(name),
            source,
        }
    }

    /// Returns key set `number`, from which a chain must lead to `keys`.
    pub(super) fn keys_of(
        &self,
        number: u64,
        keys: &TrustedKeys,
        given: &[PublicKey],
    ) -> Result<TrustedKeys, PublishError> {
        if number == keys.number() && number > 0 {
            return Ok(keys.clone());
        }
        let first = if number == 0 {
            // Whoever signs today may have signed then, and machines may have been given several keys, of which any one does.
            let known = keys.set().keys.values().chain(given);
            TrustedKeys::pinned(known.cloned())?
        } else {
            TrustedKeys::given(self.key_set(number)?)
        };
        if number == keys.number() {
            return Ok(first);
        }
        let mut last = first.clone();
        // The newest may be about to be placed; it was judged by the one before.
        for next in number + 1..=self.newest_key_set_number()?.min(keys.number()) {
            let name = key_set_path(next);
            last = last
                .advance(&self.key_set_bytes(next)?)
                .map_err(|source| self.other_keys(&name, source))?;
        }
        if last.number() == keys.number() && last != *keys {
            return Err(self.damaged(&key_set_path(last.number()), "it is another key set"));
        }
        Ok(first)
    }

    pub(super) fn release_envelope(&self, file: &FileRef) -> Result<Envelope, PublishError> {
        let name = Artifact::Release.path(&file.digest);
        let bytes = self.read_artifact(Artifact::Release, file, limits::MAX_RELEASE)?;
        Envelope::decode(&bytes).map_err(|error| self.damaged(&name, error))
    }

    /// Reads a release that something signed names.
    pub fn release(&self, file: &FileRef) -> Result<Release, PublishError> {
        let envelope = self.release_envelope(file)?;
        Ok(Release::from_payload(envelope.unverified_payload())?)
    }

    /// Reads the whole manifest of a release.
    pub fn manifest(&self, release: &Release) -> Result<Manifest, PublishError> {
        let bytes = self.read_artifact(Artifact::Manifest, &release.manifest, limits::MAX_MANIFEST)?;
        Ok(Manifest::decode(&bytes, &release.commit, &[])?)
    }

    /// Reads the whole manifest of a release, where the site has it still.
    pub(super) fn manifest_unless_lost(&self, release: &Release) -> Result<Option<Manifest>, PublishError> {
        match self.manifest(release) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(PublishError::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns what a release needs that the site has lost: files that are gone, or of another size.
    pub(super) fn lost_of(&self, release: &Release) -> Result<Vec<(Artifact, FileRef)>, PublishError> {
        let relative = release.manifests.iter().map(|relative| relative.file);
        let mut files: Vec<_> = relative.map(|file| (Artifact::Manifest, file)).collect();
        let mut lost = Vec::new();
        files.extend(
            release
                .history
                .iter()
                .map(|entry| (Artifact::Release, entry.release)),
        );
        match self.manifest_unless_lost(release)? {
            Some(manifest) => files.extend(manifest.index.files()),
            None => lost.push((Artifact::Manifest, release.manifest)),
        }
        for (kind, file) in files {
            if !self.has_artifact(kind, &file)? {
                lost.push((kind, file));
            }
        }
        Ok(lost)
    }

    fn read_artifact(&self, kind: Artifact, file: &FileRef, limit: usize) -> Result<Vec<u8>, PublishError> {
        let name = kind.path(&file.digest);
        let bytes = self
            .dir
            .read_optional(&name, limit)?
            .ok_or_else(|| self.damaged(&name, "it is not there"))?;
        if bytes.len() as u64 != file.size || Digest::of(&bytes) != file.digest {
            return Err(self.damaged(&name, "its bytes are not those of its name"));
        }
        Ok(bytes)
    }

    /// Returns whether an artifact is there, as large as it has to be. Its bytes are [`SiteDir::fsck`]'s matter.
    pub(super) fn has_artifact(&self, kind: Artifact, file: &FileRef) -> Result<bool, PublishError> {
        let stat = self.dir.stat_optional(kind.path(&file.digest))?;
        Ok(stat.is_some_and(|stat| stat.kind == FileKind::File && stat.size == file.size))
    }

    /// Opens an artifact for reading.
    pub(super) fn open_artifact(&self, kind: Artifact, digest: &Digest) -> Result<File, PublishError> {
        Ok(self.dir.open_file(kind.path(digest))?)
    }
}
