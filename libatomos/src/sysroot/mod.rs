//! A machine's deployments.
//!
//! ```text
//! /atomos/repo                                                 the repository
//! /atomos/deployments.json                                     the truth: order, kernel arguments, pins
//! /atomos/staged.json                                          what shutdown is to finish
//! /atomos/last-error.json                                      why it could not
//! /atomos/boots.json                                           what became of boots
//! /atomos/deploy/<stateroot>/var                               shared by the stateroot's deployments
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>/         a deployment's root, or what is administered of one
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.image    its root as an image, where it has one
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.image.json   the image's digest
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.seal     who vouches for the image, where it is verified when it boots
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.skeleton says that the directory is not a whole root: the image is
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.origin   what it follows
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.conflicts.json   what its merge of /etc could not decide
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.trial    while it is on trial: its boots, by atomos-prepare-root
//! /atomos/deploy/<stateroot>/deploy/<commit>.<serial>.complete the marker, written last
//! /boot                                                        derived; see [`crate::boot`]
//! ```
//!
//! Every operation that changes something holds the sysroot's lock, builds where nothing boots from, makes it durable,
//! replaces the truth, and lets `/boot` follow. `docs/architecture.md` has the picture.

mod assess;
mod booted;
mod bootloader;
mod boots;
mod build;
mod chosen;
mod cleanup;
mod deadline;
mod decide;
mod deploy;
mod error;
mod etc;
mod finalize;
mod give_up;
mod id;
mod image;
mod image_check;
mod image_repair;
mod init;
pub mod install;
mod layout;
mod origin;
mod os_release;
mod read_back;
mod rebuild;
mod reorder;
mod reserve;
mod retention;
mod root_kind;
mod seal;
mod select;
mod skeleton;
mod stage;
mod staged;
mod state;
mod status;
mod trial;
mod upgrade;
mod usr_overlay;
mod version;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fs::{Dir, FileKind, FileLock, LockMode, LockNotice};
use crate::names::StaterootName;
use crate::repo::{DEFAULT_LOCK_TIMEOUT, Repo};

pub use assess::{BootVerdict, RecordReport};
pub use booted::{BOOTED, BootedRecord};
pub use bootloader::BootStatus;
pub use boots::{BootAttempt, BootLog, FailedCheck, FailedTrial, LastFailure, Stage, Trial};
pub use cleanup::{CleanupOptions, CleanupReport};
pub use deploy::{DEFAULT_TRIES, DeployOptions, DeployPreview, DeployReport, Finish, KargsChange, ReadBack};
pub use error::SysrootError;
pub use etc::{EtcReset, EtcStatus};
pub use finalize::{FinalizeOptions, FinalizeOutcome};
pub use id::{DeploymentId, InvalidDeploymentId};
pub use image_check::{ImageFinding, ImageProblem, ImagesReport};
pub use image_repair::{ImageRepairOptions, ImagesRepair, LostImage, RepairedImage};
pub use origin::Origin;
pub use read_back::ReadBackReport;
pub use reorder::{KargsReport, SwitchReport, UndeployReport};
pub use root_kind::RootKind;
pub use stage::FINALIZER;
pub use staged::LastError;
pub use state::{DeploymentState, FallbackEntry, State};
pub use status::{Assessment, DeploymentStatus, Role, Status};
pub use upgrade::{UpgradeOptions, UpgradeOutcome};

/// How to open a sysroot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SysrootOptions {
    /// The directory that is running as `/`. Tests name another.
    pub host_root: PathBuf,
    /// How long locks are waited for.
    pub lock_timeout: Duration,
    /// Who is told when one has to be waited for.
    pub lock_notice: LockNotice,
}

impl Default for SysrootOptions {
    fn default() -> Self {
        Self {
            host_root: PathBuf::from("/"),
            lock_timeout: DEFAULT_LOCK_TIMEOUT,
            lock_notice: LockNotice::default(),
        }
    }
}

/// An open sysroot.
#[derive(Debug)]
pub struct Sysroot {
    path: PathBuf,
    atomos: Dir,
    /// What is running as `/`.
    host: Dir,
    repo: Repo,
    running: booted::RunningRoot,
    lock_timeout: Duration,
    lock_notice: LockNotice,
}

