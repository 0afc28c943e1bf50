//! Copying a site, verified, for those who serve it elsewhere.
//!
//! Everything that the refs lead to is fetched by its digest, and the records last, so that whoever pulls from the copy meanwhile
//! sees what is whole. What the copy has already is not fetched again: it was verified when it came, and the disk had all of it when that
//! run ended. After one that did not end, what is there is read.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::Digest;
use crate::fs::{Dir, FileKind, FsError, hash_file};
use crate::names::RefName;
use crate::progress::{Phase, PhaseGuard, Unit};
use crate::remote::{Fetched, Metered, Rejection};
use crate::sign::{Envelope, KeySet, SignError, TrustedKeys};
use crate::site::{
    Artifact, FileRef, INFO, KEYS, Manifest, Record, Release, SiteInfo, key_set_path, limits, record_path,
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

/// How to mirror.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct MirrorOptions {
    /// Read what the copy has already, too, and fetch again what is damaged.
    pub verify: bool,
}

/// Files that are being fetched. No path of a site starts with a dot.
const WORK: &str = ".mirror";

/// In [`WORK`]: a run has not ended, and what it has fetched may not be on the disk.
const UNFINISHED: &str = "unfinished";

/// Returns whether a mirror that was interrupted before it had its [`INFO`] has such an entry.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        let is_unfinished = name.starts_with('.') && name.ends_with(".new");
        is_unfinished || name == WORK || name == KEYS || Artifact::ALL.iter().any(|kind| kind.dir() == name)
    })
}

/// Refuses a record that is older than the copy's own: a stale source would lead back whoever pulls from the copy.
fn refuse_older(dir: &Dir, reference: &RefName, record: &Record) -> Result<(), PullError> {
    let path = record_path(reference);
    let Some(bytes) = dir.read_optional(&path, limits::MAX_RECORD)? else {
        return Ok(());
    };
    // What is no record, or another repository's, is not worth keeping.
    let own = Envelope::decode(&bytes)
        .ok()
        .and_then(|envelope| Record::from_payload(envelope.unverified_payload()).ok())
        .filter(|own| own.repository == record.repository && own.reference == record.reference);
    let Some(own) = own else {
        return Ok(());
    };
    let (seen, found) = ((own.keys, own.sequence), (record.keys, record.sequence));
    if found < seen {
        return Err(PullError::OlderThanCopy {
            path: dir.path().join(path),
            seen,
            found,
        });
    }
    Ok(())
}

/// Returns whether the copy has a file: by its size, and where `verify` says so, by its bytes.
fn is_here(dir: &Dir, path: &str, wanted: &FileRef, verify: bool) -> Result<bool, PullError> {
    let Some(file) = dir.open_file_optional(path)? else {
        return Ok(false);
    };
    let fail = |error| FsError::new("read", dir.path().join(path), error);
    if file.metadata().map_err(fail)?.len() != wanted.size {
        return Ok(false);
    }
    if !verify {
        return Ok(true);
    }
    let (found, _) = hash_file(&file).map_err(fail)?;
    Ok(*found.digest() == wanted.digest)
}

/// Gives what a mirror made a mode, whatever the umask: a web server reads it as another user.
fn open_to_all(made: impl AsFd, mode: u32, path: impl FnOnce() -> PathBuf) -> Result<(), FsError> {
    rustix::fs::fchmod(made, rustix::fs::Mode::from_raw_mode(mode))
        .map_err(|error| FsError::new("set the mode of", path(), error))
}

/// Opens the copy, and makes it if it is missing.
fn open_copy(to: &Path) -> Result<Dir, FsError> {
    let is_there = match Dir::open_ambient(to) {
        Err(error) if error.is_not_found() => false,
        other => return other,
    };
    let dir = Dir::ensure_ambient(to)?;
    if !is_there {
        open_to_all(&dir, 0o755, || to.to_owned())?;
    }
    Ok(dir)
}

/// Makes each directory of `path` that is missing. Those that are there keep their modes.
fn make_dirs(dir: &Dir, path: &Path) -> Result<(), FsError> {
    let mut at = PathBuf::new();
    for part in path.components() {
        at.push(part);
        match dir.create_dir(&at, 0o755) {
            Err(error) if error.is_already_exists() => {}
            made => {
                made?;
                open_to_all(dir.open_dir(&at)?, 0o755, || dir.path().join(&at))?;
            }
        }
    }
    Ok(())
}

/// Refuses refs that lie within one another.
fn check_names(refs: &[RefName], to: &Path) -> Result<(), PullError> {
    for (index, name) in refs.iter().enumerate() {
        if let Some(other) = refs[..index].iter().find(|other| other.collides_with(name)) {
            return Err(collision(to, name, &other.to_string()));
        }
    }
    Ok(())
}

/// Refuses a ref of which the copy has another one within it or around it.
fn check_place(dir: &Dir, reference: &RefName) -> Result<(), PullError> {
    let path = record_path(reference);
    let path = Path::new(&path);
    for part in path.ancestors().filter(|part| !part.as_os_str().is_empty()) {
        let kind = match dir.stat_optional(part) {
            // A file is on the way there: the part before it is looked at next.
            Err(error) if error.source.kind() == std::io::ErrorKind::NotADirectory => continue,
            stat => stat?.map(|stat| stat.kind),
        };
        let wrong = match part == path {
            true => FileKind::Dir,
            false => FileKind::File,
        };
        if kind == Some(wrong) {
            let other = part.strip_prefix("refs").unwrap_or(part).display().to_string();
            let other = match part == path {
                true => format!("{other}/..."),
                false => other,
            };
            return Err(collision(dir.path(), reference, &other));
        }
    }
    Ok(())
}

