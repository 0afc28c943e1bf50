//! What is done on the disks while they are recorded, and what must hold after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::atomos::Atomos;
use super::log::{Event, Log};
use super::mount::{Kind, Mount};
use super::recorder::{Disk, Recorder};
use super::watcher::{Fault, Others, Watcher, prepare_others};

/// A disk with a file system on it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The disk's name.
    pub name: &'static str,
    /// Its file system.
    pub kind: Kind,
    /// Where that is mounted, below the scenario's root.
    pub target: &'static str,
    /// Bytes of the disk.
    pub size: u64,
}

impl Plan {
    /// Plans a disk of the size that the file system needs at least, and the scenarios, and `more` megabytes.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, target: &'static str, more: u64) -> Self {
        let megabytes: u64 = match (kind, target.is_empty()) {
            (Kind::Ext4, true) => 96,
            (Kind::Ext4, false) => 32,
            (Kind::Xfs, _) => 320,
            (Kind::Btrfs, _) => 200,
        };
        Self {
            name,
            kind,
            target,
            size: (megabytes + more) << 20,
        }
    }

    /// Returns the label of its file system.
    #[must_use]
    pub fn label(&self) -> String {
        format!("atomos-{}", self.name)
    }
}

/// Commands that run at once, and are over when all have ended.
#[derive(Debug, Clone)]
pub struct Step {
    /// What marks name it by.
    pub name: &'static str,
    /// The words of each command, `{root}` for the place where the disks are mounted.
    pub commands: Vec<Vec<String>>,
}

impl Step {
    /// Returns a step of one command.
    #[must_use]
    pub fn one(name: &'static str, words: &str) -> Self {
        Self::at_once(name, &[words])
    }

    /// Returns a step of several commands.
    #[must_use]
    pub fn at_once(name: &'static str, commands: &[&str]) -> Self {
        Self {
            name,
            commands: commands
                .iter()
                .map(|words| words.split(' ').map(str::to_owned).collect())
                .collect(),
        }
    }

    /// Returns the words of the commands for disks that are mounted at `root`.
    pub fn words(&self, root: &Path) -> Vec<Vec<OsString>> {
        let root = root.to_str().expect("the test names its directories");
        self.commands
            .iter()
            .map(|words| {
                words
                    .iter()
                    .map(|word| word.replace("{root}", root).into())
                    .collect()
            })
            .collect()
    }
}

/// The disks after a cut, as a scenario looks at them.
#[derive(Debug)]
pub struct Point<'a> {
    /// Where they are mounted.
    pub root: &'a Path,
    /// The step during which, or after which, the power was cut.
    pub step: usize,
    /// Whether the step had ended: what it has promised is to be there.
    pub ended: bool,
    /// What the boot loader sees, where the scenario has one.
    pub loader: Option<&'a super::grub::View>,
    /// What a machine has said that booted these disks, where one has.
    pub booted: Option<&'a super::boots::Said>,
}

/// What is recorded and checked.
pub trait Scenario: Sync {
    /// What is kept of the state between two steps.
    type Snapshot: Sync;

    /// Names it.
    fn name(&self) -> String;

    /// Returns its disks, the one that the others are mounted in first.
    fn disks(&self) -> Vec<Plan>;

    /// Returns the disk that the boot loader reads, and the path of `/boot` on it.
    fn boot(&self) -> Option<(usize, &'static str)>;

    /// Returns what it takes to boot the disks for real, where they are made for that.
    fn kit(&self) -> Option<&super::kit::Kit> {
        None
    }

    /// Makes what is there before anything is recorded. `place` is outside of the disks.
    ///
    /// # Errors
    /// If it cannot be made.
    fn prepare(&self, atomos: &Atomos, root: &Path, place: &Path) -> Result<()>;

    /// Makes an end of what [`Scenario::prepare`] made outside of the disks, before anything is cut.
    ///
    /// # Errors
    /// If that cannot be done.
    fn leave(&self) -> Result<()> {
        Ok(())
    }

    /// Returns what is recorded.
    fn steps(&self, place: &Path) -> Vec<Step>;

    /// What happens to the machine right before the step, and writes nothing to the disks: a reboot.
    ///
    /// # Errors
    /// If it cannot happen.
    fn before(&self, _step: &Step, _root: &Path) -> Result<()> {
        Ok(())
    }

    /// Looks at the state between two steps.
    ///
    /// # Errors
    /// If it cannot be read.
    fn look(&self, root: &Path) -> Result<Self::Snapshot>;

    /// Checks what a cut left, and that the machine goes on from there. `snapshots` has the state before the first step,
    /// and after each.
    ///
    /// # Errors
    /// If anything is not as it must be.
    fn check(
        &self,
        atomos: &Atomos,
        point: &Point<'_>,
        snapshots: &[Self::Snapshot],
        steps: &[Step],
    ) -> Result<()>;
}

/// A scenario that was played.
#[derive(Debug)]
pub struct Recording<S> {
    /// What happened to the disks.
    pub log: Log,
    /// The disks as they were before.
    pub base: Vec<PathBuf>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The state before the first step, and after each.
    pub snapshots: Vec<S>,
    /// Every sync and rename that was passed, and how often.
    pub sites: BTreeMap<String, u64>,
    /// Every sync with a rename that came after it, and after no other sync.
    pub before: BTreeSet<(String, String)>,
}

/// Mounted disks. They are unmounted as they must be, the last first.
#[derive(Debug, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Mounts the disks at `root`.
    ///
    /// # Errors
    /// If one cannot be mounted.
    pub fn new(plans: &[Plan], disks: &[PathBuf], root: &Path) -> Result<Self> {
        let mut mounts = Self::default();
        for (plan, disk) in plans.iter().zip(disks) {
            mounts
                .0
                .push(Mount::new(plan.kind, disk, &root.join(plan.target))?);
        }
        Ok(mounts)
    }

