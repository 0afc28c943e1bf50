//! The results as a document, `benches/RESULTS.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::delivery::Delivery;
use super::deploy::Deploy;
use super::growth::Growth;
use super::shutdown::{self, Shutdown};
use super::small;
use super::store::Store;
use crate::debian::Trees;
use crate::process::capture;

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// A repository and the Debian trees.
    pub store: Option<Store>,
    /// A repository and many small files.
    pub small: Option<Store>,
    /// What more files cost.
    pub growth: Option<Growth>,
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
    /// What was promised and does not hold.
    #[must_use]
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        missed.extend(self.store.iter().flat_map(Store::missed));
        let small = self.small.iter().flat_map(Store::missed);
        missed.extend(small.map(|miss| format!("small files: {miss}")));
        missed.extend(self.growth.iter().flat_map(Growth::missed));
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
        let trees = debian_trees(circumstances.trees);
        let mut put = |name: &'static str, trees: &str, body: String| -> Result<()> {
            if !body.is_empty() {
                let mut text = String::new();
                introduction(&mut text, circumstances, trees)?;
                // What is not compared has been done once, by atomos alone.
                if name != GROWTH {
                    comparison(&mut text, circumstances)?;
                }
                fresh.insert(name, text + &body);
            }
            Ok(())
        };
        let mut text = String::new();
        if let Some(store) = &self.store {
            store.render(&mut text)?;
        }
        put("store", &trees, text)?;
        let mut text = String::new();
        if let Some(store) = &self.small {
            store.render(&mut text)?;
        }
        put("small", &small::describe(small::FILES), text)?;
        let mut text = String::new();
        if let Some(growth) = &self.growth {
            growth.render(&mut text)?;
        }
        put(GROWTH, &small::describe(Growth::FILES[1]), text)?;
        let mut text = String::new();
        if let Some(shutdown) = &self.shutdown {
            shutdown_table(&mut text, shutdown)?;
        }
        put("shutdown", &trees, text)?;
        let mut text = String::new();
        if let Some(deploy) = &self.deploy {
            deploy.render(&mut text)?;
        }
        put("deploy", &trees, text)?;
        for (name, text) in self.delivery.render()? {
            put(name, &trees, text)?;
        }
        Ok(merge(old, &fresh))
    }
}

fn introduction(text: &mut String, circumstances: &Circumstances<'_>, trees: &str) -> Result<()> {
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
    writeln!(text, "- trees: {trees}\n")?;
    Ok(())
}

fn comparison(text: &mut String, circumstances: &Circumstances<'_>) -> Result<()> {
    // One list with what comes before it.
    text.truncate(text.trim_end().len());
    writeln!(text, "\n- against: {}", ostree_version()?)?;
    writeln!(
        text,
        "- how: {} runs, in each of which the tools take turns, the first of them first in every other run; the page cache is \
         warm; `sync -f` before each command. What a run leaves is put aside and not removed, as far as there is room: ext4 keeps away from \
         the inodes of removed files for minutes, and passes each of them when it makes others. A commit is durable when it returns: atomos and ostree see to that themselves \
         (ostree with its default, fsync on), `cp -a` is followed by `sync -f`.\n",
        circumstances.runs
    )?;
    Ok(())
}

fn debian_trees(trees: &Trees) -> String {
    format!(
        "Debian {}, {} files, {} MB, and the same after `dist-upgrade`, {} packages changed, {} files, {} MB; \
         without the devices of `/dev`, which ostree refuses",
        trees.release,
        trees.size_v1.files,
        trees.size_v1.bytes / 1_000_000,
        trees.upgraded.len(),
        trees.size_v2.files,
        trees.size_v2.bytes / 1_000_000,
    )
}

/// The part that compares atomos with itself.
const GROWTH: &str = "growth";

/// The parts of the document, in its order, and their titles.
const PARTS: [(&str, &str); 8] = [
    ("store", "The store"),
    ("small", "The store, many small files"),
    (GROWTH, "The store, a million files"),
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

/// Processor, cores, memory, filesystem and kernel; nothing that names the machine.
fn machine(directory: &Path) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let cpu = read("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let memory = crate::memory::bytes("MemTotal")?;
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
        memory as f64 / f64::from(1 << 30),
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
}
