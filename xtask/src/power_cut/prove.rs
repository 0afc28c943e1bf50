//! The test of the test: it would notice if a sync were missing or came too late.
//!
//! Every sync and every rename that a recording passes is known by its place in the source. Each sync is left out, and
//! each rename is made before the sync that stands before it; the scenarios are recorded again with that fault, and cut
//! where it can show. A fault that no cut shows must be argued in the source, in the comment above the call: what
//! `NO_CUT_SHOWS` says, and why.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::atomos::Atomos;
use super::cuts::{Finder, Stretch, stretches};
use super::log::Event;
use super::phase::Phase;
use super::random::Random;
use super::scenario::{Recording, Scenario, record};
use super::trial::{self, Planned, Trial};
use super::watcher::{Fault, Others, Site};

/// What the comment above a call says whose absence no cut shows.
pub const NO_CUT_SHOWS: &str = "No power cut shows";

/// How many lines above a call its comment may begin.
const ABOVE: usize = 14;

/// How a fault ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A cut showed it, in the scenario; this was wrong.
    Caught(String, String),
    /// No cut showed it, and the source says why.
    Argued,
    /// No cut showed it.
    Missed,
}

/// The faults that a recording has room for.
pub fn faults<S>(recording: &Recording<S>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for site in recording.sites.keys() {
        faults.push(match recording.before.get(site) {
            Some(sync) => Fault::Late {
                sync: sync.clone(),
                rename: site.clone(),
            },
            None if site.starts_with("renamed ") => continue,
            None => Fault::Skip(site.clone()),
        });
    }
    faults
}

/// Returns whether the source argues why the fault does not show.
///
/// # Errors
/// If the source cannot be read.
pub fn is_argued(sources: &Path, fault: &Fault) -> Result<bool> {
    let (Fault::Skip(site) | Fault::Late { rename: site, .. }) = fault;
    let place = site.split(' ').nth(1).context("a site has a place")?;
    let (file, line) = place.rsplit_once(':').context("a place has a line")?;
    let path = sources.join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line: usize = line.parse().context("a line is a number")?;
    let lines: Vec<_> = text.lines().take(line - 1).collect();
    let above = &lines[lines.len().saturating_sub(ABOVE)..];
    let what = match fault {
        Fault::Skip(_) => "sync",
        Fault::Late { .. } => "order",
    };
    Ok(above.iter().any(|line| {
        line.trim_start().starts_with("//") && line.contains(&format!("{NO_CUT_SHOWS} this {what}"))
    }))
}

/// Records a scenario with the fault, and cuts where it can show. Returns what was wrong, if anything.
///
/// # Errors
/// If the scenario cannot be recorded.
pub fn try_fault<S: Scenario>(
    scenario: &S,
    atomos: &Atomos,
    place: &Path,
    fault: &Fault,
    points: usize,
    seed: u64,
) -> Result<Option<String>> {
    std::fs::create_dir_all(place)?;
    let recording = record(scenario, atomos, place, Others::Always, Some(fault))?;
    let planned = near(&recording, fault, points, seed);
    let trial = Trial {
        atomos,
        place,
        workers: 2,
        enough: 1,
        keep: None,
        steps: None,
    };
    let outcome = trial::run(&trial, scenario, &recording, &planned)?;
    std::fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    Ok(outcome
        .failures
        .first()
        .map(|failure| format!("{}: {:#}", failure.planned.phase.name(), failure.error)))
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
    let mut finder = Finder::new(log, recording.base.len(), seed);
    let mut found: BTreeMap<(usize, usize), Stretch> = BTreeMap::new();
    let each = (points / windows.len().max(1) / 10).max(2);
    for window in &windows {
        // The first ones, the last one, and some between.
        let mut wanted: Vec<usize> = (0..each.min(window.len())).collect();
        wanted.push(window.len() - 1);
        wanted.extend((0..each / 2).map(|_| random.below(window.len() as u64) as usize));
        for at in wanted {
            found.insert((window[at].start, window[at].end), window[at]);
        }
    }
    let share = (points / found.len().max(1)).max(4);
    let mut planned = Vec::new();
    for stretch in found.into_values() {
        let phase = Phase::at(log, stretch.start.max(1));
        let cuts = finder.find(stretch, share);
        planned.extend(cuts.into_iter().map(|cut| Planned { cut, phase }));
    }
    planned.sort_by_key(|planned| planned.cut.at);
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_looked_for_above_the_call_and_nowhere_else() {
        let place = tempfile::tempdir().unwrap();
        let text =
            "fn a() {\n    // No power cut shows this sync: it is the last.\n    sync();\n    sync();\n}\n";
        let filler = "// filler\n".repeat(20);
        std::fs::write(place.path().join("a.rs"), format!("{text}{filler}sync();\n")).unwrap();
        let argued = |line: usize, late: bool| {
            let site = format!("syncfs a.rs:{line}");
            let fault = match late {
                true => Fault::Late {
                    sync: site.clone(),
                    rename: site,
                },
                false => Fault::Skip(site),
            };
            is_argued(place.path(), &fault).unwrap()
        };
        assert!(argued(3, false));
        assert!(!argued(3, true), "it argues about the sync alone");
        assert!(!argued(1, false));
        assert!(!argued(26, false));
    }
}
