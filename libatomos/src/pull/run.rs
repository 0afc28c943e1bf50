//! A pull from beginning to end.

use std::collections::HashMap;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId};
use crate::format::Node;
use crate::names::RefName;
use crate::parallel::Budget;
use crate::progress::{Event, Phase, PhaseGuard, Progress, Unit};
use crate::remote::{
    OpenOptions, ProxyEnvironment, RemoteConfig, RemoteName, RemoteState, Source, SourceOptions, Traffic,
    open_mirrors, set_verified, unverified_commits,
};
use crate::repo::{ObjectKind, RefUpdate, Repo, RepoError, Transaction, TransactionStats};
use crate::site::{Artifact, HistoryEntry, Manifest, Record, Release, TreeTable};
use crate::transport::{Transport, TransportErrorKind};

use super::PullError;
use super::fetch::{Failures, fetch};
use super::need::Need;
use super::plan::{Needs, Plan, PlanOptions};
use super::receive::{BUDGET, Receiver};
use super::trust::{Selector, Trust, read_artifact};

/// Connections at once, unless the remote's configuration says otherwise.
pub(super) const JOBS: usize = 4;

/// Requests for blobs that a pull tries to stay under.
pub(super) const MAX_REQUESTS: usize = 48;

/// How often what could not be had is planned anew, another way.
pub(super) const MAX_PASSES: usize = 4;

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

/// What became of one ref.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PulledRef {
    /// The ref here, `remote:ref`.
    pub name: RefName,
    /// What it named before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<CommitId>,
    /// What was pulled.
    pub commit: CommitId,
    /// Its version.
    pub version: String,
    /// Its release's number.
    pub number: u64,
    /// Bytes of kernel and initramfs, which a deployment puts into `/boot`.
    pub boot_bytes: u64,
}

/// What a pull did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PullReport {
    /// By ref.
    pub refs: Vec<PulledRef>,
    /// The path beneath which files were wanted, where not all were. No ref has moved then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subpath: Option<String>,
    /// Whether nothing was new.
    pub unchanged: bool,
    /// Whether nobody vouches for it: the remote is `no-verify`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// Requests for blobs that were planned.
    pub planned_requests: u64,
    /// Bytes of blobs, compressed, that were planned.
    pub planned_bytes: u64,
    /// Blobs that were missing, and were not staged by an interrupted pull.
    pub missing_blobs: u64,
    /// Bytes in them.
    pub missing_bytes: u64,
    /// Blobs made by patches.
    pub patched_blobs: u64,
    /// Bytes that patches saved.
    pub saved_by_patches: u64,
    /// What was asked and what came.
    pub traffic: Traffic,
    /// What was written.
    pub stored: TransactionStats,
}

/// A conversation with one remote.
#[derive(Debug)]
pub struct Session<'a> {
    repo: &'a Repo,
    name: RemoteName,
    config: RemoteConfig,
    state: RemoteState,
    source: Source<'a>,
    options: SessionOptions,
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
            self.state = state.remember(self.repo, &self.name)?;
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
            self.repo.check_is_no_alias(&name)?;
            // What came when nobody vouched for it is looked at again by those who do now.
            let is_known = self.config.no_verify || !unverified_commits(self.repo)?.contains(&record.commit);
            let is_here = old == Some(record.commit) && options.subpath.is_none();
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

/// A tree that is to be here, and what of it is not.
struct Target {
    manifest: Manifest,
    need: Need,
    /// With what is needed here, nothing of the tree is missing.
    is_whole: bool,
}

/// Returns the bytes of the smallest kernel in the tree, with its initramfs, if no kernel of the tree is here: so much at least
/// will be new in `/boot`.
fn new_kernel(target: &Target) -> Result<u64, PullError> {
    use crate::repo::TreeSource;
    let tree = &target.manifest.tree;
    let mut dir = tree.dirtree(&tree.commit.root)?;
    for part in ["usr", "lib", "modules"] {
        match dir.get(part.as_bytes()).map(|entry| &entry.node) {
            Some(Node::Dir { tree: id }) => dir = tree.dirtree(id)?,
            _ => return Ok(0),
        }
    }
    let mut smallest = None;
    for entry in dir.entries() {
        let Node::Dir { tree: id } = &entry.node else {
            continue;
        };
        let version = tree.dirtree(id)?;
        let (mut bytes, mut is_new) = (0u64, false);
        for name in ["vmlinuz", "initramfs.img"] {
            if let Some(Node::File { size, blob, .. }) = version.get(name.as_bytes()).map(|entry| &entry.node)
            {
                bytes = u64::saturating_add(bytes, *size);
                let index = target.manifest.blobs.index_of(blob);
                is_new |= index.is_some_and(|index| target.need.blobs.contains_key(&index));
            }
        }
        if bytes > 0 && !is_new {
            return Ok(0);
        }
        if bytes > 0 {
            smallest = Some(smallest.map_or(bytes, |least: u64| least.min(bytes)));
        }
    }
    Ok(smallest.unwrap_or(0))
}

