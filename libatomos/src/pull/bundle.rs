//! Updates in one file: what a machine on one version needs of a site to come to another.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::digest::CommitId;
use crate::fs::{FsError, hash_file};
use crate::names::RefName;
use crate::publish::{PublishError, SiteDir};
use crate::sign::{Envelope, KeySet, TrustedKeys};
use crate::site::{
    Artifact, FileRef, HistoryEntry, INFO, Manifest, Record, Release, TreeTable, is_selected, key_set_path,
    limits, record_path,
};
use crate::transport::{BundlePiece, BundleTransport};

use super::plan::{Needs, PlanOptions};

/// What is in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BundleReport {
    /// The commit that it leads to.
    pub commit: CommitId,
    /// Its version.
    pub version: String,
    /// Bytes of the bundle, about.
    pub bytes: u64,
    /// Blobs that it brings.
    pub blobs: u64,
    /// The version of the newest release, where the bundle leads only as far as to a barrier before it: the machine takes that one first,
    /// and another bundle leads on from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads_on_to: Option<String>,
}

/// Writes to `out` what a machine that has `from` (a version or the digits of a commit; nothing where `None`) needs to pull the newest
/// release of `reference` from the site, or the barrier that it has to take first.
///
/// # Errors
/// Among others [`PublishError::Barrier`] where the site does not have that barrier any more.
pub fn create_bundle(
    site: &SiteDir,
    reference: &RefName,
    from: Option<&str>,
    out: &mut dyn Write,
) -> Result<BundleReport, PublishError> {
    let no_such = |selector: &str| PublishError::NoSuchRelease {
        reference: reference.clone(),
        selector: selector.to_owned(),
    };
    let (record, newest) = site
        .read_published(reference)?
        .ok_or_else(|| site.no_such_ref(reference))?;
    let base = match from {
        None => None,
        Some(selector) => Some(find(site, &record, &newest, selector)?.ok_or_else(|| no_such(selector))?),
    };
    let mut parts = Parts::new(site);
    let release = match &base {
        None => newest.clone(),
        Some(base) => parts.up_to_barrier(&newest, base)?,
    };
    let whole = site.manifest(&release)?;
    let base = match &base {
        None => None,
        Some(base) => {
            if !site
                .dir()
                .exists(Artifact::Manifest.path(&base.manifest.digest))?
            {
                return Err(PublishError::Pruned {
                    reference: reference.clone(),
                    selector: from.unwrap_or_default().to_owned(),
                });
            }
            Some(site.manifest(base)?)
        }
    };
    let relative = base.as_ref().and_then(|base| {
        let has_base = |relative: &&crate::site::RelativeManifest| relative.base == base.tree.id;
        release.manifests.iter().find(has_base)
    });
    parts.whole(INFO)?;
    for number in 1..=record.keys {
        parts.whole(&key_set_path(number))?;
    }
    parts.check_keys(&record)?;
    parts.whole(&record_path(reference))?;
    let release_file = FileRef {
        digest: record.release,
        size: record.release_size,
    };
    parts.artifact(Artifact::Release, &release_file);
    let manifest_file = relative.map_or(release.manifest, |relative| relative.file);
    parts.artifact(Artifact::Manifest, &manifest_file);
    // Before what it says is believed.
    parts.verify()?;
    let manifest = match (relative, &base) {
        (Some(relative), Some(base)) => {
            let table = TreeTable::encode_from(&base.tree, &base.tree.commit)?;
            let bytes = site.dir().read(
                Artifact::Manifest.path(&relative.file.digest),
                limits::MAX_MANIFEST,
            )?;
            Manifest::decode(&bytes, &release.commit, &table)?
        }
        _ => whole,
    };
    let blobs = manifest.blobs.blobs();
    let have = |index: &u32| {
        let id = &blobs[*index as usize].id;
        base.as_ref()
            .is_some_and(|base| base.blobs.index_of(id).is_some())
    };
    let missing: Vec<u32> = (0..manifest.blobs.len()).filter(|index| !have(index)).collect();
    let mut bases = HashMap::new();
    for blob in base.iter().flat_map(|base| base.blobs.blobs()) {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&blob.id.digest().as_bytes()[..8]);
        bases.insert(prefix, blob.id);
    }
    let plan = Needs {
        blobs: &manifest.blobs,
        index: &manifest.index,
        missing: &missing,
        bases: &bases,
        begun: &HashMap::new(),
        avoid: &HashMap::<_, HashSet<_>>::new(),
    }
    .plan(&PlanOptions {
        request_cost: 0,
        max_requests: usize::MAX,
        jobs: 1,
    })
    .map_err(|_| no_such("that is whole"))?;
    for request in &plan.requests {
        for piece in &request.pieces {
            parts.piece(request.kind, &request.file, piece.range.clone());
        }
    }
    parts.verify()?;
    let bytes = parts.write(out)?;
    Ok(BundleReport {
        commit: release.commit,
        version: release.version,
        bytes,
        blobs: missing.len() as u64,
        leads_on_to: (release.number != newest.number).then_some(newest.version),
    })
}

