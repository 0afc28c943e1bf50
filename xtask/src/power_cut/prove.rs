//! The test of the test: it would notice if a sync were missing or came too late.
//!
//! Every sync and every rename that a recording passes is known by its place in the source. Each sync is left out, and
//! each rename is made before the sync that stands before it; the scenarios are recorded again with that fault, and cut
//! where it can show. A fault that no cut shows must be argued in the source: see [`super::sources`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::atomos::Atomos;
use super::cuts::{Finder, Stretch, stretches};
use super::interrupt::Interrupt;
use super::log::Event;
use super::phase::Phase;
use super::report;
use super::scenario::{Recording, Scenario, record};
use super::sources::{Sources, UNTRIED};
use super::trial::{self, Planned, Trial};
use super::watcher::{Fault, Others, Site};
use crate::random::Random;
use crate::vm::steps::Steps;

/// How often a fault is looked for in one recording, at most, where its place is passed more often. What comes after a place decides
/// whether it shows there, so that all commands of a machine have their turn.
const WINDOWS: usize = 8;

/// Stretches between two flushes that are tried far from the place.
const LATER: usize = 2;

/// In how many scenarios a fault is tried of which the source argues that no cut shows it.
const ARGUED_TRIES: usize = 1;

/// What part of the cuts such a fault gets.
const ARGUED_PART: usize = 3;

/// How a fault ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A cut showed it, in the scenario; this was wrong.
    Caught(String, String),
    /// No cut showed it, and the source says why.
    Argued(String),
    /// No cut showed it.
    Missed,
}

/// Which faults to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Syncs that are left out.
    Skip,
    /// Renames that come before a sync.
    Late,
}

/// How hard to look for what a fault spoils.
#[derive(Debug, Clone, Copy)]
pub struct Effort<'a> {
    /// About how many cuts to try of each recording.
    pub points: usize,
    /// Decides which.
    pub seed: u64,
    /// Threads.
    pub workers: usize,
    /// Ends it early.
    pub interrupt: &'a Interrupt,
}

/// What was found out of every fault.
#[derive(Debug)]
pub struct Proof<'a> {
    atomos: &'a Atomos,
    place: PathBuf,
    steps: &'a Steps,
    effort: Effort<'a>,
    /// Only faults whose name contains this.
    only: &'a str,
    verdicts: BTreeMap<String, (Fault, Verdict)>,
    /// Every sync and rename that a scenario passes.
    passed: BTreeSet<Site>,
    /// What the source says.
    sources: Sources,
    /// In how many scenarios each fault was tried.
    tries: BTreeMap<String, usize>,
}

impl<'a> Proof<'a> {
    /// Starts with nothing known.
    #[must_use]
    pub fn new(
        atomos: &'a Atomos,
        place: &Path,
        steps: &'a Steps,
        effort: Effort<'a>,
        only: &'a str,
        sources: Sources,
    ) -> Self {
        Self {
            atomos,
            place: place.join("prove"),
            steps,
            effort,
            only,
            verdicts: BTreeMap::new(),
            passed: BTreeSet::new(),
            sources,
            tries: BTreeMap::new(),
        }
    }

    /// Tries the scenario's faults of one kind that no scenario before has shown.
    ///
    /// # Errors
    /// If the scenario cannot be recorded.
    pub fn add<S: Scenario>(&mut self, scenario: &S, kind: FaultKind) -> Result<()> {
        std::fs::create_dir(&self.place)?;
        let recording = record(scenario, self.atomos, &self.place, Others::Always, None)?;
        std::fs::remove_dir_all(&self.place).context("cannot remove what was in memory")?;
        self.passed.extend(recording.sites.keys().cloned());
        for fault in faults(&recording, kind) {
            let name = fault.to_string();
            let is_caught = |name: &str| {
                let known = self.verdicts.get(name).map(|(_, verdict)| verdict);
                matches!(known, Some(Verdict::Caught(..)))
            };
            if is_caught(&name) || !name.contains(self.only) {
                continue;
            }
            // A sync that nobody misses comes too late for nobody.
            if let Fault::Late { sync, .. } = &fault
                && self.only.is_empty()
                && !is_caught(&Fault::Skip(sync.clone()).to_string())
            {
                continue;
            }
            // What no cut is said to show gets some chances, and not one in each scenario.
            let tries = self.tries.entry(name.clone()).or_default();
            let is_argued = self
                .sources
                .arguments
                .iter()
                .any(|argument| argument.is_about(&fault));
            if is_argued && *tries >= ARGUED_TRIES {
                continue;
            }
            *tries += 1;
            let mut effort = self.effort;
            if is_argued {
                effort.points /= ARGUED_PART;
            }
            let found = try_fault(scenario, self.atomos, &self.place, &fault, &effort)
                .with_context(|| format!("{}, {name}", scenario.name()))?;
            self.steps.say(&format!(
                "{}, {name}: {}",
                scenario.name(),
                found.as_deref().unwrap_or("does not show")
            ));
            let verdict = found.map_or(Verdict::Missed, |error| Verdict::Caught(scenario.name(), error));
            self.verdicts.insert(name, (fault, verdict));
        }
        Ok(())
    }

