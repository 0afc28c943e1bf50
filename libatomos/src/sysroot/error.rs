//! What can go wrong with a sysroot.

use std::path::PathBuf;

use crate::boot::{BootError, KargsError};
use crate::cancel::Cancelled;
use crate::checkout::CheckoutError;
use crate::composefs::ComposefsError;
use crate::digest::{BlobId, CommitId, Digest};
use crate::error::ErrorKind;
use crate::etc_merge::EtcMergeError;
use crate::failpoint::Tripped;
use crate::fs::{FsError, LockError};
use crate::names::StaterootName;
use crate::pull::PullError;
use crate::repo::RepoError;
use crate::verity::VerityDigest;

use super::{DeploymentId, InvalidDeploymentId};

/// A sysroot operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SysrootError {
    /// The path does not lead to a sysroot.
    #[error("{} is not an atomos sysroot: {reason}", path.display())]
    NotASysroot {
        /// The path.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// There is no such stateroot.
    #[error("there is no stateroot {name} in {}", path.display())]
    StaterootNotFound {
        /// The stateroot.
        name: StaterootName,
        /// The sysroot.
        path: PathBuf,
    },
    /// There are several stateroots or none, and the operation takes one.
    #[error("there are {count} stateroots in {}, and none was named", path.display())]
    StaterootNotNamed {
        /// How many there are.
        count: usize,
        /// The sysroot.
        path: PathBuf,
    },
    /// Nothing matches a deployment that was named.
    #[error("no deployment is called {selector:?}")]
    DeploymentNotFound {
        /// As it was named.
        selector: String,
    },
    /// Several deployments match.
    #[error("{selector:?} is ambiguous: it matches {}", matches.join(", "))]
    AmbiguousDeployment {
        /// As it was named.
        selector: String,
        /// What it matches.
        matches: Vec<String>,
    },
    /// Several commits have the version that was named.
    #[error("several commits have the version {version:?}: {}", matches.join(", "))]
    AmbiguousVersion {
        /// The version.
        version: String,
        /// Each commit, and a ref that leads to it.
        matches: Vec<String>,
    },
    /// A staged deployment is not there yet.
    #[error("cannot {action} {id}: it is staged, and not finished yet")]
    NotFinished {
        /// The deployment.
        id: DeploymentId,
        /// What was to be done.
        action: &'static str,
    },
    /// What was asked for concerns the system that is running, and that is no deployment of this sysroot.
    #[error("cannot {action}: no deployment of this sysroot is running")]
    NotBooted {
        /// What was to be done.
        action: &'static str,
    },
    /// The image that is a deployment's root is not what it was made as.
    #[error("the image {} is damaged: it has the digest {found} instead of {expected}", path.display())]
    ImageDamaged {
        /// The image.
        path: PathBuf,
        /// Of what was made.
        expected: Digest,
        /// Of what was read.
        found: Digest,
    },
    /// The kernel cannot verify files of the file system.
    #[error("the root is to be verified, and the file system of {} cannot do that: {reason}", path.display())]
    NoVerity {
        /// Where the files are.
        path: PathBuf,
        /// What is missing.
        reason: String,
        /// The device, where it is a feature of the file system on it.
        device: Option<PathBuf>,
    },
    /// The kernel verifies a file as something else than its tree records.
    #[error("{} has the fs-verity digest {found} instead of {expected}", path.display())]
    VerityDiffers {
        /// The file.
        path: PathBuf,
        /// What the tree, or the seal, records.
        expected: VerityDigest,
        /// What the kernel says.
        found: VerityDigest,
    },
    /// The disk does not give back what was written to it.
    #[error("{} was written, and reads back as something else: {found} instead of {expected}", path.display())]
    ReadBackDiffers {
        /// The file.
        path: PathBuf,
        /// What was written.
        expected: BlobId,
        /// What was read.
        found: BlobId,
    },
    /// There is nothing to go back to.
    #[error("there is no other deployment to roll back to")]
    NothingToRollBackTo,
    /// A deployment must stay, and stay what it is.
    #[error("cannot {action} {id}: it is {reason}")]
    InUse {
        /// The deployment.
        id: DeploymentId,
        /// What was to be done to it, as a verb.
        action: &'static str,
        /// Why it must stay.
        reason: &'static str,
    },
    /// The commit has not the shape of an operating system.
    #[error("cannot deploy commit {commit}: {reason}")]
    NotDeployable {
        /// The commit.
        commit: CommitId,
        /// What is missing or in the way.
        reason: String,
    },
    /// With these kernel arguments the deployment would not boot.
    #[error("cannot give {id} these kernel arguments: {reason}")]
    KargsDoNotFit {
        /// The deployment.
        id: DeploymentId,
        /// What they ask for that it has not.
        reason: String,
    },
    /// A kernel argument that only boot entries give.
    #[error("cannot give {id} the kernel argument {name}=: each boot entry says its own")]
    OwnKarg {
        /// The deployment.
        id: DeploymentId,
        /// The argument.
        name: &'static str,
    },
    /// Nothing can be installed there.
    #[error("cannot install to {}: {reason}", target.display())]
    NotInstallable {
        /// Where to.
        target: PathBuf,
        /// What is missing or in the way.
        reason: String,
    },
    /// GRUB is to be installed, and firmware would not find it anywhere.
    #[error(
        "cannot install GRUB to {}: no EFI system partition is mounted there, and no disk is named for a BIOS",
        target.display()
    )]
    NoPlaceForGrub {
        /// Where to.
        target: PathBuf,
    },
    /// The deployment follows no ref.
    #[error("{id} follows no ref, so there is nothing to upgrade to")]
    NoOrigin {
        /// The deployment.
        id: DeploymentId,
    },
    /// A file of the sysroot's own cannot be used.
    #[error("cannot use {}: {reason}", path.display())]
    DamagedState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What the loader reads is not there to be written.
    #[error("{} was a file system of its own, and is a directory now: is it not mounted?", path.display())]
    BootNotMounted {
        /// `/boot`.
        path: PathBuf,
    },
    /// The list of deployments is of a program that is newer than this one.
    #[error("{} is of version {version}, which a newer program has written", path.display())]
    NewerState {
        /// The list.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The list of deployments can be read, and is not made anew from anything else.
    #[error("{} can be read, and says what there is", path.display())]
    NotDamaged {
        /// The list.
        path: PathBuf,
    },
    /// There is nothing that a list of deployments could be made from.
    #[error("no entry in {} leads to a deployment that is whole", path.display())]
    NothingToRebuild {
        /// `/boot`.
        path: PathBuf,
    },
    /// Somebody chose what runs next while something else was on its way.
    #[error("what runs next was changed meanwhile: it is {now}")]
    ChangedMeanwhile {
        /// What it is.
        now: Box<DeploymentId>,
    },
    /// Another system boots by entries that the sysroot would take for its own.
    #[error("{} boots another system, whose stateroot is called {stateroot} too", paths.first().map_or_else(String::new, |path| path.display().to_string()))]
    OthersEntry {
        /// The entries.
        paths: Vec<PathBuf>,
        /// The stateroot.
        stateroot: StaterootName,
    },
    /// A text is no deployment's name.
    #[error(transparent)]
    DeploymentId(#[from] InvalidDeploymentId),
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// Checking out failed.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// An image was not made, or not mounted.
    #[error(transparent)]
    Composefs(#[from] ComposefsError),
    /// A pull failed.
    #[error(transparent)]
    Pull(#[from] Box<PullError>),
    /// The merge of `/etc` failed.
    #[error(transparent)]
    EtcMerge(#[from] EtcMergeError),
    /// Something in `/boot` failed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A kernel argument is not acceptable.
    #[error(transparent)]
    Kargs(#[from] KargsError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The lock was not had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A test stopped the operation here.
    #[error(transparent)]
    Failpoint(#[from] Tripped),
}

impl From<PullError> for SysrootError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl SysrootError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotASysroot { .. }
            | Self::StaterootNotFound { .. }
            | Self::DeploymentNotFound { .. }
            | Self::NothingToRebuild { .. }
            | Self::NothingToRollBackTo => ErrorKind::NotFound,
            Self::StaterootNotNamed { .. }
            | Self::AmbiguousDeployment { .. }
            | Self::AmbiguousVersion { .. }
            | Self::NotDeployable { .. }
            | Self::NotInstallable { .. }
            | Self::NoPlaceForGrub { .. }
            | Self::KargsDoNotFit { .. }
            | Self::OwnKarg { .. }
            | Self::NoOrigin { .. }
            | Self::DeploymentId(_) => ErrorKind::Invalid,
            Self::NotBooted { .. } | Self::NoVerity { .. } | Self::NewerState { .. } => {
                ErrorKind::Unsupported
            }
            Self::InUse { .. }
            | Self::NotFinished { .. }
            | Self::BootNotMounted { .. }
            | Self::ChangedMeanwhile { .. }
            | Self::NotDamaged { .. }
            | Self::OthersEntry { .. } => ErrorKind::Conflict,
            Self::DamagedState { .. }
            | Self::ReadBackDiffers { .. }
            | Self::ImageDamaged { .. }
            | Self::VerityDiffers { .. } => ErrorKind::Corrupt,
            Self::Repo(error) => error.kind(),
            Self::Checkout(error) => error.kind(),
            Self::Composefs(error) => error.kind(),
            Self::Pull(error) => error.kind(),
            Self::EtcMerge(error) => error.kind(),
            Self::Boot(error) => error.kind(),
            Self::Kargs(error) => error.kind(),
            Self::Fs(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
            Self::Failpoint(_) => ErrorKind::Io,
        }
    }
}
