//! Writing a site: what any web server can serve, and a machine can pull.
//!
//! Everything that is named by its digest is written under a temporary name, made durable, and renamed; then the records,
//! each by one rename. **A record is the visible step**: before it a client sees the old release, after it the
//! new, and everything that either needs is there. Whatever the site has already is not made again.

mod consolidate;
mod key_sets;
mod maintain;
mod manifests;
mod pack;
mod patches;
mod publisher;
mod refs;
mod release;
mod site_dir;
mod site_writer;
#[cfg(test)]
mod tests;
mod withdraw;

use std::path::PathBuf;

use serde::Serialize;

use crate::cancel::Cancelled;
use crate::compress::CompressError;
use crate::digest::{CommitId, Digest};
use crate::error::ErrorKind;
use crate::failpoint::Tripped;
use crate::fs::{FsError, LockError};
use crate::names::RefName;
use crate::patch::PatchError;
use crate::repo::RepoError;
use crate::sign::{KeyId, PublicKey, SignError, Signer};
use crate::site::{SiteError, Withdrawn};

pub use maintain::{SiteFinding, SiteFsckReport, SitePruneOptions, SitePruneReport, prune_site};
pub use publisher::publish;
pub use refs::remove_site_ref;
pub use site_dir::{Published, SiteDir};
pub use withdraw::{MAX_REASON, WithdrawOptions, withdraw, withdraw_with};

/// How much work to spend on fewer bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Profile {
    /// As fast as copying: for development and for small fleets.
    #[default]
    Fast,
    /// Minutes of work, once, for fewer bytes on every machine.
    Thorough,
}

/// How to publish.
#[derive(Default)]
#[non_exhaustive]
pub struct PublishOptions<'a> {
    /// The refs; all that are not of a remote where empty.
    pub refs: Vec<RefName>,
    /// Sign the records, and the releases where no keys are set apart for those.
    pub signers: Vec<&'a dyn Signer>,
    /// How much work to spend.
    pub profile: Profile,
    /// Threads; all processors where `None`.
    pub threads: Option<usize>,
    /// Leave out the image, a stream of the whole tree for new machines.
    pub no_image: bool,
    /// Leave out patches.
    pub no_patches: bool,
    /// Make patches from these commits, too.
    pub patch_from: Vec<CommitId>,
    /// For which machines it is; as the last one where empty.
    pub compatible: Vec<String>,
    /// It is for everybody, whatever the last one was for. Without it and without names, it is for whom the last one was.
    pub for_all: bool,
    /// The release that a machine must have had before this one, by number; as the last one's where `None`.
    pub min_from: Option<u64>,
    /// For how many seconds the records are to be believed; 30 days where `None`.
    pub lifetime: Option<i64>,
    /// Sign new records although nothing else is new.
    pub renew: bool,
    /// The next key set, signed as it has to be. It is placed before the records, which are signed by its keys then.
    pub key_set: Option<Vec<u8>>,
    /// The keys that machines were given, by which the first key set is judged.
    pub pinned: Vec<PublicKey>,
    /// Begin a ref anew whose record is gone, though the site has releases of it: machines that know it refuse it from then on.
    pub anew: bool,
    /// What time it is, in seconds since 1970; the system's where `None`.
    pub time: Option<i64>,
}

impl std::fmt::Debug for PublishOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishOptions")
            .field("refs", &self.refs)
            .finish_non_exhaustive()
    }
}

/// What became of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PublishedRef {
    /// The ref.
    #[serde(rename = "ref")]
    pub reference: RefName,
    /// Its commit.
    pub commit: CommitId,
    /// The commit's version.
    pub version: String,
    /// The release's number.
    pub number: u64,
    /// For which machines it is; everybody where empty.
    pub compatible: Vec<String>,
    /// The record's sequence.
    pub sequence: u64,
    /// What was done.
    pub outcome: RefOutcome,
}

/// What was done for a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RefOutcome {
    /// A new release.
    Released,
    /// The same release, and a new record that says so; both signed anew where the key set is another.
    Renewed,
    /// Nothing: the site has it, and its record is good for a while.
    Unchanged,
}

/// What a site has lost of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LostFiles {
    /// The ref.
    #[serde(rename = "ref")]
    pub reference: RefName,
    /// The files, relative to the site: they are gone, or not as large as they were.
    pub files: Vec<String>,
}

/// A ref of the repository names what was withdrawn from a ref of the site: of its own name, or another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WithdrawnCommit {
    /// The ref.
    #[serde(rename = "ref")]
    pub reference: RefName,
    /// What it names.
    pub commit: CommitId,
    /// The commit's version.
    pub version: String,
    /// The ref of the site that it was withdrawn from.
    pub withdrawn_from: RefName,
    /// Why; empty where that was left out to keep the record small.
    pub reason: String,
}

