//! `cargo xtask scale`: what a fleet costs the server, by a simulation of it.
//!
//! What a pull costs and how large files are is measured: `cargo xtask bench` leaves it in `benches/history.json`. What machines do is
//! assumed, and said in the document. The simulation is the same on every day and every machine: its random numbers have a seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;

/// Machines in the fleet.
const FLEET: u64 = 1_000_000;

/// Machines that are simulated; each stands for `FLEET / SAMPLE`.
const SAMPLE: u64 = 200_000;

/// Hours between two releases.
const INTERVAL: u64 = 7 * 24;

/// Hours between two questions of a machine.
const POLL: u64 = 6;

/// Places of a CDN that each fetch a file once.
const EDGES: u64 = 100;

/// How machines behave: share of the fleet in thousandths, and releases that they are behind when they come, from and to.
const KINDS: [(&str, u64, u64, u64); 4] = [
    ("always on", 900, 1, 1),
    ("off for some weeks", 80, 2, 6),
    ("off for months", 19, 7, 48),
    ("new, or off for years", 1, 0, 0),
];

/// Begin and end of what is written.
const MARKS: (&str, &str) = (
    "<!-- scale: written by `cargo xtask scale` -->",
    "<!-- end of scale -->",
);

/// What one pull costs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    requests: u64,
    bytes: u64,
}

impl Cost {
    fn of(value: &Value) -> Result<Self> {
        match (value["requests"].as_u64(), value["bytes"].as_u64()) {
            (Some(requests), Some(bytes)) => Ok(Self { requests, bytes }),
            _ => bail!("benches/history.json has a pull without requests or bytes"),
        }
    }
}

/// What was measured.
#[derive(Debug)]
struct Measured {
    full: Cost,
    nothing: Cost,
    /// By releases behind, ascending.
    behind: BTreeMap<u64, Cost>,
    value: Value,
}

impl Measured {
    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("cannot read benches/history.json")?;
        let history = &value["history"];
        let mut behind = BTreeMap::new();
        for pull in history["behind"].as_array().into_iter().flatten() {
            behind.insert(pull["behind"].as_u64().unwrap_or_default(), Cost::of(pull)?);
        }
        if behind.is_empty() {
            bail!("benches/history.json has no pulls");
        }
        Ok(Self {
            full: Cost::of(&history["full"])?,
            nothing: Cost::of(&history["nothing"])?,
            behind,
            value,
        })
    }

    /// What a client costs that is so far behind: as the nearest that was measured and is not less far.
    fn cost(&self, behind: u64) -> Cost {
        let further = self.behind.range(behind..).next();
        further
            .or_else(|| self.behind.iter().next_back())
            .map_or(self.full, |(_, cost)| *cost)
    }
}

/// A small generator: SplitMix64, by Steele, Lea and Flood (2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// A week of the fleet.
#[derive(Debug, Default)]
struct Week {
    /// Questions for the record that were answered with nothing new.
    idle: u64,
    /// By kind: machines, requests and bytes of their updates.
    kinds: [(u64, u64, u64); KINDS.len()],
    /// Bytes in the busiest minute.
    peak_bytes: u64,
    /// Requests in the busiest minute.
    peak_requests: u64,
}

