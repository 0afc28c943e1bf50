//! Images of trees, as files with a name or without one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Seek;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::digest::{Digest, DirTreeId};
use crate::format::{Entry, Metadata, Node};
use crate::fs::{Dir, FsError, hash_file};
use crate::repo::{Located, Repo, Room, random_hex};
use crate::verity::VerityDigest;

use super::ComposefsError;
use super::erofs::is_image;
use super::verify::{Unknown, files_to_verify, unverified_files};
use super::write::write_image;

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageReport {
    /// Inodes in it.
    pub inodes: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// The digest of its bytes. The same tree has the same.
    pub digest: Digest,
    /// Its fs-verity digest, where it has that of each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<VerityDigest>,
}

/// An image without a name, in the repository's file system. It goes when nobody has it open or mounted.
#[derive(Debug)]
pub struct Image {
    pub(super) file: File,
    /// Bytes of it.
    pub bytes: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its fs-verity digest, where it was made here and has that of each file.
    pub verity: Option<VerityDigest>,
    /// The tree that it was made of here.
    tree: Option<DirTreeId>,
}

impl Image {
    /// Makes an image of what `rev` names, or of the directory `subpath` in it. Nothing of it is durable.
    ///
    /// # Errors
    /// If the tree has something that no image can have, or an object is missing.
    pub fn make(repo: &Repo, rev: &str, subpath: &[u8], cancel: &Cancel) -> Result<Self, ComposefsError> {
        let _lock = repo.lock_shared()?;
        let file = repo.dir().create_unnamed(0o600)?;
        let (report, tree) = write_revision(repo, rev, subpath, &file, &repo.room()?, cancel)?;
        Ok(Self {
            file,
            bytes: report.bytes,
            digest: report.digest,
            verity: report.verity,
            tree: Some(tree),
        })
    }

    /// Fails unless the kernel verifies each file that the image leads to as what its tree says, so that it can be mounted with files that
    /// are verified. Nothing is changed.
    ///
    /// # Errors
    /// [`ComposefsError::NotVerifiable`], which says what is missing.
    pub fn check_files(&self, repo: &Repo, cancel: &Cancel) -> Result<(), ComposefsError> {
        let (Some(_), Some(tree)) = (self.verity, self.tree) else {
            return Err(ComposefsError::NotVerifiable {
                reason: "its tree does not record the fs-verity digest of each file".to_owned(),
            });
        };
        let files = files_to_verify(repo, tree, cancel)?;
        let unverified = unverified_files(repo, &files, Unknown::Unverified, cancel)?;
        match unverified.first() {
            None => Ok(()),
            Some(first) => Err(ComposefsError::NotVerifiable {
                reason: format!(
                    "the kernel does not verify {} of {} files, blob {first} among them",
                    unverified.len(),
                    files.len()
                ),
            }),
        }
    }

    /// Takes one that nobody else can write to, as it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn of_file(file: File, path: &Path) -> Result<Self, ComposefsError> {
        let (digest, bytes) = hash_file(&file).map_err(|error| FsError::new("read", path, error))?;
        Ok(Self {
            file,
            bytes,
            digest: *digest.digest(),
            verity: None,
            tree: None,
        })
    }

    /// Takes one that was made as a file. It is copied: whoever owns the file may change it while it is mounted.
    ///
    /// # Errors
    /// If there is none, or no room for it. What is in it is the kernel's to read.
    pub fn open(repo: &Repo, path: &Path) -> Result<Self, ComposefsError> {
        let name = path.file_name().ok_or_else(|| ComposefsError::NoName {
            path: path.to_owned(),
        })?;
        let fail = |error| FsError::new("read", path, error);
        let mut from = parent(path)?.open_file(name)?;
        repo.check_room(from.metadata().map_err(fail)?.len())?;
        let file = repo.dir().create_unnamed(0o600)?;
        std::io::copy(&mut from, &mut &file).map_err(fail)?;
        (&file).rewind().map_err(fail)?;
        if !is_image(&file) {
            return Err(ComposefsError::NotAnImage {
                path: path.to_owned(),
            });
        }
        let (digest, bytes) = hash_file(&file).map_err(fail)?;
        Ok(Self {
            file,
            bytes,
            digest: *digest.digest(),
            verity: None,
            tree: None,
        })
    }
}

fn parent(path: &Path) -> Result<Dir, FsError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Dir::open_ambient(parent),
        _ => Dir::open_ambient("."),
    }
}

fn write_revision(
    repo: &Repo,
    rev: &str,
    subpath: &[u8],
    file: &File,
    room: &Room,
    cancel: &Cancel,
) -> Result<(ImageReport, DirTreeId), ComposefsError> {
    let (root, metadata) = repo.resolve_tree(rev)?;
    let (root, metadata) = match repo.locate(rev, root, metadata, subpath)? {
        // A dirtree does not know its own directory's metadata.
        Located::Root(root, metadata) => (root, metadata.unwrap_or_else(|| Metadata::with_mode(0o755))),
        Located::Entry(Entry {
            node: Node::Dir { tree },
            metadata,
            ..
        }) => (tree, metadata),
        Located::Entry(_) => {
            return Err(ComposefsError::NotInImages {
                path: Path::new(OsStr::from_bytes(subpath)).to_owned(),
                reason: "an image is made of a directory",
            });
        }
    };
    // An image leads to files, and takes none of them to be made.
    if let Ok(commit) = repo.resolve_commit(rev) {
        repo.check_is_here(&commit, subpath)?;
    }
    let take = |bytes| Ok(room.take(bytes).map(drop)?);
    let written = write_image(repo, root, &metadata, file, &take, cancel);
    let report = written.map_err(|error| match error {
        ComposefsError::Repo(error) => repo.explain_missing(repo.resolve_commit(rev).ok(), error).into(),
        error => error,
    })?;
    Ok((report, root))
}

/// Makes an image of what `rev` names, or of the directory `subpath` in it, as the file `destination`, which must not exist. It is
/// there when it is complete. Nothing is synced.
///
/// # Errors
/// As of [`Image::make`]; and where there is something.
pub fn image(
    repo: &Repo,
    rev: &str,
    subpath: &[u8],
    destination: &Path,
    cancel: &Cancel,
) -> Result<ImageReport, ComposefsError> {
    let name = destination.file_name().ok_or_else(|| ComposefsError::NoName {
        path: destination.to_owned(),
    })?;
    let parent = parent(destination)?;
    let exists = || ComposefsError::Exists {
        path: destination.to_owned(),
    };
    if parent.exists(name)? {
        return Err(exists());
    }
    let _lock = repo.lock_shared()?;
    let temporary = format!(".atomos-image-{}", random_hex(8)?);
    let file = parent.create_file(&temporary, 0o644)?;
    let room = repo.room_beside(&parent)?;
    let made = write_revision(repo, rev, subpath, &file, &room, cancel).and_then(|(report, _)| match parent
        .rename_new(&temporary, &parent, name)
    {
        Err(error) if error.is_already_exists() => Err(exists()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(report),
    });
    if made.is_err() {
        // The first error is the one to tell.
        drop(parent.remove_file_optional(&temporary));
    }
    made
}
