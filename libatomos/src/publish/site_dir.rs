//! A site's directory: reading what is published, and adding to it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Digest;
use crate::fs::{Dir, FileKind, FileLock, FsError, LockMode};
use crate::names::RefName;
use crate::sign::{Envelope, KeySet, PublicKey, SignError, TrustedKeys};
use crate::site::{
    Artifact, FORMAT, FileRef, INFO, KEYS, Manifest, RECORD_TYPE, REFS, RELEASE_TYPE, Record, Release,
    SiteInfo, key_set_path, limits, record_path,
};

use super::PublishError;

/// What is not yet published. Its name starts with a dot, and no path of a site does.
const WORK: &str = ".publish";

/// In [`WORK`]: the refs that are being published for the first time, one to a line.
const BEGUN: &str = "begun";

/// How long another publisher is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

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

/// A site that this process may write to.
#[derive(Debug)]
pub(super) struct SiteWriter {
    pub(super) site: SiteDir,
    work: Dir,
    _lock: FileLock,
    pending: std::cell::RefCell<Vec<(Artifact, Digest)>>,
    /// Refs whose first release an interrupted run may have placed, without a record.
    begun: Vec<RefName>,
    counter: std::cell::Cell<u32>,
}

impl SiteDir {
    /// Opens a site.
    pub fn open(path: &Path) -> Result<Self, PublishError> {
        Self::with_dir(Dir::open_ambient(path)?)
    }

    fn with_dir(dir: Dir) -> Result<Self, PublishError> {
        let bytes = dir.read_optional(INFO, limits::MAX_INFO)?;
        let bytes = bytes.ok_or_else(|| PublishError::NotOurs {
            path: dir.path().to_owned(),
            reason: format!("it has no {INFO}"),
        })?;
        let info = SiteInfo::parse(&bytes)?;
        Ok(Self { dir, info })
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
        if number == keys.number() {
            return Ok(keys.clone());
        }
        let first = if number == 0 {
            // Whoever signs today may have signed then.
            let known = keys.set().keys.values().chain(given);
            TrustedKeys::pinned(known.cloned())?
        } else {
            TrustedKeys::given(self.key_set(number)?)
        };
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

impl SiteWriter {
    /// Opens the site at `path` for writing; makes one where there is nothing. What an interrupted run left is removed.
    pub(super) fn open(path: &Path, repository: &str) -> Result<Self, PublishError> {
        let dir = Dir::ensure_ambient(path)?;
        if !dir.exists(INFO)? {
            // What a run has left that stopped before the very first file had its name.
            let unfinished = format!(".{INFO}.new");
            let foreign = dir
                .entries()?
                .into_iter()
                .find(|entry| entry.name != WORK && entry.name != *unfinished);
            if let Some(entry) = foreign {
                return Err(PublishError::NotOurs {
                    path: path.to_owned(),
                    reason: format!("it has {}, and no {INFO}", entry.name.to_string_lossy()),
                });
            }
        }
        let work = dir.ensure_dir(WORK, 0o700)?;
        let lock = FileLock::acquire(
            &work,
            "lock",
            "the site",
            LockMode::Exclusive,
            LOCK_TIMEOUT,
            |_| {},
        )?;
        let begun = work.read_optional(BEGUN, limits::MAX_RECORD)?.unwrap_or_default();
        let begun = String::from_utf8_lossy(&begun)
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        for entry in work.entries()? {
            if entry.name != "lock" && entry.name != BEGUN {
                work.remove_tree(&entry.name)?;
            }
        }
        if !dir.exists(INFO)? {
            let info = SiteInfo {
                format: FORMAT,
                repository: repository.to_owned(),
                features: Default::default(),
            };
            dir.write_atomic(INFO, &info.to_bytes(), 0o644)?;
        }
        let site = SiteDir::with_dir(dir)?;
        if site.repository() != repository {
            return Err(PublishError::NotOurs {
                path: path.to_owned(),
                reason: format!("it is that of repository {}", site.repository()),
            });
        }
        Ok(Self {
            site,
            work,
            _lock: lock,
            pending: Default::default(),
            begun,
            counter: Default::default(),
        })
    }

    /// Makes a file for an artifact whose digest is not known yet.
    pub(super) fn create(&self) -> Result<(String, File), PublishError> {
        let number = self.counter.get();
        self.counter.set(number + 1);
        let name = format!("new-{number}");
        let file = self.work.create_file(&name, 0o644)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644))
            .map_err(|errno| FsError::new("set the mode of", &name, errno))?;
        Ok((name, file))
    }

