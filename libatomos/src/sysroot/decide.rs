//! What is decided before a deploy writes anything: which commit, under which name, from where `/etc` and kernel
//! arguments come.

use crate::boot::KernelArgs;
use crate::composefs::Seal;
use crate::digest::CommitId;
use crate::format::{Commit, Node};
use crate::names::StaterootName;
use crate::repo::Located;

use super::booted::ENTRY_KARG;
use super::root_kind::RootKind;
use super::staged::Staged;
use super::{
    DeployOptions, DeploymentId, DeploymentState, KargsChange, Origin, State, Sysroot, SysrootError,
};

/// What is decided before anything is written.
pub(super) struct Decision {
    pub id: DeploymentId,
    pub commit: Commit,
    pub origin: Origin,
    pub merge_from: Option<DeploymentId>,
    pub kargs: KernelArgs,
    /// What its root is made of.
    pub root: RootKind,
    /// Who vouches for the image, where it is to be verified.
    pub seal: Option<Seal>,
}

/// Directories of a tree that `atomos-prepare-root` mounts something on, `/etc` aside, which a deployment gets of its own: it boots nothing that
/// lacks one.
pub(super) const MOUNT_POINTS: [&str; 7] = ["dev", "proc", "run", "sys", "sysroot", "tmp", "var"];

/// Where a tree has its default configuration.
pub(super) const USR_ETC: &str = "usr/etc";

impl Sysroot {
    pub(super) fn decide(
        &self,
        rev: &str,
        state: &State,
        staged: Option<&Staged>,
        options: &DeployOptions,
    ) -> Result<Decision, SysrootError> {
        let (commit_id, found_by) = self.resolve_to_deploy(rev, state, staged)?;
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
        let merge_from = match options.no_merge {
            true => None,
            false => self.merge_source(state, &stateroot)?,
        };
        // Those of what would run next: they may have been changed since this boot.
        let staged = staged.filter(|staged| staged.deployment.id.stateroot == stateroot);
        let next = staged.map(|staged| &staged.deployment);
        let mut kargs: KernelArgs = match next.or_else(|| state.newest(&stateroot)) {
            Some(deployment) if !options.no_merge => self.kargs_to_inherit(deployment)?.parse()?,
            _ => KernelArgs::new(),
        };
        change_kargs(&mut kargs, &options.kargs, &id)?;
        let root = self.root_kind_for(&commit_id, &commit, &kargs)?;
        let seal = self.seal_for(root, &commit_id, &commit)?;
        let mut origin = options.origin.clone().unwrap_or(found_by);
        origin.describe(&self.repo, &id.commit)?;
        Ok(Decision {
            id,
            commit,
            origin,
            merge_from,
            kargs,
            root,
            seal,
        })
    }

    /// Returns the kernel arguments that what comes after a deployment starts from: its own, unless what runs is its entry with those before,
    /// which a person has taken from the menu because these do not boot.
    pub(super) fn kargs_to_inherit<'a>(&self, from: &'a DeploymentState) -> Result<&'a str, SysrootError> {
        Ok(match &from.fallback {
            Some(before) if self.runs_fallback_of(from)? => &before.kargs,
            _ => &from.kargs,
        })
    }

    /// Returns whether the entry runs that is kept beside the deployment's own.
    pub(super) fn runs_fallback_of(&self, deployment: &DeploymentState) -> Result<bool, SysrootError> {
        let fallback = deployment.fallback.as_ref().map(|before| before.entry);
        let is_running = fallback.is_some() && self.running.entry == fallback;
        Ok(is_running && self.booted()?.as_ref() == Some(&deployment.id))
    }

    /// Returns whose `/etc` a new deployment of the stateroot starts from: what runs is what a person has edited; else
    /// what would run next.
    pub(super) fn merge_source(
        &self,
        state: &State,
        stateroot: &StaterootName,
    ) -> Result<Option<DeploymentId>, SysrootError> {
        let booted = self.booted()?.filter(|booted| booted.stateroot == *stateroot);
        Ok(booted.or_else(|| state.newest(stateroot).map(|deployment| deployment.id.clone())))
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
        let is_dir = |path: &str| match find(path) {
            Some(Located::Entry(entry)) => matches!(entry.node, Node::Dir { .. }),
            _ => false,
        };
        if let Some(lacking) = MOUNT_POINTS.iter().find(|path| !is_dir(path)) {
            let reason = format!("it has no directory /{lacking} to mount on: commit the tree with --os");
            return Err(refuse(&reason));
        }
        let Some(Located::Entry(modules)) = find("usr/lib/modules") else {
            return Err(refuse("it has no kernel: there is no /usr/lib/modules"));
        };
        let Node::Dir { tree } = modules.node else {
            return Err(refuse("it has no kernel: /usr/lib/modules is not a directory"));
        };
        let versions = self.repo.load_dirtree(&tree)?;
        let kernels: Vec<_> = versions
            .entries()
            .iter()
            .filter_map(|entry| {
                let version = String::from_utf8_lossy(&entry.name);
                find(&format!("usr/lib/modules/{version}/vmlinuz"))
            })
            .collect();
        let is_empty = |kernel: &Located| match kernel {
            Located::Entry(entry) => matches!(entry.node, Node::File { size: 0, .. }),
            Located::Root(..) => false,
        };
        match kernels.len() {
            1 if kernels.iter().any(is_empty) => Err(refuse("its kernel is an empty file")),
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
}

/// Applies changes that a person asked for. What each entry says by itself is not among them.
pub(super) fn change_kargs(
    kargs: &mut KernelArgs,
    changes: &[KargsChange],
    id: &DeploymentId,
) -> Result<(), SysrootError> {
    for change in changes {
        let ours = ["atomos", ENTRY_KARG];
        let had = ours.map(|ours| kargs.get(ours).is_some());
        change.apply(kargs)?;
        for (ours, had) in ours.into_iter().zip(had) {
            if kargs.get(ours).is_some() && !had {
                return Err(SysrootError::OwnKarg {
                    id: id.clone(),
                    name: ours,
                });
            }
        }
    }
    Ok(())
}
