//! The results as a document, `benches/RESULTS.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::contest::{Contestant, Target, Work};
use super::delivery::Delivery;
use super::deploy::Deploy;
use super::measure::Series;
use super::shutdown::{self, Shutdown};
use crate::debian::Trees;
use crate::facts::Additions;
use crate::process::capture;

/// The most anonymous memory that any command may take.
const MEMORY_TARGET: u64 = 100_000_000;

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// Times.
    pub times: BTreeMap<(Work, Contestant), Series>,
    /// Making the directories and links of a checkout, and nothing else.
    pub bare: Series,
    /// Peaks of anonymous memory, in bytes.
    pub memory: BTreeMap<(Work, Contestant), u64>,
    /// What the second version must add, and what it added.
    pub additions: Option<(Additions, Additions)>,
    /// What is left for shutdown.
    pub shutdown: Option<Shutdown>,
    /// Deploying an upgrade.
    pub deploy: Option<Deploy>,
    /// Publishing and pulling.
    pub delivery: Delivery,
}

/// What the document says beside the results.
#[derive(Debug)]
pub struct Circumstances<'a> {
    /// As a person would type it.
    pub command: String,
    /// Runs of each command.
    pub runs: usize,
    /// What was committed.
    pub trees: &'a Trees,
    /// Where it was done.
    pub directory: &'a Path,
    /// The load average before the first run: how much else was going on.
    pub load: String,
}

fn shutdown_table(text: &mut String, shutdown: &Shutdown) -> Result<()> {
    writeln!(
        text,
        "Seconds: median (fastest to slowest). The second version is in the repository; a hundred \
         files of `/etc` are changed between staging and shutdown. At most {:.0} for the end.\n",
        shutdown::TARGET
    )?;
    writeln!(text, "| work | atomos |\n| --- | --- |")?;
    for (work, series) in [
        ("staging, nothing read back", &shutdown.stage_unread),
        ("staging, what is new read back from the disk", &shutdown.stage),
        ("finishing at shutdown", &shutdown.finish),
    ] {
        writeln!(
            text,
            "| {work} | {:.2} ({:.2} to {:.2}) |",
            series.median(),
            series.min(),
            series.max()
        )?;
    }
    writeln!(text)?;
    Ok(())
}

