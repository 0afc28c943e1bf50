//! What keeps the objects of mounted images from pruning.
//!
//! A record in `roots/` is called `mount.<machine>.<boot>.<namespace>.<id>`. A mount ends with the machine's boot at the latest, and so does
//! its record: pruning removes those of this machine's earlier boots first. Records of other machines, which may share the repository, and of
//! other containers stay.

use std::fmt;
use std::str::FromStr;

use crate::digest::{CommitId, Digest};
use crate::fs::{Dir, FsError};

use super::{Repo, RepoError, RootName, RootRecord, random_hex};

/// What the records begin with.
const PREFIX: &str = "mount.";

/// Digits of an id.
const DIGITS: usize = 16;

/// Names one mount. Two mounts of one image have two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountId(String);

impl MountId {
    /// Makes one that no other mount has.
    ///
    /// # Errors
    /// If the kernel has no random bytes.
    pub fn new() -> Result<Self, FsError> {
        random_hex(DIGITS / 2).map(Self)
    }

    /// Keeps a commit from pruning because of this mount, until [`release`](Self::release), or until the machine has booted again
    /// and somebody prunes. A power cut may end that, as it ends the mount.
    ///
    /// # Errors
    /// If the repository cannot be written.
    pub fn hold(&self, repo: &Repo, commit: CommitId) -> Result<(), RepoError> {
        let mut record = RootRecord::default();
        record.commits.insert(commit);
        repo.set_passing_root(&self.root()?, &record)
    }

    /// Returns whether the repository keeps something because of this mount.
    ///
    /// # Errors
    /// If the repository cannot be read.
    pub fn is_held(&self, repo: &Repo) -> Result<bool, RepoError> {
        let name = self.root()?;
        Ok(repo.list_roots()?.iter().any(|(other, _)| *other == name))
    }

    /// Lets go of what is kept because of this mount; nothing is no error.
    ///
    /// # Errors
    /// If the repository cannot be written.
    pub fn release(&self, repo: &Repo) -> Result<(), RepoError> {
        repo.remove_root(&self.root()?)
    }

    fn root(&self) -> Result<RootName, FsError> {
        let namespace = rustix::fs::stat("/proc/self/ns/mnt")
            .map_err(|errno| FsError::new("look at", "/proc/self/ns/mnt", errno))?
            .st_ino;
        let name = format!("{}{}.{namespace}.{}", machine(), boot()?, self.0);
        Ok(name.parse().expect("letters, digits and dots make a name"))
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MountId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_one = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then(|| Self(text.to_owned())).ok_or(())
    }
}

impl Repo {
    /// Lets go of what was mounted before this machine booted.
    pub(super) fn forget_earlier_boots(&self) -> Result<(), RepoError> {
        let machine = machine();
        let mut roots = self.list_roots()?;
        roots.retain(|(name, _)| name.to_string().starts_with(&machine));
        // Where the kernel does not say which boot this is, everything may be mounted.
        let Some(now) = (!roots.is_empty()).then(boot).and_then(Result::ok) else {
            return Ok(());
        };
        let now = format!("{machine}{now}.");
        for (name, _) in roots {
            if !name.to_string().starts_with(&now) {
                self.remove_root(&name)?;
            }
        }
        Ok(())
    }
}

/// What this machine's records begin with.
fn machine() -> String {
    let id = Dir::open_ambient("/etc").and_then(|etc| etc.read("machine-id", 64));
    let id = id.unwrap_or_default();
    format!("{PREFIX}{}.", &Digest::of(&id).to_string()[..8])
}

/// A name of the time since the machine was booted.
fn boot() -> Result<String, FsError> {
    let bytes = Dir::open_ambient("/proc/sys/kernel/random")?.read("boot_id", 64)?;
    Ok(Digest::of(&bytes).to_string()[..12].to_owned())
}
