//! Which power cuts to try.
//!
//! A disk keeps what was written before its last flush. Of what came after, any part may be there: the disk's cache writes
//! in an order of its own. So the log is divided at its flushes, and in each stretch between two of them there are
//! cuts: right before the flush's effect with nothing of the stretch, with all of it, and with random parts of it, at
//! random moments. A write that spans blocks may be torn between them. Writes to one place stay in their order.
//!
//! Two cuts that leave the same bytes are one. Where a stretch has fewer different outcomes than are asked for, all
//! that were found are tried.

use std::collections::{BTreeMap, HashSet};

use super::log::{Event, Log};
use crate::random::Random;

/// Bytes that a disk writes whole or not at all: the sector of today's disks.
pub const BLOCK: u64 = 4096;

/// Candidates that are looked at for each cut that is asked for.
const PATIENCE: usize = 6;

/// A write that reached the disk though no flush said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its place in the log.
    pub event: usize,
    /// Where it is torn: the seed that says which of its blocks are there.
    pub torn: Option<u64>,
}

impl Survivor {
    /// A write that is there whole.
    pub(super) const ALL: Self = Self { event: 0, torn: None };

    /// Returns whether the block of the disk is written.
    #[must_use]
    pub fn has(&self, block: u64) -> bool {
        self.torn
            .is_none_or(|seed| Random::new(seed ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15)).below(2) == 0)
    }
}

/// A moment at which the power is cut, and what the disk's cache had written by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// How many events had happened.
    pub at: usize,
    /// What survives besides what was flushed, in the order of the log.
    pub survivors: Vec<Survivor>,
}

/// How many events were flushed, and which write each block besides has.
pub type Content = (usize, BTreeMap<u64, usize>);

impl Cut {
    /// Returns what tells one content of a disk from another.
    #[must_use]
    pub fn content(&self, log: &Log, disk: usize) -> Content {
        let mut blocks = BTreeMap::new();
        for survivor in &self.survivors {
            match log.events[survivor.event].written() {
                Some((on, offset, length)) if usize::from(on) == disk => {
                    for block in offset / BLOCK..(offset + length).div_ceil(BLOCK) {
                        if survivor.has(block) {
                            blocks.insert(block, survivor.event);
                        }
                    }
                }
                _ => {}
            }
        }
        (last_flush(log, self.at, disk), blocks)
    }

    /// Returns for each disk how many events its last flush covers.
    #[must_use]
    pub fn flushed(&self, log: &Log, disks: usize) -> Vec<usize> {
        (0..disks).map(|disk| last_flush(log, self.at, disk)).collect()
    }
}

fn last_flush(log: &Log, at: usize, wanted: usize) -> usize {
    log.events[..at]
        .iter()
        .rposition(|event| matches!(event, Event::Flush { disk } if usize::from(*disk) == wanted))
        .unwrap_or(0)
}

/// The part of a log between two flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// How many events were before it, the flush that begins it among them.
    pub start: usize,
    /// How many events were before the next flush.
    pub end: usize,
}

/// Divides the events from `from` to `to` at their flushes, and after marks that `bounds` names: what a command has
/// promised when it ends is to be there at that very moment.
#[must_use]
pub fn stretches(log: &Log, from: usize, to: usize, bounds: impl Fn(&str) -> bool) -> Vec<Stretch> {
    let mut found = Vec::new();
    let mut start = from;
    for at in from..to {
        let end = match &log.events[at] {
            Event::Flush { .. } => at,
            Event::Mark(text) if bounds(text) => at + 1,
            _ => continue,
        };
        found.push(Stretch { start, end });
        start = at + 1;
    }
    found.push(Stretch { start, end: to });
    found.retain(|stretch| stretch.end >= stretch.start);
    found
}

/// Finds cuts in stretches, the log's beginning first.
#[derive(Debug)]
pub struct Finder<'a> {
    log: &'a Log,
    disks: usize,
    random: Random,
}

impl<'a> Finder<'a> {
    /// Starts at the beginning of the log.
    #[must_use]
    pub fn new(log: &'a Log, disks: usize, seed: u64) -> Self {
        Self {
            log,
            disks,
            random: Random::new(seed),
        }
    }

    /// Returns up to `wanted` different cuts of the stretch, in order of time. The first ones are those that say most: at its
    /// end, with nothing and with everything of what is not flushed.
    #[must_use]
    pub fn find(&mut self, stretch: Stretch, wanted: usize) -> Vec<Cut> {
        let mut seen = HashSet::new();
        let mut cuts = Vec::new();
        let at_end = self.pending(stretch.end);
        let whole = |events: &[usize]| {
            events
                .iter()
                .map(|event| Survivor {
                    event: *event,
                    torn: None,
                })
                .collect()
        };
        let mut first = [(stretch.end, Vec::new()), (stretch.end, whole(&at_end))];
        for attempt in 0..wanted * PATIENCE {
            if cuts.len() >= wanted {
                break;
            }
            let (at, survivors) = match first.get_mut(attempt) {
                Some(found) => std::mem::take(found),
                None => self.draw(stretch),
            };
            let cut = Cut { at, survivors };
            if seen.insert(self.outcome(&cut)) {
                cuts.push(cut);
            }
        }
        cuts.sort_by_key(|cut| cut.at);
        cuts
    }

    /// Returns the writes that had happened and were not flushed.
    fn pending(&self, at: usize) -> Vec<usize> {
        let flushed: Vec<_> = (0..self.disks)
            .map(|disk| last_flush(self.log, at, disk))
            .collect();
        let from = flushed.iter().copied().min().unwrap_or(0);
        (from..at)
            .filter(|event| {
                self.log.events[*event]
                    .written()
                    .is_some_and(|(disk, _, _)| flushed[usize::from(disk)] <= *event)
            })
            .collect()
    }