    /// Unmounts them.
    ///
    /// # Errors
    /// If one is in use.
    pub fn unmount(mut self) -> Result<()> {
        while let Some(mount) = self.0.pop() {
            mount.unmount()?;
        }
        Ok(())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// Makes all that was written lasting.
fn sync(mount: &Path) -> Result<()> {
    let directory = std::fs::File::open(mount)?;
    rustix::fs::syncfs(&directory).with_context(|| format!("cannot sync {}", mount.display()))
}

/// Plays a scenario in `place`, which is in memory, and returns what was recorded.
///
/// # Errors
/// If a step fails.
pub fn record<S: Scenario>(
    scenario: &S,
    atomos: &Atomos,
    place: &Path,
    others: Others,
    fault: Option<&Fault>,
) -> Result<Recording<S::Snapshot>> {
    let plans = scenario.disks();
    let memory = place.join("memory");
    std::fs::create_dir_all(&memory)?;
    let disks: Vec<Disk> = plans
        .iter()
        .map(|plan| Disk {
            name: plan.name,
            size: plan.size,
        })
        .collect();
    let recorder = Arc::new(Recorder::start(&disks, &memory, &place.join("fuse"))?);
    for plan in &plans {
        plan.kind.make(&recorder.disk(plan.name), &plan.label())?;
    }
    let root = place.join("root");
    let paths: Vec<_> = plans.iter().map(|plan| recorder.disk(plan.name)).collect();
    let mounts = Mounts::new(&plans, &paths, &root)?;
    let targets: Vec<_> = plans
        .iter()
        .map(|plan| (plan.kind, root.join(plan.target)))
        .collect();
    for (kind, target) in &targets {
        prepare_others(*kind, target)?;
    }
    scenario.prepare(atomos, &root, place)?;
    let watcher = Watcher::start(&place.join("socket"), &recorder, &targets, others, fault)?;
    let mut snapshots = vec![scenario.look(&root)?];
    let base = copy_base(&recorder, &plans, &targets, &memory)?;
    let steps = scenario.steps(place);
    for step in &steps {
        scenario.before(step, &root)?;
        recorder.mark(&format!("begin {}", step.name));
        run_step(atomos, step, &root, watcher.socket())?;
        recorder.mark(&format!("end {}", step.name));
        snapshots.push(scenario.look(&root)?);
    }
    let log = recorder.take_log();
    mounts.unmount()?;
    scenario.leave()?;
    Ok(Recording {
        log,
        base,
        steps,
        snapshots,
        sites: watcher.sites(),
        before: watcher.syncs_before_renames(),
    })
}

/// Copies the disks while nothing writes to them.
fn copy_base(
    recorder: &Recorder,
    plans: &[Plan],
    targets: &[(Kind, PathBuf)],
    memory: &Path,
) -> Result<Vec<PathBuf>> {
    for _ in 0..20 {
        for (_, target) in targets {
            sync(target)?;
        }
        drop(recorder.take_log());
        let mut base = Vec::new();
        for plan in plans {
            let path = memory.join(format!("{}-base", plan.name));
            let copy = std::fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            super::image::copy_sparse(&super::image::open(&memory.join(plan.name))?, &copy)?;
            base.push(path);
        }
        // A file system may go on in the background; then it is copied again.
        if recorder
            .take_log()
            .events
            .iter()
            .all(|event| matches!(event, Event::Flush { .. }))
        {
            return Ok(base);
        }
    }
    bail!("the file systems do not come to rest");
}

/// Runs the commands of a step at once, watched.
fn run_step(atomos: &Atomos, step: &Step, root: &Path, socket: &Path) -> Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> = step
            .words(root)
            .into_iter()
            .map(|words| scope.spawn(move || atomos.run(&words, Some(socket))))
            .collect();
        for thread in running {
            let result = thread.join();
            ensure!(result.is_ok(), "the step {} panicked", step.name);
            result
                .expect("it did not panic")
                .with_context(|| format!("in the step {}", step.name))?;
        }
        Ok(())
    })
}

/// Runs the commands of a step, one after the other, unwatched.
///
/// # Errors
/// If one fails.
pub fn repeat(atomos: &Atomos, step: &Step, root: &Path) -> Result<()> {
    for words in step.words(root) {
        atomos.run(&words, None)?;
    }
    Ok(())
}
