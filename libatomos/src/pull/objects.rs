//! Single objects of a site, for repairing.
//!
//! A damaged object's name is its digest, so nobody has to vouch for what replaces it: signatures, expiry and the order of
//! versions do not matter here, and nothing that a site says of itself is remembered. Blobs come into a small repository
//! of their own first, in `tmp/`, and are taken from there.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::cancel::Cancel;
use crate::digest::{BlobId, CommitId, DirTreeId};
use crate::format::Metadata;
use crate::fs::FileLock;
use crate::names::RefName;
use crate::parallel::Budget;
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::remote::{
    OpenOptions, RemoteConfig, RemoteName, RemoteState, Source, SourceOptions, open_mirrors,
};
use crate::repo::{
    Candidate, ObjectKind, RepairSource, Repo, RepoError, RepoMode, SourceError, Take, TreeSource,
    WantedObject,
};
use crate::site::{Artifact, FileRef, HistoryEntry, Manifest};

use super::fetch::{Failures, fetch};
use super::plan::{Needs, PlanOptions};
use super::receive::{BUDGET, Receiver};
use super::run::{JOBS, MAX_PASSES, MAX_REQUESTS};
use super::trust::{Trust, read_artifact};
use super::{PullError, SessionOptions};

/// A site that objects can be taken from.
#[derive(Debug)]
pub struct SiteObjects<'a> {
    repo: &'a Repo,
    label: String,
    /// For messages, and to tell the remote's refs by.
    name: RemoteName,
    config: RemoteConfig,
    source: Source<'a>,
    jobs: usize,
    releases: HashMap<RefName, Vec<HistoryEntry>>,
    manifests: HashMap<CommitId, Option<Manifest>>,
    /// Why the first of the refs that could not be looked at could not. Some servers deny what is not there.
    failed: Option<PullError>,
}

impl<'a> SiteObjects<'a> {
    /// Opens a site, which a person calls `label`. Nothing is sent yet. `name` is that of the remote, where it is one.
    pub fn open(
        repo: &'a Repo,
        label: impl Into<String>,
        name: &RemoteName,
        config: RemoteConfig,
        options: &SessionOptions,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Result<Self, PullError> {
        let open = OpenOptions {
            proxies: options.proxies.clone(),
            not_before: options.not_before,
            seen: RemoteState::load(repo, name).map_or(0, |state| state.newest_time),
            cancel: cancel.clone(),
        };
        let mirrors = open_mirrors(&config, &open)?;
        let mut source = SourceOptions::default();
        source.limit_rate = options.limit_rate.or(config.limit_rate);
        source.retries = config.retries.unwrap_or(source.retries);
        source.backoff = options.backoff.unwrap_or(source.backoff);
        let jobs = options.jobs.or(config.jobs).unwrap_or(JOBS);
        Ok(Self {
            repo,
            label: label.into(),
            name: name.clone(),
            source: Source::new(mirrors, source, progress, cancel),
            config: RemoteConfig {
                no_verify: true,
                ..config
            },
            jobs,
            releases: HashMap::new(),
            manifests: HashMap::new(),
            failed: None,
        })
    }

    fn trust(&self) -> Trust<'_> {
        Trust {
            name: &self.name,
            config: &self.config,
            source: &self.source,
            now: 0,
            allow_downgrade: true,
            accept_expired: true,
        }
    }

    /// Refs of the site that may have the object: those that lead to it here, then every other that is known here.
    fn refs(&self, roots: &[String]) -> Result<Vec<RefName>, PullError> {
        let mut refs: Vec<RefName> = Vec::new();
        let mut add = |text: &str| {
            let text = text.split_once(':').map_or(text, |(_, name)| name);
            if let Ok(name) = text.parse::<RefName>()
                && !refs.contains(&name)
            {
                refs.push(name);
            }
        };
        for root in roots {
            if let Some(name) = root.strip_prefix("ref ") {
                add(name);
            }
        }
        for name in self.repo.refs()?.keys() {
            add(name.as_str());
        }
        if let Ok(state) = RemoteState::load(self.repo, &self.name) {
            state.refs.keys().for_each(|name| add(name.as_str()));
        }
        Ok(refs)
    }

