//! Keeps operating system trees in a content-addressed store and switches a machine between them atomically.
//!
//! # The parts
//!
//! A [`Repo`] holds *objects*, each named by the BLAKE3 digest of its bytes: blobs (the bytes of a regular file),
//! dirtrees (one directory's entries, with their owners, modes, times and attributes), and commits (a root dirtree with
//! its parent and a message). Equal files and equal directories are kept once. *Refs* name commits.
//!
//! [`commit`](commit::commit) turns a directory into a commit, [`checkout`](checkout::checkout) a commit into a directory.
//!
//! A [`Sysroot`] is a machine's root file system with a repository in it and any number of *deployments*: checked-out trees
//! that can be booted. [`Sysroot::upgrade`] makes the next one. Its `/etc` is merged of what the machine had, what the
//! machine's old version had by default, and what the new one has ([`etc_merge`]); its kernel and one new file go to
//! `/boot` ([`boot`]), and that file is the switch.
//!
//! # What can be relied on
//!
//! - An operation that is interrupted, at any moment and by anything, leaves what was there before or what was asked
//!   for, never a mixture. Each has one visible step, named in its documentation.
//! - What an interrupted run left is taken up or removed by the next.
//! - The library belongs to the program that embeds it: it prints nothing, reads no environment, and never changes umask,
//!   working directory, environment, signals, or the global rayon pool.
//! - Every operation can be cancelled from any thread ([`Cancel`]) and reports what it does ([`Progress`]). All
//!   values can be sent and shared between threads. Locks keep processes apart.
//! - What is decided can be seen before it is done: [`Sysroot::preview_deploy`], [`boot::plan_reconcile`], the dry runs of
//!   [`Repo::prune`] and [`Sysroot::cleanup`].
//!
//! # An example
//!
//! A tree is committed, changed, committed again, and checked out, by any user:
//!
//! ```
//! use libatomos::checkout::{checkout, CheckoutOptions, Ownership};
//! use libatomos::commit::{commit, CommitOptions};
//! use libatomos::fs::Dir;
//! use libatomos::{Cancel, NoProgress, Repo, RepoMode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let here = scratch.path();
//! let tree = here.join("rootfs");
//! std::fs::create_dir_all(tree.join("usr/bin"))?;
//! std::fs::write(tree.join("usr/bin/hello"), "#!/bin/sh\necho hello\n")?;
//! std::fs::write(tree.join("usr/version"), "1\n")?;
//!
//! let repo = Repo::init(&here.join("repo"), RepoMode::BareUser)?;
//! let (progress, cancel) = (&NoProgress, &Cancel::new());
//! let mut options = CommitOptions::default();
//! options.reference = Some("os/stable".parse()?);
//! let first = commit(&repo, Dir::open_ambient(&tree)?, &options, progress, cancel)?;
//!
//! std::fs::write(tree.join("usr/version"), "2\n")?;
//! let second = commit(&repo, Dir::open_ambient(&tree)?, &options, progress, cancel)?;
//! assert_eq!(second.stats.blobs_added, 1); // the other file is in the store already
//! assert_eq!(repo.load_commit(&second.commit)?.parent, Some(first.commit));
//!
//! let mut options = CheckoutOptions::default();
//! options.ownership = Ownership::User;
//! checkout(&repo, "os/stable^", &here.join("old"), &options, progress, cancel)?;
//! assert_eq!(std::fs::read_to_string(here.join("old/usr/version"))?, "1\n");
//! # Ok(())
//! # }
//! ```
//!
//! `examples/updater-daemon` is a whole program: it looks for updates, inspects the plan, deploys in a thread, can be
//! cancelled and goes on later, and takes back what does not work.
//!
//! # Where to read on
//!
//! `docs/architecture.md` has the layers and the order of durable steps, `repo-format.md` the bytes. Dependencies between
//! modules point one way, and a test keeps them so.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod archive;
pub mod boot;
pub mod cancel;
pub mod checkout;
pub mod commit;
pub mod composefs;
pub mod compress;
pub mod diff;
pub mod digest;
pub mod error;
pub mod etc_merge;
pub mod export;
pub mod failpoint;
pub mod format;
pub mod fs;
pub mod health;
pub mod import;
pub mod lint;
pub mod names;
pub mod oci;
pub mod os_var;
pub mod ostree;
mod parallel;
pub mod patch;
pub mod progress;
pub mod publish;
pub mod pull;
pub mod remote;
pub mod repair;
pub mod repo;
pub mod sign;
pub mod site;
pub mod source;
pub mod sysroot;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
pub mod unpack;
pub mod verity;