/// Finds a release by its version or the digits of its commit.
fn find(
    site: &SiteDir,
    record: &Record,
    newest: &Release,
    selector: &str,
) -> Result<Option<Release>, PublishError> {
    let matches = |commit: &CommitId, version: &str| is_selected(selector, commit, version);
    if matches(&record.commit, &record.version) {
        return Ok(Some(newest.clone()));
    }
    let mut release = newest.clone();
    loop {
        if let Some(entry) = release
            .history
            .iter()
            .find(|entry| matches(&entry.commit, &entry.version))
        {
            return Ok(Some(site.release(&entry.release)?));
        }
        match release.history.last() {
            Some(oldest) => release = site.release(&oldest.release)?,
            None => return Ok(None),
        }
    }
}

/// Pieces of a site's files, by path and place.
struct Parts<'a> {
    site: &'a SiteDir,
    pieces: BTreeMap<(String, u64), (u64, u64)>,
    /// Files of which something is put in, and whose names are their digests. They are verified whole: nobody could use a bundle of damaged ones.
    artifacts: BTreeMap<String, FileRef>,
    verified: BTreeSet<String>,
}

impl<'a> Parts<'a> {
    fn new(site: &'a SiteDir) -> Self {
        Self {
            site,
            pieces: BTreeMap::new(),
            artifacts: BTreeMap::new(),
            verified: BTreeSet::new(),
        }
    }

    fn whole(&mut self, path: &str) -> Result<(), PublishError> {
        let size = self.site.dir().stat(path)?.size;
        self.pieces.insert((path.to_owned(), 0), (size, size));
        Ok(())
    }

    fn artifact(&mut self, kind: Artifact, file: &FileRef) {
        self.piece(kind, file, 0..file.size);
    }

    fn piece(&mut self, kind: Artifact, file: &FileRef, range: std::ops::Range<u64>) {
        let path = kind.path(&file.digest);
        self.artifacts.insert(path.clone(), *file);
        self.pieces
            .insert((path, range.start), (file.size, range.end - range.start));
    }

    /// Returns the release that a machine with `base` comes to: `newest`, or the last barrier that it has not passed. Puts in the releases by
    /// which it finds the way.
    fn up_to_barrier(&mut self, newest: &Release, base: &Release) -> Result<Release, PublishError> {
        if newest.min_from > 0 && base.number < newest.number {
            self.entry(newest, |entry| entry.commit == base.commit)?;
        }
        let mut release = newest.clone();
        while base.number < release.min_from {
            let barrier = release.min_from;
            let gone = || PublishError::Barrier {
                reference: newest.reference.clone(),
                from: base.version.clone(),
                barrier,
            };
            let entry = self.entry(&release, |entry| entry.number == barrier)?;
            let entry = entry
                .filter(|entry| entry.number < release.number)
                .ok_or_else(gone)?;
            release = self.old_release(&entry.release)?.ok_or_else(gone)?;
        }
        let manifest = Artifact::Manifest.path(&release.manifest.digest);
        if release.number < newest.number && !self.site.dir().exists(manifest)? {
            return Err(PublishError::Barrier {
                reference: newest.reference.clone(),
                from: base.version.clone(),
                barrier: release.number,
            });
        }
        Ok(release)
    }

