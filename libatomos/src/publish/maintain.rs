//! Looking after a site: verifying it, removing what nobody needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::compress::Decompressor;
use crate::digest::{BlobId, Digest};
use crate::error::with_causes;
use crate::fs::{FsError, Patience, hash_file};
use crate::names::RefName;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::sign::{Envelope, PublicKey, TrustedKeys};
use crate::site::{
    Artifact, BlobList, FileRef, Frame, Manifest, Record, Release, blob_frames, image_frames, key_set_path,
    limits, record_path,
};

use super::PublishError;
use super::publisher::now;
use super::site_dir::SiteDir;
use super::site_writer::SiteWriter;

/// Something wrong with a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteFinding {
    /// The file, relative to the site.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a look at a whole site found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SiteFsckReport {
    /// Refs.
    pub refs: u64,
    /// Releases that a record's history leads to.
    pub releases: u64,
    /// Files that were verified.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Blobs that were taken out of packs and images and verified.
    pub blobs: u64,
    /// What is wrong. Nothing, where the site is whole.
    pub findings: Vec<SiteFinding>,
    /// What keeps machines from pulling though every file is what it should be: records and key sets that have expired.
    pub warnings: Vec<SiteFinding>,
}

/// What a site needs, by kind, with how large it says that it is.
#[derive(Debug, Default)]
pub(super) struct Needed {
    pub(super) files: BTreeMap<(Artifact, Digest), u64>,
    pub(super) releases: Vec<Release>,
}

impl SiteDir {
    /// Verifies a published site: key sets, records, releases, manifests, the digest of every file, and every blob of the
    /// newest releases. `keys` are those that machines were given, or a key set that they know: from there the key sets are
    /// followed to the one that verifies the records. Where there are none, only that all fits together is looked at.
    ///
    /// # Errors
    /// Only where the site cannot be looked at. What is wrong with it is in the report.
    pub fn fsck(
        &self,
        keys: Option<&TrustedKeys>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<SiteFsckReport, PublishError> {
        let mut report = SiteFsckReport::default();
        let mut needed = Needed::default();
        let given: Vec<_> = keys
            .iter()
            .flat_map(|keys| keys.set().keys.values())
            .cloned()
            .collect();
        let keys = self.follow_key_sets(keys, &mut report)?;
        for reference in self.refs()? {
            report.refs += 1;
            match self.fsck_ref(&reference, keys.as_ref(), &given, &mut needed) {
                Ok(()) => {}
                Err(PublishError::OtherKeys { source, .. }) => {
                    report.add(record_path(&reference), &with_causes(&source))
                }
                // Not always the record: what it leads to may be.
                Err(PublishError::Damaged { path, reason }) => {
                    let file = path.strip_prefix(self.dir().path()).unwrap_or(&path);
                    report.add(file.to_string_lossy().into_owned(), &reason);
                }
                Err(error) => report.add(record_path(&reference), &with_causes(&error)),
            }
        }
        self.warn_of_expiry(now(), &mut report)?;
        report.releases = needed.releases.len() as u64;
        let total = needed.files.values().sum();
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(total), Unit::Bytes);
        for ((kind, digest), size) in &needed.files {
            cancel.check()?;
            let name = kind.path(digest);
            match self
                .open_artifact(*kind, digest)
                .and_then(|file| Ok(hash(&file, &name)?))
            {
                Ok((found, len)) => {
                    report.files += 1;
                    report.bytes += len;
                    if (found, len) != (*digest, *size) {
                        report.add(name, &"its bytes are not those of its name");
                    }
                }
                Err(PublishError::Fs(error)) if error.is_not_found() => report.add(name, &"it is not there"),
                Err(error) => report.add(name, &with_causes(&error)),
            }
            phase.advance(*size);
        }
        drop(phase);
        for reference in self.refs()? {
            let Ok(Some(published)) = self.published_unverified(&reference) else {
                continue;
            };
            match self.manifest(&published.1) {
                Ok(manifest) => self.fsck_blobs(&manifest, progress, cancel, &mut report)?,
                Err(error) => {
                    report.add(
                        Artifact::Manifest.path(&published.1.manifest.digest),
                        &with_causes(&error),
                    );
                }
            }
        }
        Ok(report)
    }

