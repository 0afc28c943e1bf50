//! What can go wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;

use libatomos::ErrorKind;
use libatomos::sysroot::DeploymentId;

/// Why the updater could not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The library failed.
    Library(libatomos::Error),
    /// The plan was not agreed to.
    Refused(String),
    /// No deployment of the machine's is running, so none can be judged.
    NotBooted,
    /// The updater's own file cannot be used.
    Memory(PathBuf, io::Error),
    /// The worker died.
    Panicked,
    /// Nothing is left that could be gone back to.
    NothingGood(DeploymentId),
}

impl Error {
    /// Returns whether somebody asked for the end; then nothing is wrong.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Library(error) if error.kind() == ErrorKind::Cancelled)
    }

    /// Returns whether the same may work later without anybody's help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Library(error) if matches!(error.kind(), ErrorKind::Locked | ErrorKind::Cancelled))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => error.fmt(f),
            Self::Refused(why) => write!(f, "the update was not agreed to: {why}"),
            Self::NotBooted => f.write_str("what is running is no deployment of this machine's"),
            Self::Memory(path, _) => write!(f, "cannot use {}", path.display()),
            Self::Panicked => f.write_str("the worker died"),
            Self::NothingGood(id) => write!(f, "there is nothing to go back to from {id}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its text is ours, so what comes next is what caused it.
            Self::Library(error) => error.source(),
            Self::Memory(_, error) => Some(error),
            _ => None,
        }
    }
}

/// Every error of the library becomes the library's one error, and that becomes ours.
macro_rules! from_library {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Library(error.into())
            }
        }
    )*};
}

from_library!(
    libatomos::commit::CommitError,
    libatomos::fs::FsError,
    libatomos::names::InvalidName,
    libatomos::publish::PublishError,
    libatomos::pull::PullError,
    libatomos::remote::RemoteError,
    libatomos::repo::RepoError,
    libatomos::sysroot::SysrootError,
);
