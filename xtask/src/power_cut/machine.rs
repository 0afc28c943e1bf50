//! A machine that takes an update, goes back, and cleans up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use blake3::Hash;

use super::atomos::Atomos;
use super::digest::Digests;
use super::grub::{self, View};
use super::mount::Kind;
use super::scenario::{Plan, Point, Scenario, Step, repeat};

/// The stateroot.
const OS: &str = "os";

/// What the machine follows.
const REF: &str = "os/stable";

/// The step in which a boot is marked good.
const MARK_GOOD: &str = "mark good";

/// Where a machine that runs keeps what lasts as long as it does. `/run` is the test's own.
const RUN: &str = "/run/atomos";

/// Which file systems the machine has.
#[derive(Debug, Clone)]
pub struct Machine {
    /// That of the root.
    pub root: Kind,
    /// That of `/boot`; `None` where it is a directory of the root.
    pub boot: Option<Kind>,
    /// It runs what it updates, so that the update is staged, and finished when it shuts down.
    pub runs: bool,
}

/// The state of a machine.
#[derive(Debug, Clone)]
pub struct Snapshot {
    truth: String,
    staged: Option<String>,
    refs: String,
    entries: BTreeMap<String, String>,
    kernels: BTreeMap<String, Hash>,
    deployments: BTreeMap<String, Deployment>,
}

/// A deployment's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Deployment {
    /// It has its marker.
    complete: bool,
    tree: Option<Hash>,
    etc: Option<Hash>,
}

impl Snapshot {
    /// Returns the entry that a loader takes.
    fn default_entry(&self) -> Option<(&String, &String)> {
        let number =
            |name: &str| -> Option<u64> { name.strip_prefix("atomos-")?.split('-').next()?.parse().ok() };
        self.entries.iter().max_by_key(|(name, _)| number(name))
    }
}

fn deployments_dir(root: &Path) -> PathBuf {
    root.join("atomos/deploy").join(OS).join("deploy")
}

