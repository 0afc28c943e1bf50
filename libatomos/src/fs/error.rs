//! What went wrong with which file.

use std::io;
use std::path::{Path, PathBuf};

/// A system call failed, with what it was for.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FsError {
    /// What was being done, as in "cannot open".
    pub action: &'static str,
    /// To what. For messages: nothing is opened by it.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Says that `action` on `path` failed.
    pub fn new(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self {
            action,
            path: path.into(),
            source: source.into(),
        }
    }

    /// Returns a function for `map_err`; the path is joined only when there is an error.
    pub(crate) fn at<'a, E: Into<io::Error>>(
        action: &'static str,
        dir: &'a Path,
        name: impl AsRef<Path> + 'a,
    ) -> impl FnOnce(E) -> Self + 'a {
        move |source| {
            let name = name.as_ref();
            let path = if name.as_os_str().is_empty() {
                dir.to_owned()
            } else {
                dir.join(name)
            };
            Self::new(action, path, source)
        }
    }

    /// Returns whether the thing is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Returns whether the kernel lets nobody do that, as root would be told as well.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        self.source.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error())
    }

    /// Returns whether something is there already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    /// Returns whether there is no space, or a quota is used up.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Returns whether the kernel or the file system has no such thing.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.source.kind() == io::ErrorKind::Unsupported
    }

    /// Returns whether the file system is read-only or the caller has no right.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
        )
    }
}
