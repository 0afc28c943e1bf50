//! What was measured of publishing and pulling, as a part of the document.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Delivery, History, Publish, Pull, Pulled, ROUND_TRIPS, Tree};
use crate::bench::contest::Contestant;
use crate::bench::measure::Series;

/// The most anonymous memory, in MB: publish, pull, patches.
const MEMORY: [(&str, u64); 3] = [("publish", 256), ("pull", 100), ("patches", 400)];

/// A promise, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Of what.
    pub work: String,
    /// What was measured.
    pub value: f64,
    /// The most that it may be.
    pub at_most: f64,
}

impl Check {
    fn is_met(&self) -> bool {
        self.value <= self.at_most
    }
}

/// The run in the middle.
fn middle(pulls: &[Pulled]) -> Option<Pulled> {
    let mut pulls = pulls.to_vec();
    pulls.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    pulls.get(pulls.len() / 2).copied()
}

impl Tree {
    fn pulled(&self, pull: Pull, round_trip: u64, contestant: Contestant) -> Option<Pulled> {
        middle(self.pulls.get(&(pull, round_trip, contestant))?)
    }

    fn time_ratio(&self, pull: Pull, round_trip: u64) -> Option<f64> {
        let seconds = |contestant| Some(self.pulled(pull, round_trip, contestant)?.seconds);
        Some(seconds(Contestant::Atomos)? / seconds(Contestant::Ostree)?)
    }

    fn bytes_ratio(&self, pull: Pull) -> Option<f64> {
        let bytes = |contestant| Some(self.pulled(pull, 0, contestant)?.bytes as f64);
        Some(bytes(Contestant::Atomos)? / bytes(Contestant::Ostree)?)
    }

    fn requests(&self, pull: Pull) -> Option<f64> {
        Some(self.pulled(pull, 0, Contestant::Atomos)?.requests as f64)
    }

    fn publish_ratio(&self, publish: Publish) -> Option<f64> {
        let median = |contestant| self.publish.get(&(publish, contestant)).map(Series::median);
        Some(median(Contestant::Atomos)? / median(Contestant::Ostree)?)
    }

    /// With nothing new, what ostree does for the whole tree is the measure: of its second time only the start of a program is left.
    fn again_ratio(&self) -> Option<f64> {
        let median = |publish, contestant| self.publish.get(&(publish, contestant)).map(Series::median);
        Some(median(Publish::Again, Contestant::Atomos)? / median(Publish::First, Contestant::Ostree)?)
    }

    fn checks(&self, letter: char) -> Vec<Check> {
        let thorough_bytes = if letter == 'A' { 0.7 } else { 1.05 };
        let mut rows = vec![
            ("requests of a full pull", self.requests(Pull::Full), 24.0),
            (
                "requests of an upgrade with patches",
                self.requests(Pull::Thorough),
                8.0,
            ),
            ("requests where nothing is new", self.requests(Pull::Nothing), 1.0),
            ("full pull, 0 ms: time", self.time_ratio(Pull::Full, 0), 0.3),
            ("full pull: bytes", self.bytes_ratio(Pull::Full), 0.92),
            (
                "upgrade without patches, 50 ms: time",
                self.time_ratio(Pull::Whole, 50),
                0.1,
            ),
            (
                "upgrade without patches, thorough profile: bytes",
                self.bytes_ratio(Pull::WholeThorough),
                0.9,
            ),
            (
                "upgrade with patches, 50 ms: time",
                self.time_ratio(Pull::Thorough, 50),
                0.6,
            ),
            (
                "upgrade with thorough patches: bytes",
                self.bytes_ratio(Pull::Thorough),
                thorough_bytes,
            ),
            (
                "publish the whole tree: time",
                self.publish_ratio(Publish::First),
                0.4,
            ),
            (
                "publish with nothing new: time, by that of ostree's first",
                self.again_ratio(),
                0.02,
            ),
            (
                "patches, fast: time",
                self.publish_ratio(Publish::FastPatches),
                0.03,
            ),
            (
                "patches, thorough: time",
                self.publish_ratio(Publish::ThoroughPatches),
                0.7,
            ),
        ]
        .into_iter()
        .filter_map(|(work, value, at_most)| {
            Some(Check {
                work: format!("{letter}: {work}"),
                value: value?,
                at_most,
            })
        })
        .collect::<Vec<_>>();
        for ((what, contestant), bytes) in &self.memory {
            let limit = MEMORY.iter().find(|(name, _)| what.starts_with(name));
            if let (Contestant::Atomos, Some((_, limit))) = (contestant, limit) {
                rows.push(Check {
                    work: format!("{letter}: memory in MB: {what}"),
                    value: *bytes as f64 / 1e6,
                    at_most: *limit as f64,
                });
            }
        }
        rows
    }

