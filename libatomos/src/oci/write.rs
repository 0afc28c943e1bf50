//! Writing into a layout, which others may write into at the same moment.
//!
//! A layer is written beside the blobs, under a name of its own, for as long as that takes. Names of blobs and images are given under the
//! lock of the layout's directory, so that nobody replaces an index that somebody else has read. Other programs know nothing of that lock.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::fs::{Dir, DirEntry, FileLock, LockError};

use super::document::{CONFIG, REF_NAME};
use super::layout::{BLOBS, INDEX, LAYOUT};
use super::{Config, Descriptor, Layout, OciDigest, OciError};

/// Names of files that layers are written to until their digests are known.
const TEMPORARY: &str = ".atomos-layer";

/// How long somebody else may take to make the layout.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose lock it is, in messages.
const WHAT: &str = "the image layout";

/// Tells the layers of one process from one another.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A layer whose digest is not known yet. Its lock says that its maker lives; dropping it removes it.
#[derive(Debug)]
pub(crate) struct NewLayer<'l> {
    layout: &'l Layout,
    name: String,
    file: File,
    _owner: FileLock,
    placed: bool,
}

impl NewLayer<'_> {
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for NewLayer<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // Why it was not placed matters more; and another export removes it.
            let _ = self.layout.dir().remove_file_optional(&self.name);
        }
    }
}

/// The right to give names to blobs and images of a layout.
#[derive(Debug)]
pub(crate) struct Publishing<'l> {
    layout: &'l Layout,
    _lock: Option<FileLock>,
}

/// Goes without a lock on a network file system, which locks what is open for writing and so no directory.
fn or_none(lock: Result<FileLock, LockError>) -> Result<Option<FileLock>, LockError> {
    match lock {
        Err(LockError::Fs(error)) if error.source.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
            Ok(None)
        }
        lock => lock.map(Some),
    }
}

impl Layout {
    /// Opens a layout, or makes an empty one.
    pub fn ensure(dir: Dir) -> Result<Self, OciError> {
        if dir.exists(LAYOUT)? {
            return Self::open(dir);
        }
        let _lock = or_none(FileLock::acquire_dir(&dir, WHAT, PATIENCE, |_| ()))?;
        if dir.exists(LAYOUT)? {
            return Self::open(dir);
        }
        // Somebody may be writing a layer, whose layout was removed by another who had made it.
        let is_layer = |entry: &DirEntry| {
            entry
                .name
                .to_str()
                .is_some_and(|name| name.starts_with(TEMPORARY))
        };
        let is_empty = dir.entries()?.iter().all(is_layer);
        let layout = Self { dir, made: is_empty };
        if !is_empty {
            return Err(layout.wrong(".", "it is neither empty nor an image layout"));
        }
        layout.make()?;
        Ok(layout)
    }

