//! Following a ref.

use std::path::PathBuf;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::CommitId;
use crate::names::{RefName, StaterootName};
use crate::progress::{Event, Progress};
use crate::pull::{PullOptions, Selector, Session, SessionOptions, Wanted};
use crate::remote::RemoteName;
use crate::repo::{LocalPullOptions, Repo};

use super::{
    BootLog, DeployOptions, DeployReport, DeploymentId, FailedTrial, Finish, Origin, State, Sysroot,
    SysrootError,
};

/// How to upgrade.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UpgradeOptions {
    /// What to upgrade: the booted stateroot, or the default's, where none is named.
    pub stateroot: Option<StaterootName>,
    /// Only look whether there is something newer.
    pub check: bool,
    /// Only pull: what is new is kept by the ref, and nothing is deployed.
    pub download_only: bool,
    /// Ask nobody: take what the ref names in the sysroot's own repository.
    pub cache_only: bool,
    /// Follow this ref from now on (`switch`).
    pub switch_to: Option<RefName>,
    /// Pull from this repository from now on; only with `switch_to`.
    pub pull_from: Option<PathBuf>,
    /// How to talk to the remote, where the ref is of one.
    pub session: SessionOptions,
    /// Stop before the first blob if more bytes than this are to come.
    pub max_bytes: Option<u64>,
    /// Install a version that failed here before.
    pub allow_rejected: bool,
    /// What the deployment is made with; stateroot and origin are filled in.
    pub deploy: DeployOptions,
}

/// What an upgrade found, and did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
#[non_exhaustive]
pub enum UpgradeOutcome {
    /// The ref names what would run next.
    Unchanged {
        /// The deployment.
        deployment: DeploymentId,
        /// What it follows.
        reference: RefName,
    },
    /// The ref names what a person went back from since this boot began.
    GoneBack {
        /// What the next boot takes instead.
        deployment: DeploymentId,
        /// What the ref names.
        commit: CommitId,
        /// Its version.
        version: String,
        /// The ref.
        reference: RefName,
    },
    /// There is something newer, and only a look was asked for.
    Available {
        /// What the ref names.
        commit: CommitId,
        /// Its version.
        version: String,
        /// The ref.
        reference: RefName,
    },
    /// There is something newer, and it failed here before: it is not installed.
    Rejected {
        /// What the ref names.
        commit: CommitId,
        /// Its version.
        version: String,
        /// The ref.
        reference: RefName,
        /// How it failed.
        failed: Box<FailedTrial>,
    },
    /// It is here, and only that was asked for.
    Downloaded {
        /// What the ref names.
        commit: CommitId,
        /// Its version.
        version: String,
        /// The ref.
        reference: RefName,
    },
    /// It was deployed, or staged.
    Deployed(Box<DeployReport>),
}

