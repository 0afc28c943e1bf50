//! What can go wrong with a pull.

use std::path::PathBuf;

use crate::cancel::Cancelled;
use crate::digest::{CommitId, Digest};
use crate::error::ErrorKind;
use crate::failpoint::Tripped;
use crate::fs::{FsError, LockError};
use crate::names::{InvalidName, RefName};
use crate::remote::{RemoteError, RemoteName};
use crate::repo::RepoError;
use crate::sign::SignError;
use crate::site::SiteError;
use crate::transport::{TransportError, TransportErrorKind};

/// A pull failed. No ref has moved; what came and was verified is kept for the next try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Nobody vouches for what a mirror says.
    #[error("cannot trust {url}")]
    Untrusted {
        /// The file.
        url: String,
        /// Why.
        #[source]
        source: SignError,
    },
    /// Something else answers in the site's place, such as a network that wants a login first.
    #[error("{url} is a web page and no file of a site: the server calls it {content_type}")]
    WebPage {
        /// The file.
        url: String,
        /// What the server calls it.
        content_type: String,
        /// What is wrong with it.
        #[source]
        source: SignError,
    },
    /// A record is that of something else.
    #[error("{url} is the record of {what} {found}, and that of {expected} was asked for")]
    OtherRecord {
        /// The file.
        url: String,
        /// Ref, or repository.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A record is older than one that this machine has seen.
    #[error(
        "{url} is older than what this machine has seen: key set {}, sequence {}, after key set {}, sequence {}",
        found.0, found.1, seen.0, seen.1
    )]
    Older {
        /// The file.
        url: String,
        /// Key set and sequence that were seen.
        seen: (u64, u64),
        /// Those of this record.
        found: (u64, u64),
    },
    /// A record is older than the one of the copy that it would take the place of.
    #[error(
        "{} is newer than what the remote has: key set {}, sequence {}, and the remote says key set {}, sequence {}",
        path.display(), seen.0, seen.1, found.0, found.1
    )]
    OlderThanCopy {
        /// The copy's record.
        path: PathBuf,
        /// Its key set and sequence.
        seen: (u64, u64),
        /// Those of the remote's.
        found: (u64, u64),
    },
    /// Two records of the same number say different things.
    #[error(
        "{url} contradicts a record of the same sequence {sequence} that this machine has seen: somebody signs two truths"
    )]
    Equivocation {
        /// The file.
        url: String,
        /// The sequence.
        sequence: u64,
    },
    /// Nobody has signed for a long time.
    #[error(
        "{} was good until {expires}, and it is {now} (seconds since 1970): the publisher has not renewed it, or a mirror withholds newer ones",
        expired(url, *key_set)
    )]
    Expired {
        /// The file.
        url: String,
        /// The number of the key set that verifies it, where that is what has expired.
        key_set: Option<u64>,
        /// Its end.
        expires: i64,
        /// The time that it was judged by.
        now: i64,
    },
    /// It is for other machines.
    #[error(
        "{reference} {version} is for {}, and this machine is {}",
        list(wanted),
        list(have)
    )]
    Incompatible {
        /// The ref.
        reference: RefName,
        /// Its version.
        version: String,
        /// Whom it is for.
        wanted: Vec<String>,
        /// What this machine is.
        have: Vec<String>,
    },
    /// The release was taken back.
    #[error("{reference} {version} ({}) was withdrawn: {reason}", commit.short())]
    Withdrawn {
        /// The ref.
        reference: RefName,
        /// Its version.
        version: String,
        /// Its commit.
        commit: CommitId,
        /// Why.
        reason: String,
    },
    /// The release is older than what is here.
    #[error("{reference} {version} is release {found}, and release {have} is here")]
    Downgrade {
        /// The ref.
        reference: RefName,
        /// Its version.
        version: String,
        /// Its number.
        found: u64,
        /// The number of what is here.
        have: u64,
    },
    /// There is a barrier, and no way to tell on which side this machine is.
    #[error("{reference} has to be reached by way of release {barrier}, and the site does not know commit {} that is here", from.short())]
    Barrier {
        /// The ref.
        reference: RefName,
        /// The release that must come first.
        barrier: u64,
        /// What is here.
        from: CommitId,
    },
    /// The site has no such release.
    #[error("the remote {remote} has no {selector} of {reference}")]
    NoSuchRelease {
        /// The remote.
        remote: RemoteName,
        /// The ref.
        reference: RefName,
        /// Version or commit.
        selector: String,
    },
    /// The site has no such ref.
    #[error("the remote {remote} has no ref {reference}")]
    NoSuchRef {
        /// The remote.
        remote: RemoteName,
        /// The ref.
        reference: RefName,
        /// Where it was looked for.
        #[source]
        source: Box<TransportError>,
    },
    /// The site still knows of the release, and has no longer what is in it.
    #[error("{reference} {version} (release {number}) cannot be had there")]
    Gone {
        /// The ref.
        reference: RefName,
        /// Its version.
        version: String,
        /// Its number.
        number: u64,
        /// What is missing.
        #[source]
        source: Box<TransportError>,
    },
    /// A file of the site breaks the format's rules.
    #[error("cannot use {url}")]
    Site {
        /// The file.
        url: String,
        /// Why.
        #[source]
        source: SiteError,
    },
    /// The download is larger than was allowed.
    #[error("the download takes {needed} bytes, and {allowed} are allowed")]
    TooManyBytes {
        /// What the plan says.
        needed: u64,
        /// What the caller said.
        allowed: u64,
    },
    /// The disk is too small.
    #[error("the repository needs {needed} bytes more, and {available} are free")]
    NoSpace {
        /// What will be written.
        needed: u64,
        /// What is free.
        available: u64,
    },
    /// `/boot` is too small for the new kernel.
    #[error("the new kernel and initramfs need {needed} bytes in /boot, and {available} are free")]
    NoBootSpace {
        /// Bytes of the smallest kernel of the new version with what belongs to it.
        needed: u64,
        /// What is free.
        available: u64,
    },
    /// No source had a good copy of a blob.
    #[error("no mirror has a good copy of blob {blob}: {reason}")]
    BadObject {
        /// The blob.
        blob: Digest,
        /// What the last one sent.
        reason: String,
    },
    /// The directory to mirror into is something else.
    #[error("cannot mirror into {}: {reason}", path.display())]
    NotAMirror {
        /// The directory.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
    /// A path that was asked for is not in the tree.
    #[error("there is no {path} in {reference}")]
    NoSubpath {
        /// The path.
        path: String,
        /// The ref.
        reference: RefName,
    },
    /// No mirror gave it.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The remote cannot be used.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A name is not acceptable.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Another process is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A test stopped the operation here.
    #[error(transparent)]
    Failpoint(#[from] Tripped),
}

fn expired(url: &str, key_set: Option<u64>) -> String {
    match key_set {
        Some(number) => format!("key set {number}, which verifies {url},"),
        None => url.to_owned(),
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing in particular".to_owned();
    }
    names.join(", ")
}

impl PullError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Untrusted { source, .. } | Self::WebPage { source, .. } => source.kind(),
            Self::OtherRecord { .. }
            | Self::Older { .. }
            | Self::OlderThanCopy { .. }
            | Self::Equivocation { .. }
            | Self::Expired { .. }
            | Self::Withdrawn { .. } => ErrorKind::Untrusted,
            Self::Incompatible { .. }
            | Self::Downgrade { .. }
            | Self::NotAMirror { .. }
            | Self::Barrier { .. } => ErrorKind::Conflict,
            Self::NoSuchRelease { .. }
            | Self::NoSuchRef { .. }
            | Self::Gone { .. }
            | Self::NoSubpath { .. } => ErrorKind::NotFound,
            Self::Site { source, .. } => source.kind(),
            Self::TooManyBytes { .. } => ErrorKind::Conflict,
            Self::NoSpace { .. } | Self::NoBootSpace { .. } => ErrorKind::NoSpace,
            Self::BadObject { .. } => ErrorKind::Corrupt,
            Self::Transport(error) if error.kind == TransportErrorKind::Cancelled => ErrorKind::Cancelled,
            Self::Transport(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::Name(_) => ErrorKind::Invalid,
            Self::Cancelled(_) => ErrorKind::Cancelled,
            Self::Failpoint(_) => ErrorKind::Io,
        }
    }
}