struct Run<'r, 'a> {
    session: &'r Session<'a>,
    options: &'r PullOptions,
    budget: Budget,
    report: &'r mut PullReport,
}

/// What several releases need comes once, with the first of them.
fn share(targets: &mut [Target]) {
    let mut first: HashMap<BlobId, (usize, u32)> = HashMap::new();
    for at in 0..targets.len() {
        for index in targets[at].need.missing() {
            let id = targets[at].manifest.blobs.blobs()[index as usize].id;
            let Some((earlier, there)) = first.get(&id).copied() else {
                first.insert(id, (at, index));
                continue;
            };
            let inodes = targets[at].need.blobs.remove(&index).unwrap_or_default();
            let into = targets[earlier].need.blobs.entry(there).or_default();
            for inode in inodes {
                if !into.contains(&inode) {
                    into.push(inode);
                }
            }
        }
    }
}

impl Run<'_, '_> {
    fn all(&mut self, releases: &[Release]) -> Result<(), PullError> {
        let repo = self.session.repo;
        let mut targets = Vec::new();
        for release in releases {
            targets.push(self.target(release)?);
        }
        if self.options.dry_run {
            share(&mut targets);
            for target in &targets {
                let plan = self.plan(target, &Failures::default())?;
                self.count(target, &plan);
            }
            return Ok(());
        }
        let transaction = repo.begin()?;
        for target in &mut targets {
            self.take_staged(&transaction, target)?;
        }
        share(&mut targets);
        // Every plan is made, and checked, before the first blob is asked for.
        let mut plans = Vec::new();
        for target in &targets {
            let plan = self.plan(target, &Failures::default())?;
            self.count(target, &plan);
            plans.push(plan);
        }
        self.check_limits(&targets)?;
        let phase = PhaseGuard::begin(
            self.session.source.progress(),
            Phase::Pull,
            Some(self.report.planned_bytes),
            Unit::Bytes,
        );
        for (target, plan) in targets.iter().zip(plans) {
            self.fetch(&transaction, target, plan, &phase)?;
        }
        drop(phase);
        for (target, release) in targets.iter().zip(releases) {
            self.finish(&transaction, target, release)?;
        }
        // Before the commits can be seen.
        if let Some(path) = &self.options.subpath {
            for target in targets.iter().filter(|target| !target.is_whole) {
                repo.note_partial(&target.manifest.tree.id, path)?;
            }
        }
        if self.session.config.no_verify {
            for release in releases {
                set_verified(repo, &release.commit, false)?;
            }
        }
        crate::failpoint::hit("pull.marked")?;
        self.report.stored = transaction.commit()?;
        crate::failpoint::hit("pull.committed")?;
        let whole = |target: &&Target| self.options.subpath.is_none() || target.is_whole;
        let whole: Vec<CommitId> = targets
            .iter()
            .filter(whole)
            .map(|target| target.manifest.tree.id)
            .collect();
        repo.forget_partial(|commit| whole.contains(commit))?;
        Ok(())
    }

    /// Reads the smallest manifest that says all that has to be known.
    fn target(&self, release: &Release) -> Result<Target, PullError> {
        let repo = self.session.repo;
        for relative in &release.manifests {
            self.session.source.cancel().check()?;
            if !repo.has_object(ObjectKind::Commit, relative.base.digest())? {
                continue;
            }
            // A base that lost a directory is none.
            let Ok(table) = TreeTable::encode(repo, &relative.base) else {
                continue;
            };
            let (bytes, url) = read_artifact(&self.session.source, Artifact::Manifest, &relative.file)?;
            let manifest = match Manifest::decode(&bytes, &release.commit, &table) {
                Ok(manifest) => manifest,
                Err(source) => return Err(PullError::Site { url, source }),
            };
            let target = self.need(release, manifest)?;
            let plan_is_complete = self.try_plan(&target, &Failures::default())?.is_ok();
            if plan_is_complete {
                return Ok(target);
            }
            break;
        }
        let read = read_artifact(&self.session.source, Artifact::Manifest, &release.manifest);
        let (bytes, url) = read.map_err(|error| match error {
            PullError::Transport(source) if source.kind == TransportErrorKind::NotFound => PullError::Gone {
                reference: release.reference.clone(),
                version: release.version.clone(),
                number: release.number,
                source: Box::new(source),
            },
            error => error,
        })?;
        let manifest = Manifest::decode(&bytes, &release.commit, &[])
            .map_err(|source| PullError::Site { url, source })?;
        self.need(release, manifest)
    }

