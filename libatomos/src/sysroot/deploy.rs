//! Making a deployment.
//!
//! The order, each step durable before the next: a root record keeps the objects; the tree is checked out, `/etc`
//! merged, `/var` seeded; the marker says that all this is complete; the truth names the deployment; `/boot` gets its
//! kernel, and then the one new entry that switches to it; what nobody needs any more goes last. An interruption
//! before the truth changed leaves the machine where it was, and rubbish that the next run removes; one after it is
//! completed by the next run, or by `boot recover`.

use std::ffi::OsStr;

use serde::Serialize;

use crate::boot::{KargsError, KernelArgs};
use crate::cancel::Cancel;
use crate::checkout::{CheckoutOptions, CheckoutReport, LinkMode, Ownership, checkout, checkout_into};
use crate::digest::CommitId;
use crate::etc_merge::{self, AccountsLock, MergeInput, MergePlan, MergeReport, Policies};
use crate::format::{Commit, Node};
use crate::fs::{Dir, copy_tree};
use crate::names::{RefName, StaterootName};
use crate::os_var::{SeedReport, seed_var};
use crate::progress::{Event, Progress};
use crate::repo::{Located, RepoMode, RootRecord};

use super::os_release::pretty_name;
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
#[derive(Debug, Clone)]
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
    /// many less one of those before it.
    pub keep: usize,
}

impl Default for DeployOptions {
    fn default() -> Self {
        Self {
            stateroot: None,
            origin: None,
            kargs: Vec::new(),
            no_merge: false,
            keep: 2,
        }
    }
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
    /// What would be removed afterwards.
    pub removed: Vec<DeploymentId>,
}

/// What a deploy did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DeployReport {
    /// What was made. It is the default now.
    pub deployment: DeploymentId,
    /// Its version.
    pub version: String,
    /// What was the default before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<DeploymentId>,
    /// Whose `/etc` was taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_from: Option<DeploymentId>,
    /// What the merge of `/etc` did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etc: Option<MergeReport>,
    /// How the tree was checked out.
    pub checkout: CheckoutReport,
    /// What `/var` got.
    pub var: SeedReport,
    /// What was removed.
    pub removed: Vec<DeploymentId>,
}

/// What is decided before anything is written.
struct Decision {
    id: DeploymentId,
    commit: Commit,
    origin: Origin,
    merge_from: Option<DeploymentId>,
    kargs: KernelArgs,
}