    fn render(&self, letter: char, text: &mut String) -> Result<()> {
        writeln!(text, "\n### Tree {letter}: {}\n", self.title)?;
        writeln!(
            text,
            "| pull | round trip | atomos: s | requests | MB | ostree: s | requests | MB | time | bytes |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for pull in Pull::ALL {
            for round_trip in ROUND_TRIPS {
                let (Some(atomos), Some(ostree)) = (
                    self.pulled(pull, round_trip, Contestant::Atomos),
                    self.pulled(pull, round_trip, Contestant::Ostree),
                ) else {
                    continue;
                };
                let cells = |pulled: Pulled| {
                    format!(
                        "{:.2} | {} | {:.2}",
                        pulled.seconds,
                        pulled.requests,
                        pulled.bytes as f64 / 1e6
                    )
                };
                writeln!(
                    text,
                    "| {} | {round_trip} ms | {} | {} | {:.3} | {:.2} |",
                    title(pull),
                    cells(atomos),
                    cells(ostree),
                    atomos.seconds / ostree.seconds,
                    atomos.bytes as f64 / ostree.bytes.max(1) as f64
                )?;
            }
        }
        writeln!(
            text,
            "\n| publish | atomos: s | ostree: s | time |\n| --- | --- | --- | --- |"
        )?;
        for publish in Publish::ALL {
            let median = |contestant| {
                self.publish
                    .get(&(publish, contestant))
                    .map_or(f64::NAN, Series::median)
            };
            let (atomos, ostree) = (median(Contestant::Atomos), median(Contestant::Ostree));
            let what = match publish {
                Publish::First => "the first version; `pull-local` into an archive",
                Publish::Again => "again, with nothing new",
                Publish::FastPatches => "patches, fast; a static delta",
                Publish::ThoroughPatches => "patches, thorough; a static delta",
            };
            writeln!(
                text,
                "| {what} | {atomos:.3} | {ostree:.3} | {:.4} |",
                atomos / ostree
            )?;
        }
        Ok(())
    }

    fn memory_table(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\nPeaks of anonymous memory in MB:\n\n| work | atomos | ostree |\n| --- | --- | --- |"
        )?;
        for ((what, contestant), bytes) in &self.memory {
            if *contestant != Contestant::Atomos {
                continue;
            }
            let ostree = self
                .memory
                .get(&(what, Contestant::Ostree))
                .map_or(String::new(), |bytes| format!("{:.1}", *bytes as f64 / 1e6));
            writeln!(text, "| {what} | {:.1} | {ostree} |", *bytes as f64 / 1e6)?;
        }
        Ok(())
    }
}

/// What was promised, and whether it holds.
fn promises(text: &mut String, checks: impl IntoIterator<Item = Check>) -> Result<()> {
    writeln!(
        text,
        "\n| promised of | measured | at most | |\n| --- | --- | --- | --- |"
    )?;
    for check in checks {
        let verdict = if check.is_met() { "met" } else { "**missed**" };
        let digits = if check.at_most >= 1.5 { 0 } else { 3 };
        writeln!(
            text,
            "| {} | {:.digits$} | {} | {verdict} |",
            check.work, check.value, check.at_most
        )?;
    }
    Ok(())
}

fn title(pull: Pull) -> &'static str {
    match pull {
        Pull::Full => "everything",
        Pull::Whole => "the upgrade, whole objects",
        Pull::WholeThorough => "the upgrade, whole objects, profile thorough",
        Pull::Fast => "the upgrade, fast patches; static delta",
        Pull::Thorough => "the upgrade, thorough patches; static delta",
        Pull::Nothing => "nothing new",
    }
}

impl History {
    fn checks(&self) -> Vec<Check> {
        let row = |work: &str, value: f64, at_most: f64| Check {
            work: format!("{} releases: {work}", self.releases),
            value,
            at_most,
        };
        let bytes = |pulled: Pulled| pulled.bytes as f64;
        vec![
            row("requests of a full pull", self.full.requests as f64, 24.0),
            row(
                "requests from the release before",
                self.one_back.requests as f64,
                8.0,
            ),
            row("requests from five back", self.five_back.requests as f64, 64.0),
            row("requests where nothing is new", self.nothing.requests as f64, 1.0),
            row(
                "bytes from five back, by those with patches for that pair",
                bytes(self.five_back) / bytes(self.five_back_with_patches),
                1.5,
            ),
        ]
    }
}

