//! Making and opening a repository.

use std::path::Path;

use crate::digest::hex;
use crate::format::limits;
use crate::fs::{Dir, FileLock, FsError, LockMode, LockNotice};

use super::config::{Config, FORMAT, Features, RepoMode};
use super::layout::{CONFIG, LOCK, REFS, ROOTS, TMP, lock_permissions};
use super::{DEFAULT_LOCK_TIMEOUT, ObjectKind, Repo, RepoError};

impl Repo {
    /// Makes a repository in the directory `path`, which is made if it is missing, and must be empty.
    ///
    /// A repository of the same mode that is there already is opened: making one twice is no error. `config` is
    /// written last, so an interrupted run leaves a directory that this continues.
    pub fn init(path: &Path, mode: RepoMode) -> Result<Self, RepoError> {
        let existing = path
            .symlink_metadata()
            .ok()
            .is_some_and(|metadata| !metadata.is_dir() && !metadata.is_symlink());
        if existing {
            return Err(RepoError::Occupied {
                path: path.to_owned(),
                reason: "it is not a directory",
            });
        }
        Self::init_at(Dir::ensure_ambient(path)?, mode)
    }

    /// Makes a repository in `dir`; see [`Repo::init`].
    pub fn init_at(dir: Dir, mode: RepoMode) -> Result<Self, RepoError> {
        if mode == RepoMode::Bare && !rustix::process::geteuid().is_root() {
            return Err(RepoError::TakesRoot {
                path: dir.path().to_owned(),
            });
        }
        if dir.exists(CONFIG)? {
            return Self::open_as(dir, mode);
        }
        // Somebody else may be making it, and have written `config` meanwhile.
        let ours = |name: &str| {
            let is_kind = ObjectKind::ALL.iter().any(|kind| kind.dir() == name);
            is_kind || [TMP, ROOTS, LOCK, REFS, CONFIG].contains(&name)
        };
        if dir.entries()?.iter().any(|entry| {
            !entry
                .name
                .to_str()
                .is_some_and(|name| ours(name) || name.ends_with(".new"))
        }) {
            return Err(RepoError::Occupied {
                path: dir.path().to_owned(),
                reason: "the directory is not empty",
            });
        }
        // Two at once would make two repositories, the second in the place of the first.
        let _lock = FileLock::acquire(
            &dir,
            LOCK,
            lock_permissions(mode),
            "the repository",
            LockMode::Exclusive,
            DEFAULT_LOCK_TIMEOUT,
            |_| {},
        )?;
        if dir.exists(CONFIG)? {
            return Self::open_as(dir, mode);
        }
        // The objects of a bare repository have true modes, old setuid files among them: nobody else may reach them.
        let private = if mode == RepoMode::Bare { 0o700 } else { 0o755 };
        for kind in ObjectKind::ALL {
            dir.ensure_dir(kind.dir(), private)?;
        }
        dir.ensure_dir(TMP, 0o700)?;
        dir.ensure_dir(ROOTS, 0o755)?;
        dir.write_atomic(REFS, &super::refs::format(&Default::default()), 0o644)?;
        let config = Config {
            format: FORMAT,
            mode,
            id: random_hex(16)?,
            min_free_space: None,
            features: Features::default(),
        };
        dir.sync_fs()?;
        dir.write_atomic(CONFIG, config.to_text().as_bytes(), 0o644)?;
        dir.sync_fs()?;
        Self::open_at(dir)
    }

    /// Opens a repository that is there already, if it is of the mode that was asked for.
    fn open_as(dir: Dir, mode: RepoMode) -> Result<Self, RepoError> {
        let repo = Self::open_at(dir)?;
        if repo.mode() == mode {
            return Ok(repo);
        }
        Err(RepoError::Occupied {
            path: repo.dir.path().to_owned(),
            reason: "there is a repository of the other mode",
        })
    }

    /// Opens the repository at `path`.
    pub fn open(path: &Path) -> Result<Self, RepoError> {
        match Dir::open_ambient(path) {
            Ok(dir) => Self::open_at(dir),
            Err(error) if error.is_not_found() => Err(RepoError::NotARepository {
                path: path.to_owned(),
                reason: "it does not exist",
            }),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotADirectory => {
                Err(RepoError::NotARepository {
                    path: path.to_owned(),
                    reason: "it is not a directory",
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the repository in `dir`.
    pub fn open_at(dir: Dir) -> Result<Self, RepoError> {
        let Some(bytes) = dir.read_optional(CONFIG, limits::MAX_CONFIG)? else {
            return Err(RepoError::NotARepository {
                path: dir.path().to_owned(),
                reason: "it has no file config",
            });
        };
        let config = Config::parse(dir.path(), &bytes)?;
        let open = |kind: ObjectKind| match dir.open_dir_optional(kind.dir())? {
            Some(dir) => Ok(dir),
            None => Err(RepoError::NotARepository {
                path: dir.path().to_owned(),
                reason: "one of its directories objects, dirtrees, commits is missing",
            }),
        };
        Ok(Self {
            objects: open(ObjectKind::Blob)?,
            dirtrees: open(ObjectKind::DirTree)?,
            commits: open(ObjectKind::Commit)?,
            dir,
            config,
            lock_timeout: DEFAULT_LOCK_TIMEOUT,
            lock_notice: LockNotice::default(),
        })
    }
}

/// Returns `bytes` random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, FsError> {
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(len) => filled += len,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(FsError::new("read random bytes from", "the kernel", errno)),
        }
    }
    Ok(hex(&buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_make_a_repository_at_once_make_one() {
        for _ in 0..20 {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("repo");
            let ids: Vec<String> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| Repo::init(&path, RepoMode::BareUser).unwrap().config().id.clone())
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
            assert_eq!(Repo::open(&path).unwrap().config().id, ids[0]);
        }
    }
}
