//! What a repository does with one pair of trees: the contestants take turns, and the document has a table of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::bare;
use super::contest::{Contestant, Ring, Target, Work};
use super::measure::{Series, peak_anonymous_memory, time};
use crate::facts::{Additions, actual_additions, expected_additions, store_facts, tree_facts};

/// The most anonymous memory that any command may take.
pub const MEMORY_TARGET: u64 = 100_000_000;

/// What was measured.
#[derive(Debug, Default)]
pub struct Store {
    /// Times.
    pub times: BTreeMap<(Work, Contestant), Series>,
    /// The system calls of some work that cannot be done without, and nothing else.
    pub bare: BTreeMap<Work, Series>,
    /// What an update does to names.
    pub updates: BTreeMap<Work, bare::Steps>,
    /// Peaks of anonymous memory, in bytes.
    pub memory: BTreeMap<(Work, Contestant), u64>,
    /// What the second version must add, and what it added.
    pub additions: Option<(Additions, Additions)>,
}

/// Measures it.
///
/// # Errors
/// If a command fails.
pub fn measure(ring: &Ring, runs: u16) -> Result<Store> {
    let mut store = Store::default();
    for number in 0..runs {
        eprintln!("run {} of {runs}", number + 1);
        ring.make_room()?;
        for contestant in Contestant::ALL {
            ring.reset(contestant)?;
        }
        let mut order = Contestant::ALL;
        if number % 2 == 1 {
            order.reverse();
        }
        for piece in ring.works() {
            for contestant in order {
                let Some(mut command) = ring.command(contestant, piece) else {
                    continue;
                };
                ring.clear(contestant, piece)?;
                let elapsed = time(&mut command)?;
                if contestant == Contestant::Atomos {
                    store.measure_bare(ring, piece)?;
                }
                eprintln!(
                    "  {:<40} {contestant:?} {:.2} s",
                    piece.title(),
                    elapsed.as_secs_f64()
                );
                store.times.entry((piece, contestant)).or_default().push(elapsed);
            }
        }
    }
    store.count_and_watch(ring)?;
    Ok(store)
}

impl Store {
    /// After atomos has done it.
    fn measure_bare(&mut self, ring: &Ring, work: Work) -> Result<()> {
        match work {
            Work::Checkout => self.bare.entry(work).or_default().push(ring.bare_checkout()?),
            Work::Update | Work::UpdateFew => {
                let (elapsed, steps) = ring.bare_update()?;
                self.bare.entry(work).or_default().push(elapsed);
                self.updates.insert(work, steps);
            }
            _ => {}
        }
        Ok(())
    }

    /// One run more, for what timing would disturb or be disturbed by.
    fn count_and_watch(&mut self, ring: &Ring) -> Result<()> {
        eprintln!("memory and counts");
        ring.make_room()?;
        let mut before = None;
        for contestant in [Contestant::Atomos, Contestant::Ostree] {
            ring.reset(contestant)?;
            // A shell that waits for `sync` would be what is watched.
            for piece in ring.works().filter(|piece| *piece != Work::CheckoutSynced) {
                let Some(mut command) = ring.command(contestant, piece) else {
                    continue;
                };
                if contestant == Contestant::Atomos && piece == Work::SecondCommit {
                    before = Some(store_facts(&ring.repo(contestant))?);
                }
                ring.clear(contestant, piece)?;
                let peak = peak_anonymous_memory(&mut command)?;
                self.memory.insert((piece, contestant), peak);
                if let (Contestant::Atomos, Work::SecondCommit, Some(before)) =
                    (contestant, piece, before.take())
                {
                    let (v1, v2) = ring.trees();
                    let expected = expected_additions(&tree_facts(v1)?, &tree_facts(v2)?);
                    let actual = actual_additions(&before, &store_facts(&ring.repo(contestant))?);
                    self.additions = Some((expected, actual));
                }
            }
        }
        Ok(())
    }

    /// What was measured of a target.
    fn ratio(&self, work: Work, target: Target) -> Option<f64> {
        let median = |work, contestant| self.times.get(&(work, contestant)).map(Series::median);
        let (ours, theirs) = (median(work, Contestant::Atomos)?, median(target.at, target.of)?);
        (theirs > 0.0).then_some(ours / theirs)
    }