    /// Takes a finished file into what will be published.
    pub(super) fn add(&self, kind: Artifact, name: &str, digest: Digest) -> Result<(), PublishError> {
        let staged = format!("{}-{digest}", kind.dir());
        self.work.rename(name, &self.work, &staged)?;
        // Two refs may have the same content.
        let mut pending = self.pending.borrow_mut();
        if !pending.contains(&(kind, digest)) {
            pending.push((kind, digest));
        }
        Ok(())
    }

    /// Takes bytes into what will be published.
    pub(super) fn add_bytes(&self, kind: Artifact, bytes: &[u8]) -> Result<FileRef, PublishError> {
        let digest = Digest::of(bytes);
        let (name, mut file) = self.create()?;
        file.write_all(bytes)
            .map_err(|error| FsError::new("write", self.work.path().join(&name), error))?;
        self.add(kind, &name, digest)?;
        Ok(FileRef {
            digest,
            size: bytes.len() as u64,
        })
    }

    /// Returns whether an interrupted run was about to publish the ref for the first time.
    pub(super) fn has_begun(&self, reference: &RefName) -> bool {
        self.begun.contains(reference)
    }

    /// Remembers refs that have no record yet, before anything of theirs has its name: a release without a record is otherwise what is left
    /// where a record was lost. Durable with the artifacts.
    pub(super) fn begin(&self, first: &[RefName]) -> Result<(), PublishError> {
        let names = self.begun.iter().chain(first);
        let text: String = names.map(|name| format!("{name}\n")).collect();
        if !text.is_empty() {
            self.work.write_atomic(BEGUN, text.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Forgets those refs that have a record now; a run for some of them does not finish the others.
    pub(super) fn finish(&self) -> Result<(), PublishError> {
        let mut open = String::new();
        for name in &self.begun {
            if !self.site.dir.exists(record_path(name))? {
                open.push_str(&format!("{name}\n"));
            }
        }
        match open.is_empty() {
            true => drop(self.work.remove_file_optional(BEGUN)?),
            false => self.work.write_atomic(BEGUN, open.as_bytes(), 0o644)?,
        }
        Ok(())
    }

    /// Drops a file that is not wanted after all.
    pub(super) fn discard(&self, name: &str) -> Result<(), PublishError> {
        Ok(self.work.remove_file(name)?)
    }

    /// Gives everything its name, in an order in which whatever is named is there, and makes it durable.
    pub(super) fn place_artifacts(&self) -> Result<(), PublishError> {
        let mut pending = self.pending.take();
        if pending.is_empty() {
            return Ok(());
        }
        crate::failpoint::hit("publish.staged")?;
        self.work.sync_fs()?;
        pending.sort_by_key(|(kind, _)| *kind as u8 == Artifact::Release as u8);
        for kind in Artifact::ALL {
            self.site.dir.ensure_dir(kind.dir(), 0o755)?;
            for (_, digest) in pending.iter().filter(|(this, _)| *this == kind) {
                let staged = format!("{}-{digest}", kind.dir());
                self.work.rename(&staged, &self.site.dir, kind.path(digest))?;
            }
            crate::failpoint::hit("publish.placed")?;
        }
        self.site.dir.sync_fs()?;
        crate::failpoint::hit("publish.durable")?;
        Ok(())
    }

    /// Places a key set, durably: what is signed by its keys comes after it.
    pub(super) fn write_key_set(&self, number: u64, bytes: &[u8]) -> Result<(), PublishError> {
        self.site.dir.ensure_dir(KEYS, 0o755)?;
        self.site.dir.write_atomic(key_set_path(number), bytes, 0o644)?;
        self.site.dir.sync_fs()?;
        crate::failpoint::hit("publish.key-set")?;
        Ok(())
    }

    /// Replaces a ref's record: the visible step.
    pub(super) fn write_record(&self, reference: &RefName, bytes: &[u8]) -> Result<(), PublishError> {
        let path = record_path(reference);
        if let Some(parent) = Path::new(&path).parent() {
            self.site.dir.ensure_dir_all(parent, 0o755)?;
        }
        self.site.dir.write_atomic(&path, bytes, 0o644)?;
        crate::failpoint::hit("publish.record")?;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), PublishError> {
        Ok(self.site.dir.sync_fs()?)
    }
}