impl WithdrawnCommit {
    fn new(reference: &RefName, withdrawn_from: &RefName, one: &Withdrawn) -> Self {
        Self {
            reference: reference.clone(),
            commit: one.commit,
            version: one.version.clone(),
            withdrawn_from: withdrawn_from.clone(),
            reason: one.reason.clone(),
        }
    }
}

/// What publishing did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PublishReport {
    /// By ref.
    pub refs: Vec<PublishedRef>,
    /// The number of the key set by which records are signed; 0 where machines go by the keys that they were given.
    pub key_set: u64,
    /// Until when machines believe that key set, in seconds since 1970; for ever where `None`.
    pub key_set_expires: Option<i64>,
    /// Refs of the site whose record an earlier key set has signed: machines that know the newer set refuse it.
    pub old_key_set: Vec<RefName>,
    /// Refs of the site that are not among those of the repository (aliases are not), where all were to be published: nobody signs their
    /// records anew, and machines refuse them when those expire.
    pub not_here: Vec<RefName>,
    /// Key sets that the site has lost, relative to it: machines that know an older one cannot follow to the newest.
    pub lost_key_sets: Vec<String>,
    /// What the site has lost of the releases that it had. Where the ref was released anew, that is mended by it.
    pub lost: Vec<LostFiles>,
    /// What was not published because it was withdrawn from that very ref. The release that took its place stays, and its record is
    /// renewed as any other's.
    pub withdrawn: Vec<WithdrawnCommit>,
    /// What was released although it was withdrawn from another ref of the site.
    pub withdrawn_elsewhere: Vec<WithdrawnCommit>,
    /// Blobs that the site did not have.
    pub new_blobs: u64,
    /// Bytes in them.
    pub new_blob_bytes: u64,
    /// Bytes of new packs.
    pub pack_bytes: u64,
    /// Bytes of new images.
    pub image_bytes: u64,
    /// Frames of patches that were made, those of blobs that go along whole among them.
    pub patches: u64,
    /// Bytes of new patch files.
    pub patch_bytes: u64,
    /// Bytes of new manifests.
    pub manifest_bytes: u64,
    /// Bytes that were copied from small packs into larger ones.
    pub consolidated_bytes: u64,
}