    /// What was promised and does not hold.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for work in Work::ALL {
            for target in work.targets() {
                if let Some(ratio) = self.ratio(work, target)
                    && ratio > target.at_most
                {
                    missed.push(format!(
                        "{}: {ratio:.3} of {}, at most {} wanted",
                        work.title(),
                        whose(work, target),
                        target.at_most
                    ));
                }
            }
        }
        for ((work, contestant), bytes) in &self.memory {
            if *contestant == Contestant::Atomos && *bytes > MEMORY_TARGET {
                missed.push(format!(
                    "{}: {} MB of anonymous memory",
                    work.title(),
                    bytes / 1_000_000
                ));
            }
        }
        if let Some((expected, actual)) = &self.additions
            && expected != actual
        {
            missed.push("the second version did not add exactly what changed".to_owned());
        }
        missed
    }

    /// Adds its part of the document.
    ///
    /// # Errors
    /// Never; as of writing to a text.
    pub fn render(&self, text: &mut String) -> Result<()> {
        self.time_table(text)?;
        self.bare_paragraphs(text)?;
        self.ratio_table(text)?;
        self.memory_table(text)?;
        self.count_paragraph(text)
    }

    fn bare_paragraphs(&self, text: &mut String) -> Result<()> {
        for (work, bare) in &self.bare {
            let Some(measured) = self.times.get(&(*work, Contestant::Atomos)) else {
                continue;
            };
            match self.updates.get(work) {
                None => write!(
                    text,
                    "\n`mkdirat` and `linkat` of the same tree on two threads, and nothing else, take"
                )?,
                Some(steps) => write!(
                    text,
                    "\nOf {}: the {} links into a new name, {} links with a rename over an old name, {} unlinks and {} directories made or \
                     removed that lead from one to the other, and nothing else, on two threads, take",
                    work.title(),
                    steps.links,
                    steps.replacements,
                    steps.unlinks,
                    steps.directories
                )?,
            }
            writeln!(
                text,
                " {}: the command takes {:.2} of that.",
                spread(bare),
                measured.median() / bare.median()
            )?;
        }
        Ok(())
    }

    fn time_table(&self, text: &mut String) -> Result<()> {
        writeln!(text, "### Time\n\nSeconds: median (fastest to slowest).\n")?;
        writeln!(
            text,
            "| work | atomos | ostree | `cp` |\n| --- | --- | --- | --- |"
        )?;
        for work in Work::ALL {
            if !self.times.contains_key(&(work, Contestant::Atomos)) {
                continue;
            }
            write!(text, "| {} |", work.title())?;
            for contestant in Contestant::ALL {
                match self.times.get(&(work, contestant)) {
                    Some(series) => {
                        write!(text, " {} |", spread(series))?;
                    }
                    None => write!(text, " |")?,
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }

    fn ratio_table(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n| ratio of the medians | measured | at most | |\n| --- | --- | --- | --- |"
        )?;
        for work in Work::ALL {
            for target in work.targets() {
                let Some(ratio) = self.ratio(work, target) else {
                    continue;
                };
                let verdict = if ratio <= target.at_most {
                    "met"
                } else {
                    "**missed**"
                };
                writeln!(
                    text,
                    "| {}, by {} | {ratio:.3} | {} | {verdict} |",
                    work.title(),
                    whose(work, target),
                    target.at_most
                )?;
            }
        }
        Ok(())
    }

    fn memory_table(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\n### Memory\n\nThe most anonymous memory seen, in MB, looking every 2 ms, in a run of its own. At most {} for atomos.\n",
            MEMORY_TARGET / 1_000_000
        )?;
        writeln!(text, "| work | atomos | ostree |\n| --- | --- | --- |")?;
        for work in Work::ALL {
            let cell = |contestant| {
                self.memory
                    .get(&(work, contestant))
                    .map_or(String::new(), |bytes| format!("{:.1}", *bytes as f64 / 1e6))
            };
            let (atomos, ostree) = (cell(Contestant::Atomos), cell(Contestant::Ostree));
            if !atomos.is_empty() {
                writeln!(text, "| {} | {atomos} | {ostree} |", work.title())?;
            }
        }
        Ok(())
    }

    fn count_paragraph(&self, text: &mut String) -> Result<()> {
        let Some((expected, actual)) = &self.additions else {
            return Ok(());
        };
        writeln!(
            text,
            "\n### What the second version adds\n\nWalking and hashing both trees without atomos finds {} different contents and {} \
             different directories in the second that the first does not have. The repository grew by {} blobs, {} of which are those, \
             and by {} dirtrees.",
            expected.blobs.len(),
            expected.dirtrees,
            actual.blobs.len(),
            actual.blobs.intersection(&expected.blobs).count(),
            actual.dirtrees
        )?;
        Ok(())
    }
}

fn whose(work: Work, target: Target) -> String {
    let name = match target.of {
        Contestant::Atomos => "atomos",
        Contestant::Ostree => "ostree",
        Contestant::Cp => "`cp`",
    };
    match target.at == work {
        true => format!("that of {name}"),
        false => format!("{} of {name}", target.at.title()),
    }
}

/// Median (fastest to slowest), in seconds; of what takes less than one, to the millisecond.
fn spread(series: &Series) -> String {
    let digits = if series.median() < 1.0 { 3 } else { 2 };
    format!(
        "{:.digits$} ({:.digits$} to {:.digits$})",
        series.median(),
        series.min(),
        series.max()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn series(seconds: f64) -> Series {
        let mut series = Series::default();
        series.push(Duration::from_secs_f64(seconds));
        series
    }

    #[test]
    fn a_missed_target_is_said_and_a_met_one_is_not() {
        let mut store = Store::default();
        for (work, atomos) in [(Work::FirstCommit, 7.0), (Work::Fsck, 1.0)] {
            store.times.insert((work, Contestant::Atomos), series(atomos));
            store.times.insert((work, Contestant::Ostree), series(10.0));
        }
        store
            .memory
            .insert((Work::Fsck, Contestant::Atomos), MEMORY_TARGET + 1);
        store
            .memory
            .insert((Work::Fsck, Contestant::Ostree), MEMORY_TARGET * 9);
        let missed = store.missed();
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(
            missed[0].starts_with("first commit: 0.700 of that of ostree"),
            "{missed:?}"
        );
    }

    #[test]
    fn every_row_of_the_table_has_as_many_cells_as_its_head() {
        let mut store = Store::default();
        for work in Work::ALL {
            store.times.insert((work, Contestant::Atomos), series(1.0));
        }
        let mut text = String::new();
        store.time_table(&mut text).unwrap();
        let cells: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.matches('|').count())
            .collect();
        assert!(
            cells.len() > 7 && cells.iter().all(|count| *count == cells[0]),
            "{text}"
        );
    }
}
