//! A deployment, a checkout, or any other directory: files are looked for where the commits have them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cancel::Cancel;
use crate::commit::{ScanOptions, hash_directory};
use crate::digest::DirTreeId;
use crate::fs::{Dir, FileKind};
use crate::progress::NoProgress;
use crate::repo::{Candidate, ObjectKind, RepairSource, SourceError, Take, TreeSource, WantedObject};

/// A directory that files are taken from. A file that is damaged there too is not the object, and is passed over.
///
/// A directory of the commits is made again from what lies at its path, and counts if it comes out the same: names, owners,
/// modes, times and attributes, all the way down.
#[derive(Debug)]
pub struct DirectorySource {
    root: Dir,
    name: String,
}

impl DirectorySource {
    /// Takes from `root`, which a person calls `name`.
    #[must_use]
    pub fn new(root: Dir, name: impl Into<String>) -> Self {
        Self {
            root,
            name: name.into(),
        }
    }

    /// What cannot be opened beneath the root, without following a link, is not there.
    fn file(&self, path: &[u8], size: Option<u64>) -> Option<Candidate> {
        let path = Path::new(OsStr::from_bytes(path));
        let stat = self.root.stat(path).ok()?;
        if stat.kind != FileKind::File || size.is_some_and(|size| size != stat.size) {
            return None;
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = match parent {
            None => self.root.open_file(path),
            Some(parent) => self.root.open_dir(parent).ok()?.open_file(path.file_name()?),
        };
        Some(Candidate::File(file.ok()?, self.root.path().join(path)))
    }

    fn dirtree(&self, path: &[u8], id: &DirTreeId, cancel: &Cancel) -> Option<Candidate> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let dir = match path {
            b"" => self.root.try_clone(),
            path => self.root.open_dir(Path::new(OsStr::from_bytes(path))),
        };
        let (_, _, trees) = hash_directory(dir.ok()?, &ScanOptions::default(), &NoProgress, cancel).ok()?;
        let (_, bytes) = trees.dirtree(id).ok()?.encode().ok()?;
        Some(Candidate::Bytes(bytes))
    }
}

impl RepairSource for DirectorySource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn offer(
        &mut self,
        wanted: &[WantedObject],
        take: &mut Take<'_>,
        cancel: &Cancel,
    ) -> Result<(), SourceError> {
        for (index, object) in wanted.iter().enumerate() {
            for path in &object.paths {
                cancel.check().map_err(|error| SourceError::failed(&error))?;
                let candidate = match object.kind {
                    ObjectKind::Blob => self.file(path, object.size),
                    ObjectKind::DirTree => self.dirtree(path, &DirTreeId::new(object.digest), cancel),
                    ObjectKind::Commit => None,
                };
                if let Some(candidate) = candidate
                    && take(index, candidate)?
                {
                    break;
                }
            }
        }
        Ok(())
    }
}
