//! A repository on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::DeflateDecoder;
use sha2::{Digest as _, Sha256};

use crate::format::{Metadata, limits};
use crate::fs::{Dir, FileKind, Stat, read_xattrs, read_xattrs_at};

use super::gvariant::{Malformed, write_xattrs};
use super::object::{Owner, owner_and_xattrs};
use super::{Checksum, OstreeCommit, OstreeDirMeta, OstreeDirTree, OstreeError, OstreeFile};

/// How a repository keeps files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Compressed, after a header.
    Archive,
    /// With their own owners, modes and attributes.
    Bare,
    /// With owner, mode and attributes in an attribute.
    BareUser,
    /// Without owners and attributes.
    BareUserOnly,
}

/// Bytes of a header in an archive: two full attributes fit, and a link's target.
const MAX_HEADER: usize = 1024 * 1024;

/// The attribute that a repository of the mode `bare-user` has metadata in.
const META: &[u8] = b"user.ostreemeta";

/// An OSTree repository.
#[derive(Debug)]
pub struct OstreeRepo {
    dir: Dir,
    objects: Dir,
    mode: Mode,
}

impl OstreeRepo {
    /// Opens the repository in `dir`.
    pub fn open(dir: Dir) -> Result<Self, OstreeError> {
        let wrong = |rule: String| OstreeError::Repository {
            path: dir.path().to_owned(),
            rule,
        };
        let Some(config) = dir.read_optional("config", limits::MAX_CONFIG)? else {
            return Err(wrong("it has no file config".to_owned()));
        };
        let config = String::from_utf8_lossy(&config);
        // Every OSTree repository says so, and nothing else that has a `config` does: an atomos repository, say.
        match core_value(&config, "repo_version") {
            Some("1") => {}
            Some(_) => return Err(wrong("it is not of version 1".to_owned())),
            None => return Err(wrong("its config names no repo_version".to_owned())),
        }
        let mode = match core_value(&config, "mode").unwrap_or("bare") {
            "archive" | "archive-z2" => Mode::Archive,
            "bare" => Mode::Bare,
            "bare-user" => Mode::BareUser,
            "bare-user-only" => Mode::BareUserOnly,
            other => return Err(wrong(format!("its mode {other:?} is not known"))),
        };
        let objects = dir
            .open_dir_optional("objects")?
            .ok_or_else(|| wrong("it has no directory objects".to_owned()))?;
        Ok(Self { dir, objects, mode })
    }