    /// Returns the manifest of a commit; `None` where no ref of the site has such a release.
    fn load_manifest(&mut self, commit: &CommitId, roots: &[String]) -> Result<(), PullError> {
        if self.manifests.contains_key(commit) {
            return Ok(());
        }
        let mut found = None;
        for reference in self.refs(roots)? {
            self.source.cancel().check()?;
            if !self.releases.contains_key(&reference) {
                let history = self.history(&reference);
                let history = self.unless_of_ref(history)?.unwrap_or_default();
                self.releases.insert(reference.clone(), history);
            }
            let entry = self.releases[&reference]
                .iter()
                .find(|entry| entry.commit == *commit);
            let Some(entry) = entry else { continue };
            let manifest = self.manifest(commit, &entry.release);
            let Some(manifest) = self.unless_of_ref(manifest)? else {
                continue;
            };
            found = Some(manifest);
            break;
        }
        self.manifests.insert(*commit, found);
        Ok(())
    }

    fn history(&self, reference: &RefName) -> Result<Vec<HistoryEntry>, PullError> {
        match self.trust().look(reference, &mut RemoteState::default()) {
            Ok(record) => self.trust().history(&record, &RemoteState::default()),
            Err(PullError::NoSuchRef { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn manifest(&self, commit: &CommitId, release: &FileRef) -> Result<Manifest, PullError> {
        let release = self.trust().old_release(release)?;
        let (bytes, url) = read_artifact(&self.source, Artifact::Manifest, &release.manifest)?;
        Manifest::decode(&bytes, commit, &[]).map_err(|source| PullError::Site { url, source })
    }

    /// Takes what is wrong with one ref's files for nothing, and remembers the first of it: other refs may have the object.
    fn unless_of_ref<T>(&mut self, result: Result<T, PullError>) -> Result<Option<T>, PullError> {
        use crate::error::ErrorKind::{Corrupt, Denied, NotFound, Untrusted};
        match result {
            Err(error) if matches!(error.kind(), Corrupt | Denied | NotFound | Untrusted) => {
                self.failed.get_or_insert(error);
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Finds a manifest that has the object, and returns its commit.
    fn find(&mut self, object: &WantedObject) -> Result<Option<CommitId>, PullError> {
        for commit in &object.commits {
            self.load_manifest(commit, &object.roots)?;
            let has = self.manifests[commit].as_ref().is_some_and(|manifest| {
                let id = object.digest;
                match object.kind {
                    ObjectKind::Commit => *commit.digest() == id,
                    ObjectKind::DirTree => manifest.tree.dirtree(&DirTreeId::new(id)).is_ok(),
                    ObjectKind::Blob => manifest.blobs.index_of(&BlobId::new(id)).is_some(),
                }
            });
            if has {
                return Ok(Some(*commit));
            }
        }
        Ok(None)
    }

    fn offer_all(&mut self, wanted: &[WantedObject], take: &mut Take<'_>) -> Result<(), Stopped> {
        let mut blobs: HashMap<CommitId, Vec<usize>> = HashMap::new();
        let mut is_any_here = false;
        for (index, object) in wanted.iter().enumerate() {
            let Some(commit) = self.find(object)? else {
                continue;
            };
            is_any_here = true;
            let manifest = self.manifests[&commit].as_ref().expect("it has the object");
            let encoded = match object.kind {
                ObjectKind::Commit => manifest.tree.commit.encode().map(|(_, bytes)| bytes),
                ObjectKind::DirTree => {
                    let tree = manifest.tree.dirtree(&DirTreeId::new(object.digest));
                    tree.map_err(PullError::from)?.encode().map(|(_, bytes)| bytes)
                }
                ObjectKind::Blob => {
                    blobs.entry(commit).or_default().push(index);
                    continue;
                }
            };
            if let Ok(bytes) = encoded {
                take(index, Candidate::Bytes(bytes)).map_err(|_| Stopped::Aborted)?;
            }
        }
        if let Some(error) = self.failed.take_if(|_| !is_any_here) {
            return Err(error.into());
        }
        if blobs.is_empty() {
            return Ok(());
        }
        let scratch = Scratch::make(self.repo).map_err(PullError::from)?;
        for (commit, indices) in blobs {
            let manifest = self.manifests[&commit].as_ref().expect("it has the objects");
            let ids: Vec<BlobId> = indices
                .iter()
                .map(|index| BlobId::new(wanted[*index].digest))
                .collect();
            let fetched = self.fetch(manifest, &ids, &scratch.repo);
            // What came before it failed is good.
            for (index, id) in indices.iter().zip(&ids) {
                if let Ok(file) = scratch.repo.open_blob(id) {
                    let path = crate::repo::object_path(id.digest()).into();
                    take(*index, Candidate::File(file, path)).map_err(|_| Stopped::Aborted)?;
                }
            }
            fetched?;
        }
        Ok(())
    }

    /// Brings blobs into `scratch`. What no mirror has a good copy of does not come.
    fn fetch(&self, manifest: &Manifest, ids: &[BlobId], scratch: &Repo) -> Result<(), PullError> {
        let indices: BTreeSet<u32> = ids.iter().filter_map(|id| manifest.blobs.index_of(id)).collect();
        let mut missing: Vec<u32> = indices.into_iter().collect();
        let wanted: HashMap<u32, Vec<Metadata>> = missing
            .iter()
            .map(|index| (*index, vec![Metadata::with_mode(0o644)]))
            .collect();
        let (bases, begun, budget) = (HashMap::new(), HashMap::new(), Budget::new(BUDGET));
        let transaction = scratch.begin()?;
        let receiver = Receiver {
            repo: scratch,
            transaction: &transaction,
            blobs: &manifest.blobs,
            wanted: &wanted,
            begun: &begun,
            budget: &budget,
        };
        let options = PlanOptions {
            request_cost: self.source.request_cost(),
            max_requests: MAX_REQUESTS,
            jobs: self.jobs,
        };
        let mut failures = Failures::default();
        let mut outcome = Ok(());
        for _ in 0..MAX_PASSES {
            let plan = loop {
                let needs = Needs {
                    blobs: &manifest.blobs,
                    index: &manifest.index,
                    missing: &missing,
                    // What is here is damaged, perhaps: whole copies are asked for.
                    bases: &bases,
                    begun: &begun,
                    avoid: &failures.avoid,
                };
                match needs.plan(&options) {
                    Ok(plan) => break plan,
                    Err(hopeless) => missing.retain(|index| *index != hopeless),
                }
            };
            if plan.requests.is_empty() {
                break;
            }
            let total = Some(plan.frame_bytes());
            let phase = PhaseGuard::begin(self.source.progress(), Phase::Pull, total, Unit::Bytes);
            match fetch(&self.source, plan.requests, &receiver, self.jobs, &phase) {
                Ok(failed) => {
                    let again: HashSet<u32> = failed
                        .avoid
                        .keys()
                        .filter_map(|id| manifest.blobs.index_of(id))
                        .chain(failed.stale)
                        .collect();
                    missing.retain(|index| again.contains(index));
                    for (id, kinds) in failed.avoid {
                        failures.avoid.entry(id).or_default().extend(kinds);
                    }
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            if missing.is_empty() {
                break;
            }
        }
        // A transaction that failed to store something keeps all of it to itself.
        transaction.commit()?;
        outcome
    }
}

/// Why asking ended.
enum Stopped {
    Aborted,
    Failed(PullError),
}

impl From<PullError> for Stopped {
    fn from(error: PullError) -> Self {
        Self::Failed(error)
    }
}

impl RepairSource for SiteObjects<'_> {
    fn name(&self) -> String {
        self.label.clone()
    }

    fn offer(
        &mut self,
        wanted: &[WantedObject],
        take: &mut Take<'_>,
        _cancel: &Cancel,
    ) -> Result<(), SourceError> {
        self.offer_all(wanted, take).map_err(|stopped| match stopped {
            Stopped::Aborted => SourceError::Aborted,
            Stopped::Failed(error) => SourceError::failed(&error),
        })
    }
}

/// A repository that goes when it is dropped. Its lock keeps a pruner away; one that was left is removed by the next.
struct Scratch<'a> {
    target: &'a Repo,
    name: String,
    repo: Repo,
    _owner: FileLock,
}

impl<'a> Scratch<'a> {
    fn make(target: &'a Repo) -> Result<Self, RepoError> {
        let tmp = target.dir().ensure_dir("tmp", 0o700)?;
        loop {
            let name = format!("repair-{}", crate::repo::random_hex(8)?);
            tmp.create_dir(&name, 0o700)?;
            let dir = tmp.open_dir(&name)?;
            // A pruner may just be looking at it; then it is gone in a moment.
            if let Some(owner) = FileLock::try_acquire_dir(&dir)? {
                return Ok(Self {
                    target,
                    name,
                    repo: Repo::init_at(dir, RepoMode::BareUser)?,
                    _owner: owner,
                });
            }
        }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What cannot be removed now, the next prune removes.
        if let Ok(Some(tmp)) = self.target.dir().open_dir_optional("tmp") {
            let _ = tmp.remove_tree(&self.name);
        }
    }
}