    /// Warns of what machines refuse at `time` because it has expired. What cannot be read is a finding already.
    fn warn_of_expiry(&self, time: i64, report: &mut SiteFsckReport) -> Result<(), PublishError> {
        let mut warn = |file: String, expires: i64| {
            if expires < time {
                let problem = format!("it was good until {expires}, and it is {time} (seconds since 1970)");
                report.warnings.push(SiteFinding { file, problem });
            }
        };
        if let Ok(Some(set)) = self.newest_key_set() {
            warn(key_set_path(set.number), set.expires.unwrap_or(i64::MAX));
        }
        for reference in self.refs()? {
            if let Ok(Some(record)) = self.record_unverified(&reference) {
                warn(record_path(&reference), record.expires);
            }
        }
        Ok(())
    }

    fn fsck_ref(
        &self,
        reference: &RefName,
        keys: Option<&TrustedKeys>,
        given: &[PublicKey],
        needed: &mut Needed,
    ) -> Result<(), PublishError> {
        let (record, release) = match keys {
            Some(keys) => {
                let published = self.published(reference, keys, given)?;
                published.map(|published| (published.record, published.release))
            }
            None => self.published_unverified(reference)?,
        }
        .ok_or_else(|| self.no_such_ref(reference))?;
        if release.commit != record.commit || release.number != record.number {
            return Err(PublishError::Damaged {
                path: self.dir().path().join(record_path(reference)),
                reason: "its release is another one than it says".to_owned(),
            });
        }
        self.collect(&record, release, usize::MAX, i64::MAX, needed)
    }

    /// Collects what the newest `keep` releases of a ref need, those that another one has replaced only after `since`, and the
    /// releases that say what came before.
    pub(super) fn collect(
        &self,
        record: &Record,
        newest: Release,
        keep: usize,
        since: i64,
        needed: &mut Needed,
    ) -> Result<(), PublishError> {
        needed
            .files
            .insert((Artifact::Release, record.release), record.release_size);
        let mut queue: Vec<FileRef> = newest.history.iter().map(|entry| entry.release).collect();
        let mut oldest = newest.history.last().map(|entry| entry.release);
        let mut kept = 0;
        // When the release that is looked at was the newest no more.
        let mut replaced = None;
        let mut release = Some(newest);
        let mut done = BTreeSet::from([record.release]);
        let mut next = 0;
        loop {
            if let Some(release) = release.take() {
                // An older release may have been pruned, or never have been mirrored; the newest must be whole.
                let manifest = Artifact::Manifest.path(&release.manifest.digest);
                let is_wanted = kept < keep || replaced.is_some_and(|time| time > since);
                if is_wanted && (kept == 0 || self.dir().exists(manifest)?) {
                    self.collect_release(&release, needed)?;
                }
                kept += 1;
                replaced = Some(release.time);
                needed.releases.push(release);
            }
            let Some(file) = queue.get(next).copied() else {
                break;
            };
            next += 1;
            if !done.insert(file.digest) {
                continue;
            }
            // A release that was pruned takes what came before it along.
            if kept >= keep && !self.dir().exists(Artifact::Release.path(&file.digest))? {
                continue;
            }
            needed.files.insert((Artifact::Release, file.digest), file.size);
            let older = self.release(&file)?;
            if Some(file) == oldest && older.history.len() == limits::HISTORY || next == queue.len() {
                queue.extend(older.history.iter().map(|entry| entry.release));
                oldest = older.history.last().map(|entry| entry.release);
            }
            release = Some(older);
        }
        Ok(())
    }

    /// Collects what releases need that were withdrawn after `since`: no history leads to them, and whoever read their record before
    /// may be about to ask. `needed` has the ref's other releases from the index `first` on.
    fn collect_withdrawn(
        &self,
        record: &Record,
        first: usize,
        since: i64,
        needed: &mut Needed,
    ) -> Result<(), PublishError> {
        for one in &record.withdrawn {
            // When it was withdrawn is not said. That was before the next release was made, or else before the record was.
            let later = needed.releases[first..]
                .iter()
                .filter(|release| release.number > one.number)
                .map(|release| release.time)
                .min();
            if later.unwrap_or(record.time) <= since {
                continue;
            }
            let is_it = |release: &Release| release.number == one.number && release.commit == one.commit;
            if let Some((_, release)) =
                self.last_release_of(&record.reference, |_, release| is_it(release))?
            {
                self.collect_release(&release, needed)?;
            }
        }
        Ok(())
    }

