//! Coarse kinds of failure, for programs that must decide what to do next.

use crate::fs::{FsError, LockError};

/// What sort of failure an error is. Each layer's error type has a `kind()`; exit codes and hints follow from it,
/// never from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A thing that was named does not exist.
    NotFound,
    /// A thing that must not exist does.
    AlreadyExists,
    /// A name, an option or a tree is not acceptable as it is.
    Invalid,
    /// Stored bytes are damaged or not what their name says.
    Corrupt,
    /// Bytes are not signed by whom they should be.
    Untrusted,
    /// Somebody else holds a lock.
    Locked,
    /// The disk is full, or would be.
    NoSpace,
    /// Two changes exclude each other.
    Conflict,
    /// This program, kernel or file system cannot do it.
    Unsupported,
    /// The caller has no right to it, or the file system is read-only.
    Denied,
    /// The caller asked to stop.
    Cancelled,
    /// A system call failed for another reason.
    Io,
}

/// Returns what an error says, with its causes, where it is read later or elsewhere.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl FsError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            _ if self.is_not_found() => ErrorKind::NotFound,
            _ if self.is_already_exists() => ErrorKind::AlreadyExists,
            _ if self.is_no_space() => ErrorKind::NoSpace,
            _ if self.is_denied() => ErrorKind::Denied,
            _ if self.is_unsupported() => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        }
    }
}

impl LockError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Held { .. } => ErrorKind::Locked,
            Self::Fs(error) => error.kind(),
        }
    }
}
