//! The updater.

use std::fmt;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;

use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::pull::{PullOptions, PullReport, Selector, Session, SessionOptions, Wanted};
use libatomos::remote::RemoteName;
use libatomos::repo::{LocalPullOptions, LocalPullReport, Repo};
use libatomos::sysroot::{
    DeployOptions, DeployPreview, DeployReport, DeploymentId, Origin, Sysroot, SysrootError, SysrootOptions,
    UpgradeOptions, UpgradeOutcome,
};
use libatomos::transport::Transport;
use libatomos::{Cancel, NoProgress, Progress};

use crate::memory::Memory;
use crate::{Error, Job};

/// Keeps one machine up to date. Clones work on the same machine.
///
/// The sysroot is opened for each operation and not held open: `atomos` on the command line may change it meanwhile.
#[derive(Clone)]
pub struct Updater {
    sysroot: PathBuf,
    options: SysrootOptions,
    memory: PathBuf,
    progress: Arc<dyn Progress>,
    transports: Option<Transports>,
}

/// Makes what brings the bytes of a remote: its mirrors, in the order in which they are asked. The flag ends every wait.
pub type Transports = Arc<dyn Fn(&RemoteName, &Cancel) -> Vec<Box<dyn Transport>> + Send + Sync>;

impl fmt::Debug for Updater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updater")
            .field("sysroot", &self.sysroot)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// What [`Updater::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The machine has what it follows.
    UpToDate,
    /// There is something newer, and it did not work here before.
    Rejected(CommitId),
    /// There is something newer.
    Update(Box<Update>),
}

/// Something newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Which commit.
    pub commit: CommitId,
    /// What it calls itself.
    pub version: String,
    /// The ref that it was found under.
    pub reference: RefName,
    /// The deployment that it was found for.
    pub current: DeploymentId,
    /// What that follows, and so will the new one.
    origin: Origin,
}

/// Decides over a plan. Any program has its own reasons: a window for maintenance, a person to be asked, a file in `/etc`
/// that must not be in conflict.
pub type Inspect = Box<dyn FnOnce(&DeployPreview) -> Verdict + Send>;

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Apply,
    /// Leave everything as it is, for this reason.
    Refuse(String),
}

/// What was done.
#[derive(Debug)]
#[non_exhaustive]
pub struct Applied {
    /// What was copied from another repository, where the machine follows one.
    pub pulled: Option<LocalPullReport>,
    /// What was downloaded from a remote, where the machine follows one.
    pub received: Option<PullReport>,
    /// What was made, to be booted next.
    pub deployed: DeployReport,
}

impl Updater {
    /// Returns an updater for the sysroot at `sysroot`, which remembers things in the directory `memory`. `options` say
    /// which directory is running as `/`, and how long locks are waited for. `progress` hears of everything.
    pub fn new(sysroot: &Path, options: SysrootOptions, memory: &Path, progress: Arc<dyn Progress>) -> Self {
        Self {
            sysroot: sysroot.to_owned(),
            options,
            memory: memory.to_owned(),
            progress,
            transports: None,
        }
    }

    /// Reaches remotes by the program's own transports, whatever addresses their configuration has. Whom to believe is
    /// said there, as ever.
    #[must_use]
    pub fn over(mut self, transports: Transports) -> Self {
        self.transports = Some(transports);
        self
    }

    fn open(&self) -> Result<Sysroot, Error> {
        Ok(Sysroot::open(&self.sysroot, &self.options)?)
    }

    /// Looks whether there is something newer. Downloads nothing and takes no lock.
    ///
    /// # Errors
    /// Where the machine follows nothing, or what it follows cannot be read: that is never "up to date".
    pub fn check(&self) -> Result<Finding, Error> {
        let sysroot = self.open()?;
        let current = sysroot.select_deployment(None)?;
        if let Some((origin, remote, name)) = self.followed(&sysroot, &current)? {
            let record = self
                .session(&sysroot, &remote, &current, &NoProgress, &Cancel::new())?
                .look(&name)?;
            let reference = remote.local_ref(&name)?;
            return self.finding(record.commit, record.version, reference, current, origin);
        }
        let mut options = UpgradeOptions::default();
        options.check = true;
        options.stateroot = Some(current.stateroot.clone());
        match sysroot.upgrade(&options, &NoProgress, &Cancel::new())? {
            UpgradeOutcome::Available {
                commit,
                version,
                reference,
            } => {
                let status = sysroot.status()?.deployments;
                let origin = status.into_iter().find(|deployment| deployment.id == current);
                let origin = origin.map(|deployment| deployment.origin).unwrap_or_default();
                self.finding(commit, version, reference, current, origin)
            }
            _ => Ok(Finding::UpToDate),
        }
    }

    fn finding(
        &self,
        commit: CommitId,
        version: String,
        reference: RefName,
        current: DeploymentId,
        origin: Origin,
    ) -> Result<Finding, Error> {
        if commit == current.commit {
            return Ok(Finding::UpToDate);
        }
        if Memory::load(&self.memory)?.rejected.contains(&commit) {
            return Ok(Finding::Rejected(commit));
        }
        Ok(Finding::Update(Box::new(Update {
            commit,
            version,
            reference,
            current,
            origin,
        })))
    }

