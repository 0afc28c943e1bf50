//! Where good copies of objects may be: a repository, a site, a directory.
//!
//! [`Repo::repair`] does the work, and says what is wanted; a source ([`RepairSource`]) gives what it has.
//! [`open_source`] makes one of what a person calls it.

mod directory;

use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::error::ErrorKind;
use crate::fs::{Dir, FileKind, FsError};
use crate::progress::Progress;
use crate::pull::{PullError, SessionOptions, SiteObjects};
use crate::remote::{RemoteConfig, RemoteError, RemoteName};
use crate::repo::{RepairSource, Repo, RepoError, RepoSource};

pub use directory::DirectorySource;

/// A source cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// There is nothing of that name.
    #[error("{name} is no configured remote, no URL, and no directory")]
    NotASource {
        /// What was given.
        name: String,
    },
    /// The site cannot be used.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// The remote cannot be used.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] RepoError),
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<PullError> for RepairError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl RepairError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotASource { .. } => ErrorKind::NotFound,
            Self::Pull(error) => error.kind(),
            Self::Remote(error) => error.kind(),
            Self::Repo(error) => error.kind(),
            Self::Fs(error) => error.kind(),
        }
    }
}

/// Where a sysroot has what is its own.
const SYSROOT: &str = "atomos";

/// Its repository.
const REPO: &str = "repo";

/// Opens what a person calls `text`: a remote that is configured in `repo`; the URL of a site; or a directory, which may be
/// a repository, a sysroot, a site, a deployment, or any other tree. Nothing is sent yet.
pub fn open_source<'a>(
    repo: &'a Repo,
    text: &str,
    options: &SessionOptions,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
) -> Result<Box<dyn RepairSource + 'a>, RepairError> {
    let site = |name: &RemoteName, config| -> Result<Box<dyn RepairSource + 'a>, RepairError> {
        Ok(Box::new(SiteObjects::open(
            repo, text, name, config, options, progress, cancel,
        )?))
    };
    if let Ok(name) = text.parse::<RemoteName>() {
        match RemoteConfig::load(repo, &name) {
            Ok(config) => return site(&name, config),
            Err(RemoteError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // For messages: it is no remote of this repository.
    let nameless: RemoteName = "site".parse().expect("it is a name");
    let of_url = |url: String| RemoteConfig {
        urls: vec![url],
        no_verify: true,
        ..RemoteConfig::default()
    };
    if text.contains("://") {
        return site(&nameless, of_url(text.to_owned()));
    }
    let path = Path::new(text);
    let dir = match Dir::open_ambient(path) {
        Ok(dir) => dir,
        Err(error) if error.is_not_found() => {
            return Err(RepairError::NotASource {
                name: text.to_owned(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    if dir.exists("config")? && dir.exists("objects")? {
        return Ok(Box::new(RepoSource::new(Repo::open_at(dir)?, text)));
    }
    // In the tree of an operating system `/atomos` is a link.
    let is_sysroot = dir
        .stat_optional(SYSROOT)?
        .is_some_and(|stat| stat.kind == FileKind::Dir);
    if is_sysroot && let Some(inner) = dir.open_dir_optional(Path::new(SYSROOT).join(REPO))? {
        return Ok(Box::new(RepoSource::new(Repo::open_at(inner)?, text)));
    }
    if dir.exists("atomos.json")? {
        let path: PathBuf = std::path::absolute(path).map_err(|error| FsError::new("find", path, error))?;
        return site(&nameless, of_url(path.to_string_lossy().into_owned()));
    }
    Ok(Box::new(DirectorySource::new(dir, text)))
}