impl Results {
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
        if let Some(finish) = self.shutdown.as_ref().map(|shutdown| shutdown.finish.median())
            && finish > shutdown::TARGET
        {
            missed.push(format!(
                "finishing a staged update: {finish:.2} s, at most {:.0} wanted",
                shutdown::TARGET
            ));
        }
        missed.extend(self.deploy.iter().flat_map(Deploy::missed));
        missed.extend(self.delivery.missed());
        missed
    }

    /// The document: `old` with the parts that were measured in place of those that it has.
    ///
    /// # Errors
    /// If something about the machine cannot be found out.
    pub fn render(&self, circumstances: &Circumstances<'_>, old: &str) -> Result<String> {
        let mut fresh = BTreeMap::new();
        let mut put = |name: &'static str, body: String| -> Result<()> {
            if !body.is_empty() {
                let mut text = String::new();
                self.introduction(&mut text, circumstances)?;
                fresh.insert(name, text + &body);
            }
            Ok(())
        };
        let mut text = String::new();
        if !self.times.is_empty() {
            self.time_table(&mut text)?;
            self.memory_table(&mut text)?;
            self.count_paragraph(&mut text)?;
        }
        put("store", text)?;
        let mut text = String::new();
        if let Some(shutdown) = &self.shutdown {
            shutdown_table(&mut text, shutdown)?;
        }
        put("shutdown", text)?;
        let mut text = String::new();
        if let Some(deploy) = &self.deploy {
            deploy.render(&mut text)?;
        }
        put("deploy", text)?;
        for (name, text) in self.delivery.render()? {
            put(name, text)?;
        }
        Ok(merge(old, &fresh))
    }

    fn introduction(&self, text: &mut String, circumstances: &Circumstances<'_>) -> Result<()> {
        let trees = circumstances.trees;
        writeln!(text, "Written by `{}`.\n", circumstances.command)?;
        writeln!(
            text,
            "- date: {}",
            word(Command::new("date").args(["-u", "+%Y-%m-%d"]))?
        )?;
        writeln!(text, "- machine: {}", machine(circumstances.directory)?)?;
        writeln!(
            text,
            "- load average before the first run: {}",
            circumstances.load
        )?;
        writeln!(text, "- against: {}", ostree_version()?)?;
        writeln!(
            text,
            "- trees: Debian {}, {} files, {} MB, and the same after `dist-upgrade`, {} packages changed, {} files, {} MB; \
             without the devices of `/dev`, which ostree refuses",
            trees.release,
            trees.size_v1.files,
            trees.size_v1.bytes / 1_000_000,
            trees.upgraded.len(),
            trees.size_v2.files,
            trees.size_v2.bytes / 1_000_000,
        )?;
        writeln!(
            text,
            "- how: {} runs, in each of which the tools take turns, the first of them first in every other run; the page cache is \
             warm; `sync -f` before each command. A commit is durable when it returns: atomos and ostree see to that themselves \
             (ostree with its default, fsync on), `cp -a` is followed by `sync -f`.\n",
            circumstances.runs
        )?;
        Ok(())
    }

    fn time_table(&self, text: &mut String) -> Result<()> {
        writeln!(text, "### Time\n\nSeconds: median (fastest to slowest).\n")?;
        writeln!(
            text,
            "| work | atomos | ostree | `cp` |\n| --- | --- | --- | --- |"
        )?;
        for work in Work::ALL {
            write!(text, "| {} |", work.title())?;
            for contestant in Contestant::ALL {
                match self.times.get(&(work, contestant)) {
                    Some(series) => {
                        write!(
                            text,
                            " {:.2} ({:.2} to {:.2}) |",
                            series.median(),
                            series.min(),
                            series.max()
                        )?;
                    }
                    None => write!(text, " |")?,
                }
            }
            writeln!(text)?;
        }
        if let Some(checkout) = self.times.get(&(Work::Checkout, Contestant::Atomos))
            && self.bare.median() > 0.0
        {
            writeln!(
                text,
                "\n`mkdirat` and `linkat` of the same tree on two threads, and nothing else, take {:.2} ({:.2} to {:.2}): the checkout takes \
                 {:.2} of that.",
                self.bare.median(),
                self.bare.min(),
                self.bare.max(),
                checkout.median() / self.bare.median()
            )?;
        }
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

/// The parts of the document, in its order, and their titles.
const PARTS: [(&str, &str); 6] = [
    ("store", "The store"),
    ("shutdown", "An update of a running machine"),
    ("deploy", "Deploying an upgrade"),
    ("delivery-a", "Publishing and pulling an operating system"),
    ("delivery-b", "Publishing and pulling packages"),
    ("history", "Sites with many releases"),
];

/// Puts the fresh parts in the place of those of the old document. Each says when and how it was measured.
fn merge(old: &str, fresh: &BTreeMap<&'static str, String>) -> String {
    let mut text = String::from(
        "# Results\n\nWritten by `cargo xtask bench`, which with `--only` measures one part again. Each part says when and where.\n",
    );
    for (name, title) in PARTS {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
        let kept = || {
            let (_, rest) = old.split_once(&begin)?;
            Some(rest.split_once(&end)?.0.to_owned())
        };
        let body = match fresh.get(name) {
            Some(body) => Some(format!("\n## {title}\n\n{}\n\n", body.trim())),
            None => kept(),
        };
        if let Some(body) = body {
            text += &format!("\n{begin}{body}{end}");
        }
    }
    text
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

/// Processor, cores, memory, filesystem and kernel; nothing that names the machine.
fn machine(directory: &Path) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let cpu = read("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let memory = read("/proc/meminfo")?;
    let kibibytes: u64 = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .context("/proc/meminfo has no MemTotal")?;
    let cores = std::thread::available_parallelism().context("cannot count the cores")?;
    let mount = word(
        Command::new("findmnt")
            .args(["--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "--target"])
            .arg(directory),
    )?;
    let (source, filesystem) = mount.split_once(char::is_whitespace).unwrap_or(("", &mount));
    let place = if source.starts_with("/dev/loop") {
        " (new, in a file)"
    } else {
        ""
    };
    let kernel = word(Command::new("uname").arg("-r"))?;
    // Only the number: what follows it may name who built it.
    let kernel = kernel.split('-').next().unwrap_or_default().to_owned();
    Ok(format!(
        "{model}, {cores} cores, {:.0} GiB, {}{place}, Linux {kernel}",
        kibibytes as f64 / f64::from(1 << 20),
        filesystem.split_whitespace().collect::<Vec<_>>().join(" ")
    ))
}

fn ostree_version() -> Result<String> {
    let text = capture(Command::new("ostree").arg("--version"))?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Version: "));
    Ok(format!(
        "ostree {}, mode bare",
        version.unwrap_or("unknown").trim_matches(['\'', '"'])
    ))
}

fn word(command: &mut Command) -> Result<String> {
    Ok(capture(command)?.trim().to_owned())
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
        let mut results = Results::default();
        for (work, atomos) in [(Work::FirstCommit, 7.0), (Work::Fsck, 1.0)] {
            results.times.insert((work, Contestant::Atomos), series(atomos));
            results.times.insert((work, Contestant::Ostree), series(10.0));
        }
        results
            .memory
            .insert((Work::Fsck, Contestant::Atomos), MEMORY_TARGET + 1);
        results
            .memory
            .insert((Work::Fsck, Contestant::Ostree), MEMORY_TARGET * 9);
        let missed = results.missed();
        assert_eq!(missed.len(), 2, "{missed:?}");
        assert!(
            missed[0].starts_with("first commit: 0.700 of that of ostree"),
            "{missed:?}"
        );
    }

    #[test]
    fn what_was_not_measured_stays() {
        let fresh = |name, text: &str| [(name, text.to_owned())].into();
        let first = merge("something else", &fresh("store", "one"));
        let both = merge(&first, &fresh("history", "two"));
        assert!(both.contains("\none\n") && both.contains("\ntwo\n"), "{both}");
        assert_eq!(merge(&both, &BTreeMap::new()), both);
        let again = merge(&both, &fresh("store", "three"));
        assert!(!again.contains("\none\n") && again.contains("\ntwo\n"), "{again}");
        assert!(again.find("three") < again.find("two"), "{again}");
    }

    #[test]
    fn every_row_of_the_table_has_as_many_cells_as_its_head() {
        let mut results = Results::default();
        results
            .times
            .insert((Work::Diff, Contestant::Atomos), series(1.0));
        let mut text = String::new();
        results.time_table(&mut text).unwrap();
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