    /// Asks the source about what no cut has shown. Returns the report, and what is wrong. Whether the source says too much
    /// can be told only where everything was tried.
    #[must_use]
    pub fn judge(mut self, is_whole: bool) -> (String, Vec<String>) {
        let sources = self.sources;
        let mut needed = Vec::new();
        let mut wrong = Vec::new();
        for (fault, verdict) in self.verdicts.values_mut() {
            if *verdict != Verdict::Missed {
                continue;
            }
            match sources
                .arguments
                .iter()
                .rfind(|argument| argument.is_about(fault))
            {
                Some(argument) => {
                    needed.push(argument);
                    *verdict = Verdict::Argued(argument.reason.clone());
                }
                None => wrong.push(format!(
                    "{fault}: does not show, and nothing in the source argues why"
                )),
            }
        }
        let all: Vec<_> = self.verdicts.into_values().collect();
        let mut text = report::faults(&all);
        if !is_whole {
            return (text, wrong);
        }
        let (untried, unused) = sources.untried(self.passed.iter(), &UNTRIED);
        text.push_str(&report::untried(&untried));
        for argument in sources
            .arguments
            .iter()
            .filter(|argument| !needed.contains(argument))
        {
            wrong.push(format!(
                "{}:{}: argues what is not so",
                argument.file, argument.line
            ));
        }
        for (call, _) in untried.iter().filter(|(_, reason)| reason.is_none()) {
            wrong.push(format!("{call}: no scenario passes it, and nothing says why"));
        }
        wrong.extend(
            unused
                .iter()
                .map(|prefix| format!("{prefix}: is tried, and is said not to be")),
        );
        (text, wrong)
    }
}

/// The faults that a recording has room for.
fn faults<S>(recording: &Recording<S>, kind: FaultKind) -> Vec<Fault> {
    let syncs = recording
        .sites
        .keys()
        .filter(|site| !site.starts_with("renamed "));
    match kind {
        FaultKind::Skip => syncs.cloned().map(Fault::Skip).collect(),
        FaultKind::Late => {
            let late = recording.before.iter().map(|(sync, rename)| Fault::Late {
                sync: sync.clone(),
                rename: rename.clone(),
            });
            late.collect()
        }
    }
}

/// Records a scenario with the fault, and cuts where it can show: once while others sync at every step, which makes names last
/// before their bytes, and once while nobody else does, so that nobody makes up for what is left out. Returns what was wrong,
/// if anything.
fn try_fault<S: Scenario>(
    scenario: &S,
    atomos: &Atomos,
    place: &Path,
    fault: &Fault,
    effort: &Effort<'_>,
) -> Result<Option<String>> {
    for others in [Others::Never, Others::Always] {
        std::fs::create_dir_all(place)?;
        let recording = record(scenario, atomos, place, others, Some(fault))?;
        let planned = near(&recording, fault, effort.points, effort.seed);
        let trial = Trial {
            atomos,
            place,
            workers: effort.workers,
            interrupt: effort.interrupt,
            enough: 1,
            keep: None,
            steps: None,
        };
        let outcome = trial::run(&trial, scenario, &recording, &planned)?;
        std::fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
        if let Some(failure) = outcome.failures.first() {
            return Ok(Some(format!(
                "{}: {:#}",
                failure.planned.phase.name(),
                failure.error
            )));
        }
    }
    Ok(None)
}

/// How many cuts a stretch is worth: the more was written, the more may be lost of it.
fn outcomes(stretch: Stretch) -> usize {
    (stretch.end - stretch.start + 2).clamp(2, 14)
}

/// Chooses cuts between each step that the fault spoils and the end of its command, most of them soon after.
fn near<S>(recording: &Recording<S>, fault: &Fault, points: usize, seed: u64) -> Vec<Planned> {
    let log = &recording.log;
    let site: &Site = match fault {
        Fault::Skip(site) => site,
        Fault::Late { sync, .. } => sync,
    };
    let mut windows: Vec<Vec<Stretch>> = Vec::new();
    let is_end = |text: &str| text.starts_with("end ");
    for (at, event) in log.events.iter().enumerate() {
        if !matches!(event, Event::Mark(text) if text == site) {
            continue;
        }
        let end = log.events[at..]
            .iter()
            .position(|event| matches!(event, Event::Mark(text) if is_end(text)))
            .map_or(log.events.len(), |length| at + length + 1);
        windows.push(stretches(log, at, end, is_end));
    }
    let mut random = Random::new(seed);
    while windows.len() > WINDOWS {
        windows.remove(random.below(windows.len() as u64) as usize);
    }
    let mut finder = Finder::new(log, recording.base.len(), seed);
    let mut planned: Vec<Planned> = Vec::new();
    let share = points / windows.len().max(1);
    for window in &windows {
        // Most of them soon after, stretch by stretch, and some at the end and between.
        let mut found: BTreeMap<(usize, usize), Stretch> = BTreeMap::new();
        let mut left = share;
        let later = (0..LATER).map(|_| random.below(window.len() as u64) as usize);
        for at in std::iter::once(window.len() - 1)
            .chain(later)
            .chain(0..window.len())
        {
            if left == 0 {
                break;
            }
            let stretch = window[at];
            if found.insert((stretch.start, stretch.end), stretch).is_none() {
                left = left.saturating_sub(outcomes(stretch));
            }
        }
        for stretch in found.into_values() {
            let phase = Phase::at(log, stretch.start.max(1));
            let cuts = finder.find(stretch, outcomes(stretch));
            planned.extend(cuts.into_iter().map(|cut| Planned { cut, phase }));
        }
    }
    planned.sort_by_key(|planned| planned.cut.at);
    planned
}
