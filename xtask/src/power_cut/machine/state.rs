//! The state of a machine's disks, read from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use blake3::Hash;

use super::OS;
use crate::power_cut::digest::Digests;
use crate::power_cut::grub;

/// The state of a machine.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) truth: String,
    pub(super) staged: Option<String>,
    pub(super) refs: String,
    pub(super) boots: Option<String>,
    /// What is in `/var`, by its path there.
    pub(super) var: BTreeMap<String, Option<Hash>>,
    /// The files beside deployments: origins, conflicts, marks.
    pub(super) beside: BTreeMap<String, String>,
    pub(super) entries: BTreeMap<String, String>,
    pub(super) kernels: BTreeMap<String, Hash>,
    pub(super) deployments: BTreeMap<String, Deployment>,
}

/// A deployment's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deployment {
    /// It has its marker.
    pub(super) complete: bool,
    pub(super) tree: Option<Hash>,
    pub(super) etc: Option<Hash>,
}

impl Snapshot {
    /// Returns the entry that a loader takes.
    pub(super) fn default_entry(&self) -> Option<(&String, &String)> {
        let number =
            |name: &str| -> Option<u64> { name.strip_prefix("atomos-")?.split('-').next()?.parse().ok() };
        self.entries.iter().max_by_key(|(name, _)| number(name))
    }
}

pub(super) fn deployments_dir(root: &Path) -> PathBuf {
    root.join("atomos/deploy").join(OS).join("deploy")
}

/// Lists names, of a directory that may be missing.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.with_context(|| format!("cannot list {}", directory.display()))? {
                found.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Lists what is beneath a directory, by its path; of a file also the digest.
fn list_files(
    directory: &Path,
    prefix: &str,
    digests: &mut Digests,
    found: &mut BTreeMap<String, Option<Hash>>,
) -> Result<()> {
    for name in names(directory)? {
        let (path, shown) = (directory.join(&name), format!("{prefix}/{name}"));
        if path.is_dir() {
            list_files(&path, &shown, digests, found)?;
            found.insert(shown, None);
        } else {
            found.insert(shown, Some(digests.file(&path)?));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(super) fn look(root: &Path) -> Result<Snapshot> {
    let mut digests = Digests::default();
    let entries_dir = root.join("boot/loader/entries");
    let mut entries = BTreeMap::new();
    for name in names(&entries_dir)? {
        if name.ends_with(".conf") && !name.starts_with('.') {
            entries.insert(name.clone(), read(&entries_dir.join(&name))?);
        }
    }
    let mut kernels = BTreeMap::new();
    let kernels_dir = root.join("boot/atomos");
    for directory in names(&kernels_dir)?.iter().filter(|name| !name.starts_with('.')) {
        for name in names(&kernels_dir.join(directory))? {
            let hash = digests.file(&kernels_dir.join(directory).join(&name))?;
            kernels.insert(format!("{directory}/{name}"), hash);
        }
    }
    let mut deployments = BTreeMap::new();
    let directory = deployments_dir(root);
    let all = names(&directory)?;
    for name in &all {
        if !directory.join(name).is_dir() {
            continue;
        }
        let path = directory.join(name);
        let complete = all.contains(&format!("{name}.complete"));
        deployments.insert(
            name.clone(),
            Deployment {
                complete,
                tree: digests.tree(&path, &["etc"]).ok(),
                // The lock of the account tools is made by whoever takes it.
                etc: digests.tree(&path.join("etc"), &[".pwd.lock"]).ok(),
            },
        );
    }
    let mut beside = BTreeMap::new();
    for name in all.iter().filter(|name| !name.starts_with('.')) {
        if directory.join(name).is_file() && !name.ends_with(".complete") {
            beside.insert(name.clone(), read(&directory.join(name))?);
        }
    }
    let mut var = BTreeMap::new();
    list_files(
        &root.join("atomos/deploy").join(OS).join("var"),
        "",
        &mut digests,
        &mut var,
    )?;
    let boots = root.join("atomos/boots.json");
    Ok(Snapshot {
        staged: staged_id(&root.join("atomos/staged.json"))?,
        boots: boots.exists().then(|| read(&boots)).transpose()?,
        beside,
        var,
        truth: read(&root.join("atomos/deployments.json"))?,
        refs: read(&root.join("atomos/repo/refs"))?,
        entries,
        kernels,
        deployments,
    })
}

/// Returns the directory of the deployment that an entry boots.
pub(super) fn deployment_of(entry: &str) -> Result<String> {
    let entry = grub::parse_entry(entry).context("an entry has no kernel")?;
    let (_, id) = entry
        .deployment
        .split_once('/')
        .context("an entry names no deployment")?;
    Ok(id.to_owned())
}

/// Returns the directory of the deployment that the next boot takes.
pub(super) fn default_id(state: &Snapshot) -> Result<String> {
    let (_, default) = state.default_entry().context("nothing was deployed")?;
    deployment_of(default)
}

/// Returns the deployment that is staged.
fn staged_id(path: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    let value: serde_json::Value =
        serde_json::from_str(&read(path)?).context("staged.json cannot be understood")?;
    let id = value["deployment"]["id"]
        .as_str()
        .context("staged.json names no deployment")?;
    Ok(Some(id.to_owned()))
}

/// Returns the directories of the deployments that the truth names.
pub(super) fn truth_ids(truth: &str) -> Result<Vec<String>> {
    let value: serde_json::Value = serde_json::from_str(truth)?;
    let deployments = value["deployments"]
        .as_array()
        .context("deployments.json has no list")?;
    deployments
        .iter()
        .map(|deployment| {
            let id = deployment["id"].as_str().context("a deployment has no id")?;
            let (_, id) = id.split_once('/').context("an id names no stateroot")?;
            Ok(id.to_owned())
        })
        .collect()
}