    fn draw(&mut self, stretch: Stretch) -> (usize, Vec<Survivor>) {
        let at = stretch.start + self.random.below((stretch.end - stretch.start) as u64 + 1) as usize;
        let pending = self.pending(at);
        // Few that are lost, few that are kept, or about half.
        let (kept, of) = [(1, 8), (1, 2), (7, 8), (15, 16)][self.random.below(4) as usize];
        let one = match self.random.below(4) {
            0 if !pending.is_empty() => Some(pending[self.random.below(pending.len() as u64) as usize]),
            _ => None,
        };
        // One in four has all but one, or one alone: what a rule about the order of two writes is broken by.
        let alone = self.random.below(2) == 0;
        let survivors = pending
            .into_iter()
            .filter_map(|event| {
                let keep = match one {
                    Some(one) => (event == one) == alone,
                    None => self.random.below(of) < kept,
                };
                let torn = self.random.below(8) == 0;
                let seed = self.random.next();
                keep.then_some(Survivor {
                    event,
                    torn: (torn && one.is_none()).then_some(seed),
                })
            })
            .collect();
        (at, survivors)
    }

    /// Returns what tells one outcome from another: what is on the disks, and whether a command has ended, since then
    /// the same disks must have more.
    fn outcome(&self, cut: &Cut) -> (Vec<Content>, bool) {
        let ended = self
            .log
            .last_mark(cut.at, |text| Some(text.starts_with("end ")))
            .unwrap_or(false);
        let contents = (0..self.disks).map(|disk| cut.content(self.log, disk)).collect();
        (contents, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: u8, block: u64) -> Event {
        Event::Write {
            disk,
            offset: block * BLOCK,
            bytes: vec![1; BLOCK as usize],
        }
    }

    fn log() -> Log {
        Log {
            events: vec![
                Event::Mark("begin x".to_owned()),
                write(0, 0),
                write(0, 1),
                write(1, 0),
                Event::Flush { disk: 0 },
                write(0, 2),
                Event::Mark("end x".to_owned()),
                Event::Flush { disk: 1 },
            ],
        }
    }

    fn events(cut: &Cut) -> Vec<usize> {
        cut.survivors.iter().map(|survivor| survivor.event).collect()
    }

    #[test]
    fn a_log_is_divided_at_flushes_and_at_the_marks_that_are_asked_for() {
        let log = log();
        let stretch = |start, end| Stretch { start, end };
        assert_eq!(
            stretches(&log, 0, log.events.len(), |_| false),
            [stretch(0, 4), stretch(5, 7), stretch(8, 8)]
        );
        assert_eq!(
            stretches(&log, 0, log.events.len(), |text| text.starts_with("end ")),
            [stretch(0, 4), stretch(5, 7), stretch(7, 7), stretch(8, 8)]
        );
    }

    #[test]
    fn a_small_stretch_has_all_its_outcomes() {
        let log = log();
        let stretch = Stretch { start: 0, end: 4 };
        let cuts = Finder::new(&log, 2, 1).find(stretch, 100);
        let mut sets: Vec<_> = cuts.iter().map(events).collect();
        sets.sort();
        sets.dedup();
        assert_eq!(sets.len(), 8, "each of three writes is there or not");
        assert!(
            cuts.iter()
                .all(|cut| cut.at <= 4 && cut.flushed(&log, 2) == [0, 0])
        );
        assert!(cuts.is_sorted_by_key(|cut| cut.at));
    }

    #[test]
    fn what_was_flushed_is_never_lost_and_what_was_not_may_be() {
        let log = log();
        let cuts = Finder::new(&log, 2, 1).find(Stretch { start: 5, end: 7 }, 100);
        assert!(cuts.iter().all(|cut| cut.flushed(&log, 2) == [4, 0]));
        // Disk 1 was not flushed, so its write is still undecided.
        let sets: HashSet<_> = cuts.iter().map(events).collect();
        let expected: [&[usize]; 4] = [&[], &[3], &[5], &[3, 5]];
        assert_eq!(sets, expected.iter().map(|set| set.to_vec()).collect());
    }

    #[test]
    fn the_same_seed_finds_the_same_cuts_and_all_are_different() {
        let log = Log {
            events: (0..40).map(|block| write(0, block)).collect(),
        };
        let stretch = Stretch { start: 0, end: 40 };
        let find = |seed| Finder::new(&log, 1, seed).find(stretch, 50);
        let (cuts, other) = (find(7), find(8));
        assert_eq!(cuts.len(), 50);
        assert_eq!(cuts, find(7));
        assert_ne!(cuts, other);
        let outcomes: HashSet<_> = cuts
            .iter()
            .map(|cut| Finder::new(&log, 1, 0).outcome(cut))
            .collect();
        assert_eq!(outcomes.len(), cuts.len());
        assert!(
            cuts.iter().any(|cut| cut.survivors.is_empty()),
            "nothing survives"
        );
        assert!(
            cuts.iter().any(|cut| cut.survivors.len() == 40),
            "everything survives"
        );
    }

    #[test]
    fn a_stretch_without_events_has_what_was_pending_before() {
        let log = log();
        let cuts = |at| {
            Finder::new(&log, 2, 3)
                .find(Stretch { start: at, end: at }, 10)
                .len()
        };
        assert_eq!(cuts(0), 1, "nothing was written");
        assert_eq!(
            cuts(8),
            2,
            "one disk has flushed, the other has a write that may be lost"
        );
    }
}