    /// Looks for an entry in the history of a release, and in those of older ones, which machines have to read for it, too.
    fn entry(
        &mut self,
        newest: &Release,
        is_wanted: impl Fn(&HistoryEntry) -> bool,
    ) -> Result<Option<HistoryEntry>, PublishError> {
        let mut release = newest.clone();
        loop {
            if let Some(entry) = release.history.iter().find(|entry| is_wanted(entry)) {
                return Ok(Some(entry.clone()));
            }
            let oldest = release.history.last().map(|oldest| oldest.release);
            let is_full = release.history.len() == limits::HISTORY;
            release = match oldest.filter(|_| is_full) {
                Some(oldest) => match self.old_release(&oldest)? {
                    Some(older) => older,
                    None => return Ok(None),
                },
                None => return Ok(None),
            };
        }
    }

    /// Puts in a release, and returns it; `None` where the site does not have it any more.
    fn old_release(&mut self, file: &FileRef) -> Result<Option<Release>, PublishError> {
        if !self.site.dir().exists(Artifact::Release.path(&file.digest))? {
            return Ok(None);
        }
        self.artifact(Artifact::Release, file);
        self.site.release(file).map(Some)
    }

    fn damaged(&self, path: &str, reason: impl std::fmt::Display) -> PublishError {
        PublishError::Damaged {
            path: self.site.dir().path().join(path),
            reason: reason.to_string(),
        }
    }

    /// Reads the files that pieces are of, as a stream, where that was not done yet.
    fn verify(&mut self) -> Result<(), PublishError> {
        let dir = self.site.dir();
        for (path, file) in &self.artifacts {
            if self.verified.contains(path) {
                continue;
            }
            let opened = dir
                .open_file_optional(path)?
                .ok_or_else(|| self.damaged(path, "it is not there"))?;
            let (found, _) =
                hash_file(&opened).map_err(|error| FsError::new("read", dir.path().join(path), error))?;
            if *found.digest() != file.digest {
                return Err(self.damaged(path, "its bytes are not those of its name"));
            }
            self.verified.insert(path.clone());
        }
        Ok(())
    }

    /// Looks whether the key sets follow one another, and the last one is that of the record. Which keys began, machines know.
    fn check_keys(&self, record: &Record) -> Result<(), PublishError> {
        let mut before: Option<TrustedKeys> = None;
        for number in 1..=record.keys {
            let path = key_set_path(number);
            let bytes = self.site.dir().read(&path, limits::MAX_RECORD)?;
            let set = match &before {
                Some(before) => before.advance(&bytes),
                None => Envelope::decode(&bytes)
                    .and_then(|envelope| KeySet::from_payload(envelope.unverified_payload()))
                    .map(TrustedKeys::given),
            };
            let set = set.map_err(|error| self.damaged(&path, error))?;
            if set.number() != number || set.set().repository != record.repository {
                return Err(self.damaged(&path, "it is the key set of another number or repository"));
            }
            before = Some(set);
        }
        Ok(())
    }

    fn write(self, out: &mut dyn Write) -> Result<u64, PublishError> {
        let mut pieces: Vec<BundlePiece> = Vec::new();
        for ((path, start), (size, len)) in self.pieces {
            match pieces.last_mut() {
                // Blobs that lie side by side are one piece: a large tree has very many.
                Some(last) if last.path == path && last.start + last.len == start => last.len += len,
                _ => pieces.push(BundlePiece {
                    path,
                    size,
                    start,
                    len,
                }),
            }
        }
        let bytes = pieces.iter().map(|piece| piece.len).sum();
        let dir = self.site.dir();
        let mut copy = |piece: &BundlePiece, out: &mut dyn Write| {
            let file = dir.open_file(&piece.path).map_err(io::Error::other)?;
            let mut buffer = vec![0; 256 * 1024];
            let mut done = 0;
            while done < piece.len {
                let len = buffer.len().min((piece.len - done) as usize);
                file.read_exact_at(&mut buffer[..len], piece.start + done)?;
                out.write_all(&buffer[..len])?;
                done += len as u64;
            }
            Ok(())
        };
        BundleTransport::write(out, pieces, &mut copy)
            .map_err(|error| FsError::new("write", "the bundle", error))?;
        Ok(bytes)
    }
}