fn simulate(measured: &Measured) -> Week {
    let mut random = Random(1);
    let mut week = Week::default();
    let minutes = INTERVAL * 60;
    let mut load = vec![(0u64, 0u64); minutes as usize];
    for _ in 0..SAMPLE {
        let mut draw = random.below(1000);
        let mut kind = 0;
        while draw >= KINDS[kind].1 {
            draw -= KINDS[kind].1;
            kind += 1;
        }
        let (_, _, from, to) = KINDS[kind];
        let cost = match to {
            0 => measured.full,
            _ => measured.cost(from + random.below(to - from + 1)),
        };
        // A machine that is on comes at some time within the interval of its questions; one that was off, on some day.
        let span = if kind == 0 { POLL * 60 } else { minutes };
        let first = random.below(span);
        week.kinds[kind].0 += 1;
        week.kinds[kind].1 += cost.requests;
        week.kinds[kind].2 += cost.bytes;
        load[first as usize].0 += cost.requests;
        load[first as usize].1 += cost.bytes;
        let mut minute = first + POLL * 60;
        while minute < minutes {
            week.idle += measured.nothing.requests;
            load[minute as usize].0 += measured.nothing.requests;
            load[minute as usize].1 += measured.nothing.bytes;
            // Questions are spread by a quarter of the interval, so that they never fall into step.
            minute += POLL * 60 * 7 / 8 + random.below(POLL * 60 / 4);
        }
    }
    week.peak_requests = load
        .iter()
        .map(|(requests, _)| *requests)
        .max()
        .unwrap_or_default();
    week.peak_bytes = load.iter().map(|(_, bytes)| *bytes).max().unwrap_or_default();
    week
}

/// What is written into the document.
fn render(measured: &Measured) -> Result<String> {
    let week = simulate(measured);
    let scale = FLEET / SAMPLE;
    let mut text = String::new();
    writeln!(
        text,
        "\nA release every {} days; {FLEET} machines, each asking every {POLL} hours:\n",
        INTERVAL / 24
    )?;
    writeln!(
        text,
        "| machines | share | updates | requests each | MB each | requests | TB |\n| --- | --- | --- | --- | --- | --- | --- |"
    )?;
    let (mut requests, mut bytes) = (0, 0);
    for ((name, share, _, _), (machines, of_requests, of_bytes)) in KINDS.iter().zip(week.kinds) {
        let each = machines.max(1) as f64;
        writeln!(
            text,
            "| {name} | {:.1} % | {} | {:.1} | {:.1} | {:.1} million | {:.2} |",
            *share as f64 / 10.0,
            machines * scale,
            of_requests as f64 / each,
            of_bytes as f64 / each / 1e6,
            (of_requests * scale) as f64 / 1e6,
            (of_bytes * scale) as f64 / 1e12
        )?;
        requests += of_requests * scale;
        bytes += of_bytes * scale;
    }
    let idle = week.idle * scale;
    let idle_bytes = idle / measured.nothing.requests.max(1) * measured.nothing.bytes;
    writeln!(
        text,
        "| questions with no news | | | {} | {:.4} | {:.1} million | {:.2} |",
        measured.nothing.requests,
        measured.nothing.bytes as f64 / 1e6,
        idle as f64 / 1e6,
        idle_bytes as f64 / 1e12
    )?;
    writeln!(
        text,
        "| **all** | | | | | **{:.1} million** | **{:.2}** |",
        (requests + idle) as f64 / 1e6,
        (bytes + idle_bytes) as f64 / 1e12
    )?;
    let updates: u64 = week.kinds.iter().map(|kind| kind.0 * scale).sum();
    // One request of each update is for the record; the rest has names that are digests.
    let for_ever = requests.saturating_sub(updates);
    writeln!(
        text,
        "\n- Mean: {:.0} requests and {:.0} MB in a second. The busiest minute, in the first {POLL} hours after the release: {:.0} requests and \
         {:.0} MB in a second.",
        (requests + idle) as f64 / (INTERVAL * 3600) as f64,
        (bytes + idle_bytes) as f64 / (INTERVAL * 3600) as f64 / 1e6,
        (week.peak_requests * scale) as f64 / 60.0,
        (week.peak_bytes * scale) as f64 / 60.0 / 1e6
    )?;
    writeln!(
        text,
        "- Of the bytes, {:.2} % are of files that never change and may be kept by every cache; of an update's requests, {:.0} %.",
        (bytes.saturating_sub(updates * 2000)) as f64 * 100.0 / (bytes + idle_bytes) as f64,
        for_ever as f64 * 100.0 / requests as f64
    )?;
    let history = &measured.value["history"];
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    writeln!(
        text,
        "- Behind a CDN of {EDGES} places that each fetch what is asked for once, the origin sends at most the live files to each of them: \
         {:.0} MB of site × {EDGES} = {:.0} GB, {:.1} % of what the fleet gets.",
        number(&history["site"]) as f64 / 1e6,
        (number(&history["site"]) * EDGES) as f64 / 1e9,
        (number(&history["site"]) * EDGES) as f64 * 100.0 / bytes as f64
    )?;
    writeln!(
        text,
        "\nSizes in kB, of a site of {} releases of a server's tree ({} files, {:.0} MB, {:.0} MB of it packs):\n",
        number(&history["releases"]),
        number(&history["files"]),
        number(&history["site"]) as f64 / 1e6,
        number(&history["packs"]) as f64 / 1e6
    )?;
    writeln!(text, "| record | release | whole manifest |\n| --- | --- | --- |")?;
    let kilobytes = |value: &Value| number(value) as f64 / 1e3;
    writeln!(
        text,
        "| {:.1} | {:.1} | {:.1} |",
        kilobytes(&history["record"]),
        kilobytes(&history["release"]),
        kilobytes(&history["manifest"])
    )?;
    writeln!(
        text,
        "\nand, as a ref grows old, of a tree of one file, where nothing but age counts. Each of 20 refs has its own:\n"
    )?;
    writeln!(
        text,
        "| releases | record | release | manifest | files of a ref | of 20 refs |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    for row in measured.value["age"].as_array().into_iter().flatten() {
        writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {} | {} |",
            number(&row["releases"]),
            kilobytes(&row["record"]),
            kilobytes(&row["release"]),
            kilobytes(&row["manifest"]),
            number(&row["files"]),
            number(&row["files"]) * 20
        )?;
    }
    text.push('\n');
    Ok(text)
}