/// Where the tree has its default configuration.
const USR_ETC: &str = "usr/etc";

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
        let decision = self.decide(rev, &state, options)?;
        let etc = match &decision.merge_from {
            Some(from) => Some(self.preview_merge(&decision, from, progress, cancel)?),
            None => None,
        };
        state.put_first(self.placeholder(&decision));
        let removed = self.retire(&mut state, &decision.id, options)?;
        Ok(DeployPreview {
            deployment: decision.id,
            version: decision.commit.version,
            merge_from: decision.merge_from,
            etc,
            kargs: decision.kargs.to_string(),
            removed,
        })
    }

    /// Deploys what `rev` names and makes it the default. See the module's essay for the order.
    pub fn deploy(
        &self,
        rev: &str,
        options: &DeployOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<DeployReport, SysrootError> {
        let lock = self.lock()?;
        let mut state = self.state_to_reorder()?;
        self.remove_orphans(&lock, &state)?;
        let decision = self.decide(rev, &state, options)?;
        let built = self.build(&decision, &state, progress, cancel);
        let built = match built {
            Ok(built) => built,
            Err(error) => return Err(self.abandon(&lock, &state, error)),
        };
        let previous = state.deployments.first().map(|deployment| deployment.id.clone());
        state.put_first(DeploymentState {
            title: built.title,
            bootcsum: built.bootcsum,
            ..self.placeholder(&decision)
        });
        let removed = self.retire(&mut state, &decision.id, options)?;
        if let Err(error) = self.switch_to(&lock, &state, progress) {
            return Err(match self.state() {
                Ok(state) => self.abandon(&lock, &state, error),
                Err(_) => error,
            });
        }
        self.remove_orphans(&lock, &state)?;
        Ok(DeployReport {
            deployment: decision.id,
            version: decision.commit.version,
            previous,
            merge_from: decision.merge_from,
            etc: built.etc,
            checkout: built.checkout,
            var: built.var,
            removed,
        })
    }

    /// Removes what a failed deploy made. The failure is what the caller is told; what cannot be removed now is
    /// removed by the next run.
    fn abandon(&self, lock: &SysrootLock, state: &State, error: SysrootError) -> SysrootError {
        if !matches!(error, SysrootError::Failpoint(_)) {
            let _ = self.remove_orphans(lock, state);
        }
        error
    }

    fn decide(&self, rev: &str, state: &State, options: &DeployOptions) -> Result<Decision, SysrootError> {
        let commit_id = self.repo.resolve_commit(rev)?;
        let commit = self.repo.load_commit(&commit_id)?;
        self.check_shape(&commit_id, &commit)?;
        let booted = self.booted()?;
        let stateroot = match (&options.stateroot, &booted, self.stateroots()?.as_slice()) {
            (Some(name), _, _) => name.clone(),
            (None, Some(booted), _) => booted.stateroot.clone(),
            (None, None, [only]) => only.clone(),
            (None, None, many) => {
                return Err(SysrootError::StaterootNotNamed {
                    count: many.len(),
                    path: self.path.clone(),
                });
            }
        };
        let id = self.next_id(&stateroot, commit_id)?;
        // What runs is what a person has edited; else what would run next.
        let merge_from = booted
            .filter(|booted| booted.stateroot == stateroot)
            .or_else(|| state.newest(&stateroot).map(|deployment| deployment.id.clone()))
            .filter(|_| !options.no_merge);
        // Those of what would run next: they may have been changed since this boot.
        let mut kargs: KernelArgs = match state.newest(&stateroot) {
            Some(deployment) if !options.no_merge => deployment.kargs.parse()?,
            _ => KernelArgs::new(),
        };
        for change in &options.kargs {
            change.apply(&mut kargs)?;
        }
        let mut origin = options.origin.clone().unwrap_or_else(|| Origin {
            reference: rev
                .parse::<RefName>()
                .ok()
                .filter(|name| matches!(self.repo.ref_optional(name), Ok(Some(_)))),
            ..Origin::default()
        });
        origin.describe(&self.repo, &id.commit)?;
        Ok(Decision {
            id,
            commit,
            origin,
            merge_from,
            kargs,
        })
    }

    /// Refuses a tree that cannot boot, before anything is written.
    fn check_shape(&self, id: &CommitId, commit: &Commit) -> Result<(), SysrootError> {
        let refuse = |reason: &str| SysrootError::NotDeployable {
            commit: *id,
            reason: reason.to_owned(),
        };
        let find = |path: &str| self.repo.locate("", commit.root, None, path.as_bytes()).ok();
        match find(USR_ETC) {
            Some(Located::Entry(entry)) if matches!(entry.node, Node::Dir { .. }) => {}
            _ if find("etc").is_some() => {
                return Err(refuse(
                    "it has /etc instead of /usr/etc: commit the tree with --os",
                ));
            }
            _ => return Err(refuse("it has no /usr/etc: commit the tree with --os")),
        }
        if find("etc").is_some() {
            return Err(refuse(
                "it has both /etc and /usr/etc, and the first is made from the second",
            ));
        }
        let Some(Located::Entry(modules)) = find("usr/lib/modules") else {
            return Err(refuse("it has no kernel: there is no /usr/lib/modules"));
        };
        let Node::Dir { tree } = modules.node else {
            return Err(refuse("it has no kernel: /usr/lib/modules is not a directory"));
        };
        let versions = self.repo.load_dirtree(&tree)?;
        let kernels = versions.entries().iter().filter(|entry| {
            find(&format!(
                "usr/lib/modules/{}/vmlinuz",
                String::from_utf8_lossy(&entry.name)
            ))
            .is_some()
        });
        match kernels.count() {
            1 => Ok(()),
            0 => Err(refuse("it has no kernel: there is no /usr/lib/modules/*/vmlinuz")),
            _ => Err(refuse(
                "it has several kernels in /usr/lib/modules, and a deployment boots one",
            )),
        }
    }

    /// A serial is one more than any that the commit has on disk.
    fn next_id(&self, stateroot: &StaterootName, commit: CommitId) -> Result<DeploymentId, SysrootError> {
        let used = self
            .deployments_dir(stateroot)?
            .entries()?
            .into_iter()
            .filter_map(|entry| {
                let id = DeploymentId::from_dir_name(stateroot, entry.name.to_str()?)?;
                (id.commit == commit).then_some(id.serial)
            });
        let serial = used.max().map_or(0, |serial| serial.saturating_add(1));
        Ok(DeploymentId {
            stateroot: stateroot.clone(),
            commit,
            serial,
        })
    }

    fn placeholder(&self, decision: &Decision) -> DeploymentState {
        DeploymentState {
            id: decision.id.clone(),
            entry: 0,
            kargs: decision.kargs.to_string(),
            bootcsum: String::new(),
            title: String::new(),
            version: decision.commit.version.clone(),
            pinned: false,
        }
    }

    /// Takes out of the truth what retention lets go of: all but the newest `keep` of the stateroot, what is running,
    /// and what is pinned.
    fn retire(
        &self,
        state: &mut State,
        new: &DeploymentId,
        options: &DeployOptions,
    ) -> Result<Vec<DeploymentId>, SysrootError> {
        let booted = self.booted()?;
        let is_booted = |id: &DeploymentId| booted.as_ref() == Some(id);
        // The new one and what is running have their places; the rest go to the newest of the others.
        let running_here = booted
            .as_ref()
            .is_some_and(|booted| booted.stateroot == new.stateroot);
        let mut left = options.keep.saturating_sub(1 + usize::from(running_here));
        let mut removed = Vec::new();
        state.deployments.retain(|deployment| {
            let id = &deployment.id;
            if id == new || is_booted(id) || deployment.pinned || id.stateroot != new.stateroot {
                return true;
            }
            if left > 0 {
                left -= 1;
                return true;
            }
            removed.push(id.clone());
            false
        });
        Ok(removed)
    }

    fn build(
        &self,
        decision: &Decision,
        state: &State,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Built, SysrootError> {
        let id = &decision.id;
        let record = RootRecord {
            commits: [id.commit].into(),
            ..RootRecord::default()
        };
        {
            // A pruner that had read the roots before this one was there would remove what it keeps; one that came
            // between the look at the commit and this lock has.
            let _repo_lock = self.repo.lock_shared()?;
            self.repo.load_commit(&id.commit)?;
            self.repo.set_root(&layout::root_name(id), &record)?;
        }
        crate::failpoint::hit("deploy.rooted")?;
        let deployments = self.deployments_dir(&id.stateroot)?;
        deployments.create_dir(id.dir_name(), 0o700)?;
        let root = deployments.open_dir(id.dir_name())?;
        let checkout = checkout_into(
            &self.repo,
            &decision.commit.root,
            &decision.commit.root_metadata,
            &root,
            &self.checkout_options(),
            progress,
            cancel,
        )?;
        crate::failpoint::hit("deploy.checked-out")?;
        let bootcsum = self.prepare_kernel(id, &root, state)?.to_string();
        let etc = match &decision.merge_from {
            Some(from) => Some(self.merge_etc(id, from, &root, &deployments, progress, cancel)?),
            None => {
                copy_tree(
                    &root.open_dir("usr")?,
                    OsStr::new("etc"),
                    &root,
                    OsStr::new("etc"),
                )?;
                None
            }
        };
        crate::failpoint::hit("deploy.etc")?;
        let var_dir = self.atomos.open_dir(layout::var(&id.stateroot))?;
        let var = seed_var(&root, &var_dir)?;
        // What systemd compares with /usr to see that it must update caches: here it must.
        var_dir.remove_file_optional(".updated")?;
        decision.origin.save(&deployments, id)?;
        if decision.kargs.get("root").is_none() {
            progress.report(Event::Warning {
                text: "no kernel argument says where the root file system is: add one with --karg root=…",
            });
        }
        let title = pretty_name(&root)?.unwrap_or_else(|| "atomos".to_owned());
        // Everything of the deployment is down before the marker says so, and the marker before the truth names it.
        deployments.sync_fs()?;
        crate::failpoint::hit("deploy.synced")?;
        deployments.write_atomic(layout::marker(id), b"", 0o644)?;
        deployments.sync_fs()?;
        crate::failpoint::hit("deploy.complete")?;
        Ok(Built {
            checkout,
            etc,
            var,
            title,
            bootcsum,
        })
    }

    pub(super) fn checkout_options(&self) -> CheckoutOptions {
        // Without root's rights a sysroot is for building images and trying things out; it cannot boot like that.
        let ownership = match self.repo.mode() {
            RepoMode::Bare => Ownership::Exact,
            RepoMode::BareUser if rustix::process::geteuid().is_root() => Ownership::Exact,
            RepoMode::BareUser => Ownership::User,
        };
        CheckoutOptions {
            link: LinkMode::Auto,
            ownership,
            ..CheckoutOptions::default()
        }
    }

    fn merge_etc(
        &self,
        id: &DeploymentId,
        from: &DeploymentId,
        root: &Dir,
        deployments: &Dir,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<MergeReport, SysrootError> {
        self.check_complete(from)?;
        let old = self.deployment_dir(from)?;
        let (base, mine, theirs) = (
            old.open_dir(USR_ETC)?,
            old.open_dir("etc")?,
            root.open_dir(USR_ETC)?,
        );
        // On the system that is running, `passwd` and `useradd` wait until their files have been read.
        let _accounts = match self.booted()?.as_ref() == Some(from) {
            true => Some(AccountsLock::acquire(&mine, self.lock_timeout, cancel)?),
            false => None,
        };
        let policies = Policies::load(root, Some(&mine))?;
        let input = MergeInput {
            base: &base,
            mine: &mine,
            theirs: &theirs,
            policies: &policies,
        };
        let plan = etc_merge::plan(&input, cancel)?;
        root.create_dir("etc", 0o755)?;
        let report = etc_merge::apply(&plan, &input, &root.open_dir("etc")?, progress, cancel)?;
        let conflicts = self.collect_conflicts(from, &mine, &report, cancel)?;
        if !conflicts.is_empty() {
            self.keep_conflicts(id, &conflicts)?;
            conflicts.save(deployments, layout::conflicts(id))?;
        }
        Ok(report)
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
            let usr = scratch.path().join("usr");
            let mut options = self.checkout_options();
            options.subpath = b"usr".to_vec();
            // Links alone, but for an ordinary user: cheap enough to look at.
            checkout(
                &self.repo,
                &decision.id.commit.to_string(),
                &usr,
                &options,
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

    /// Fails for a deployment that was never finished, or is half removed.
    pub(super) fn check_complete(&self, id: &DeploymentId) -> Result<(), SysrootError> {
        let dir = self.deployments_dir(&id.stateroot)?;
        if dir.exists(layout::marker(id))? && dir.exists(id.dir_name())? {
            return Ok(());
        }
        Err(SysrootError::DamagedState {
            path: dir.path().join(id.dir_name()),
            reason: "the deployment is not complete".to_owned(),
        })
    }
}

struct Built {
    checkout: CheckoutReport,
    etc: Option<MergeReport>,
    var: SeedReport,
    title: String,
    bootcsum: String,
}
