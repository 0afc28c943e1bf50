//! Making a deployment.
//!
//! The order, each step durable before the next: a root record keeps the objects; the tree is checked out, or an image of it made, `/etc`
//! merged, `/var` seeded; what is new is read back from the disk; the marker says that all this is complete; the truth
//! names the deployment; `/boot` gets its kernel, and then the one new entry that switches to it; what nobody needs any
//! more goes last. An interruption before the truth changed leaves the machine where it was, and rubbish that the next
//! run removes; one after it is completed by the next run, or by `boot recover`.
//!
//! On a machine that is running, a deploy stops half-way, and shutdown does the rest: see [`super::stage`] and
//! [`super::finalize`]. The steps themselves are in [`super::build`].

use serde::Serialize;

use crate::boot::{KargsError, KernelArgs};
use crate::cancel::Cancel;
use crate::checkout::{CheckoutReport, checkout_from};
use crate::composefs::ImageReport;
use crate::etc_merge::{self, MergeInput, MergePlan, MergeReport, Policies};
use crate::format::Metadata;
use crate::fs::Dir;
use crate::names::StaterootName;
use crate::os_var::SeedReport;
use crate::progress::Progress;

use super::build::{Furnished, LaidOut};
use super::decide::{Decision, USR_ETC};
use super::read_back::ReadBackReport;
use super::root_kind::{RootKind, root_kind};
use super::skeleton::DerivedTree;
use super::staged::Terms;
use super::{DeploymentId, DeploymentState, Origin, State, Sysroot, SysrootError, SysrootLock, layout};

/// A change of kernel arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KargsChange {
    /// Add an argument at the end.
    Append(String),
    /// Add an argument unless it is there.
    AppendIfMissing(String),
    /// Remove `KEY` or `KEY=VALUE`.
    Delete(String),
    /// Replace: `KEY=NEW`, or `KEY=OLD=NEW`.
    Replace(String),
}

impl KargsChange {
    pub(super) fn apply(&self, kargs: &mut KernelArgs) -> Result<(), KargsError> {
        match self {
            Self::Append(arg) => kargs.append(arg),
            Self::AppendIfMissing(arg) => kargs.append_if_missing(arg).map(|_| ()),
            Self::Delete(spec) => kargs.delete(spec),
            Self::Replace(spec) => kargs.replace(spec),
        }
    }
}

/// How to deploy.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DeployOptions {
    /// The stateroot; the booted one, or the only one, where none is named.
    pub stateroot: Option<StaterootName>,
    /// What the deployment follows; the ref that was deployed, where the revision is one.
    pub origin: Option<Origin>,
    /// Changes to the kernel arguments, which are those of the deployment before.
    pub kargs: Vec<KargsChange>,
    /// Start from the defaults: take over neither `/etc` nor kernel arguments from the deployment before.
    pub no_merge: bool,
    /// Deployments of a stateroot that are kept besides pinned ones and the one that is running: the new one, and this
    /// many less one of those before it. What the machine's policy says, where none is given.
    pub keep: Option<usize>,
    /// When it takes the place of the one before.
    pub finish: Finish,
    /// Whether what is new is read back from the disk and compared.
    pub read_back: ReadBack,
    /// How often the loader may try the new deployment before it is given up, where its tree has health checks and there is
    /// something to go back to; 0 for as often as it likes, [`DEFAULT_TRIES`] where nothing is given.
    pub tries: Option<u32>,
}

/// How often a new deployment is tried where nobody says otherwise.
pub const DEFAULT_TRIES: u32 = 3;

/// When a deployment takes the place of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Finish {
    /// At shutdown, with the `/etc` of then, where a deployment is running that finishes staged ones at shutdown; at once
    /// anywhere else.
    #[default]
    AtShutdown,
    /// At once.
    Now,
}

/// Whether the files that a deployment has and the running one has not are read back from the disk, past the caches, and
/// compared with their digests before anything can boot them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ReadBack {
    /// On a machine that is running a deployment. An image under construction is checked when it is finished.
    #[default]
    WhereBooted,
    /// Always. Where no deployment is running, every file is read.
    Always,
    /// Never.
    Never,
}

/// What a deploy would do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DeployPreview {
    /// What would be made.
    pub deployment: DeploymentId,
    /// Its version.
    pub version: String,
    /// Whose `/etc` would be taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_from: Option<DeploymentId>,
    /// What the merge of `/etc` would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etc: Option<MergePlan>,
    /// Kernel arguments, without `atomos=`.
    pub kargs: String,
    /// What its root would be made of.
    pub root: RootKind,
    /// Whether it would be staged, to be finished at shutdown.
    pub staged: bool,
    /// What is staged now and would be given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<DeploymentId>,
    /// What would be removed when it is finished.
    pub removed: Vec<DeploymentId>,
}