/// Lets `atomos` believe that the deployment runs, and that shutdown finishes what is staged.
fn run_deployment(directory: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = directory.metadata()?;
    let name = directory.file_name().context("a deployment has a name")?;
    let booted = serde_json::json!({
        "stateroot": OS,
        "deployment": name.to_string_lossy(),
        "path": directory,
        "device": metadata.dev(),
        "inode": metadata.ino(),
    });
    std::fs::create_dir_all(RUN).with_context(|| format!("cannot make {RUN}"))?;
    std::fs::write(Path::new(RUN).join("booted"), booted.to_string())?;
    std::fs::write(Path::new(RUN).join("finalize-at-shutdown"), "")?;
    Ok(())
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

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn look(root: &Path) -> Result<Snapshot> {
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
    Ok(Snapshot {
        staged: staged_id(&root.join("atomos/staged.json"))?,
        truth: read(&root.join("atomos/deployments.json"))?,
        refs: read(&root.join("atomos/repo/refs"))?,
        entries,
        kernels,
        deployments,
    })
}

impl Scenario for Machine {
    type Snapshot = Snapshot;

    fn name(&self) -> String {
        let what = if self.runs { "running machine" } else { "machine" };
        match self.boot {
            Some(boot) => format!("{what}, {} with /boot on {}", self.root.name(), boot.name()),
            None => format!("{what}, {} with /boot in it", self.root.name()),
        }
    }

    fn disks(&self) -> Vec<Plan> {
        let mut plans = vec![Plan {
            name: "root",
            kind: self.root,
            target: "",
        }];
        plans.extend(self.boot.map(|kind| Plan {
            name: "boot",
            kind,
            target: "boot",
        }));
        plans
    }

    fn boot(&self) -> Option<(usize, &'static str)> {
        Some(match self.boot {
            Some(_) => (1, ""),
            None => (0, "/boot"),
        })
    }

    fn prepare(&self, atomos: &Atomos, root: &Path, place: &Path) -> Result<()> {
        let sysroot = root.to_str().context("the test names its directories")?;
        let run = |words: &str| {
            let mut all = vec!["--sysroot", sysroot];
            all.extend(words.split(' '));
            atomos.run(&all, None)
        };
        std::fs::create_dir_all(root.join("boot/grub"))?;
        std::fs::write(root.join("boot/grub/atomos.enabled"), "")?;
        run("sysroot init")?;
        run(&format!("stateroot init {OS}"))?;
        for version in 1..=3 {
            super::tree::make(&place.join(format!("tree-{version}")), version)?;
        }
        for version in 1..=2 {
            let tree = place.join(format!("tree-{version}"));
            run(&format!(
                "commit --quiet --ref {REF} --os --version {version} {}",
                tree.display()
            ))?;
            let deploy = match version {
                1 => format!("deploy --quiet {REF} --karg root=LABEL=root --karg panic=10"),
                _ => "upgrade --quiet".to_owned(),
            };
            run(&deploy)?;
        }
        let running = deployments_dir(root).join(default_id(&look(root)?)?);
        super::tree::edit_etc(&running.join("etc"))?;
        if self.runs {
            run_deployment(&running)?;
        }
        Ok(())
    }

    fn leave(&self) -> Result<()> {
        if self.runs {
            std::fs::remove_dir_all(RUN).with_context(|| format!("cannot remove {RUN}"))?;
        }
        Ok(())
    }

    fn steps(&self, place: &Path) -> Vec<Step> {
        let tree = place.join("tree-3");
        let commit = format!(
            "--sysroot {{root}} commit --quiet --ref {REF} --os --version 3 {}",
            tree.display()
        );
        let commit = Step::one("commit", &commit);
        if self.runs {
            return vec![
                commit,
                Step::one("stage", "--sysroot {root} upgrade --quiet"),
                Step::one("finalize", "--sysroot {root} finalize --quiet --shutdown"),
                Step::one(MARK_GOOD, "--sysroot {root} boot mark-good --quiet"),
                Step::one("rollback", "--sysroot {root} rollback --quiet"),
                Step::one("cleanup", "--sysroot {root} cleanup --quiet"),
            ];
        }
        vec![
            commit,
            Step::one("upgrade", "--sysroot {root} upgrade --quiet"),
            Step::one("rollback", "--sysroot {root} rollback --quiet"),
            Step::one("kargs", "--sysroot {root} kargs --append quiet"),
            Step::one("undeploy", "--sysroot {root} undeploy 1"),
            Step::one("cleanup", "--sysroot {root} cleanup --quiet"),
        ]
    }

    fn before(&self, step: &Step, root: &Path) -> Result<()> {
        if self.runs && step.name == MARK_GOOD {
            // It has booted what was finished.
            run_deployment(&deployments_dir(root).join(default_id(&look(root)?)?))?;
        }
        Ok(())
    }

    fn look(&self, root: &Path) -> Result<Snapshot> {
        look(root)
    }

    fn check(
        &self,
        atomos: &Atomos,
        point: &Point<'_>,
        snapshots: &[Snapshot],
        steps: &[Step],
    ) -> Result<()> {
        let (before, after) = (&snapshots[point.step], &snapshots[point.step + 1]);
        let allowed: &[&Snapshot] = if point.ended { &[after] } else { &[before, after] };
        let known = Known::of(snapshots);
        let now = look(point.root)?;
        let truth = allowed
            .iter()
            .find(|state| state.truth == now.truth)
            .with_context(|| format!("deployments.json is neither old nor new: {}", now.truth))?;
        ensure!(
            allowed.iter().any(|state| state.refs == now.refs),
            "the refs are neither old nor new: {}",
            now.refs
        );
        ensure!(
            allowed.iter().any(|state| state.staged == now.staged),
            "what is staged is neither old nor new: {:?}",
            now.staged
        );
        known.check_boot(&now, allowed)?;
        // What `/boot` offers first is never ahead of the truth.
        let default = now.default_entry().context("nothing would boot")?;
        if truth.truth == before.truth {
            ensure!(
                before.default_entry() == Some(default) || before.truth == after.truth,
                "the loader is ahead of deployments.json: {}",
                default.0
            );
        }
        let mut needed: BTreeSet<String> = [].into();
        for text in now.entries.values() {
            needed.insert(deployment_of(text)?);
        }
        if let Some(view) = point.loader {
            needed.extend(known.check_loader(view, allowed)?);
        }
        needed.extend(truth_ids(&now.truth)?);
        known.check_deployments(&now, &needed)?;
        let sysroot = point.root.to_str().context("the test names its directories")?;
        let run = |words: &str| {
            let mut all = vec!["--sysroot", sysroot];
            all.extend(words.split(' '));
            atomos.run(&all, None)
        };
        run("fsck --quiet").context("the store is damaged")?;
        run("boot recover").context("boot recover fails")?;
        let recovered = look(point.root)?;
        ensure!(
            recovered.entries == truth.entries,
            "after boot recover the entries are {:?} instead of {:?}",
            recovered.entries.keys(),
            truth.entries.keys()
        );
        known.check_boot(&recovered, &[truth])?;
        self.go_on(atomos, point, steps, &known, snapshots)
    }
}

impl Machine {
    /// The next update works, and ends where it would have without the cut.
    fn go_on(
        &self,
        atomos: &Atomos,
        point: &Point<'_>,
        steps: &[Step],
        known: &Known,
        snapshots: &[Snapshot],
    ) -> Result<()> {
        if point.step == 0 {
            repeat(atomos, &steps[0], point.root).context("the commit cannot be repeated")?;
        }
        // What was staged before the cut is finished, too: nobody shuts this machine down.
        let next = Step::one("upgrade", "--sysroot {root} upgrade --quiet --now");
        repeat(atomos, &next, point.root).context("the next upgrade fails")?;
        let updated = look(point.root)?;
        let (name, default) = updated.default_entry().context("nothing would boot")?;
        let id = deployment_of(default)?;
        let found = updated.deployments.get(&id).context("the default has no tree")?;
        // What the update made is what every later one makes.
        let made = &snapshots[if self.runs { 3 } else { 2 }];
        let (_, expected) = made.default_entry().context("the upgrade made nothing")?;
        let expected = &made.deployments[&deployment_of(expected)?];
        ensure!(
            found == expected,
            "after the next upgrade, {name} leads to another tree or another /etc than without the cut: \
             {found:?} instead of {expected:?}"
        );
        known.check_kernels(&updated)?;
        let sysroot = point.root.to_str().context("the test names its directories")?;
        atomos
            .run(&["--sysroot", sysroot, "fsck", "--quiet"], None)
            .context("the store is damaged after the next upgrade")?;
        Ok(())
    }
}

/// What is right, whenever it is there.
struct Known {
    kernels: BTreeMap<String, Hash>,
    deployments: BTreeMap<String, Deployment>,
}

impl Known {
    fn of(snapshots: &[Snapshot]) -> Self {
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
    fn check_boot(&self, now: &Snapshot, allowed: &[&Snapshot]) -> Result<()> {
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

    fn check_kernels(&self, now: &Snapshot) -> Result<()> {
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
    fn check_loader(&self, view: &View, allowed: &[&Snapshot]) -> Result<Vec<String>> {
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
    fn check_deployments(&self, now: &Snapshot, needed: &BTreeSet<String>) -> Result<()> {
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

/// Returns the directory of the deployment that an entry boots.
fn deployment_of(entry: &str) -> Result<String> {
    let entry = grub::parse_entry(entry).context("an entry has no kernel")?;
    let (_, id) = entry
        .deployment
        .split_once('/')
        .context("an entry names no deployment")?;
    Ok(id.to_owned())
}

/// Returns the directory of the deployment that the next boot takes.
fn default_id(state: &Snapshot) -> Result<String> {
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
fn truth_ids(truth: &str) -> Result<Vec<String>> {
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
