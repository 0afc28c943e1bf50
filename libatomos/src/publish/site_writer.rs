//! Adding to a site: under temporary names first, then placed, and the records last.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::format::limits::MAX_REFS;
use crate::fs::{Dir, FileLock, FsError, LockMode, Patience};
use crate::names::RefName;
use crate::site::{Artifact, FORMAT, FileRef, INFO, KEYS, SiteInfo, key_set_path, record_path};

use super::PublishError;
use super::site_dir::SiteDir;

/// What is not yet published. Its name starts with a dot, and no path of a site does.
const WORK: &str = ".publish";

/// In [`WORK`]: the refs that are being published for the first time, one to a line.
const BEGUN: &str = "begun";

/// Makes each directory of `path` that is missing, so that whoever serves the site can read it whatever the umask is: as the files are.
fn public_dir(dir: &Dir, path: &Path) -> Result<(), PublishError> {
    let mut dir = dir.try_clone()?;
    for component in path.components() {
        let name = Path::new(component.as_os_str());
        dir = match dir.open_dir_optional(name)? {
            Some(next) => next,
            None => {
                let next = dir.ensure_dir(name, 0o755)?;
                make_public(&next)?;
                next
            }
        };
    }
    Ok(())
}

fn make_public(dir: &Dir) -> Result<(), PublishError> {
    rustix::fs::fchmod(dir, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(|errno| FsError::new("set the mode of", dir.path(), errno).into())
}

/// A site that this process may write to.
#[derive(Debug)]
pub(super) struct SiteWriter {
    pub(super) site: SiteDir,
    work: Dir,
    _lock: FileLock,
    pending: std::cell::RefCell<Vec<(Artifact, Digest)>>,
    /// Refs whose first release an interrupted run may have placed, without a record.
    begun: BTreeSet<RefName>,
    counter: std::cell::Cell<u32>,
}

impl SiteWriter {
    /// Opens the site at `path` for writing; makes one where there is nothing. What an interrupted run left is removed.
    pub(super) fn open(path: &Path, repository: &str, patience: &Patience) -> Result<Self, PublishError> {
        let dir = match Dir::open_ambient(path) {
            Err(error) if error.is_not_found() => {
                let dir = Dir::ensure_ambient(path)?;
                make_public(&dir)?;
                dir
            }
            other => other?,
        };
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
            0o600,
            "the site",
            LockMode::Exclusive,
            patience.timeout,
            |holders| patience.notice.waiting("the site", holders),
        )?;
        let begun = work.read_optional(BEGUN, MAX_REFS)?.unwrap_or_default();
        let begun = String::from_utf8_lossy(&begun)
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        for entry in work.entries()? {
            if entry.name != "lock" && entry.name != BEGUN {
                work.remove_tree(&entry.name)?;
            }
        }
        let site = if dir.exists(INFO)? {
            SiteDir::with_dir(dir)?
        } else {
            let info = SiteInfo {
                format: FORMAT,
                repository: repository.to_owned(),
                features: Default::default(),
            };
            SiteDir::new(dir, info)
        };
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
            .map_err(|errno| FsError::new("set the mode of", self.staged_path(&name), errno))?;
        Ok((name, file))
    }

    /// Returns the path of a file that [`SiteWriter::create`] made, for messages.
    pub(super) fn staged_path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// Removes what was staged and is not to be published: after an error, such as that of a full disk, which it would keep full. What
    /// cannot be removed now goes with the next run.
    pub(super) fn clear(&self) {
        for entry in self.work.entries().unwrap_or_default() {
            if entry.name != "lock" && entry.name != BEGUN {
                let _ = self.work.remove_tree(&entry.name);
            }
        }
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
            .map_err(|error| FsError::new("write", self.staged_path(&name), error))?;
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
    ///
    /// A directory that is no site yet becomes one here: a run that ended before has left none.
    pub(super) fn begin(&self, first: &[RefName]) -> Result<(), PublishError> {
        let dir = self.site.dir();
        if !dir.exists(INFO)? {
            dir.write_atomic(INFO, &self.site.info().to_bytes(), 0o644)?;
        }
        let names: BTreeSet<&RefName> = self.begun.iter().chain(first).collect();
        self.write_begun(names)
    }

    /// Forgets those refs that have a record now; a run for some of them does not finish the others.
    pub(super) fn finish(&self) -> Result<(), PublishError> {
        let mut open = BTreeSet::new();
        for name in &self.begun {
            if !self.site.dir().exists(record_path(name))? {
                open.insert(name);
            }
        }
        self.write_begun(open)
    }

    fn write_begun(&self, names: BTreeSet<&RefName>) -> Result<(), PublishError> {
        let text: String = names.into_iter().map(|name| format!("{name}\n")).collect();
        match text.is_empty() {
            true => drop(self.work.remove_file_optional(BEGUN)?),
            false => self.work.write_atomic(BEGUN, text.as_bytes(), 0o644)?,
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
            public_dir(self.site.dir(), Path::new(kind.dir()))?;
            for (_, digest) in pending.iter().filter(|(this, _)| *this == kind) {
                let staged = format!("{}-{digest}", kind.dir());
                self.work.rename(&staged, self.site.dir(), kind.path(digest))?;
            }
            crate::failpoint::hit("publish.placed")?;
        }
        self.site.dir().sync_fs()?;
        crate::failpoint::hit("publish.durable")?;
        Ok(())
    }

    /// Places a key set, durably: what is signed by its keys comes after it.
    pub(super) fn write_key_set(&self, number: u64, bytes: &[u8]) -> Result<(), PublishError> {
        public_dir(self.site.dir(), Path::new(KEYS))?;
        self.site.dir().write_atomic(key_set_path(number), bytes, 0o644)?;
        self.site.dir().sync_fs()?;
        crate::failpoint::hit("publish.key-set")?;
        Ok(())
    }

    /// Replaces a ref's record: the visible step.
    pub(super) fn write_record(&self, reference: &RefName, bytes: &[u8]) -> Result<(), PublishError> {
        let path = record_path(reference);
        if let Some(parent) = Path::new(&path).parent() {
            public_dir(self.site.dir(), parent)?;
        }
        self.site.dir().write_atomic(&path, bytes, 0o644)?;
        crate::failpoint::hit("publish.record")?;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), PublishError> {
        Ok(self.site.dir().sync_fs()?)
    }
}
