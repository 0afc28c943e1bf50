//! Of which tree a directory is a checkout.
//!
//! The record lies in the repository, not in the directory, whose contents are the tree's and nothing else. A directory is known
//! by its inode and the time of its birth: so it can be renamed, and another of the same name is not taken for it.
//! A record is a hint: without it, the caller says which tree it was.
//!
//! It has a line for each thing that became of the directory, and the last whole one counts. What is made anew is recorded, as it is
//! made, without waiting for the disk: on a journalling file system that would write all names of the checkout, and take as long as
//! half of making them. An update waits once, before it changes anything. Its end is added to what is there, so if a power cut takes
//! that line, the one before still says between which trees the directory is.

use std::io::{Seek, SeekFrom};
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags};
use serde::{Deserialize, Serialize};

use crate::checkout::{CheckoutOptions, LinkMode, Ownership};
use crate::digest::DirTreeId;
use crate::fs::{Dir, FsError, write_all};
use crate::repo::{CACHE as DIR, Repo};

/// Where the records lie, beneath what is safe to delete.
const RECORDS: &str = "checkouts";

/// More records than this, and those go whose directories are no longer where they were.
const MANY: usize = 256;

/// The largest record, in bytes.
const MAX_RECORD: usize = 64 * 1024;

/// What a directory was made of, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Record {
    /// Where it was.
    #[serde(serialize_with = "crate::fs::path_text::one")]
    path: PathBuf,
    /// What it has.
    pub(super) tree: DirTreeId,
    /// What an update that has begun makes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) updating_to: Option<DirTreeId>,
    /// Whose the files are.
    pub(super) user: bool,
    /// How its files came there; whatever the options say where nothing was recorded.
    #[serde(default)]
    pub(super) link: LinkMode,
    /// Which part of a commit's tree it is, empty for all of it.
    #[serde(default, with = "escaped")]
    pub(super) subpath: Vec<u8>,
}

/// Paths are bytes, and JSON is text.
mod escaped {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.escape_ascii().to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        unescape(text.as_bytes())
            .ok_or_else(|| serde::de::Error::custom("a path is not escaped as it must be"))
    }

    /// The inverse of [`slice::escape_ascii`].
    pub(super) fn unescape(text: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.iter().copied();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'\\' => match rest.next()? {
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b'x' => {
                        let digits = [rest.next()?, rest.next()?];
                        u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
                    }
                    other @ (b'\\' | b'\'' | b'"') => other,
                    _ => return None,
                },
                byte => byte,
            });
        }
        Some(bytes)
    }
}

impl Record {
    pub(super) fn new(path: PathBuf, tree: DirTreeId, options: &CheckoutOptions) -> Self {
        Self {
            path,
            tree,
            updating_to: None,
            user: options.ownership == Ownership::User,
            link: options.link,
            subpath: options.subpath.clone(),
        }
    }

    pub(super) fn ownership(&self) -> Ownership {
        match self.user {
            true => Ownership::User,
            false => Ownership::Exact,
        }
    }

    /// Returns from which tree an update to `new` starts, and whether one has begun between the two, in whichever direction.
    ///
    /// # Errors
    /// If one to another tree has begun: that one's.
    pub(super) fn begin(&self, new: &DirTreeId) -> Result<(DirTreeId, bool), DirTreeId> {
        match self.updating_to {
            None => Ok((self.tree, false)),
            Some(to) if to == *new => Ok((self.tree, true)),
            Some(to) if self.tree == *new => Ok((to, true)),
            Some(to) => Err(to),
        }
    }

    /// Reads the record of a directory. One that is damaged is as good as none.
    pub(super) fn load(repo: &Repo, checkout: &Dir) -> Result<Option<Self>, FsError> {
        let name = name_of(checkout)?;
        let Some(cache) = repo.dir().open_dir_optional(DIR)? else {
            return Ok(None);
        };
        let Some(records) = cache.open_dir_optional(RECORDS)? else {
            return Ok(None);
        };
        let bytes = records.read_optional(&name, MAX_RECORD)?;
        Ok(bytes.and_then(|bytes| Self::parse(&bytes)))
    }