    /// Returns the commit that a ref names: `NAME`, or `REMOTE:NAME`.
    pub fn resolve(&self, name: &str) -> Result<Checksum, OstreeError> {
        let not_found = || OstreeError::RefNotFound {
            name: name.to_owned(),
            path: self.dir.path().to_owned(),
        };
        let path = match name.split_once(':') {
            Some((remote, name)) => format!("refs/remotes/{remote}/{name}"),
            None => format!("refs/heads/{name}"),
        };
        let strange = path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == ".." || part.contains('\0'));
        if strange {
            return Err(not_found());
        }
        // On the way there may be a file, and the name may be a directory's.
        let bytes = match self.dir.stat_optional(&path) {
            Ok(Some(stat)) if stat.kind == FileKind::File => self.dir.read(&path, 256)?,
            Ok(_) => return Err(not_found()),
            Err(error) if error.is_not_found() || is_not_a_directory(&error) => return Err(not_found()),
            Err(error) => return Err(error.into()),
        };
        std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Checksum::parse(text.trim_end()))
            .ok_or_else(|| OstreeError::Repository {
                path: self.dir.path().join(&path),
                rule: "it names no commit".to_owned(),
            })
    }

    /// Returns whether the commit is here with all that it leads to, as far as the repository says.
    pub(crate) fn has_whole_commit(&self, id: &Checksum) -> Result<bool, OstreeError> {
        let partial = self.dir.exists(format!("state/{id}.commitpartial"))?;
        Ok(!partial && self.objects.exists(path_of(id, "commit"))?)
    }

    /// Reads a commit.
    pub(crate) fn commit(&self, id: &Checksum) -> Result<OstreeCommit, OstreeError> {
        self.metadata(id, "commit", OstreeCommit::decode)
    }

    /// Reads a directory.
    pub(crate) fn dirtree(&self, id: &Checksum) -> Result<OstreeDirTree, OstreeError> {
        self.metadata(id, "dirtree", OstreeDirTree::decode)
    }

    /// Reads a directory's metadata.
    pub(crate) fn dirmeta(&self, id: &Checksum) -> Result<OstreeDirMeta, OstreeError> {
        self.metadata(id, "dirmeta", OstreeDirMeta::decode)
    }

    fn metadata<T>(
        &self,
        id: &Checksum,
        kind: &str,
        decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, OstreeError> {
        let path = path_of(id, kind);
        let bytes = self
            .objects
            .read_optional(&path, limits::MAX_DIRTREE)?
            .ok_or_else(|| missing(id, kind))?;
        if Checksum::of(&bytes) != *id {
            return Err(damaged(id, kind, "its bytes have another checksum"));
        }
        decode(&bytes).map_err(|rule| damaged(id, kind, rule))
    }

    /// Opens a file. Its bytes are to be read to the end, and then [`Content::finish`] says whether they, the owner, the mode and
    /// the attributes are those of `id`; nothing of it may be believed before.
    pub(crate) fn file(&self, id: &Checksum) -> Result<(OstreeFile, Metadata, Content), OstreeError> {
        let (file, reader) = match self.mode {
            Mode::Archive => self.archived(id)?,
            Mode::Bare | Mode::BareUser | Mode::BareUserOnly => self.bare(id)?,
        };
        let bad = |rule| damaged(id, "file", rule);
        file.check().map_err(bad)?;
        let metadata = file.metadata().map_err(bad)?;
        let mut hasher = Sha256::new();
        hasher.update(file.hashed_header());
        let content = Content {
            id: *id,
            hasher,
            reader,
        };
        Ok((file, metadata, content))
    }

    fn archived(&self, id: &Checksum) -> Result<(OstreeFile, Reader), OstreeError> {
        let bad = |rule: &str| damaged(id, "file", rule);
        let read = |error: io::Error| damaged(id, "file", format!("it cannot be read: {error}"));
        let mut file = self
            .objects
            .open_file_optional(path_of(id, "filez"))?
            .ok_or_else(|| missing(id, "file"))?;
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(read)?;
        let len = u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
        if len > MAX_HEADER || prefix[4..] != [0; 4] {
            return Err(bad("its header is larger than 1 MiB, or no header"));
        }
        let mut header = vec![0; len];
        file.read_exact(&mut header).map_err(read)?;
        let (header, size) = OstreeFile::decode_archived(&header).map_err(bad)?;
        let reader = if header.owner.is_symlink() {
            Reader::Nothing
        } else {
            // One byte more than it says shows that there are too many.
            Reader::Deflate(Box::new(DeflateDecoder::new(file).take(size.saturating_add(1))))
        };
        Ok((header, reader))
    }

    fn bare(&self, id: &Checksum) -> Result<(OstreeFile, Reader), OstreeError> {
        let bad = |rule: &str| damaged(id, "file", rule);
        let path = path_of(id, "file");
        let stat = self
            .objects
            .stat_optional(&path)?
            .ok_or_else(|| missing(id, "file"))?;
        let own = |stat: &Stat, kind: u32| Owner {
            uid: stat.uid,
            gid: stat.gid,
            mode: kind | stat.mode,
        };
        if stat.kind == FileKind::Symlink && self.mode != Mode::BareUser {
            let mut owner = own(&stat, 0o120_000);
            let mut xattrs = Vec::new();
            if self.mode == Mode::BareUserOnly {
                (owner.uid, owner.gid) = (0, 0);
            } else {
                let (shard, name) = path.split_once('/').expect("an object's path has a shard");
                let found = read_xattrs_at(&self.objects.open_dir(shard)?, name.as_ref())?;
                xattrs = write_xattrs(found.iter());
            }
            let header = OstreeFile {
                owner,
                target: self.objects.read_link(&path)?,
                xattrs,
            };
            return Ok((header, Reader::Nothing));
        }
        if stat.kind != FileKind::File {
            return Err(bad("it is neither a regular file nor a symbolic link"));
        }
        let file = self.objects.open_file(&path)?;
        let stat = crate::fs::stat_file(&file, Path::new(&path))?;
        let (owner, xattrs) = match self.mode {
            Mode::BareUser => {
                let xattrs = read_xattrs(&file, Path::new(&path))?;
                let meta = xattrs
                    .get(META)
                    .ok_or_else(|| bad("it has no attribute user.ostreemeta"))?;
                let (owner, xattrs) = owner_and_xattrs(meta).map_err(bad)?;
                (owner, xattrs.to_vec())
            }
            Mode::BareUserOnly => {
                let mut owner = own(&stat, 0o100_000);
                (owner.uid, owner.gid) = (0, 0);
                (owner, Vec::new())
            }
            _ => {
                let xattrs = read_xattrs(&file, Path::new(&path))?;
                (own(&stat, 0o100_000), write_xattrs(xattrs.iter()))
            }
        };
        let mut header = OstreeFile {
            owner,
            target: Vec::new(),
            xattrs,
        };
        if header.owner.is_symlink() {
            // A link is kept as a file of its target, as links have no attributes of users.
            file.take(limits::MAX_LINK_TARGET as u64 + 2)
                .read_to_end(&mut header.target)
                .map_err(|error| damaged(id, "file", format!("it cannot be read: {error}")))?;
            // OSTree keeps the NUL of C's texts, which is not hashed.
            if header.target.last() == Some(&0) {
                header.target.pop();
            }
            return Ok((header, Reader::Nothing));
        }
        Ok((header, Reader::File(file)))
    }
}