/// Holds the sysroot's lock. What changes a sysroot takes one as proof.
#[derive(Debug)]
pub struct SysrootLock {
    _lock: FileLock,
}

impl Sysroot {
    /// Opens the sysroot at `path`: `/`, or where a machine's root file system is mounted.
    pub fn open(path: &Path, options: &SysrootOptions) -> Result<Self, SysrootError> {
        let atomos = match Dir::open_ambient(path.join(layout::ATOMOS)) {
            Err(error) if error.is_not_found() => {
                return Err(SysrootError::NotASysroot {
                    path: path.to_owned(),
                    reason: "it has no directory atomos",
                });
            }
            other => other?,
        };
        let mut repo = Repo::open_at(atomos.open_dir(layout::REPO).map_err(|error| {
            if error.is_not_found() {
                SysrootError::NotASysroot {
                    path: path.to_owned(),
                    reason: "it has no repository atomos/repo",
                }
            } else {
                error.into()
            }
        })?)?;
        repo.set_lock_timeout(options.lock_timeout);
        repo.set_lock_notice(options.lock_notice.clone());
        let host = Dir::open_ambient(&options.host_root)?;
        let running = booted::RunningRoot::detect(&host)?;
        Ok(Self {
            path: path.to_owned(),
            atomos,
            host,
            repo,
            running,
            lock_timeout: options.lock_timeout,
            lock_notice: options.lock_notice.clone(),
        })
    }

    /// Returns the sysroot's repository.
    #[must_use]
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Returns the path that the sysroot was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the truth.
    pub fn state(&self) -> Result<State, SysrootError> {
        State::load(&self.atomos)
    }

    /// Keeps everybody else from changing the sysroot.
    pub fn lock(&self) -> Result<SysrootLock, SysrootError> {
        const WHAT: &str = "the sysroot";
        let lock = FileLock::acquire(
            &self.atomos,
            layout::LOCK,
            0o600,
            WHAT,
            LockMode::Exclusive,
            self.lock_timeout,
            |holders| self.lock_notice.waiting(WHAT, holders),
        )?;
        Ok(SysrootLock { _lock: lock })
    }

    /// Returns the names of the stateroots, sorted.
    pub fn stateroots(&self) -> Result<Vec<StaterootName>, SysrootError> {
        let deploy = self.atomos.open_dir(layout::DEPLOY)?;
        let mut names = Vec::new();
        for entry in deploy.entries()? {
            // A stray file, or a stateroot whose making was interrupted, is none, and must not stop anybody.
            if let Some(name) = entry.name.to_str().and_then(|name| name.parse().ok())
                && deploy.stat(&entry.name)?.kind == FileKind::Dir
                && deploy.open_dir(&entry.name)?.exists("deploy")?
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Returns the root directory of a deployment.
    pub fn deployment_dir(&self, id: &DeploymentId) -> Result<Dir, SysrootError> {
        Ok(self.deployments_dir(&id.stateroot)?.open_dir(id.dir_name())?)
    }

    /// Returns the deployment that is running, if it is one of this sysroot's.
    ///
    /// The directories are asked, not the truth: after an interruption between the two the machine may have booted one
    /// that the truth has let go of, and its `/etc` is the one that people have edited.
    pub fn booted(&self) -> Result<Option<DeploymentId>, SysrootError> {
        for stateroot in self.stateroots()? {
            let deployments = self.deployments_dir(&stateroot)?;
            for entry in deployments.entries()? {
                let Some(id) = entry
                    .name
                    .to_str()
                    .and_then(|name| DeploymentId::from_dir_name(&stateroot, name))
                else {
                    continue;
                };
                if deployments.stat(&entry.name)?.kind == FileKind::Dir
                    && self.running.is(&deployments.open_dir(&entry.name)?)?
                {
                    return Ok(Some(id));
                }
            }
        }
        Ok(None)
    }

    /// Returns the directory that holds a stateroot's deployments and what lies beside them.
    pub(crate) fn deployments_dir(&self, stateroot: &StaterootName) -> Result<Dir, SysrootError> {
        let path = layout::deployments(stateroot);
        self.atomos
            .open_dir_optional(&path)?
            .ok_or_else(|| SysrootError::StaterootNotFound {
                name: stateroot.clone(),
                path: self.path.clone(),
            })
    }
}

#[cfg(test)]
mod tests;
