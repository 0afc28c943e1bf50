//! The program's own `Progress`: a board that one thread writes and any other reads.
//!
//! The library reports every event, from whichever thread has something to say. What to do with them is up to the
//! program: a daemon keeps the newest state for whoever asks, and draws nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use libatomos::progress::{Event, Phase, Progress, Unit};

/// How far the running operation is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is being done; `None` between phases.
    pub phase: Option<Phase>,
    /// How much of it is done.
    pub done: u64,
    /// How much there is to do, where that is known.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: Option<Unit>,
    /// What a person ought to read, so far.
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// Returns the part that is done, in percent.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total.filter(|total| *total > 0)?;
        Some((self.done.saturating_mul(100) / total).min(100))
    }
}

/// Keeps the newest [`Snapshot`].
#[derive(Debug, Default)]
pub struct Board(Mutex<Snapshot>);

impl Board {
    /// Returns an empty board.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns how far the operation is at this moment.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Board {
    fn report(&self, event: Event<'_>) {
        let mut board = self.lock();
        match event {
            Event::Begin { phase, total, unit } => {
                let warnings = std::mem::take(&mut board.warnings);
                *board = Snapshot {
                    phase: Some(phase),
                    done: 0,
                    total,
                    unit: Some(unit),
                    warnings,
                };
            }
            Event::Advance { phase, delta } if board.phase == Some(phase) => board.done += delta,
            Event::End { phase } if board.phase == Some(phase) => board.phase = None,
            Event::Warning { text } => board.warnings.push(text.to_owned()),
            // Kinds that a later library has are nothing to worry about.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_shows_the_newest_phase_and_keeps_warnings() {
        let board = Board::new();
        board.report(Event::Warning { text: "look here" });
        board.report(Event::Begin {
            phase: Phase::Pull,
            total: Some(200),
            unit: Unit::Bytes,
        });
        board.report(Event::Advance {
            phase: Phase::Pull,
            delta: 50,
        });
        board.report(Event::Advance {
            phase: Phase::Sync,
            delta: 1000,
        });
        let snapshot = board.snapshot();
        assert_eq!(
            (snapshot.phase, snapshot.percent()),
            (Some(Phase::Pull), Some(25))
        );
        assert_eq!(snapshot.warnings, ["look here"]);
        board.report(Event::End { phase: Phase::Pull });
        assert_eq!(board.snapshot().phase, None);
    }
}