/// The bytes of a file.
pub(crate) struct Content {
    id: Checksum,
    hasher: Sha256,
    reader: Reader,
}

enum Reader {
    Nothing,
    File(File),
    Deflate(Box<io::Take<DeflateDecoder<File>>>),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = match &mut self.reader {
            Reader::Nothing => 0,
            Reader::File(file) => file.read(buffer)?,
            Reader::Deflate(decoder) => decoder.read(buffer)?,
        };
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}

impl Content {
    /// Returns the checksum of everything that was read, and the header.
    #[cfg(feature = "testing")]
    pub(crate) fn checksum(self) -> Checksum {
        Checksum(self.hasher.finalize().into())
    }

    /// Fails unless everything that was read, and the header, are what the checksum says.
    pub(crate) fn finish(self) -> Result<(), OstreeError> {
        if Checksum(self.hasher.finalize().into()) == self.id {
            Ok(())
        } else {
            let rule = "its bytes, owner, mode and attributes have another checksum";
            Err(damaged(&self.id, "file", rule))
        }
    }
}

fn path_of(id: &Checksum, kind: &str) -> String {
    let hex = id.to_string();
    format!("{}/{}.{kind}", &hex[..2], &hex[2..])
}

fn missing(id: &Checksum, kind: &str) -> OstreeError {
    OstreeError::Missing {
        object: format!("{id}.{kind}"),
    }
}

pub(super) fn damaged(id: &Checksum, kind: &str, rule: impl Into<String>) -> OstreeError {
    OstreeError::Damaged {
        object: format!("{id}.{kind}"),
        rule: rule.into(),
    }
}

fn is_not_a_directory(error: &crate::fs::FsError) -> bool {
    error.source.kind() == io::ErrorKind::NotADirectory
}

/// Returns a value of the section `core`.
fn core_value<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    let mut in_core = false;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            in_core = line == "[core]";
        } else if in_core
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.trim());
        }
    }
    None
}
