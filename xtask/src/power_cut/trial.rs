//! Cutting the power of a recording, and looking at what is left.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};

use super::atomos::Atomos;
use super::boots::{self, Said};
use super::cuts::{Content, Cut, Finder, stretches};
use super::grub::{self, View};
use super::image::Disks;
use super::interrupt::Interrupt;
use super::phase::Phase;
use super::scenario::{Mounts, Plan, Point, Recording, Scenario};
use crate::random::Random;
use crate::vm::steps::Steps;

/// Cuts that are found in one stretch between two flushes, unless more are needed.
const EACH: usize = 12;

/// A cut that is to be tried.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The cut.
    pub cut: Cut,
    /// The part of the operation that it falls into.
    pub phase: Phase,
}

/// A cut after which something was not as it must be.
#[derive(Debug)]
pub struct Failure {
    /// The cut.
    pub planned: Planned,
    /// The last mark before it.
    pub mark: String,
    /// What was wrong.
    pub error: anyhow::Error,
}

/// How cuts are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// About how many.
    pub points: usize,
    /// How many at least in each phase that the recording has, if there are so many outcomes.
    pub each_phase: fn(Phase) -> usize,
    /// Decides which.
    pub seed: u64,
}

/// Chooses cuts: whole stretches, drawn from each phase in turn until there are enough.
pub fn choose<S>(recording: &Recording<S>, choice: &Choice) -> Vec<Planned> {
    let log = &recording.log;
    let disks = recording.base.len();
    let mut by_phase: BTreeMap<Phase, Vec<_>> = BTreeMap::new();
    for stretch in stretches(log, 0, log.events.len(), |text| text.starts_with("end ")) {
        by_phase
            .entry(Phase::at(log, stretch.start.max(1)))
            .or_default()
            .push(stretch);
    }
    let mut random = Random::new(choice.seed);
    let mut finder = Finder::new(log, disks, choice.seed);
    for stretches in by_phase.values_mut() {
        for at in (1..stretches.len()).rev() {
            stretches.swap(at, random.below(at as u64 + 1) as usize);
        }
    }
    let mut found: BTreeMap<Phase, Vec<Planned>> = BTreeMap::new();
    let phases: Vec<_> = by_phase.keys().copied().collect();
    let mut take = |phase: Phase, stretch, wanted: usize| {
        let cuts = finder.find(stretch, wanted);
        let into = found.entry(phase).or_default();
        into.extend(cuts.into_iter().map(|cut| Planned { cut, phase }));
        into.len()
    };
    let mut total = BTreeMap::new();
    let mut drawn = by_phase.clone();
    while total.values().sum::<usize>() < choice.points && drawn.values().any(|left| !left.is_empty()) {
        for phase in &phases {
            if let Some(stretch) = drawn.get_mut(phase).and_then(Vec::pop) {
                total.insert(*phase, take(*phase, stretch, EACH));
            }
        }
    }
    for phase in &phases {
        let phase = *phase;
        let mut wanted = EACH * 4;
        // Longer stretches have more outcomes than were asked for at first.
        while total
            .get(&phase)
            .is_some_and(|count| *count < (choice.each_phase)(phase).max(choice.points / phases.len()))
            && wanted < EACH * 200
        {
            found.remove(&phase);
            let mut count = 0;
            for stretch in by_phase.get(&phase).into_iter().flatten() {
                let cuts = finder.find(*stretch, wanted);
                count += cuts.len();
                let into = found.entry(phase).or_default();
                into.extend(cuts.into_iter().map(|cut| Planned { cut, phase }));
            }
            total.insert(phase, count);
            wanted *= 4;
        }
    }
    let level = level(found.values().map(Vec::len).collect(), choice.points);
    for phase in phases {
        // What was found beyond need is left out, evenly.
        let most = (choice.each_phase)(phase).max(level);
        if let Some(cuts) = found.get_mut(&phase)
            && cuts.len() > most
        {
            for at in (1..cuts.len()).rev() {
                cuts.swap(at, random.below(at as u64 + 1) as usize);
            }
            cuts.truncate(most);
        }
    }
    let mut planned: Vec<_> = found.into_values().flatten().collect();
    planned.sort_by_key(|planned| planned.cut.at);
    planned
}