    fn collect_release(&self, release: &Release, needed: &mut Needed) -> Result<(), PublishError> {
        let files = &mut needed.files;
        files.insert(
            (Artifact::Manifest, release.manifest.digest),
            release.manifest.size,
        );
        for relative in &release.manifests {
            files.insert((Artifact::Manifest, relative.file.digest), relative.file.size);
        }
        // Manifests of old releases may be gone; then so is what they named.
        if !self
            .dir()
            .exists(Artifact::Manifest.path(&release.manifest.digest))?
        {
            return Ok(());
        }
        for (kind, file) in self.manifest(release)?.index.files() {
            files.insert((kind, file.digest), file.size);
        }
        Ok(())
    }

    /// Says that there is no such ref.
    pub(crate) fn no_such_ref(&self, reference: &RefName) -> PublishError {
        PublishError::NoSuchRef {
            reference: reference.clone(),
            path: self.dir().path().to_owned(),
        }
    }

    /// Reads a ref's record and release; nothing is verified but the release's digest.
    pub fn read_published(&self, reference: &RefName) -> Result<Option<(Record, Release)>, PublishError> {
        self.published_unverified(reference)
    }

    pub(super) fn published_unverified(
        &self,
        reference: &RefName,
    ) -> Result<Option<(Record, Release)>, PublishError> {
        let Some(record) = self.record_unverified(reference)? else {
            return Ok(None);
        };
        let release = self.release(&FileRef {
            digest: record.release,
            size: record.release_size,
        })?;
        Ok(Some((record, release)))
    }

    /// Reads a ref's record.
    pub(super) fn record_unverified(&self, reference: &RefName) -> Result<Option<Record>, PublishError> {
        let name = record_path(reference);
        let Some(bytes) = self.dir().read_optional(&name, limits::MAX_RECORD)? else {
            return Ok(None);
        };
        let envelope = Envelope::decode(&bytes).map_err(|error| self.damaged(&name, error))?;
        Ok(Some(Record::from_payload(envelope.unverified_payload())?))
    }

    /// Takes every blob out of its pack, and out of the image, and verifies it.
    fn fsck_blobs(
        &self,
        manifest: &Manifest,
        progress: &dyn Progress,
        cancel: &Cancel,
        report: &mut SiteFsckReport,
    ) -> Result<(), PublishError> {
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(manifest.blobs.bytes()), Unit::Bytes);
        let mut packs: HashMap<u32, Option<File>> = HashMap::new();
        let mut checker = Checker::default();
        for place in &manifest.index.places {
            cancel.check()?;
            let digest = *manifest.index.pack_digest(place);
            let pack = packs
                .entry(place.pack)
                .or_insert_with(|| self.open_artifact(Artifact::Pack, &digest).ok());
            let Some(pack) = pack else { continue };
            let mut offset = place.offset;
            let frames = blob_frames(place.blob, manifest.blobs.size(place.blob));
            for (frame, len) in frames.zip(&place.frames) {
                if let Err(problem) = checker.frame(pack, offset, *len, &frame, &manifest.blobs) {
                    report.add(Artifact::Pack.path(&digest), &problem);
                }
                offset += len;
            }
            phase.advance(manifest.blobs.size(place.blob));
        }
        report.blobs += manifest.index.places.len() as u64;
        let Some((image, lens)) = &manifest.index.image else {
            return Ok(());
        };
        let Ok(file) = self.open_artifact(Artifact::Image, &image.digest) else {
            return Ok(());
        };
        let mut offset = 0;
        for (frame, len) in image_frames(&manifest.blobs).iter().zip(lens) {
            cancel.check()?;
            if let Err(problem) = checker.frame(&file, offset, *len, frame, &manifest.blobs) {
                report.add(Artifact::Image.path(&image.digest), &problem);
            }
            offset += len;
        }
        report.blobs += u64::from(manifest.blobs.len());
        Ok(())
    }
}

impl SiteFsckReport {
    pub(super) fn add(&mut self, file: String, problem: &dyn std::fmt::Display) {
        self.findings.push(SiteFinding {
            file,
            problem: problem.to_string(),
        });
    }
}

fn hash(file: &File, name: &str) -> Result<(Digest, u64), FsError> {
    let (id, len) = hash_file(file).map_err(|error| FsError::new("read", name, error))?;
    Ok((*id.digest(), len))
}

