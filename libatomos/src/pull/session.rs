//! A conversation with one remote: what is asked of it, and what it is known to have said.

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::names::RefName;
use crate::parallel::Budget;
use crate::progress::Progress;
use crate::remote::{
    OpenOptions, ProxyEnvironment, RemoteConfig, RemoteError, RemoteName, RemoteState, Source, SourceOptions,
    Traffic, open_mirrors, set_verified, unverified_commits,
};
use crate::repo::{ObjectKind, Reachable, Repo, RepoError};
use crate::site::{HistoryEntry, Record, Release};
use crate::transport::Transport;

use super::receive::BUDGET;
use super::run::Run;
use super::trust::{Selector, Trust};
use super::{PullError, PullReport, PulledRef};

/// How to talk to a remote.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// What the environment says of proxies.
    pub proxies: ProxyEnvironment,
    /// Connections at once; as the remote's configuration says where `None`.
    pub jobs: Option<usize>,
    /// Bytes per second; as the remote's configuration says where `None`.
    pub limit_rate: Option<u64>,
    /// The first wait after a failure; half a second where `None`.
    pub backoff: Option<std::time::Duration>,
    /// What time it is, in seconds since 1970; the system's clock where `None`.
    pub now: Option<i64>,
    /// A time that is surely past, such as when this program's system was built. A clock behind it is wrong.
    pub not_before: i64,
    /// Take what is older than what is here, or was withdrawn.
    pub allow_downgrade: bool,
    /// Believe a record that has expired: for updates that travelled by hand.
    pub accept_expired: bool,
}

/// A release of a ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The ref, as the remote calls it.
    pub reference: RefName,
    /// Which release.
    pub selector: Selector,
}

/// What to pull.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PullOptions {
    /// Plan, and stop there.
    pub dry_run: bool,
    /// Fetch only the files beneath this path. The ref does not move then: what it names must be whole.
    pub subpath: Option<String>,
    /// Stop before the first blob if more bytes than this are to come.
    pub max_bytes: Option<u64>,
    /// What is free in `/boot`. If the new version's kernel is not here and cannot fit, stop before the first blob.
    pub boot_available: Option<u64>,
    /// What runs, where that is not what the ref was here: barriers are judged by it.
    pub from: Option<CommitId>,
}

/// A conversation with one remote.
#[derive(Debug)]
pub struct Session<'a> {
    pub(super) repo: &'a Repo,
    pub(super) name: RemoteName,
    pub(super) config: RemoteConfig,
    state: RemoteState,
    source: Source<'a>,
    pub(super) options: SessionOptions,
}