/// Returns how many of each kind are taken at most, so that all together are as near to `points` as there are: what one kind lacks,
/// others make up for.
fn level(mut counts: Vec<usize>, points: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut level) = (points, 0);
    for (index, count) in counts.iter().enumerate() {
        let share = left.div_ceil(counts.len() - index);
        if *count >= share {
            return share;
        }
        left -= count;
        level = *count;
    }
    level
}

/// How cuts are tried.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// The program.
    pub atomos: &'a Atomos,
    /// A directory in memory.
    pub place: &'a Path,
    /// Threads.
    pub workers: usize,
    /// Ends it early.
    pub interrupt: &'a Interrupt,
    /// How many failures are enough.
    pub enough: usize,
    /// Where the disks of failures are kept.
    pub keep: Option<&'a Path>,
    /// Whom to tell how far it is.
    pub steps: Option<&'a Steps>,
}

/// A machine that has booted after a cut.
#[derive(Debug)]
pub struct Boot {
    /// The cut.
    pub planned: Planned,
    /// The last mark before it.
    pub mark: String,
    /// What it said.
    pub said: Said,
}

/// What was tried.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many cuts, for each phase.
    pub tried: BTreeMap<Phase, usize>,
    /// Those after which something was wrong.
    pub failures: Vec<Failure>,
    /// Those after which a machine has booted.
    pub boots: Vec<Boot>,
}

impl Outcome {
    /// Returns how many cuts were tried.
    #[must_use]
    pub fn total(&self) -> usize {
        self.tried.values().sum()
    }
}

