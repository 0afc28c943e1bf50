//! Copying a site, verified, for those who serve it elsewhere.
//!
//! Everything that the refs lead to is fetched by its digest, and the records last, so that whoever pulls from the copy meanwhile
//! sees what is whole. What the copy has already is not fetched again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;

use serde::Serialize;

use crate::digest::Digest;
use crate::fs::{Dir, FsError};
use crate::names::RefName;
use crate::progress::{Phase, PhaseGuard, Unit};
use crate::remote::Metered;
use crate::site::{
    Artifact, FileRef, INFO, KEYS, Manifest, Release, SiteInfo, key_set_path, limits, record_path,
};
use crate::transport::Request;

use super::PullError;
use super::session::Session;
use super::trust::read_artifact;

/// What a mirror got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MirrorReport {
    /// Files that were fetched.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Files that were there.
    pub present: u64,
}

/// Files that are being fetched. No path of a site starts with a dot.
const WORK: &str = ".mirror";

/// Returns whether a mirror that was interrupted before it had its [`INFO`] has such an entry.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name == WORK || name == KEYS || Artifact::ALL.iter().any(|kind| kind.dir() == name)
    })
}

impl Session<'_> {
    /// Copies the newest release of each ref, with all that it needs, into the site at `to`, which is made if there is nothing. The
    /// records are verified as a pull verifies them.
    pub fn mirror(&mut self, refs: &[RefName], to: &Path) -> Result<MirrorReport, PullError> {
        let dir = Dir::ensure_ambient(to)?;
        if !dir.exists(INFO)?
            && let Some(entry) = dir.entries()?.into_iter().find(|entry| !is_ours(&entry.name))
        {
            return Err(PullError::NotAMirror {
                path: to.to_owned(),
                reason: format!("it has {}, and no {INFO}", entry.name.to_string_lossy()),
            });
        }
        let work = dir.ensure_dir(WORK, 0o700)?;
        for entry in work.entries()? {
            work.remove_tree(&entry.name)?;
        }
        let mut report = MirrorReport::default();
        let mut records = Vec::new();
        let mut files: BTreeSet<(Artifact, Digest, u64)> = BTreeSet::new();
        let mut repository = None;
        for reference in refs {
            let record = self.look(reference)?;
            let release = self.trust().signed_release(&record, self.state())?;
            repository.get_or_insert_with(|| record.repository.clone());
            files.insert((Artifact::Release, record.release, record.release_size));
            // Old releases are small, and barriers lead through them.
            for entry in self.trust().history(&record, self.state())? {
                files.insert((Artifact::Release, entry.release.digest, entry.release.size));
            }
            self.collect(&release, &mut files)?;
            records.push((reference.clone(), self.record_text(reference), record.keys));
        }
        if let (Some(bytes), Some(repository)) = (dir.read_optional(INFO, limits::MAX_INFO)?, &repository) {
            let is = SiteInfo::parse(&bytes)
                .map_err(|source| PullError::Site {
                    url: dir.path().join(INFO).display().to_string(),
                    source,
                })?
                .repository;
            if is != *repository {
                return Err(PullError::NotAMirror {
                    path: to.to_owned(),
                    reason: format!("it is a site of repository {is}, and the remote is of {repository}"),
                });
            }
        }
        let total = files.iter().map(|(_, _, size)| size).sum();
        let phase = PhaseGuard::begin(self.source().progress(), Phase::Pull, Some(total), Unit::Bytes);
        for (kind, digest, size) in files {
            self.source().cancel().check()?;
            let path = kind.path(&digest);
            dir.ensure_dir(kind.dir(), 0o755)?;
            let here = dir.stat_optional(&path)?.is_some_and(|stat| stat.size == size);
            if here {
                report.present += 1;
            } else {
                self.copy_file(kind, &FileRef { digest, size }, &work)?;
                work.rename(digest.to_string(), &dir, &path)?;
                report.files += 1;
                report.bytes += size;
            }
            phase.advance(size);
        }
        drop(phase);
        let newest_keys = records.iter().map(|(_, _, keys)| *keys).max().unwrap_or(0);
        for number in 1..=newest_keys {
            self.copy_small(&dir, &key_set_path(number))?;
        }
        if let Some(repository) = repository.filter(|_| !matches!(dir.exists(INFO), Ok(true))) {
            let info = SiteInfo {
                format: crate::site::FORMAT,
                repository,
                features: Default::default(),
            };
            dir.write_atomic(INFO, &info.to_bytes(), 0o644)?;
        }
        dir.sync_fs()?;
        for (reference, text, _) in records {
            let path = record_path(&reference);
            if let Some(parent) = Path::new(&path).parent() {
                dir.ensure_dir_all(parent, 0o755)?;
            }
            dir.write_atomic(&path, text.as_bytes(), 0o644)?;
        }
        dir.sync_fs()?;
        dir.remove_tree(WORK)?;
        Ok(report)
    }

    fn collect(
        &self,
        release: &Release,
        files: &mut BTreeSet<(Artifact, Digest, u64)>,
    ) -> Result<(), PullError> {
        let mut add = |kind, file: FileRef| files.insert((kind, file.digest, file.size));
        add(Artifact::Manifest, release.manifest);
        for relative in &release.manifests {
            add(Artifact::Manifest, relative.file);
        }
        let (bytes, url) = read_artifact(self.source(), Artifact::Manifest, &release.manifest)?;
        let manifest = Manifest::decode(&bytes, &release.commit, &[])
            .map_err(|source| PullError::Site { url, source })?;
        for pack in manifest.index.packs {
            add(Artifact::Pack, pack);
        }
        for file in manifest.index.patch_files {
            add(Artifact::Patch, file);
        }
        if let Some((image, _)) = manifest.index.image {
            add(Artifact::Image, image);
        }
        Ok(())
    }

    /// Fetches a file into the work directory, under its digest, verified.
    fn copy_file(&self, kind: Artifact, file: &FileRef, work: &Dir) -> Result<(), PullError> {
        let path = kind.path(&file.digest);
        let name = file.digest.to_string();
        let mut attempts = self.source().attempts();
        loop {
            let response = attempts.get(&Request::whole(&path, file.size))?;
            let url = response.url.clone();
            work.remove_file_optional(&name)?;
            let mut out = work.create_file(&name, 0o644)?;
            let mut body = Metered::new(self.source(), response.body);
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 256 * 1024];
            let failed = loop {
                match body.read(&mut buffer) {
                    Ok(0) => break None,
                    Ok(len) => {
                        hasher.update(&buffer[..len]);
                        out.write_all(&buffer[..len])
                            .map_err(|error| FsError::new("write", work.path().join(&name), error))?;
                    }
                    Err(error) => break Some(error),
                }
            };
            self.source().cancel().check()?;
            match failed {
                Some(error) => attempts.failed(&url, &error),
                None if Digest::from(hasher.finalize()) == file.digest => return Ok(()),
                None => attempts.reject(&url, "its bytes are not those of its name"),
            }
        }
    }

    fn copy_small(&self, dir: &Dir, path: &str) -> Result<(), PullError> {
        if dir.exists(path)? {
            return Ok(());
        }
        let request = Request::whole(path, limits::MAX_RECORD as u64);
        if let crate::remote::Fetched::New(bytes) = self.source().read(&request, |bytes, _| Ok(bytes))? {
            if let Some(parent) = Path::new(path).parent() {
                dir.ensure_dir_all(parent, 0o755)?;
            }
            dir.write_atomic(path, &bytes, 0o644)?;
        }
        Ok(())
    }
}