impl Sysroot {
    /// Looks at what the stateroot's newest deployment follows, and deploys it when it is another commit than that one's.
    pub fn upgrade(
        &self,
        options: &UpgradeOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<UpgradeOutcome, SysrootError> {
        let state = self.state()?;
        let booted = self.booted()?;
        // What would run next, not what runs: a switch since this boot stays a switch.
        let stateroot = options
            .stateroot
            .as_ref()
            .or(booted.as_ref().map(|id| &id.stateroot));
        let Some((current, is_staged)) = self.runs_next(&state, stateroot)? else {
            // A list that is lost is no list without deployments.
            self.check_state_is_there()?;
            return Err(SysrootError::DeploymentNotFound {
                selector: stateroot.map_or_else(|| "default".to_owned(), ToString::to_string),
            });
        };
        let followed = Origin::load(&self.deployments_dir(&current.stateroot)?, &current)?;
        let origin = match &options.switch_to {
            Some(name) => Origin {
                // An alias has no remote, and may point elsewhere tomorrow.
                reference: Some(self.repo.resolve_alias(name)?),
                pull_from: options.pull_from.clone(),
                ..Origin::default()
            },
            None => followed.clone(),
        };
        let Some(reference) = origin.reference.clone() else {
            return Err(SysrootError::NoOrigin { id: current });
        };
        // One that is damaged rejects nothing, and what writes to it next renews it.
        let log = self.boot_log().unwrap_or_else(|error| {
            let text = format!("which versions failed here is not known: {error}");
            progress.report(Event::Warning { text: &text });
            BootLog::default()
        });
        if !options.allow_rejected && !options.check && !log.failed.is_empty() {
            // A look costs one request. What would not be installed is not downloaded.
            let look = UpgradeOptions {
                check: true,
                ..options.clone()
            };
            let seen = self.fetch(&reference, &origin, &current, &look, progress, cancel)?;
            if let Some(rejected) = rejected(&log, &seen, &reference, &current) {
                return Ok(rejected);
            }
        }
        let commit = self.fetch(&reference, &origin, &current, options, progress, cancel)?;
        if !options.allow_rejected
            && let Some(rejected) = rejected(&log, &commit, &reference, &current)
        {
            return Ok(rejected);
        }
        // What is staged already is finished where that is asked for.
        let is_current = current.commit == commit.0 && followed.follows_as(&origin);
        let finishes =
            is_staged && options.deploy.finish == Finish::Now && !options.check && !options.download_only;
        if is_current && !finishes {
            return Ok(UpgradeOutcome::Unchanged {
                deployment: current,
                reference,
            });
        }
        let chosen = self.chosen(state.default_deployment()).filter(|chosen| {
            chosen.deployment == current && chosen.over.contains(&commit.0) && options.switch_to.is_none()
        });
        if chosen.is_some() {
            return Ok(UpgradeOutcome::GoneBack {
                deployment: current,
                commit: commit.0,
                version: commit.1,
                reference,
            });
        }
        if options.check {
            return Ok(UpgradeOutcome::Available {
                commit: commit.0,
                version: commit.1,
                reference,
            });
        }
        if options.download_only {
            return Ok(UpgradeOutcome::Downloaded {
                commit: commit.0,
                version: commit.1,
                reference,
            });
        }
        let deploy = DeployOptions {
            stateroot: Some(current.stateroot.clone()),
            origin: Some(origin),
            ..options.deploy.clone()
        };
        let at_once = options.deploy.finish == Finish::Now;
        let is_done = |state: &State| {
            let Some((now, is_staged)) = self.runs_next(state, stateroot)? else {
                return Ok(None);
            };
            let follows = Origin::load(&self.deployments_dir(&now.stateroot)?, &now)?;
            if (&now, &follows) == (&current, &followed) {
                return Ok(None);
            }
            // Whoever upgrades at the same time may have been faster while this one was pulling.
            let is_this = (&now.stateroot, now.commit) == (&current.stateroot, commit.0);
            if now != current && is_this && options.switch_to.is_none() {
                return Ok(Some(now).filter(|_| !(is_staged && at_once)));
            }
            // Or a person has chosen something else.
            Err(SysrootError::ChangedMeanwhile { now: Box::new(now) })
        };
        match self.deploy_unless(&is_done, &commit.0.to_string(), &deploy, progress, cancel)? {
            Ok(report) => Ok(UpgradeOutcome::Deployed(Box::new(report))),
            Err(deployment) => Ok(UpgradeOutcome::Unchanged {
                deployment,
                reference,
            }),
        }
    }

    /// Returns what would run next of the stateroot, or of any, and whether it is staged.
    fn runs_next(
        &self,
        state: &State,
        stateroot: Option<&StaterootName>,
    ) -> Result<Option<(DeploymentId, bool)>, SysrootError> {
        let staged = self.staged_with_tree(state)?.map(|staged| staged.deployment.id);
        if let Some(staged) = staged.filter(|id| stateroot.is_none_or(|name| id.stateroot == *name)) {
            return Ok(Some((staged, true)));
        }
        let next = match stateroot {
            Some(name) => state.newest(name),
            None => state.default_deployment(),
        };
        Ok(next.map(|next| (next.id.clone(), false)))
    }

    /// Returns the commit that the ref names and its version, after pulling it where the origin says so.
    fn fetch(
        &self,
        reference: &RefName,
        origin: &Origin,
        current: &DeploymentId,
        options: &UpgradeOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(CommitId, String), SysrootError> {
        let named = |repo: &Repo| -> Result<(CommitId, String), SysrootError> {
            let commit = repo.resolve_commit(reference.as_str())?;
            Ok((commit, repo.load_commit(&commit)?.version))
        };
        if options.cache_only {
            return named(&self.repo);
        }
        if let (None, Some((remote, name))) = (&origin.pull_from, Origin::remote_ref(reference)) {
            return self.fetch_remote(&remote, name, current, options, progress, cancel);
        }
        match &origin.pull_from {
            Some(path) if options.check => named(&Repo::open(path)?),
            Some(path) => {
                let source = Repo::open(path)?;
                self.repo.pull_local(
                    &source,
                    std::slice::from_ref(reference),
                    &LocalPullOptions::default(),
                    progress,
                    cancel,
                )?;
                named(&self.repo)
            }
            None => named(&self.repo),
        }
    }

    /// Looks at a remote, by one request; pulls from it unless a look was all that was asked for.
    fn fetch_remote(
        &self,
        remote: &RemoteName,
        name: RefName,
        current: &DeploymentId,
        options: &UpgradeOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(CommitId, String), SysrootError> {
        let mut session = options.session.clone();
        // What was made before this system was cannot be now.
        if let Ok(commit) = self.repo.load_commit(&current.commit) {
            session.not_before = session.not_before.max(commit.time);
        }
        let mut session = Session::open(&self.repo, remote, &session, progress, cancel)?;
        if options.check {
            let record = session.look(&name)?;
            return Ok((record.commit, record.version));
        }
        let pull = PullOptions {
            max_bytes: options.max_bytes,
            from: Some(current.commit),
            boot_available: self.boot_available(&self.state()?)?,
            ..PullOptions::default()
        };
        let wanted = Wanted {
            reference: name,
            selector: Selector::Newest,
        };
        let report = session.pull(&[wanted], &pull)?;
        let pulled = report.refs.first().expect("one ref was asked for");
        Ok((pulled.commit, pulled.version.clone()))
    }
}

/// Returns what to say of a commit that failed here and is not what would run next.
fn rejected(
    log: &BootLog,
    (commit, version): &(CommitId, String),
    reference: &RefName,
    current: &DeploymentId,
) -> Option<UpgradeOutcome> {
    let failed = log.rejection(commit).filter(|_| current.commit != *commit)?;
    Some(UpgradeOutcome::Rejected {
        commit: *commit,
        version: version.clone(),
        reference: reference.clone(),
        failed: Box::new(failed.clone()),
    })
}