/// Takes frames apart, and verifies what is in them.
#[derive(Default)]
struct Checker {
    decompressor: Decompressor,
    frame: Vec<u8>,
    raw: Vec<u8>,
    large: Option<(u32, blake3::Hasher)>,
}

impl Checker {
    fn frame(
        &mut self,
        file: &File,
        offset: u64,
        len: u64,
        frame: &Frame,
        blobs: &BlobList,
    ) -> Result<(), String> {
        self.frame.resize(len as usize, 0);
        file.read_exact_at(&mut self.frame, offset)
            .map_err(|error| error.to_string())?;
        let raw_len = frame.raw_len(blobs) as usize;
        self.decompressor
            .decompress_into(&self.frame, raw_len, &mut self.raw)
            .map_err(|error| error.to_string())?;
        let wrong = |index: u32| format!("blob {} in it is damaged", blobs.blobs()[index as usize].id);
        match frame {
            Frame::Blobs(range) => {
                let mut rest = self.raw.as_slice();
                for index in range.clone() {
                    let (blob, after) = rest.split_at(blobs.size(index) as usize);
                    rest = after;
                    if BlobId::new(Digest::of(blob)) != blobs.blobs()[index as usize].id {
                        return Err(wrong(index));
                    }
                }
            }
            Frame::Segment { blob, bytes } => {
                if bytes.start == 0 {
                    self.large = Some((*blob, blake3::Hasher::new()));
                }
                let Some((_, hasher)) = self.large.as_mut().filter(|(large, _)| large == blob) else {
                    return Err(wrong(*blob));
                };
                hasher.update(&self.raw);
                if bytes.end == blobs.size(*blob) {
                    let found: Digest = hasher.finalize().into();
                    self.large = None;
                    if found != *blobs.blobs()[*blob as usize].id.digest() {
                        return Err(wrong(*blob));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What to keep of a site.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SitePruneOptions {
    /// Releases of each ref that stay pullable, counted from the newest.
    pub keep: usize,
    /// Files younger than this many seconds stay, and so does what a release needs that was the newest so many seconds ago: a
    /// client that read its record then may be about to ask for them.
    pub grace: u64,
    /// Only say what would go.
    pub dry_run: bool,
    /// How another who writes to the site is waited for.
    pub patience: Patience,
}

impl Default for SitePruneOptions {
    fn default() -> Self {
        Self {
            keep: 10,
            grace: 24 * 3600,
            dry_run: false,
            patience: Patience::default(),
        }
    }
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SitePruneReport {
    /// The files, relative to the site.
    pub removed: Vec<String>,
    /// Bytes in them.
    pub bytes: u64,
}

/// Removes from the site at `path` what the newest releases of its refs do not need. Releases themselves stay: they are small, and
/// say what came before.
pub fn prune_site(
    path: &Path,
    options: &SitePruneOptions,
    cancel: &Cancel,
) -> Result<SitePruneReport, PublishError> {
    let repository = SiteDir::open(path)?.repository().to_owned();
    let writer = SiteWriter::open(path, &repository, &options.patience)?;
    let site = &writer.site;
    let mut needed = Needed::default();
    let limit = now().saturating_sub_unsigned(options.grace);
    // A ref that cannot be read stops everything: what it needs is not known.
    for reference in site.refs()? {
        cancel.check()?;
        if let Some((record, release)) = site.published_unverified(&reference)? {
            let first = needed.releases.len();
            site.collect(&record, release, options.keep.max(1), limit, &mut needed)?;
            site.collect_withdrawn(&record, first, limit, &mut needed)?;
        }
    }
    let mut report = SitePruneReport::default();
    for kind in [
        Artifact::Manifest,
        Artifact::Image,
        Artifact::Patch,
        Artifact::Pack,
    ] {
        let Some(dir) = site.dir().open_dir_optional(kind.dir())? else {
            continue;
        };
        for entry in dir.entries()? {
            let Some(digest) = entry.name.to_str().and_then(|name| name.parse::<Digest>().ok()) else {
                continue;
            };
            let stat = dir.stat(&entry.name)?;
            // When it was placed, not when it was made: a rename changes that time.
            if needed.files.contains_key(&(kind, digest)) || stat.ctime > limit {
                continue;
            }
            report.bytes += stat.size;
            report.removed.push(kind.path(&digest));
            if !options.dry_run {
                dir.remove_file(&entry.name)?;
            }
        }
    }
    Ok(report)
}