    /// Returns the remote and the ref that a deployment follows, if remotes are reached by transports of the program's own.
    fn followed(
        &self,
        sysroot: &Sysroot,
        current: &DeploymentId,
    ) -> Result<Option<(Origin, RemoteName, RefName)>, Error> {
        if self.transports.is_none() {
            return Ok(None);
        }
        let mut deployments = sysroot.status()?.deployments.into_iter();
        let origin = deployments.find(|deployment| deployment.id == *current);
        let origin = origin.map(|deployment| deployment.origin).unwrap_or_default();
        let remote = origin.reference.as_ref().and_then(Origin::remote_ref);
        Ok(remote.map(|(remote, name)| (origin, remote, name)))
    }

    /// Opens a conversation with a remote. Nothing is sent yet.
    fn session<'a>(
        &self,
        sysroot: &'a Sysroot,
        remote: &RemoteName,
        current: &DeploymentId,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Result<Session<'a>, Error> {
        let repo = sysroot.repo();
        let mut options = SessionOptions::default();
        // It is later than when what runs was made, whatever the clock says.
        options.not_before = repo.load_commit(&current.commit)?.time;
        let transports = self.transports.as_ref().map(|make| make(remote, cancel));
        let transports = transports.unwrap_or_default();
        Ok(Session::open_with(
            repo, remote, transports, &options, progress, cancel,
        )?)
    }

    /// Downloads, plans, asks `inspect`, and deploys: in a thread of its own.
    pub fn start(&self, update: Update, inspect: Inspect) -> Job<Applied> {
        let updater = self.clone();
        Job::start(Arc::clone(&self.progress), move |progress, cancel| {
            updater.run(&update, inspect, progress, cancel)
        })
    }

    fn run(
        &self,
        update: &Update,
        inspect: Inspect,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Applied, Error> {
        let sysroot = self.open()?;
        let received = self.receive(&sysroot, update, progress, cancel)?;
        let pulled = match received {
            Some(_) => None,
            None => self.download(&sysroot, update, progress, cancel)?,
        };
        // The commit, and not the ref: what is deployed is what was planned, wherever the ref has moved meanwhile.
        let rev = update.commit.to_string();
        let mut options = DeployOptions::default();
        options.stateroot = Some(update.current.stateroot.clone());
        options.origin = Some(update.origin.clone());
        let plan = sysroot.preview_deploy(&rev, &options, progress, cancel)?;
        if let Verdict::Refuse(why) = inspect(&plan) {
            return Err(Error::Refused(why));
        }
        let deployed = sysroot.deploy(&rev, &options, progress, cancel)?;
        Ok(Applied {
            pulled,
            received,
            deployed,
        })
    }

    /// Brings exactly the release that was found, from the remote that is followed, verified.
    fn receive(
        &self,
        sysroot: &Sysroot,
        update: &Update,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<PullReport>, Error> {
        let Some((_, remote, reference)) = self.followed(sysroot, &update.current)? else {
            return Ok(None);
        };
        let wanted = Wanted {
            reference,
            selector: Selector::Commit(update.commit.to_string()),
        };
        let mut options = PullOptions::default();
        options.from = Some(update.current.commit);
        let mut session = self.session(sysroot, &remote, &update.current, progress, cancel)?;
        Ok(Some(session.pull(&[wanted], &options)?))
    }

    /// Brings the commit into the machine's repository. What an earlier attempt brought is taken up.
    fn download(
        &self,
        sysroot: &Sysroot,
        update: &Update,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Option<LocalPullReport>, Error> {
        let Some(from) = &update.origin.pull_from else {
            return Ok(None);
        };
        let source = Repo::open(from)?;
        let options = LocalPullOptions::default();
        let refs = slice::from_ref(&update.reference);
        Ok(Some(
            sysroot
                .repo()
                .pull_local(&source, refs, &options, progress, cancel)?,
        ))
    }

    /// Says that what is running works. It is kept as something to fall back to, until a later version has worked.
    ///
    /// The library has no notion of a good boot yet, so the deployment is pinned, which keeps it from every clean-up,
    /// and its name is remembered here.
    ///
    /// # Errors
    /// Where no deployment is running.
    pub fn mark_good(&self) -> Result<DeploymentId, Error> {
        let sysroot = self.open()?;
        let booted = sysroot.booted()?.ok_or(Error::NotBooted)?;
        let mut memory = Memory::load(&self.memory)?;
        // The new pin first: interrupted, there is one too many and never one too few.
        sysroot.set_pinned(&booted.to_string(), true)?;
        if let Some(before) = memory.good.take().filter(|before| *before != booted) {
            match sysroot.set_pinned(&before.to_string(), false) {
                // A person has removed it.
                Err(SysrootError::DeploymentNotFound { .. }) => {}
                other => drop(other?),
            }
        }
        memory.good = Some(booted.clone());
        memory.rejected.remove(&booted.commit);
        memory.save(&self.memory)?;
        Ok(booted)
    }

    /// Says that what is running does not work: it is never taken again, and the next boot is the last good version's.
    ///
    /// # Errors
    /// Where no deployment is running, or there is nothing to go back to.
    pub fn give_up(&self) -> Result<DeploymentId, Error> {
        let sysroot = self.open()?;
        let booted = sysroot.booted()?.ok_or(Error::NotBooted)?;
        let mut memory = Memory::load(&self.memory)?;
        // First of all: a machine that falls back and then updates again to what failed does so for ever.
        memory.rejected.insert(booted.commit);
        memory.save(&self.memory)?;
        let to = memory.good.as_ref().map(ToString::to_string);
        let report = sysroot.rollback(to.as_deref(), self.progress.as_ref())?;
        if report.default == booted {
            return Err(Error::NothingGood(booted));
        }
        Ok(report.default)
    }
}
