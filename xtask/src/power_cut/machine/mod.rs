//! A machine that takes an update, goes back, and cleans up.

mod known;
mod state;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use self::known::{Known, check_beside, check_said, check_var};
use self::state::{default_id, deployment_of, deployments_dir, look, truth_ids};
use super::atomos::Atomos;
use super::kit::{KARGS, Kit};
use super::mount::Kind;
use super::scenario::{Plan, Point, Scenario, Step, repeat};

pub use self::state::Snapshot;

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
    /// A file of `/etc` was changed that the update changes, too. What is kept of it is an object more in the store, and so a
    /// sync more in the midst of the update.
    pub conflicts: bool,
    /// What it takes to boot for real.
    pub kit: Option<Kit>,
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

impl Scenario for Machine {
    type Snapshot = Snapshot;

    fn name(&self) -> String {
        let what = match (&self.kit, self.runs) {
            (Some(_), _) => Self::BOOTS,
            (None, true) => "running machine",
            (None, false) => "machine",
        };
        match self.boot {
            Some(boot) => format!("{what}, {} with /boot on {}", self.root.name(), boot.name()),
            None => format!("{what}, {} with /boot in it", self.root.name()),
        }
    }

    fn disks(&self) -> Vec<Plan> {
        let more = if self.kit.is_some() { 128 } else { 0 };
        let mut plans = vec![Plan::new("root", self.root, "", more)];
        plans.extend(self.boot.map(|kind| Plan::new("boot", kind, "boot", more)));
        plans
    }

    fn boot(&self) -> Option<(usize, &'static str)> {
        Some(match self.boot {
            Some(_) => (1, ""),
            None => (0, "/boot"),
        })
    }

    fn kit(&self) -> Option<&Kit> {
        self.kit.as_ref()
    }

    fn prepare(&self, atomos: &Atomos, root: &Path, place: &Path) -> Result<()> {
        let sysroot = root.to_str().context("the test names its directories")?;
        let run = |words: &str| {
            let mut all = vec!["--sysroot", sysroot];
            all.extend(words.split(' '));
            atomos.run(&all, None)
        };
        crate::vm::configure_grub(&root.join("boot"))?;
        run("sysroot init")?;
        run(&format!("stateroot init {OS}"))?;
        for version in 1..=3 {
            super::tree::make(&place.join(format!("tree-{version}")), version, self.kit.as_ref())?;
        }
        for version in 1..=2 {
            let tree = place.join(format!("tree-{version}"));
            run(&format!(
                "commit --quiet --ref {REF} --os --version {version} {}",
                tree.display()
            ))?;
            let kargs = match self.kit {
                Some(_) => KARGS,
                None => "--karg root=LABEL=root --karg panic=10",
            };
            let deploy = match version {
                1 => format!("deploy --quiet {REF} {kargs}"),
                _ => "upgrade --quiet".to_owned(),
            };
            run(&deploy)?;
        }
        let running = deployments_dir(root).join(default_id(&look(root)?)?);
        super::tree::edit_etc(&running.join("etc"), self.conflicts)?;
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
            // The one that adds an entry and removes none, so that the switch is the last thing that happens in `/boot`.
            Step::one("upgrade again", "--sysroot {root} upgrade --quiet"),
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
        ensure!(
            allowed.iter().any(|state| state.boots == now.boots),
            "the record of boots is neither old nor new: {:?}",
            now.boots
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
        if let Some(said) = point.booted {
            check_said(said, point.root, allowed)?;
            // The boot was written down there.
            needed.remove(said.deployment.trim_start_matches(&format!("{OS}/")));
        }
        check_beside(&now, &needed, allowed)?;
        check_var(&now, before, after, point.ended)?;
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
    /// The beginning of the name of one that boots.
    pub const BOOTS: &str = "machine that boots";

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
        // A rollback holds until the next boot. The cut was one, which the kernel that runs these commands does not know.
        let chosen = point.root.join("atomos/chosen.json");
        if chosen.exists() {
            std::fs::remove_file(&chosen).with_context(|| format!("cannot remove {}", chosen.display()))?;
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
