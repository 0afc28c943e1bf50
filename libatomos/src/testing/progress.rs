//! A listener that remembers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::progress::{Event, Phase, Progress};

/// Remembers every event, so that a test can ask what an operation reported.
#[derive(Debug, Default)]
pub struct RecordingProgress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    began: Vec<(Phase, Option<u64>)>,
    done: BTreeMap<String, u64>,
    ended: Vec<Phase>,
    texts: Vec<String>,
}

impl RecordingProgress {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the phases in the order in which they began, each with its total.
    #[must_use]
    pub fn began(&self) -> Vec<(Phase, Option<u64>)> {
        self.state().began.clone()
    }

    /// Returns the phases in the order in which they ended.
    #[must_use]
    pub fn ended(&self) -> Vec<Phase> {
        self.state().ended.clone()
    }

    /// Returns how much of a phase was reported as done.
    #[must_use]
    pub fn done(&self, phase: Phase) -> u64 {
        self.state().done.get(phase.label()).copied().unwrap_or(0)
    }

    /// Returns every note and warning.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.state().texts.clone()
    }
}

impl Progress for RecordingProgress {
    fn report(&self, event: Event<'_>) {
        let mut state = self.state();
        match event {
            Event::Begin { phase, total, .. } => state.began.push((phase, total)),
            Event::Advance { phase, delta } => {
                *state.done.entry(phase.label().to_owned()).or_default() += delta;
            }
            Event::End { phase } => state.ended.push(phase),
            Event::Note { text } | Event::Warning { text } => state.texts.push(text.to_owned()),
        }
    }
}