impl<'a> Session<'a> {
    /// Opens the remote `name` of `repo`. Nothing is sent yet.
    pub fn open(
        repo: &'a Repo,
        name: &RemoteName,
        options: &SessionOptions,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Result<Self, PullError> {
        let config = RemoteConfig::load(repo, name)?;
        let open = OpenOptions {
            proxies: options.proxies.clone(),
            not_before: options.not_before,
            seen: RemoteState::load(repo, name)?.newest_time,
            cancel: cancel.clone(),
        };
        let mirrors = open_mirrors(&config, &open)?;
        Self::open_with(repo, name, mirrors, options, progress, cancel)
    }

    /// Opens the remote `name` of `repo`, with other transports than its configuration names: a bundle, a program's own.
    pub fn open_with(
        repo: &'a Repo,
        name: &RemoteName,
        mirrors: Vec<Box<dyn Transport>>,
        options: &SessionOptions,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Result<Self, PullError> {
        let config = RemoteConfig::load(repo, name)?;
        let state = RemoteState::load(repo, name)?;
        let mut source = SourceOptions::default();
        source.limit_rate = options.limit_rate.or(config.limit_rate);
        source.retries = config.retries.unwrap_or(source.retries);
        source.backoff = options.backoff.unwrap_or(source.backoff);
        Ok(Self {
            repo,
            name: name.clone(),
            source: Source::new(mirrors, source, progress, cancel),
            config,
            state,
            options: options.clone(),
        })
    }

    fn now(&self) -> i64 {
        let clock = self.options.now.unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |time| time.as_secs() as i64)
        });
        clock.max(self.options.not_before)
    }

    pub(super) const fn source(&self) -> &Source<'a> {
        &self.source
    }

    pub(super) const fn state(&self) -> &RemoteState {
        &self.state
    }

    /// Refuses to go on where other keys were given for the remote meanwhile, or it is gone.
    pub(super) fn check_keys(&self) -> Result<(), PullError> {
        self.state.check_pinned(self.repo, &self.name)?;
        Ok(())
    }

    /// Returns the newest record that was seen, as it was served.
    pub(super) fn record_text(&self, reference: &RefName) -> String {
        self.state
            .refs
            .get(reference)
            .map(|seen| seen.record.clone())
            .unwrap_or_default()
    }

    pub(super) fn trust(&self) -> Trust<'_> {
        Trust {
            name: &self.name,
            config: &self.config,
            source: &self.source,
            now: self.now(),
            allow_downgrade: self.options.allow_downgrade,
            accept_expired: self.options.accept_expired,
        }
    }

    /// Returns the remote's configuration.
    #[must_use]
    pub const fn config(&self) -> &RemoteConfig {
        &self.config
    }

    /// Returns what has been asked and what has come so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.source.traffic()
    }

    /// Asks for a ref's record: one request, which brings nothing where nothing changed. What was seen is remembered,
    /// durably, before this returns.
    pub fn look(&mut self, reference: &RefName) -> Result<Record, PullError> {
        let mut state = self.state.clone();
        let looked = self.trust().look(reference, &mut state);
        if state != self.state {
            self.state = match state.remember(self.repo, &self.name) {
                // Whoever only reads the repository can look all the same, as long as there is nothing new.
                Err(RemoteError::Repo(_)) if state.is_known_to(&self.state) => state,
                known => known?,
            };
        }
        looked
    }

    /// Returns the release to take of a ref, for whoever has `from`.
    pub fn choose(
        &self,
        record: &Record,
        selector: &Selector,
        from: Option<&CommitId>,
    ) -> Result<Release, PullError> {
        self.trust().choose(record, selector, from, &self.state)
    }

    /// Returns every release of a ref that the site knows, the newest first.
    pub fn history(&mut self, reference: &RefName) -> Result<(Record, Vec<HistoryEntry>), PullError> {
        let record = self.look(reference)?;
        let history = self.trust().history(&record, &self.state)?;
        Ok((record, history))
    }

    /// Returns what the ref names here.
    pub fn local(&self, reference: &RefName) -> Result<Option<CommitId>, PullError> {
        Ok(self.repo.ref_optional(&self.name.local_ref(reference)?)?)
    }

    /// Returns whether nothing is known to be missing of a commit that was pulled: neither itself nor its root, nor what a repair
    /// set aside and found no good copy of. The tree is walked only where there is such a thing, which may be another commit's: then
    /// it does not come from here.
    fn is_stored(&self, commit: &CommitId) -> Result<bool, PullError> {
        if !self.repo.has_object(ObjectKind::Commit, commit.digest())? {
            return Ok(false);
        }
        // To say of a damaged one what is wrong is for whoever looks at it.
        if let Ok(commit) = self.repo.load_commit(commit)
            && !self.repo.has_object(ObjectKind::DirTree, commit.root.digest())?
        {
            return Ok(false);
        }
        let lacking = self.repo.lacking_set_aside()?;
        if lacking.is_empty() {
            return Ok(true);
        }
        let mut reachable = Reachable::default();
        match reachable.add_commit(self.repo, commit, self.source.cancel()) {
            Err(RepoError::Cancelled(error)) => return Err(RepoError::Cancelled(error).into()),
            Err(_) => return Ok(false),
            Ok(()) => {}
        }
        Ok(!lacking.iter().any(|(kind, digest)| match kind {
            ObjectKind::Commit => commit.digest() == digest,
            ObjectKind::DirTree => reachable.dirtrees.contains(&DirTreeId::new(*digest)),
            ObjectKind::Blob => reachable.blobs.contains(&BlobId::new(*digest)),
        }))
    }

    /// Pulls releases. See [`pull`].
    pub fn pull(&mut self, wanted: &[Wanted], options: &PullOptions) -> Result<PullReport, PullError> {
        let mut report = PullReport {
            subpath: options.subpath.clone(),
            unverified: self.config.no_verify,
            ..PullReport::default()
        };
        let mut releases = Vec::new();
        for one in wanted {
            let record = self.look(&one.reference)?;
            let old = self.local(&one.reference)?;
            let name = self.name.local_ref(&one.reference)?;
            self.repo.check_can_move(&name)?;
            // What came when nobody vouched for it is looked at again by those who do now.
            let is_known = self.config.no_verify || !unverified_commits(self.repo)?.contains(&record.commit);
            let is_here =
                old == Some(record.commit) && options.subpath.is_none() && self.is_stored(&record.commit)?;
            if one.selector == Selector::Newest && is_here && is_known {
                report.refs.push(PulledRef {
                    name,
                    old,
                    commit: record.commit,
                    version: record.version,
                    number: record.number,
                    boot_bytes: 0,
                });
                continue;
            }
            let from = options.from.or(old);
            let release = self.choose(&record, &one.selector, from.as_ref())?;
            report.refs.push(PulledRef {
                name,
                old,
                commit: release.commit,
                version: release.version.clone(),
                number: release.number,
                boot_bytes: release.boot_bytes,
            });
            releases.push(release);
        }
        if releases.is_empty() {
            report.unchanged = true;
            report.traffic = self.source.traffic();
            return Ok(report);
        }
        let mut run = Run {
            session: self,
            options,
            budget: Budget::new(BUDGET),
            report: &mut report,
        };
        run.all(&releases)?;
        report.traffic = self.source.traffic();
        if !options.dry_run {
            for release in &releases {
                let seen = self.state.refs.entry(release.reference.clone()).or_default();
                seen.releases.insert(release.commit, release.number);
                if !self.config.no_verify {
                    set_verified(self.repo, &release.commit, true)?;
                }
            }
            self.state = self.state.remember(self.repo, &self.name)?;
        }
        Ok(report)
    }
}

/// Pulls releases from a remote. All refs (`remote:ref`) move when everything is here, or none does.
///
/// Takes the repository's shared lock. Durable on return.
pub fn pull(
    repo: &Repo,
    name: &RemoteName,
    wanted: &[Wanted],
    session: &SessionOptions,
    options: &PullOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<PullReport, PullError> {
    Session::open(repo, name, session, progress, cancel)?.pull(wanted, options)
}