    fn need(&self, release: &Release, manifest: Manifest) -> Result<Target, PullError> {
        let path = self.options.subpath.as_deref();
        let need = Need::of(self.session.repo, &manifest.tree, &manifest.blobs, path)?;
        let need = need.ok_or_else(|| PullError::NoSubpath {
            path: path.unwrap_or_default().to_owned(),
            reference: release.reference.clone(),
        })?;
        // All of it may be here already, or be brought by this path.
        let is_whole = match path {
            None => true,
            Some(_) => Need::of(self.session.repo, &manifest.tree, &manifest.blobs, None)?
                .is_some_and(|all| all.len() == need.len()),
        };
        Ok(Target {
            manifest,
            need,
            is_whole,
        })
    }

    /// Takes what an interrupted pull staged, once it is verified.
    fn take_staged(&self, transaction: &Transaction<'_>, target: &mut Target) -> Result<(), PullError> {
        if !transaction.has_adopted() {
            return Ok(());
        }
        for index in target.need.missing() {
            self.session.source.cancel().check()?;
            let blob = target.manifest.blobs.blobs()[index as usize];
            let inodes = &target.need.blobs[&index];
            if transaction.take_staged(&blob.id, blob.size, inodes)? {
                target.need.blobs.remove(&index);
                continue;
            }
            let begun = transaction.partial_len(&blob.id)?;
            if begun > 0 {
                target.need.begun.insert(index, begun);
            }
        }
        Ok(())
    }

    fn plan_options(&self) -> PlanOptions {
        PlanOptions {
            request_cost: self.session.source.request_cost(),
            max_requests: MAX_REQUESTS,
            jobs: self.jobs(),
        }
    }

    fn jobs(&self) -> usize {
        self.session
            .options
            .jobs
            .or(self.session.config.jobs)
            .unwrap_or(JOBS)
    }

    fn try_plan(&self, target: &Target, failures: &Failures) -> Result<Result<Plan, u32>, PullError> {
        let missing = target.need.missing();
        let index = &target.manifest.index;
        let bases = if index.patches.is_empty() || missing.is_empty() {
            HashMap::new()
        } else {
            self.bases()?
        };
        Ok(Needs {
            blobs: &target.manifest.blobs,
            index,
            missing: &missing,
            bases: &bases,
            begun: &target.need.begun,
            avoid: &failures.avoid,
        }
        .plan(&self.plan_options()))
    }

    fn plan(&self, target: &Target, failures: &Failures) -> Result<Plan, PullError> {
        self.try_plan(target, failures)?
            .map_err(|index| PullError::BadObject {
                blob: *target.manifest.blobs.blobs()[index as usize].id.digest(),
                reason: failures
                    .reason
                    .clone()
                    .unwrap_or_else(|| "the manifest does not say where it is".to_owned()),
            })
    }

    /// Every blob that is here may be a patch's base.
    fn bases(&self) -> Result<HashMap<[u8; 8], BlobId>, PullError> {
        let mut bases = HashMap::new();
        self.session.repo.for_each_blob(&mut |id| {
            let mut prefix = [0; 8];
            prefix.copy_from_slice(&id.digest().as_bytes()[..8]);
            bases.insert(prefix, id);
        })?;
        Ok(bases)
    }

    fn count(&mut self, target: &Target, plan: &Plan) {
        self.report.planned_requests += plan.requests.len() as u64;
        self.report.planned_bytes += plan.bytes;
        self.report.missing_blobs += target.need.blobs.len() as u64;
        self.report.missing_bytes = target
            .need
            .missing()
            .into_iter()
            .map(|index| target.manifest.blobs.size(index))
            .fold(self.report.missing_bytes, u64::saturating_add);
        self.report.patched_blobs += plan.patched;
        self.report.saved_by_patches += plan.saved;
    }