impl Delivery {
    /// What was promised, with what was measured.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let trees = self.trees.iter().flat_map(|(letter, tree)| tree.checks(*letter));
        trees
            .chain(self.histories.iter().flat_map(History::checks))
            .collect()
    }

    /// What was promised and does not hold.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        self.checks()
            .into_iter()
            .filter(|check| !check.is_met())
            .map(|check| {
                format!(
                    "{}: {:.4}, at most {} wanted",
                    check.work, check.value, check.at_most
                )
            })
            .collect()
    }

    /// The parts of the document, by their names.
    ///
    /// # Errors
    /// Never, in truth.
    pub fn render(&self) -> Result<Vec<(&'static str, String)>> {
        let mut parts = Vec::new();
        for (letter, tree) in &self.trees {
            let mut text = String::from(
                "Both tools are served by the same nginx, with the configuration in docs/serving.md, on loopback; \
                 for a round trip time a proxy lets every byte arrive later. Requests and bytes, heads included, are what nginx logged \
                 of the pull that was timed; of several runs, those of the one in the middle. ostree's archive is compressed as it is by \
                 default; its static delta has the default parameters. The time to make patches is what `publish` takes longer with them \
                 than with `--no-patches`, both without an image.\n",
            );
            promises(&mut text, tree.checks(*letter))?;
            tree.render(*letter, &mut text)?;
            tree.memory_table(&mut text)?;
            parts.push((
                if *letter == 'A' {
                    "delivery-a"
                } else {
                    "delivery-b"
                },
                text,
            ));
        }
        if !self.histories.is_empty() {
            let mut text = String::new();
            promises(&mut text, self.histories.iter().flat_map(History::checks))?;
            self.history_table(&mut text)?;
            parts.push(("history", text));
        }
        Ok(parts)
    }

    fn history_table(&self, text: &mut String) -> Result<()> {
        writeln!(
            text,
            "\nTree B, in which one package after another goes to its newer version, the kernel near the end. \
             Profile fast; an image of the newest release alone. Requests and MB by what the client has.\n\n\
             | releases | nothing | the one before | five back | five back, patches made for it | the newest | \
             publish: s | site: MB | packs: MB | files | record, release, manifest: kB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for history in &self.histories {
            let cell = |pulled: Pulled| format!("{}, {:.2}", pulled.requests, pulled.bytes as f64 / 1e6);
            let metadata: Vec<String> = history
                .metadata
                .iter()
                .map(|bytes| format!("{:.1}", *bytes as f64 / 1e3))
                .collect();
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {:.2} | {:.0} | {:.0} | {} | {} |",
                history.releases,
                cell(history.full),
                cell(history.one_back),
                cell(history.five_back),
                cell(history.five_back_with_patches),
                cell(history.nothing),
                history.publish.median(),
                history.site_bytes.0 as f64 / 1e6,
                history.site_bytes.1 as f64 / 1e6,
                history.site_files,
                metadata.join(", ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(seconds: f64, requests: u64, bytes: u64) -> Pulled {
        Pulled {
            seconds,
            requests,
            bytes,
        }
    }

    #[test]
    fn a_promise_that_is_broken_is_said() {
        let mut tree = Tree::default();
        let mut put = |contestant, value| {
            tree.pulls.insert((Pull::Full, 0, contestant), vec![value]);
        };
        put(Contestant::Atomos, pulled(1.0, 25, 50));
        put(Contestant::Ostree, pulled(10.0, 999, 100));
        let delivery = Delivery {
            trees: [('A', tree)].into(),
            histories: Vec::new(),
        };
        assert_eq!(delivery.checks().len(), 3);
        let missed = delivery.missed();
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert!(
            missed[0].starts_with("A: requests of a full pull: 25"),
            "{missed:?}"
        );
    }

    #[test]
    fn of_several_runs_the_one_in_the_middle_counts() {
        let runs = [pulled(3.0, 3, 0), pulled(1.0, 1, 0), pulled(2.0, 2, 0)];
        assert_eq!(middle(&runs), Some(pulled(2.0, 2, 0)));
        assert_eq!(middle(&[]), None);
    }
}