type Views = Mutex<HashMap<Content, std::result::Result<Arc<View>, String>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is pushed or inserted is whole, whoever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tries every cut.
///
/// # Errors
/// If a disk cannot be made. What is wrong after a cut is in the outcome.
pub fn run<S: Scenario>(
    trial: &Trial<'_>,
    scenario: &S,
    recording: &Recording<S::Snapshot>,
    planned: &[Planned],
) -> Result<Outcome> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (views, outcome) = (Views::default(), Mutex::new(Outcome::default()));
    let work = |number: usize| -> Result<()> {
        let place = trial.place.join(format!("worker-{number}"));
        let mut worker = Worker {
            trial,
            scenario,
            recording,
            plans: scenario.disks(),
            disks: Disks::new(&recording.base, &place)?,
            root: place.join("root"),
            place,
            views: &views,
        };
        std::fs::create_dir_all(&worker.root)?;
        while !stop.load(Ordering::Relaxed) && !trial.interrupt.is_raised() {
            let Some(planned) = planned.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            worker.disks.make(&recording.log, &planned.cut)?;
            let result = worker.look(&planned.cut);
            let mark = || {
                let mark = recording
                    .log
                    .last_mark(planned.cut.at, |text| Some(text.to_owned()));
                mark.unwrap_or_default()
            };
            let mut outcome = lock(&outcome);
            *outcome.tried.entry(planned.phase).or_default() += 1;
            if let Some(steps) = trial.steps
                && outcome.total().is_multiple_of(50)
            {
                steps.say(&format!(
                    "{} cuts, {} failures",
                    outcome.total(),
                    outcome.failures.len()
                ));
            }
            match result {
                Ok(None) => {}
                Ok(Some(said)) => outcome.boots.push(Boot {
                    planned: planned.clone(),
                    mark: mark(),
                    said,
                }),
                Err(error) => {
                    if let Some(keep) = trial.keep {
                        worker.disks.make(&recording.log, &planned.cut)?;
                        worker.keep(&keep.join(outcome.failures.len().to_string()))?;
                    }
                    outcome.failures.push(Failure {
                        planned: planned.clone(),
                        mark: mark(),
                        error,
                    });
                    if outcome.failures.len() >= trial.enough {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..trial.workers)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        for thread in threads {
            let result = thread.join();
            ensure!(result.is_ok(), "a worker panicked");
            result.expect("it did not panic")?;
        }
        Ok(())
    })?;
    trial.interrupt.check()?;
    Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Worker<'a, S: Scenario> {
    trial: &'a Trial<'a>,
    scenario: &'a S,
    recording: &'a Recording<S::Snapshot>,
    plans: Vec<Plan>,
    disks: Disks,
    root: PathBuf,
    place: PathBuf,
    views: &'a Views,
}

impl<S: Scenario> Worker<'_, S> {
    /// Looks at the disks after the cut. Returns what the machine has said, where one was booted.
    fn look(&self, cut: &Cut) -> Result<Option<Said>> {
        let log = &self.recording.log;
        let paths = self.disks.paths();
        let view = match self.scenario.boot() {
            Some((disk, boot)) => Some(self.view(cut, disk, &paths[disk], boot)?),
            None => None,
        };
        let booted = match self.scenario.kit() {
            Some(kit) => Some(boots::boot(kit, &paths, &self.place)?),
            None => None,
        };
        let named = |prefix: &'static str| move |text: &str| text.strip_prefix(prefix).map(str::to_owned);
        let begun = log.last_mark(cut.at, named("begin "));
        let ended = log.last_mark(cut.at, named("end "));
        // Before the first step nothing has happened, which is the state before it.
        let step = begun.as_deref().unwrap_or(self.recording.steps[0].name);
        let number = self.recording.steps.iter().position(|other| other.name == step);
        let point = Point {
            root: &self.root,
            step: number.context("a mark names no step")?,
            ended: ended.as_deref() == Some(step),
            loader: view.as_deref(),
            booted: booted.as_ref(),
        };
        let mounts = Mounts::new(&self.plans, &paths, &self.root)?;
        let result = self.scenario.check(
            self.trial.atomos,
            &point,
            &self.recording.snapshots,
            &self.recording.steps,
        );
        if let Err(error) = result {
            drop(mounts);
            return Err(error);
        }
        mounts.unmount()?;
        for (plan, path) in self.plans.iter().zip(&paths) {
            plan.kind.check(path)?;
        }
        Ok(booted)
    }

    /// Returns what the loader sees. Most cuts leave its disk as another one did.
    fn view(&self, cut: &Cut, disk: usize, path: &Path, boot: &str) -> Result<Arc<View>> {
        let content = cut.content(&self.recording.log, disk);
        if let Some(view) = lock(self.views).get(&content) {
            return view.clone().map_err(anyhow::Error::msg);
        }
        let view = grub::look(path, boot)
            .map(Arc::new)
            .map_err(|error| format!("{error:#}"));
        lock(self.views).insert(content, view.clone());
        view.map_err(anyhow::Error::msg)
    }

    /// Copies the disks out of memory.
    fn keep(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (plan, path) in self.plans.iter().zip(self.disks.paths()) {
            let copy = directory.join(plan.name);
            let to = std::fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(&copy);
            super::image::copy_sparse(
                &super::image::open(&path)?,
                &to.with_context(|| format!("cannot make {}", copy.display()))?,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn what_one_kind_lacks_others_make_up_for() {
        let taken = |counts: &[usize], points| -> usize {
            let level = level(counts.to_vec(), points);
            counts.iter().map(|count| (*count).min(level)).sum()
        };
        assert_eq!(taken(&[10, 100, 100], 150), 150);
        assert_eq!(taken(&[100, 10, 1, 100], 150), 151, "shares are whole");
        assert_eq!(taken(&[5, 6], 100), 11, "there are no more");
        assert_eq!(taken(&[], 100), 0);
        assert_eq!(level(vec![10, 10], 20), 10);
    }
}