    /// Refuses before the first blob what could not be finished.
    fn check_limits(&self, targets: &[Target]) -> Result<(), PullError> {
        if let Some(allowed) = self
            .options
            .max_bytes
            .filter(|most| self.report.planned_bytes > *most)
        {
            return Err(PullError::TooManyBytes {
                needed: self.report.planned_bytes,
                allowed,
            });
        }
        if let Some(available) = self.options.boot_available {
            for target in targets {
                let needed = new_kernel(target)?;
                if needed > available {
                    return Err(PullError::NoBootSpace { needed, available });
                }
            }
        }
        let needed = targets
            .iter()
            .map(|target| target.need.bytes(&target.manifest.blobs))
            .fold(0, u64::saturating_add);
        let available = self.session.repo.dir().available_space()?;
        if needed > available {
            return Err(PullError::NoSpace { needed, available });
        }
        self.session.repo.check_room(needed)?;
        Ok(())
    }

    fn fetch(
        &self,
        transaction: &Transaction<'_>,
        target: &Target,
        plan: Plan,
        phase: &PhaseGuard<'_>,
    ) -> Result<(), PullError> {
        let mut receiver = Receiver {
            repo: self.session.repo,
            transaction,
            blobs: &target.manifest.blobs,
            wanted: &target.need.blobs,
            begun: &target.need.begun,
            budget: &self.budget,
        };
        let nothing = HashMap::new();
        let mut requests = plan.requests;
        let mut failures = Failures::default();
        for _ in 0..MAX_PASSES {
            let failed = fetch(&self.session.source, requests, &receiver, self.jobs(), phase)?;
            if failed.avoid.is_empty() && failed.stale.is_empty() {
                return Ok(());
            }
            receiver.begun = &nothing;
            let mut again: Vec<u32> = failed
                .avoid
                .keys()
                .filter_map(|id| target.manifest.blobs.index_of(id))
                .chain(failed.stale)
                .collect();
            again.sort_unstable();
            again.dedup();
            for (id, kinds) in failed.avoid {
                failures.avoid.entry(id).or_default().extend(kinds);
            }
            failures.reason = failed.reason;
            requests = self.plan_again(target, again, &failures)?.requests;
        }
        Err(PullError::BadObject {
            blob: *failures
                .avoid
                .keys()
                .next()
                .expect("what was begun is thrown away once, and what fails again was fetched")
                .digest(),
            reason: failures.reason.unwrap_or_default(),
        })
    }

    /// Plans what could not be had, another way. It must not cost more than was allowed.
    fn plan_again(&self, target: &Target, missing: Vec<u32>, failures: &Failures) -> Result<Plan, PullError> {
        let bases = self.bases()?;
        let plan = Needs {
            blobs: &target.manifest.blobs,
            index: &target.manifest.index,
            missing: &missing,
            bases: &bases,
            // What was begun may be what failed.
            begun: &HashMap::new(),
            avoid: &failures.avoid,
        }
        .plan(&self.plan_options())
        .map_err(|index| PullError::BadObject {
            blob: *target.manifest.blobs.blobs()[index as usize].id.digest(),
            reason: failures.reason.clone().unwrap_or_default(),
        })?;
        let needed = self.session.source.traffic().bytes + plan.bytes;
        match self.options.max_bytes {
            Some(allowed) if needed > allowed => Err(PullError::TooManyBytes { needed, allowed }),
            _ => Ok(plan),
        }
    }

    /// Makes the inodes whose bytes are here, stores directories and the commit, and has the ref move with them.
    fn finish(
        &self,
        transaction: &Transaction<'_>,
        target: &Target,
        release: &Release,
    ) -> Result<(), PullError> {
        for metadata in &target.need.empty {
            transaction.store_bytes(&[], metadata)?;
        }
        for (blob, size, metadata) in &target.need.variants {
            self.session.source.cancel().check()?;
            let file = self.session.repo.open_blob(blob)?;
            let path = std::path::Path::new("objects").join(crate::repo::object_path(blob.digest()));
            let stored = transaction.store_file(&file, &path, metadata)?;
            if stored.id != *blob || stored.size != *size {
                return Err(RepoError::ObjectDamaged {
                    kind: ObjectKind::Blob,
                    digest: *blob.digest(),
                    reason: format!("its bytes have the digest {}", stored.id),
                }
                .into());
            }
        }
        for (_, tree) in target.manifest.tree.trees() {
            transaction.store_dirtree(tree)?;
        }
        transaction.store_commit(&target.manifest.tree.commit)?;
        if self.options.subpath.is_none() {
            transaction.set_ref(RefUpdate {
                name: self.session.name.local_ref(&release.reference)?,
                expected: None,
                new: Some(release.commit),
            });
        } else {
            let text = "only a part of the tree was asked for, so the ref stays as it was";
            self.session.source.progress().report(Event::Note { text });
        }
        Ok(())
    }
}