fn document() -> PathBuf {
    workspace::root().join("docs/scale.md")
}

/// The document with its numbers as they come out now.
fn updated() -> Result<(String, String)> {
    let path = workspace::root().join("benches/history.json");
    let measured =
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let path = document();
    let old = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (head, rest) = old
        .split_once(MARKS.0)
        .context("docs/scale.md has no place for it")?;
    let (_, tail) = rest
        .split_once(MARKS.1)
        .context("docs/scale.md has no place for it")?;
    let text = render(&Measured::parse(&measured)?)?;
    let new = format!("{head}{}\n{text}{}{tail}", MARKS.0, MARKS.1);
    Ok((old, new))
}

/// Runs the simulation, and writes it into the document.
///
/// # Errors
/// If nothing was measured, or the document cannot be written.
pub fn scale() -> Result<()> {
    let (_, new) = updated()?;
    let path = document();
    std::fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_the_simulation_gives() {
        if !workspace::root().join("benches/history.json").exists() {
            let text = std::fs::read_to_string(document()).unwrap();
            assert!(
                text.contains("has not been measured yet"),
                "the document must say so"
            );
            return println!("skipped: nothing has been measured yet");
        }
        let (old, new) = updated().unwrap();
        assert!(old == new, "run `cargo xtask scale`");
    }

    #[test]
    fn the_fleet_is_all_accounted_for() {
        assert_eq!(KINDS.iter().map(|kind| kind.1).sum::<u64>(), 1000);
        let pull = |requests, bytes| serde_json::json!({ "requests": requests, "bytes": bytes });
        let mut one = pull(4, 1000);
        one["behind"] = 1.into();
        let value = serde_json::json!({
            "history": { "full": pull(20, 5000), "nothing": pull(1, 10), "behind": [one] },
        });
        let measured = Measured::parse(&value.to_string()).unwrap();
        let week = simulate(&measured);
        assert_eq!(week.kinds.iter().map(|kind| kind.0).sum::<u64>(), SAMPLE);
        // Everybody who is on asks four times a day.
        let polls = week.idle as f64 / SAMPLE as f64;
        assert!((24.0..29.0).contains(&polls), "{polls}");
        // What was not measured costs as the furthest that was.
        assert_eq!(measured.cost(40).requests, 4);
    }
}