    /// The last line that is whole.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.rsplit(|byte| *byte == b'\n');
        lines.find_map(|line| serde_json::from_slice(line).ok())
    }

    fn line(&self, checkout: &Dir) -> Result<Vec<u8>, FsError> {
        let mut line = serde_json::to_vec(self)
            .map_err(|error| FsError::new("describe", checkout.path(), std::io::Error::from(error)))?;
        line.push(b'\n');
        Ok(line)
    }

    /// Begins a record with what is new. Whoever makes many checkouts does not leave a record of each for ever.
    pub(super) fn create(&self, repo: &Repo, checkout: &Dir) -> Result<(), FsError> {
        let records = directory(repo)?;
        let name = name_of(checkout)?;
        records.remove_file_optional(&name)?;
        self.append(&records, &name, checkout)?;
        clean_up(&records)
    }

    /// Begins it anew, and waits until it is on the disk.
    pub(super) fn replace(&self, repo: &Repo, checkout: &Dir) -> Result<(), FsError> {
        directory(repo)?.write_atomic(name_of(checkout)?, &self.line(checkout)?, 0o600)
    }

    /// Adds what has become of it.
    pub(super) fn add(&self, repo: &Repo, checkout: &Dir) -> Result<(), FsError> {
        self.append(&directory(repo)?, &name_of(checkout)?, checkout)
    }

    fn append(&self, records: &Dir, name: &str, checkout: &Dir) -> Result<(), FsError> {
        let file = records.open_or_create_file(name, 0o600)?;
        (&file)
            .seek(SeekFrom::End(0))
            .map_err(FsError::at("write", records.path(), name))?;
        write_all(&file, &self.line(checkout)?).map_err(FsError::at("write", records.path(), name))
    }
}

fn directory(repo: &Repo) -> Result<Dir, FsError> {
    repo.dir().ensure_dir(DIR, 0o700)?.ensure_dir(RECORDS, 0o700)
}

/// Removes records of directories that are no longer where they were, where there are many.
fn clean_up(records: &Dir) -> Result<(), FsError> {
    let entries = records.entries()?;
    if entries.len() <= MANY {
        return Ok(());
    }
    for entry in entries {
        let known = records
            .read_optional(&entry.name, MAX_RECORD)?
            .and_then(|bytes| Record::parse(&bytes));
        let is_there = known.is_some_and(|record| {
            Dir::open_ambient(&record.path)
                .and_then(|dir| name_of(&dir))
                .is_ok_and(|name| *name == *entry.name)
        });
        if !is_there {
            records.remove_file_optional(&entry.name)?;
        }
    }
    Ok(())
}

/// What tells a directory from every other, also when its disk has another number after a reboot: its own number, and when it was made. Were
/// another one like it, an update would find that it is not what it should be.
fn name_of(dir: &Dir) -> Result<String, FsError> {
    let flags = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, flags)
        .map_err(|errno| FsError::new("look at", dir.path(), errno))?;
    let is_born = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(match is_born {
        true => format!(
            "{:x}-{:x}-{:x}",
            stat.stx_ino, stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec
        ),
        // Numbers are used again.
        false => format!(
            "{:x}-on-{:x}-{:x}",
            stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::escaped::unescape;
    use super::{Record, name_of};
    use crate::checkout::LinkMode;
    use crate::digest::{Digest, DirTreeId};
    use crate::fs::Dir;
    use crate::fs::loop_mount::LoopMount;
    use proptest::prelude::*;

    #[test]
    fn a_directory_has_its_name_when_its_disk_has_another_number() {
        let Some(mount) = LoopMount::smallest("xfs") else {
            return;
        };
        let before = Dir::open_ambient(mount.path()).unwrap();
        let out = before.ensure_dir("out", 0o755).unwrap();
        let other = before.ensure_dir("other", 0o755).unwrap();
        before.sync_fs().unwrap();
        let again = mount.after_power_cut("nouuid");
        let after = Dir::open_ambient(again.path()).unwrap().open_dir("out").unwrap();
        let device = |dir: &Dir| dir.stat_self().unwrap().dev;
        assert_ne!(device(&after), device(&out));
        assert_eq!(name_of(&after).unwrap(), name_of(&out).unwrap());
        assert_ne!(name_of(&other).unwrap(), name_of(&out).unwrap());
    }

    fn record(tree: u8, updating_to: Option<u8>) -> Record {
        let id = |byte| DirTreeId::new(Digest::from_bytes([byte; 32]));
        Record {
            path: "/out".into(),
            tree: id(tree),
            updating_to: updating_to.map(id),
            user: false,
            link: LinkMode::Copy,
            subpath: Vec::new(),
        }
    }

    #[test]
    fn the_last_whole_line_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        let (begun, done) = (record(1, Some(2)), record(2, None));
        let (first, second) = (begun.line(&dir).unwrap(), done.line(&dir).unwrap());
        assert_eq!(Record::parse(&first), Some(begun.clone()));
        let whole = [&*first, &*second].concat();
        for length in first.len()..whole.len() - 1 {
            let mut cut = whole[..length].to_vec();
            assert_eq!(Record::parse(&cut), Some(begun.clone()), "{length}");
            // A file system may know the new length and not yet the bytes.
            cut.resize(whole.len(), 0);
            assert_eq!(Record::parse(&cut), Some(begun.clone()), "{length}");
        }
        assert_eq!(Record::parse(&whole), Some(done));
        assert_eq!(Record::parse(&first[..first.len() - 2]), None);
    }

    proptest! {
        #[test]
        fn what_was_escaped_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(unescape(bytes.escape_ascii().to_string().as_bytes()), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = unescape(&bytes);
        }
    }
}
