//! Remotes: how to reach a site, whom to believe, and what was seen of it.
//!
//! Both the configuration and the memory lie in the repository, under `remotes/`: the repository is in `/atomos`, which
//! does not roll back with the system, so a machine that goes back to an older version does not forget what it has seen.

mod attempts;
mod check;
mod config;
#[cfg(feature = "http")]
mod credentials;
mod open;
mod source;
#[cfg(test)]
mod source_tests;
mod state;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests;
mod timer;

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::fs::FsError;
use crate::repo::RepoError;
use crate::transport::TransportError;

pub use attempts::Attempts;
pub use config::{RemoteConfig, RemoteName};
pub use open::{OpenOptions, ProxyEnvironment, open_mirrors};
pub use source::{Fetched, Meta, Metered, Rejection, Source, SourceOptions, Traffic};
pub use state::{RemoteState, SeenRef, set_verified, unverified_commits};
pub use timer::{RealTimer, Timer};

/// Directory of remotes in a repository.
pub(crate) const REMOTES: &str = "remotes";

/// A remote cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// There is none of that name.
    #[error("there is no remote {name} in {}", repo.display())]
    NotFound {
        /// The name.
        name: RemoteName,
        /// The repository.
        repo: PathBuf,
    },
    /// There is one of that name.
    #[error("there is a remote {name} already")]
    Exists {
        /// The name.
        name: RemoteName,
    },
    /// Other keys were given for it while it was asked. What was learnt by the old ones is not remembered.
    #[error("other keys were given for the remote {name} meanwhile")]
    Replaced {
        /// The name.
        name: RemoteName,
    },
    /// Its configuration is not acceptable.
    #[error("cannot use the remote's configuration {}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which key, and why.
        reason: String,
    },
    /// What was seen of it cannot be read. Without it an old version could be taken for a new one.
    #[error("cannot read what was seen of the remote in {}: {reason}", path.display())]
    DamagedState {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file that the configuration names cannot be used.
    #[error("cannot use {}, which the remote's configuration names: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file or directory that the configuration names cannot be read.
    #[error("cannot use {}, which the remote's configuration names", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FsError,
    },
    /// A site cannot be reached at all.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The repository cannot be read or written.
    #[error(transparent)]
    Repo(#[from] RepoError),
}

impl RemoteError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::Replaced { .. } => ErrorKind::Conflict,
            Self::Config { .. } | Self::File { .. } => ErrorKind::Invalid,
            Self::Unreadable { source, .. } => source.kind(),
            Self::DamagedState { .. } => ErrorKind::Corrupt,
            Self::Transport(error) => error.kind(),
            Self::Repo(error) => error.kind(),
        }
    }
}