    /// Makes what an empty layout has, as far as it is missing.
    fn make(&self) -> Result<(), OciError> {
        // First, so that nobody takes what an interruption leaves for something else.
        if !self.dir().exists(LAYOUT)? {
            self.dir()
                .write_atomic(LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        }
        self.dir().ensure_dir_all(BLOBS, 0o755)?;
        if !self.dir().exists(INDEX)? {
            let empty = br#"{"schemaVersion":2,"manifests":[]}"#;
            self.dir().write_atomic(INDEX, empty, 0o644)?;
        }
        Ok(())
    }

    /// Removes the layout again if this value has made it and nobody has put anything into it.
    pub(crate) fn remove_unused(&self) -> Result<(), OciError> {
        if !self.made {
            return Ok(());
        }
        let _lock = or_none(FileLock::acquire_dir(self.dir(), WHAT, PATIENCE, |_| ()))?;
        let is_unused =
            self.index()?.manifests.is_empty() && self.dir().open_dir(BLOBS)?.entries()?.is_empty();
        if is_unused {
            let (above, _) = BLOBS
                .split_once('/')
                .expect("blobs are in a directory of their algorithm");
            self.dir().remove_file(INDEX)?;
            self.dir().remove_dir(BLOBS)?;
            self.dir().remove_dir(above)?;
            self.dir().remove_file(LAYOUT)?;
        }
        Ok(())
    }

    /// Begins a layer, and removes those whose makers have died.
    pub(crate) fn begin_layer(&self) -> Result<NewLayer<'_>, OciError> {
        self.remove_abandoned()?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMPORARY}-{}-{number}", std::process::id());
            let file = match self.dir().create_file(&name, 0o644) {
                // In a container every program may have the same id.
                Err(error) if error.is_already_exists() => continue,
                other => other?,
            };
            // Somebody may take it for abandoned between these lines; then there is another name.
            if let Some(owner) = FileLock::try_acquire_file(&file, &self.dir().path().join(&name))?
                && self.dir().exists(&name)?
            {
                return Ok(NewLayer {
                    layout: self,
                    name,
                    file,
                    _owner: owner,
                    placed: false,
                });
            }
        }
    }

    fn remove_abandoned(&self) -> Result<(), OciError> {
        for entry in self.dir().entries()? {
            let Some(name) = entry.name.to_str().filter(|name| name.starts_with(TEMPORARY)) else {
                continue;
            };
            let Some(file) = self.dir().open_file_optional(name)? else {
                continue;
            };
            // Where a lock cannot be had, nobody can tell whether its maker lives.
            if matches!(
                FileLock::try_acquire_file(&file, &self.dir().path().join(name)),
                Ok(Some(_))
            ) {
                self.dir().remove_file_optional(name)?;
            }
        }
        Ok(())
    }

    /// Waits until nobody else is publishing in this layout, and makes what it lacks.
    pub(crate) fn publishing(
        &self,
        lock: impl FnOnce(&Dir, &'static str) -> Result<FileLock, LockError>,
    ) -> Result<Publishing<'_>, OciError> {
        let publishing = Publishing {
            layout: self,
            _lock: or_none(lock(self.dir(), WHAT))?,
        };
        // Whoever made the layout may have failed, and removed it, since it was opened.
        self.make()?;
        Ok(publishing)
    }
}

impl Publishing<'_> {
    /// Writes a document as a blob.
    pub(crate) fn write_document(
        &self,
        media_type: &str,
        document: &impl serde::Serialize,
    ) -> Result<Descriptor, OciError> {
        let bytes = serde_json::to_vec(document).expect("documents have texts for keys");
        let mut hashing = super::Hashing::sha256(std::io::sink());
        std::io::Write::write_all(&mut hashing, &bytes).expect("a sink takes everything");
        let (digest, size) = hashing.digest();
        self.layout.dir().write_atomic(digest.path(), &bytes, 0o644)?;
        Ok(Descriptor::new(media_type, &digest.to_string(), size))
    }

    /// Writes a configuration.
    pub(crate) fn write_config(&self, config: &Config) -> Result<Descriptor, OciError> {
        self.write_document(CONFIG, config)
    }

    /// Gives a layer the name of its digest. It is durable when the image is published.
    pub(crate) fn place(&self, mut layer: NewLayer<'_>, digest: &OciDigest) -> Result<(), OciError> {
        let dir = self.layout.dir();
        dir.rename(&layer.name, dir, digest.path())?;
        layer.placed = true;
        Ok(())
    }

    /// Puts an image into the index, in place of one of its name, or of the same image. This is the visible step.
    pub(crate) fn publish(self, mut image: Descriptor, name: Option<&str>) -> Result<(), OciError> {
        let layout = self.layout;
        let mut index = layout.index()?;
        if let Some(name) = name {
            image.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        }
        index
            .manifests
            .retain(|other| other.name() != image.name() || (name.is_none() && other.digest != image.digest));
        index.manifests.push(image);
        let bytes = serde_json::to_vec(&index).expect("documents have texts for keys");
        layout.dir().sync_fs()?;
        crate::failpoint::hit("oci.synced")?;
        layout.dir().write_atomic(INDEX, &bytes, 0o644)?;
        layout.dir().sync_fs()?;
        crate::failpoint::hit("oci.published")?;
        Ok(())
    }
}