/// What a deploy did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DeployReport {
    /// What was made. It is the default now, unless it is staged.
    pub deployment: DeploymentId,
    /// Whether it is staged: shutdown makes it the default.
    pub staged: bool,
    /// Its version.
    pub version: String,
    /// What was the default before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<DeploymentId>,
    /// Whose `/etc` was taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_from: Option<DeploymentId>,
    /// What the merge of `/etc` did; of a staged one, what a trial of it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etc: Option<MergeReport>,
    /// What its root is made of.
    pub root: RootKind,
    /// How the tree was checked out, or what of it is beside an image. Absent where that was done when it was staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkout: Option<CheckoutReport>,
    /// The image that is its root, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageReport>,
    /// What was read back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_back: Option<ReadBackReport>,
    /// What `/var` got; a staged one fills it when it is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub var: Option<SeedReport>,
    /// What was staged before and was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<DeploymentId>,
    /// What was removed.
    pub removed: Vec<DeploymentId>,
}

impl Sysroot {
    /// Says what deploying `rev` would do. Writes nothing but scratch files, which it removes. Takes the lock.
    pub fn preview_deploy(
        &self,
        rev: &str,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployPreview, SysrootError> {
        let _lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        let staged = self.usable_staged(&state)?;
        let decision = self.decide(rev, &state, staged.as_ref(), options)?;
        let etc = match &decision.merge_from {
            Some(from) => Some(self.preview_merge(&decision, from, progress, cancel)?),
            None => None,
        };
        // Without the trial, which leaves a mark beside the deployment.
        state.put_first(self.placeholder(&decision));
        let removed = self.retire(&mut state, &decision.id, options.keep, progress)?;
        Ok(DeployPreview {
            deployment: decision.id,
            version: decision.commit.version,
            merge_from: decision.merge_from,
            etc,
            kargs: decision.kargs.to_string(),
            root: decision.root,
            staged: self.stages(options.finish)?,
            discarded: staged.map(|staged| staged.deployment.id),
            removed,
        })
    }

    /// Deploys what `rev` names and makes it the default, at once or at shutdown. See the module's essay for the order.
    pub fn deploy(
        &self,
        rev: &str,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let deployed = self.deploy_unless(&|_| Ok(None), rev, options, progress, cancel)?;
        Ok(deployed.expect("nothing is done already"))
    }

    /// Deploys what `rev` names, unless `is_done` says of the truth, once nobody else changes it, which deployment has done that
    /// meanwhile; returns that in the place of the report.
    pub(super) fn deploy_unless(
        &self,
        is_done: &dyn Fn(&State) -> Result<Option<DeploymentId>, SysrootError>,
        rev: &str,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Result<DeployReport, DeploymentId>, SysrootError> {
        let lock = self.lock()?;
        let state = self.state_to_reorder()?;
        if let Some(done) = is_done(&state)? {
            return Ok(Err(done));
        }
        self.deploy_locked(&lock, state, rev, options, progress, cancel)
            .map(Ok)
    }

    fn deploy_locked(
        &self,
        lock: &SysrootLock,
        mut state: State,
        rev: &str,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let recorded = self.usable_staged(&state)?;
        let staged = self.staged_with_tree(&state)?;
        if recorded.is_some() && staged.is_none() {
            // Its name is free, and nothing of it may be taken for a part of what gets that name now.
            self.discard_staged(lock)?;
        }
        self.tidy_up(lock, &state, progress)?;
        let decision = self.decide(rev, &state, recorded.as_ref(), options)?;
        self.warn_of_rejection(&decision.id.commit, progress);
        if self.stages(options.finish)? {
            return self.stage(lock, &state, staged, &decision, options, progress, cancel);
        }
        let is_same = |id: &DeploymentId| -> Result<bool, SysrootError> {
            let same = (&id.stateroot, id.commit) == (&decision.id.stateroot, decision.id.commit);
            // Other kernel arguments may ask for a root of another kind.
            Ok(same && root_kind(&self.deployments_dir(&id.stateroot)?, id)? == decision.root)
        };
        let discarded = match staged {
            // Its tree is there already, and was read back.
            Some(mut staged) if is_same(&staged.deployment.id)? => {
                staged.adopt(&decision, options);
                decision.origin.save(
                    &self.deployments_dir(&decision.id.stateroot)?,
                    &staged.deployment.id,
                )?;
                return self.finish(lock, state, &staged, true, progress, cancel);
            }
            other => other.map(|staged| staged.deployment.id),
        };
        let built = match self.build(&decision, &state, options, progress, cancel) {
            Ok(built) => built,
            Err(error) => return Err(self.abandon(lock, &state, error)),
        };
        let previous = state.default_deployment().map(|deployment| deployment.id.clone());
        let deployment = DeploymentState {
            title: built.laid_out.title,
            bootcsum: built.laid_out.bootcsum.to_string(),
            ..self.placeholder(&decision)
        };
        let removed = self.succeed(&mut state, deployment, &Terms::new(options), progress)?;
        // Or shutdown would put it in the place of this one.
        self.discard_staged(lock)?;
        if let Err(error) = self.switch_to(lock, &state, progress) {
            return Err(match self.state() {
                Ok(state) => self.abandon(lock, &state, error),
                Err(_) => error,
            });
        }
        super::LastError::clear(&self.atomos)?;
        self.tidy_up(lock, &state, progress)?;
        Ok(DeployReport {
            deployment: decision.id,
            staged: false,
            version: decision.commit.version,
            previous,
            merge_from: decision.merge_from,
            etc: built.furnished.etc,
            root: decision.root,
            checkout: Some(built.laid_out.checkout),
            image: built.laid_out.image,
            read_back: built.read_back,
            var: Some(built.furnished.var),
            discarded,
            removed,
        })
    }

    /// Makes a new deployment the default in `state`, and lets go of what retention lets go of: whatever happens to a new
    /// default happens here, whether it is finished at once or at shutdown. Returns what was let go of.
    pub(super) fn succeed(
        &self,
        state: &mut State,
        deployment: DeploymentState,
        terms: &Terms,
        progress: &dyn Progress,
    ) -> Result<Vec<DeploymentId>, SysrootError> {
        let id = deployment.id.clone();
        state.put_first(deployment);
        let removed = self.retire(state, &id, terms.keep, progress)?;
        self.begin_trial(state, &id, terms.tries, progress)?;
        Ok(removed)
    }

    /// Removes what a failed deploy made. The failure is what the caller is told; what cannot be removed now is
    /// removed by the next run.
    pub(super) fn abandon(&self, lock: &SysrootLock, state: &State, error: SysrootError) -> SysrootError {
        // After a point where a test has stopped it, nothing is tidied up.
        if crate::failpoint::hit("deploy.abandon").is_ok() {
            let _ = self.remove_orphans(lock, state);
        }
        error
    }

    pub(super) fn placeholder(&self, decision: &Decision) -> DeploymentState {
        DeploymentState {
            id: decision.id.clone(),
            entry: 0,
            kargs: decision.kargs.to_string(),
            bootcsum: String::new(),
            title: String::new(),
            version: decision.commit.version.clone(),
            pinned: false,
            good: false,
            tries: None,
            fallback: None,
        }
    }

    fn build(
        &self,
        decision: &Decision,
        state: &State,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Built, SysrootError> {
        let from = decision.merge_from.as_ref();
        let furnish = |root: &Dir, deployments: &Dir| {
            self.furnish(&decision.id, from, root, deployments, progress, cancel)
        };
        let (laid_out, furnished) = self.lay_out(decision, state, progress, cancel, furnish)?;
        let read_back = self.read_back(decision, &laid_out, options.read_back, progress, cancel)?;
        self.complete(&decision.id, &laid_out.deployments)?;
        Ok(Built {
            laid_out,
            furnished,
            read_back,
        })
    }

    fn preview_merge(
        &self,
        decision: &Decision,
        from: &DeploymentId,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<MergePlan, SysrootError> {
        let _repo_lock = self.repo.lock_shared()?;
        self.atomos.remove_tree(layout::PREVIEW)?;
        let scratch = self.atomos.ensure_dir(layout::PREVIEW, 0o700)?;
        let (old, result);
        {
            // What a merge reads, and little else.
            let tree = DerivedTree::skeleton(&self.repo, decision.commit.root)?;
            checkout_from(
                &self.repo,
                &tree,
                &tree.root,
                &Metadata::with_mode(0o700),
                &scratch,
                &self.checkout_options(),
                progress,
                cancel,
            )?;
            old = self.deployment_dir(from)?;
            let (base, mine, theirs) = (
                old.open_dir(USR_ETC)?,
                old.open_dir("etc")?,
                scratch.open_dir(USR_ETC)?,
            );
            let policies = Policies::load(&scratch, Some(&mine))?;
            let input = MergeInput {
                base: &base,
                mine: &mine,
                theirs: &theirs,
                policies: &policies,
            };
            result = etc_merge::plan(&input, cancel);
        }
        self.atomos.remove_tree(layout::PREVIEW)?;
        Ok(result?)
    }
}

struct Built {
    laid_out: LaidOut,
    furnished: Furnished,
    read_back: Option<ReadBackReport>,
}
