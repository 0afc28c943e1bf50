//! A pull from its plan to the move of its refs.

use std::collections::HashMap;

use crate::digest::{BlobId, CommitId};
use crate::parallel::Budget;
use crate::progress::{Event, Phase, PhaseGuard, Unit};
use crate::remote::set_verified;
use crate::repo::{ObjectKind, RefUpdate, RepoError, Transaction, name_unkept};
use crate::site::{Artifact, Manifest, Release, TreeTable};
use crate::transport::{TransportError, TransportErrorKind};

use super::fetch::{Failures, fetch};
use super::need::Need;
use super::plan::{Needs, Plan, PlanOptions};
use super::receive::Receiver;
use super::target::{Target, new_kernel, share};
use super::trust::read_artifact;
use super::{PullError, PullOptions, PullReport, Session};

/// Connections at once, unless the remote's configuration says otherwise.
pub(super) const JOBS: usize = 4;

/// Requests for blobs that a pull tries to stay under.
pub(super) const MAX_REQUESTS: usize = 48;

/// How often what could not be had is planned anew, another way.
pub(super) const MAX_PASSES: usize = 4;

/// One pull of several releases.
pub(super) struct Run<'r, 'a> {
    pub(super) session: &'r Session<'a>,
    pub(super) options: &'r PullOptions,
    pub(super) budget: Budget,
    pub(super) report: &'r mut PullReport,
}

/// Why blobs did not come.
enum Stopped {
    /// One is not to be had in any way that the manifest knows.
    Hopeless {
        error: Box<PullError>,
        /// A body that broke off, where nothing else was wrong: the network may be to blame.
        broke_off: Option<Box<TransportError>>,
    },
    Failed(PullError),
}

impl Stopped {
    fn of(error: PullError, failures: Failures) -> Self {
        match error {
            error @ PullError::BadObject { .. } => Self::Hopeless {
                error: Box::new(error),
                broke_off: failures.broke_off.filter(|_| !failures.is_damaged).map(Box::new),
            },
            error => Self::Failed(error),
        }
    }
}

impl From<PullError> for Stopped {
    fn from(error: PullError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopped> for PullError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Hopeless {
                broke_off: Some(error),
                ..
            } => (*error).into(),
            Stopped::Hopeless { error, .. } => *error,
            Stopped::Failed(error) => error,
        }
    }
}

/// Says where in the tree a file lies that cannot be kept here.
fn naming(error: PullError, target: &Target) -> PullError {
    let tree = &target.manifest.tree;
    match error {
        PullError::Repo(error) => name_unkept(error, tree, &tree.commit.root).into(),
        error => error,
    }
}

impl Run<'_, '_> {
    pub(super) fn all(&mut self, releases: &[Release]) -> Result<(), PullError> {
        let repo = self.session.repo;
        // From before anybody looks at what is here until a ref leads to it: a pruner in between would take some of it.
        let kept = match self.options.dry_run {
            true => None,
            false => Some(repo.lock_shared()?),
        };
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
        drop(kept);
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
        let total = plans.iter().map(Plan::frame_bytes).fold(0, u64::saturating_add);
        let phase = PhaseGuard::begin(
            self.session.source().progress(),
            Phase::Pull,
            Some(total),
            Unit::Bytes,
        );
        let mut hopeless = Vec::new();
        for (index, plan) in plans.into_iter().enumerate() {
            match self.fetch(&transaction, &targets[index], plan, &phase) {
                // It names less than the whole one: no image, and only what its base lacks.
                Err(Stopped::Hopeless { .. }) if targets[index].manifest.base.is_some() => {
                    hopeless.push(index);
                }
                fetched => fetched.map_err(|stopped| naming(stopped.into(), &targets[index]))?,
            }
        }
        drop(phase);
        for index in hopeless {
            targets[index] = self.whole(&releases[index])?;
            self.fetch_whole(&transaction, &targets[index])
                .map_err(|error| naming(error, &targets[index]))?;
        }
        for (target, release) in targets.iter().zip(releases) {
            self.finish(&transaction, target, release)
                .map_err(|error| naming(error, target))?;
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
        // Keys that a person took back while this ran must not move a ref.
        self.session.check_keys()?;
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
            self.session.source().cancel().check()?;
            if !repo.has_object(ObjectKind::Commit, relative.base.digest())? {
                continue;
            }
            // A base that lost a directory is none.
            let Ok(table) = TreeTable::encode(repo, &relative.base) else {
                continue;
            };
            let read = read_artifact(self.session.source(), Artifact::Manifest, &relative.file);
            let (bytes, url) = match read {
                Ok(read) => read,
                // A bundle has one of them; a site may have lost one, and has the whole one.
                Err(PullError::Transport(error)) if error.is_of_file() => {
                    if error.kind != TransportErrorKind::NotFound {
                        let text = format!("{error}; a larger manifest is taken instead");
                        self.session
                            .source()
                            .progress()
                            .report(Event::Warning { text: &text });
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
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
        self.whole(release)
    }

    /// Reads the manifest that serves everybody.
    fn whole(&self, release: &Release) -> Result<Target, PullError> {
        let read = read_artifact(self.session.source(), Artifact::Manifest, &release.manifest);
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
            self.session.source().cancel().check()?;
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
            request_cost: self.session.source().request_cost(),
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
    ) -> Result<(), Stopped> {
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
            let failed = fetch(self.session.source(), requests, &receiver, self.jobs(), phase)?;
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
            failures.is_damaged |= failed.is_damaged;
            failures.broke_off = failures.broke_off.or(failed.broke_off);
            requests = match self.plan_again(target, again, &failures) {
                Ok(plan) => plan.requests,
                Err(error) => return Err(Stopped::of(error, failures)),
            };
        }
        let blob = *failures
            .avoid
            .keys()
            .next()
            .expect("what was begun is thrown away once, and what fails again was fetched")
            .digest();
        let reason = failures.reason.clone().unwrap_or_default();
        Err(Stopped::of(PullError::BadObject { blob, reason }, failures))
    }

    /// Fetches what a manifest for one release could not bring, by the whole one. It must not cost more than was allowed.
    fn fetch_whole(&self, transaction: &Transaction<'_>, target: &Target) -> Result<(), PullError> {
        let plan = self.plan(target, &Failures::default())?;
        self.check_cost(&plan)?;
        let progress = self.session.source().progress();
        let phase = PhaseGuard::begin(progress, Phase::Pull, Some(plan.frame_bytes()), Unit::Bytes);
        Ok(self.fetch(transaction, target, plan, &phase)?)
    }

    fn check_cost(&self, plan: &Plan) -> Result<(), PullError> {
        let needed = self.session.source().traffic().bytes.saturating_add(plan.bytes);
        match self.options.max_bytes {
            Some(allowed) if needed > allowed => Err(PullError::TooManyBytes { needed, allowed }),
            _ => Ok(()),
        }
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
        self.check_cost(&plan)?;
        Ok(plan)
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
            self.session.source().cancel().check()?;
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
            self.session.source().progress().report(Event::Note { text });
        }
        Ok(())
    }
}