/// Publishing failed. The site is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The directory is something else.
    #[error("{} is not this repository's site: {reason}", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The directory has nothing that says that it is a site.
    #[error("{} is no site: it has no atomos.json", path.display())]
    NotASite {
        /// The directory.
        path: PathBuf,
    },
    /// A file of the site is not what its name or its record says.
    #[error("the site's file {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// What is published is signed by other keys than those that count.
    #[error("what is published as {} is signed by other keys", path.display())]
    OtherKeys {
        /// The record.
        path: PathBuf,
        /// Which keys count.
        #[source]
        source: SignError,
    },
    /// Machines could not follow to a new key set.
    #[error("cannot publish key set {number}: {reason}")]
    KeySet {
        /// Its number.
        number: u64,
        /// What machines would miss.
        reason: String,
    },
    /// No machine believes what its keys sign.
    #[error(
        "the site's key set {number} was good until {expires}, and it is {time} (seconds since 1970): machines refuse every record that it signs"
    )]
    KeySetExpired {
        /// Its number.
        number: u64,
        /// Its end.
        expires: i64,
        /// The time that it was judged by.
        time: i64,
    },
    /// Signatures are missing.
    #[error(
        "signing the {what} takes {threshold} of these keys, and {} were given: {}",
        given,
        keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    MissingKeys {
        /// Record, or release.
        what: &'static str,
        /// How many it takes.
        threshold: usize,
        /// How many of them were given.
        given: usize,
        /// The keys that count.
        keys: Vec<KeyId>,
    },
    /// The commit was taken back.
    #[error("commit {commit} of {reference} was withdrawn: {reason}")]
    Withdrawn {
        /// The ref.
        reference: RefName,
        /// The commit.
        commit: CommitId,
        /// Why.
        reason: String,
    },
    /// A ref has releases, and nothing says which one is the last.
    #[error("{} is gone, and the site has releases of it, up to number {number}: machines that know them would refuse what begins anew", path.display())]
    RecordLost {
        /// The record.
        path: PathBuf,
        /// The highest number of a release.
        number: u64,
    },
    /// No machine could take the release.
    #[error(
        "no machine can have had release {min_from} of {reference} before: the site has no such release that leads to this one"
    )]
    MinFrom {
        /// The ref.
        reference: RefName,
        /// The release that was asked for.
        min_from: u64,
    },
    /// No machine is called so.
    #[error("{name:?} is no name of machines")]
    Compatible {
        /// The name.
        name: String,
    },
    /// No machine would read it.
    #[error(
        "the {what} of {reference} would have {size} bytes, and machines read {limit} at most: its texts are too long (versions, names of machines, reasons of withdrawals)"
    )]
    TooLarge {
        /// Record, or release.
        what: &'static str,
        /// The ref.
        reference: RefName,
        /// How large it would be.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// What every machine reads should be short.
    #[error(
        "the reason has {len} bytes, and {MAX_REASON} are allowed: it is part of every record of the ref from now on"
    )]
    Reason {
        /// Its bytes.
        len: usize,
    },
    /// Machines would take the new record for one that has expired.
    #[error(
        "a record of {reference} that is signed now is good until {expires}, and the {what} says that it was {time} already (seconds since 1970)"
    )]
    Clock {
        /// The ref.
        reference: RefName,
        /// What is later: the last record, or the commit.
        what: &'static str,
        /// When that was made.
        time: i64,
        /// The end of what would be signed.
        expires: i64,
    },
    /// The counter is at its end, where nobody gets by counting.
    #[error("the record of {reference} has the last sequence that there is: somebody else has signed it")]
    LastSequence {
        /// The ref.
        reference: RefName,
    },
    /// There is no such release.
    #[error("{reference} has no release {selector} on this site")]
    NoSuchRelease {
        /// The ref.
        reference: RefName,
        /// How it was named.
        selector: String,
    },
    /// The site knows of a release, and has no longer what is in it.
    #[error("{reference} {selector} was pruned: the site has its name alone")]
    Pruned {
        /// The ref.
        reference: RefName,
        /// How it was named.
        selector: String,
    },
    /// Machines must have had a release before they take the newest one, and the site does not have it any more.
    #[error(
        "machines with {reference} {from} have to take release {barrier} first, and the site does not have it any more"
    )]
    Barrier {
        /// The ref.
        reference: RefName,
        /// What they have.
        from: String,
        /// The number of the release that comes first.
        barrier: u64,
    },
    /// There is no such ref.
    #[error("there is no ref {reference} on the site {}", path.display())]
    NoSuchRef {
        /// The ref.
        reference: RefName,
        /// The site.
        path: PathBuf,
    },
    /// A ref cannot be without a release.
    #[error(
        "there is no other release of {reference} to go back to: the site has none, or they were pruned or withdrawn"
    )]
    NothingLeft {
        /// The ref.
        reference: RefName,
    },
    /// Names of refs are paths of files.
    #[error("cannot publish {reference}: the site {} has {other}, and one would lie within the other", path.display())]
    Collision {
        /// The ref.
        reference: RefName,
        /// The one that is there.
        other: RefName,
        /// The site.
        path: PathBuf,
    },
    /// It has a name that nobody can ask a site for.
    #[error("{reference} is a ref of a remote, and machines ask for names without ':'")]
    RemoteRef {
        /// The ref.
        reference: RefName,
    },
    /// Nothing was named, and there is nothing.
    #[error("there is no ref to publish in {}", path.display())]
    NoRefs {
        /// The repository.
        path: PathBuf,
    },
    /// A blob cannot be compressed.
    #[error("cannot compress blob {blob}")]
    Compress {
        /// The blob.
        blob: Digest,
        /// Why.
        #[source]
        source: CompressError,
    },
    /// A patch cannot be made.
    #[error(transparent)]
    Patch(PatchError),
    /// The site's formats.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Signing, or what was signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The repository.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Another publisher is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A test stopped the operation here.
    #[error(transparent)]
    Failpoint(#[from] Tripped),
}

impl From<PatchError> for PublishError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Repo(error) => Self::Repo(error),
            PatchError::Fs(error) => Self::Fs(error),
            PatchError::Cancelled(error) => Self::Cancelled(error),
            error => Self::Patch(error),
        }
    }
}

impl PublishError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotOurs { .. }
            | Self::NotASite { .. }
            | Self::Withdrawn { .. }
            | Self::Clock { .. }
            | Self::Collision { .. }
            | Self::RecordLost { .. } => ErrorKind::Conflict,
            Self::MinFrom { .. }
            | Self::Compatible { .. }
            | Self::TooLarge { .. }
            | Self::Reason { .. }
            | Self::RemoteRef { .. } => ErrorKind::Invalid,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::MissingKeys { .. }
            | Self::KeySet { .. }
            | Self::KeySetExpired { .. }
            | Self::OtherKeys { .. }
            | Self::LastSequence { .. } => ErrorKind::Untrusted,
            Self::NoSuchRelease { .. }
            | Self::Pruned { .. }
            | Self::Barrier { .. }
            | Self::NoSuchRef { .. }
            | Self::NothingLeft { .. }
            | Self::NoRefs { .. } => ErrorKind::NotFound,
            Self::Compress { .. } | Self::Patch(_) | Self::Failpoint(_) => ErrorKind::Io,
            Self::Site(error) => error.kind(),
            Self::Sign(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
        }
    }
}