pub use crate::cancel::Cancel;
pub use crate::checkout::CheckoutOptions;
pub use crate::commit::{CommitOptions, CommitReport};
pub use crate::digest::{BlobId, CommitId, Digest, DirTreeId};
pub use crate::error::ErrorKind;
pub use crate::names::{RefName, StaterootName};
pub use crate::progress::{Event, NoProgress, Phase, Progress};
pub use crate::repo::{Repo, RepoMode, Transaction};
pub use crate::sysroot::{
    DeployOptions, DeployReport, DeploymentId, Status, Sysroot, SysrootOptions, UpgradeOptions,
    UpgradeOutcome,
};

/// Any failure of the library, for programs that need not tell its layers apart.
///
/// Each layer has an error type of its own, and every one becomes this by `?`. What to do next follows from
/// [`Error::kind`], what to show from the text and its sources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sysroot operation failed.
    #[error(transparent)]
    Sysroot(#[from] sysroot::SysrootError),
    /// Something in `/boot` failed.
    #[error(transparent)]
    Boot(#[from] boot::BootError),
    /// The merge of `/etc` failed.
    #[error(transparent)]
    EtcMerge(#[from] etc_merge::EtcMergeError),
    /// A commit failed.
    #[error(transparent)]
    Commit(#[from] commit::CommitError),
    /// Sources were not committed.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// An export failed.
    #[error(transparent)]
    Export(#[from] export::ExportError),
    /// An import failed.
    #[error(transparent)]
    Import(#[from] import::ImportError),
    /// An image layout cannot be read or written.
    #[error(transparent)]
    Oci(#[from] oci::OciError),
    /// An OSTree repository cannot be read.
    #[error(transparent)]
    Ostree(#[from] ostree::OstreeError),
    /// A checkout failed.
    #[error(transparent)]
    Checkout(#[from] checkout::CheckoutError),
    /// An image was not made, or not mounted.
    #[error(transparent)]
    Composefs(#[from] composefs::ComposefsError),
    /// A remote cannot be used.
    #[error(transparent)]
    Remote(#[from] remote::RemoteError),
    /// A site was not published.
    #[error(transparent)]
    Publish(#[from] publish::PublishError),
    /// A pull failed.
    #[error(transparent)]
    Pull(#[from] pull::PullError),
    /// A source of good copies cannot be used.
    #[error(transparent)]
    Repair(#[from] repair::RepairError),
    /// Something is not signed as it should be.
    #[error(transparent)]
    Sign(#[from] sign::SignError),
    /// A site's bytes did not come.
    #[error(transparent)]
    Transport(#[from] transport::TransportError),
    /// Health checks could not be run.
    #[error(transparent)]
    Health(#[from] health::HealthError),
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] repo::RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] fs::FsError),
    /// A lock was not had.
    #[error(transparent)]
    Lock(#[from] fs::LockError),
    /// A name is not acceptable.
    #[error(transparent)]
    Name(#[from] names::InvalidName),
    /// A text is no digest.
    #[error(transparent)]
    Digest(#[from] digest::InvalidDigest),
}

impl Error {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Sysroot(error) => error.kind(),
            Self::Boot(error) => error.kind(),
            Self::Health(error) => error.kind(),
            Self::EtcMerge(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::Source(error) => error.kind(),
            Self::Export(error) => error.kind(),
            Self::Import(error) => error.kind(),
            Self::Oci(error) => error.kind(),
            Self::Ostree(error) => error.kind(),
            Self::Checkout(error) => error.kind(),
            Self::Composefs(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Publish(error) => error.kind(),
            Self::Pull(error) => error.kind(),
            Self::Repair(error) => error.kind(),
            Self::Sign(error) => error.kind(),
            Self::Transport(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
            Self::Lock(error) => error.kind(),
            Self::Name(_) | Self::Digest(_) => ErrorKind::Invalid,
        }
    }
}
