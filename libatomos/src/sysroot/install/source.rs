//! Where the commit comes from.

use std::path::Path;

use crate::cancel::Cancel;
use crate::digest::CommitId;
use crate::names::RefName;
use crate::progress::Progress;
use crate::pull::{PullError, PullOptions, Selector, Session, SessionOptions, Wanted};
use crate::remote::{RemoteConfig, RemoteName, RemoteState, set_verified, unverified_commits};
use crate::repo::{LocalPullOptions, Located, Repo};
use crate::sysroot::{Origin, Sysroot, SysrootError};

use super::refuse;

/// Where the commit comes from, and what the machine follows afterwards.
#[derive(Debug)]
pub enum InstallSource<'a> {
    /// A repository on this machine. A ref of a remote, `origin:os`, takes the remote's configuration along, and what was
    /// seen of it: the new machine asks there for updates.
    Repo {
        /// The repository.
        repo: &'a Repo,
        /// The ref in it.
        reference: RefName,
    },
    /// A site, which the new machine gets as a remote.
    Site {
        /// What the remote is called.
        remote: RemoteName,
        /// How to reach it, and whom to believe.
        config: Box<RemoteConfig>,
        /// The ref, as the site has it.
        reference: RefName,
        /// How to talk to it.
        session: SessionOptions,
    },
    /// What the target's own repository has already.
    Target {
        /// The ref.
        reference: RefName,
    },
}

impl InstallSource<'_> {
    /// Returns what the ref is called in the target's repository.
    pub(super) fn local_ref(&self, target: &Path) -> Result<RefName, SysrootError> {
        match self {
            Self::Repo { reference, .. } | Self::Target { reference } => Ok(reference.clone()),
            Self::Site {
                remote, reference, ..
            } => remote
                .local_ref(reference)
                .map_err(|error| refuse(target, error.to_string())),
        }
    }

    /// Refuses a tree that has no `path`, where the tree is here to be looked at.
    pub(super) fn check_tree(&self, target: &Path, path: &str, why: &str) -> Result<(), SysrootError> {
        let Self::Repo { repo, reference } = self else {
            return Ok(());
        };
        let id = repo.resolve_commit(reference.as_str())?;
        let root = repo.load_commit(&id)?.root;
        match repo.locate(reference.as_str(), root, None, path.as_bytes()) {
            Ok(Located::Entry(_)) => Ok(()),
            _ => Err(refuse(target, format!("{reference} has no /{path}, and {why}"))),
        }
    }

    /// Brings the commit into the target's repository, and returns it.
    pub(super) fn bring(
        &self,
        sysroot: &Sysroot,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<CommitId, SysrootError> {
        let target = sysroot.repo();
        match self {
            Self::Repo { repo, reference } => {
                if let Some((remote, _)) = Origin::remote_ref(reference)
                    && !copy_remote(repo, target, &remote).map_err(PullError::from)?
                {
                    return Err(other_remote(sysroot, &remote));
                }
                let options = LocalPullOptions::default();
                let refs = std::slice::from_ref(reference);
                target.pull_local(repo, refs, &options, progress, cancel)?;
                let commit = target.resolve_commit(reference.as_str())?;
                if unverified_commits(repo)
                    .map_err(PullError::from)?
                    .contains(&commit)
                {
                    set_verified(target, &commit, false).map_err(PullError::from)?;
                }
                Ok(commit)
            }
            Self::Site {
                remote,
                config,
                reference,
                session,
            } => {
                let known = RemoteConfig::list(target)
                    .map_err(PullError::from)?
                    .contains(remote);
                if !known {
                    config.create(target, remote).map_err(PullError::from)?;
                } else if RemoteConfig::load(target, remote).map_err(PullError::from)? != **config {
                    // What nothing was ever had from is what a mistyped key or address has left.
                    let seen = RemoteState::load(target, remote).map_err(PullError::from)?;
                    if !seen.refs.is_empty() {
                        return Err(other_remote(sysroot, remote));
                    }
                    config.replace(target, remote).map_err(PullError::from)?;
                }
                let mut session = Session::open(target, remote, session, progress, cancel)?;
                let pull = PullOptions {
                    boot_available: sysroot.boot_available(&sysroot.state()?)?,
                    ..PullOptions::default()
                };
                let wanted = Wanted {
                    reference: reference.clone(),
                    selector: Selector::Newest,
                };
                let report = session.pull(&[wanted], &pull)?;
                Ok(report.refs.first().expect("one ref was asked for").commit)
            }
            Self::Target { reference } => Ok(target.resolve_commit(reference.as_str())?),
        }
    }
}

/// The machine would follow somebody else under the same name.
fn other_remote(sysroot: &Sysroot, remote: &RemoteName) -> SysrootError {
    let reason = format!(
        "it has another remote {remote}, with another configuration; `atomos remote remove {remote} --repo {}` has it forgotten",
        sysroot.repo().dir().path().display()
    );
    refuse(sysroot.path(), reason)
}

/// Makes the remote of one repository known to another, where it is not. Returns whether it is the same there.
fn copy_remote(from: &Repo, to: &Repo, name: &RemoteName) -> Result<bool, crate::remote::RemoteError> {
    if !RemoteConfig::list(from)?.contains(name) {
        return Ok(true);
    }
    let config = RemoteConfig::load(from, name)?;
    if RemoteConfig::list(to)?.contains(name) {
        return Ok(RemoteConfig::load(to, name)? == config);
    }
    // The memory first: a remote without it would believe an old version.
    RemoteState::load(from, name)?.save(to, name)?;
    config.save(to, name)?;
    Ok(true)
}