fn collision(to: &Path, name: &RefName, other: &str) -> PullError {
    PullError::NotAMirror {
        path: to.to_owned(),
        reason: format!(
            "a ref cannot be called {name}: there is {other}, and one would lie within the other"
        ),
    }
}

impl Session<'_> {
    /// Copies the newest release of each ref, with all that it needs, into the site at `to`, which is made if there is nothing. The
    /// records are verified as a pull verifies them.
    ///
    /// # Errors
    /// Among others [`PullError::OlderThanCopy`] where the copy has a newer record: nobody is led back.
    pub fn mirror(
        &mut self,
        refs: &[RefName],
        to: &Path,
        options: &MirrorOptions,
    ) -> Result<MirrorReport, PullError> {
        check_names(refs, to)?;
        let dir = open_copy(to)?;
        if !dir.exists(INFO)?
            && let Some(entry) = dir.entries()?.into_iter().find(|entry| !is_ours(&entry.name))
        {
            return Err(PullError::NotAMirror {
                path: to.to_owned(),
                reason: format!("it has {}, and no {INFO}", entry.name.to_string_lossy()),
            });
        }
        let work = dir.ensure_dir(WORK, 0o700)?;
        let _lock = self.repo.lock_other(&work, "lock", "the mirror")?;
        let verify = options.verify || work.exists(UNFINISHED)?;
        for entry in work.entries()? {
            if entry.name != "lock" {
                work.remove_tree(&entry.name)?;
            }
        }
        for reference in refs {
            check_place(&dir, reference)?;
        }
        let mut report = MirrorReport::default();
        let mut records = Vec::new();
        let mut files: BTreeSet<(Artifact, Digest, u64)> = BTreeSet::new();
        let mut repository = None;
        for reference in refs {
            let record = self.look(reference)?;
            refuse_older(&dir, reference, &record)?;
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
        work.write_atomic(UNFINISHED, b"", 0o600)?;
        let total = files.iter().map(|(_, _, size)| size).sum();
        let phase = PhaseGuard::begin(self.source().progress(), Phase::Pull, Some(total), Unit::Bytes);
        for (kind, digest, size) in files {
            self.source().cancel().check()?;
            let path = kind.path(&digest);
            make_dirs(&dir, Path::new(kind.dir()))?;
            if is_here(&dir, &path, &FileRef { digest, size }, verify)? {
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
        if let Some(repository) = &repository {
            self.copy_keys(&dir, newest_keys, repository)?;
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
                make_dirs(&dir, parent)?;
            }
            dir.write_atomic(&path, text.as_bytes(), 0o644)?;
        }
        dir.sync_fs()?;
        work.remove_file(UNFINISHED)?;
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
        for (kind, file) in manifest.index.files() {
            add(kind, file);
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
            open_to_all(&out, 0o644, || work.path().join(&name))?;
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

    /// Copies the key sets up to `newest`, and what is there already only if it is what it should be: machines that are made
    /// later follow the chain through them.
    fn copy_keys(&self, dir: &Dir, newest: u64, repository: &str) -> Result<(), PullError> {
        let mut chain = Chain {
            followed: self.config.pinned(self.repo, &self.name)?,
            in_use: self.state().keys.clone(),
            repository,
        };
        for number in 1..=newest {
            let path = key_set_path(number);
            if let Some(bytes) = dir.read_optional(&path, limits::MAX_RECORD)?
                && chain.take(number, &bytes).is_ok()
            {
                continue;
            }
            let request = Request::whole(&path, limits::MAX_RECORD as u64);
            let fetched = self.source().read(&request, |bytes, _| {
                chain.take(number, &bytes).map_err(Rejection::new)?;
                Ok(bytes)
            })?;
            if let Fetched::New(bytes) = fetched {
                make_dirs(dir, Path::new(KEYS))?;
                dir.write_atomic(&path, &bytes, 0o644)?;
            }
        }
        Ok(())
    }
}

/// Judges the key sets of a site, one after the other.
struct Chain<'a> {
    /// The set that was followed to, from the one that a person gave; none with `no-verify`.
    followed: Option<TrustedKeys>,
    /// Where the chain leads.
    in_use: Option<TrustedKeys>,
    repository: &'a str,
}

impl Chain<'_> {
    /// Takes set `number` if it is the next one of the chain. Those that come before the one that a person gave are no link of
    /// it: they are taken if they are what their place says.
    fn take(&mut self, number: u64, bytes: &[u8]) -> Result<(), SignError> {
        let invalid = |reason: &str| SignError::InvalidKeySet {
            reason: reason.to_owned(),
        };
        let set = match &self.followed {
            Some(followed) if followed.number() < number => followed.advance(bytes)?,
            followed => {
                let set = KeySet::from_payload(Envelope::decode(bytes)?.unverified_payload())?;
                if followed
                    .as_ref()
                    .is_some_and(|given| given.number() == number && *given.set() != set)
                {
                    return Err(invalid(
                        "it is another set than the one that the remote was given",
                    ));
                }
                TrustedKeys::given(set)
            }
        };
        if set.number() != number || set.set().repository != self.repository {
            return Err(invalid("it is the key set of another number or repository"));
        }
        if let Some(in_use) = &self.in_use
            && in_use.number() == number
            && *in_use != set
        {
            return Err(invalid("it is another set than the one in use"));
        }
        if self
            .followed
            .as_ref()
            .is_some_and(|followed| followed.number() < number)
        {
            self.followed = Some(set);
        }
        Ok(())
    }
}
