//! What is right, whenever it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use blake3::Hash;

use super::state::{Deployment, Snapshot, default_id, deployments_dir};
use crate::power_cut::boots::{self, Said};
use crate::power_cut::grub::{self, View};

/// What is right, whenever it is there.
pub(super) struct Known {
    kernels: BTreeMap<String, Hash>,
    deployments: BTreeMap<String, Deployment>,
}

impl Known {
    pub(super) fn of(snapshots: &[Snapshot]) -> Self {
        let mut known = Self {
            kernels: BTreeMap::new(),
            deployments: BTreeMap::new(),
        };
        for snapshot in snapshots {
            known.kernels.extend(snapshot.kernels.clone());
            known.deployments.extend(snapshot.deployments.clone());
        }
        known
    }

    /// Every entry is an old or a new one, and leads to a whole kernel; the default is that of one of `allowed`.
    pub(super) fn check_boot(&self, now: &Snapshot, allowed: &[&Snapshot]) -> Result<()> {
        for (name, text) in &now.entries {
            ensure!(
                allowed.iter().any(|state| state.entries.get(name) == Some(text)),
                "the entry {name} is neither old nor new: {text}"
            );
        }
        let default = now.default_entry();
        ensure!(
            allowed.iter().any(|state| state.default_entry() == default),
            "the default entry is neither the old nor the new one: {default:?}"
        );
        self.check_kernels(now)
    }

    pub(super) fn check_kernels(&self, now: &Snapshot) -> Result<()> {
        for (name, text) in &now.entries {
            let entry = grub::parse_entry(text).with_context(|| format!("the entry {name} has no kernel"))?;
            for path in &entry.files {
                let file = path.trim_start_matches("/boot").trim_start_matches("/atomos/");
                let found = now
                    .kernels
                    .get(file)
                    .with_context(|| format!("{name} names {path}, which is missing"))?;
                ensure!(
                    self.kernels.get(file) == Some(found),
                    "{name} names {path}, which is damaged"
                );
            }
        }
        Ok(())
    }

    /// What GRUB sees is old or new, and its kernels are whole. Returns the deployments that it leads to.
    pub(super) fn check_loader(&self, view: &View, allowed: &[&Snapshot]) -> Result<Vec<String>> {
        let wanted: Vec<_> = allowed
            .iter()
            .filter_map(|state| grub::parse_entry(state.default_entry()?.1))
            .collect();
        let first = view.menu.first().context("GRUB's menu is empty")?;
        ensure!(
            wanted.contains(first),
            "GRUB's menu begins with {first:?}, which is neither old nor new"
        );
        // The menu is what Debian's GRUB reads; another reads the entries.
        let number =
            |name: &str| -> Option<u64> { name.strip_prefix("atomos-")?.split('-').next()?.parse().ok() };
        let (_, default) = view
            .entries
            .iter()
            .max_by_key(|(name, _)| number(name))
            .context("GRUB sees no entry")?;
        ensure!(
            wanted.contains(default),
            "GRUB's default entry is {default:?}, which is neither old nor new"
        );
        let offered = || view.menu.iter().chain(&view.instead).chain(view.entries.values());
        for entry in offered() {
            for path in &entry.files {
                let file = path.trim_start_matches("/boot").trim_start_matches("/atomos/");
                match view.files.get(path) {
                    Some(Some(hash)) if self.kernels.get(file) == Some(hash) => {}
                    Some(Some(_)) => bail!("GRUB sees a damaged {path}"),
                    _ => bail!("GRUB cannot read {path}, which {} needs", entry.deployment),
                }
            }
        }
        Ok(offered()
            .filter_map(|entry| Some(entry.deployment.split_once('/')?.1.to_owned()))
            .collect())
    }

    /// What is needed is there with its marker, and what has a marker is whole.
    pub(super) fn check_deployments(&self, now: &Snapshot, needed: &BTreeSet<String>) -> Result<()> {
        for id in needed {
            let found = now
                .deployments
                .get(id)
                .with_context(|| format!("the deployment {id} is gone"))?;
            ensure!(found.complete, "the deployment {id} has no marker");
        }
        for (id, found) in now.deployments.iter().filter(|(_, found)| found.complete) {
            let expected = self
                .deployments
                .get(id)
                .with_context(|| format!("nobody knows the deployment {id}"))?;
            ensure!(
                found.etc == expected.etc,
                "/etc of the deployment {id} is not whole"
            );
            ensure!(
                found.tree == expected.tree,
                "the tree of the deployment {id} is not whole"
            );
        }
        Ok(())
    }
}

/// What has booted is what the loader was to take, and the machine has read what is there.
pub(super) fn check_said(said: &Said, root: &Path, allowed: &[&Snapshot]) -> Result<()> {
    ensure!(said.prepared, "the machine runs without /run/atomos/booted");
    ensure!(
        said.version == said.initramfs,
        "a tree of version {} was booted by the kernel of version {}",
        said.version,
        said.initramfs
    );
    let (_, id) = said
        .deployment
        .split_once('/')
        .context("the machine names no deployment")?;
    let mut wanted = allowed.iter().filter_map(|state| default_id(state).ok());
    ensure!(
        wanted.any(|wanted| wanted == id),
        "the machine has booted {id}, which is the default neither before nor after"
    );
    let expected = boots::digest(&deployments_dir(root).join(id))?;
    ensure!(
        said.digest == expected,
        "the machine has read other files than those of {id}"
    );
    Ok(())
}

/// What is beside a deployment that is needed is what was there, or what is to be.
pub(super) fn check_beside(now: &Snapshot, needed: &BTreeSet<String>, allowed: &[&Snapshot]) -> Result<()> {
    let names = allowed.iter().flat_map(|state| state.beside.keys());
    for name in names.chain(now.beside.keys()) {
        // Marks for the next boot decide nothing: the truth does, and marks follow it.
        let is_mark = name.ends_with(".trial") || name.ends_with(".bad");
        let is_needed = !is_mark && needed.iter().any(|id| name.starts_with(id.as_str()));
        let found = now.beside.get(name);
        ensure!(
            !is_needed || allowed.iter().any(|state| state.beside.get(name) == found),
            "{name} is neither old nor new: {found:?}"
        );
    }
    Ok(())
}

/// Nothing in `/var` is lost or damaged; what an update adds may be missing while nothing names its deployment.
pub(super) fn check_var(now: &Snapshot, before: &Snapshot, after: &Snapshot, ended: bool) -> Result<()> {
    let is_scratch = |path: &str| path.starts_with("/.");
    for (path, found) in now.var.iter().filter(|(path, _)| !is_scratch(path)) {
        let expected = after.var.get(path).or_else(|| before.var.get(path));
        ensure!(
            expected == Some(found),
            "{path} of /var is damaged, or was never there"
        );
    }
    let added = now.truth == after.truth && now.truth != before.truth;
    let wanted = if ended || added { after } else { before };
    for path in wanted.var.keys().filter(|path| !is_scratch(path)) {
        ensure!(now.var.contains_key(path), "{path} is missing in /var");
    }
    Ok(())
}
