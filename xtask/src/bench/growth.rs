//! What more files cost: each work with a quarter of a million files, and with a million.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contest::{Contestant, Ring, Work, remove};
use super::discard;
use super::measure::time_and_watch;
use super::small;

/// The most anonymous memory that a command may take of a million files, in bytes.
const MEMORY_TARGET: u64 = 400_000_000;

/// The most that a file of a million may take of the time of one of a quarter of a million: linear, but for what a larger directory of
/// the store and a fuller page cache cost the file system.
const TIME_TARGET: f64 = 1.5;

/// Time and the most anonymous memory.
type Cost = (Duration, u64);

/// What was measured.
#[derive(Debug, Default)]
pub struct Growth {
    works: Vec<(Work, [Cost; 2])>,
}

/// Measures it.
///
/// # Errors
/// If a command fails.
pub fn measure(directory: &Path, atomos: &Path) -> Result<Growth> {
    let mut growth = Growth::default();
    for (index, files) in Growth::FILES.into_iter().enumerate() {
        eprintln!("making {files} files");
        std::fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        small::make_trees(directory, files)?;
        let ring = Ring::of(directory, atomos);
        ring.reset(Contestant::Atomos)?;
        for work in ring.works().filter(|work| *work != Work::CheckoutSynced) {
            let Some(mut command) = ring.command(Contestant::Atomos, work) else {
                continue;
            };
            ring.clear(Contestant::Atomos, work)?;
            let cost = time_and_watch(&mut command)?;
            eprintln!("  {:<40} {:.2} s", work.title(), cost.0.as_secs_f64());
            growth.add(index, work, cost);
        }
        ring.remove_all()?;
        remove(directory)?;
        if index + 1 < Growth::FILES.len() {
            eprintln!("waiting until the removed inodes are used again");
            std::thread::sleep(discard::RECENT);
        }
    }
    Ok(growth)
}

impl Growth {
    /// How many files: a quarter of what matters, and that.
    pub const FILES: [usize; 2] = [250_000, 1_000_000];

    fn add(&mut self, index: usize, work: Work, cost: Cost) {
        match self.works.iter_mut().find(|(found, _)| *found == work) {
            Some((_, costs)) => costs[index] = cost,
            None => {
                let mut costs = [Cost::default(); 2];
                costs[index] = cost;
                self.works.push((work, costs));
            }
        }
    }

    /// What was promised and does not hold.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for (work, costs) in &self.works {
            if costs[1].1 > MEMORY_TARGET {
                let megabytes = costs[1].1 / 1_000_000;
                missed.push(format!("{} of a million files: {megabytes} MB", work.title()));
            }
            if growth(costs) > TIME_TARGET {
                missed.push(format!(
                    "{}: a file of a million takes {:.2} of one of fewer",
                    work.title(),
                    growth(costs)
                ));
            }
        }
        missed
    }

    /// Adds its part of the document.
    ///
    /// # Errors
    /// Never; as of writing to a text.
    pub fn render(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "Seconds, of one run, and the most anonymous memory in MB, looking every 2 ms: at most {} with a million. *Growth* is what each \
             file of the million takes by what each of the fewer takes: 1 is linear; at most {TIME_TARGET}.\n",
            MEMORY_TARGET / 1_000_000
        )?;
        let [fewer, million] = Self::FILES;
        writeln!(
            text,
            "| work | {fewer} files | memory | {million} files | memory | growth | |"
        )?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for (work, costs) in &self.works {
            let [(fewer, little), (million, most)] = costs;
            let is_met = growth(costs) <= TIME_TARGET && *most <= MEMORY_TARGET;
            writeln!(
                text,
                "| {} | {:.2} | {:.0} | {:.2} | {:.0} | {:.2} | {} |",
                work.title(),
                fewer.as_secs_f64(),
                *little as f64 / 1e6,
                million.as_secs_f64(),
                *most as f64 / 1e6,
                growth(costs),
                if is_met { "met" } else { "**missed**" }
            )?;
        }
        Ok(())
    }
}

/// What each of many files takes, by what each of fewer takes.
fn growth([fewer, many]: &[Cost; 2]) -> f64 {
    let each = |cost: &Cost, files: usize| cost.0.as_secs_f64() / files as f64;
    each(many, Growth::FILES[1]) / each(fewer, Growth::FILES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_faster_than_its_files_is_missed() {
        let mut measured = Growth::default();
        for (work, seconds, bytes) in [
            (Work::Diff, 4, 1),
            (Work::Fsck, 7, 1),
            (Work::Checkout, 4, MEMORY_TARGET + 1),
        ] {
            measured.add(0, work, (Duration::from_secs(1), 1));
            measured.add(1, work, (Duration::from_secs(seconds), bytes));
        }
        let missed = measured.missed();
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(
            missed[0].starts_with("fsck") && missed[1].starts_with("hardlink"),
            "{missed:?}"
        );
    }
}
