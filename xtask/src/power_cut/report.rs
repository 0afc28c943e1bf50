//! What was tried, in words, and in docs/boot-tests.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::phase::Phase;
use super::prove::Verdict;
use super::trial::Boot;
use super::watcher::Fault;

/// What was tried in one scenario.
#[derive(Debug)]
pub struct Line {
    /// The scenario's name.
    pub scenario: String,
    /// Writes, flushes and marks that were recorded.
    pub events: usize,
    /// How many of them are flushes.
    pub flushes: usize,
    /// The digest of the disks before and of all that happened to them.
    pub digest: String,
    /// How many cuts, for each phase.
    pub tried: BTreeMap<Phase, usize>,
    /// How many of them left something wrong.
    pub failed: usize,
}

impl Line {
    /// Returns how many cuts were tried.
    #[must_use]
    pub fn total(&self) -> usize {
        self.tried.values().sum()
    }
}

/// Returns the table of the cuts.
#[must_use]
pub fn cuts(lines: &[Line], seed: u64) -> String {
    let used: Vec<_> = Phase::ALL
        .into_iter()
        .filter(|phase| lines.iter().any(|line| line.tried.contains_key(phase)))
        .collect();
    let total: usize = lines.iter().map(Line::total).sum();
    let failed: usize = lines.iter().map(|line| line.failed).sum();
    let mut text = format!("Seed {seed}: {total} cuts, of which {failed} left something wrong.\n\n");
    let row = |text: &mut String, cells: Vec<String>| {
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    };
    let mut head = vec!["phase".to_owned()];
    head.extend(lines.iter().map(|line| line.scenario.clone()));
    head.push("all".to_owned());
    let columns = head.len();
    row(&mut text, head);
    row(&mut text, vec!["---".to_owned(); columns]);
    for phase in used {
        let count = |line: &Line| line.tried.get(&phase).copied().unwrap_or(0);
        let mut cells = vec![phase.name().to_owned()];
        cells.extend(lines.iter().map(|line| count(line).to_string()));
        cells.push(lines.iter().map(count).sum::<usize>().to_string());
        row(&mut text, cells);
    }
    let mut cells = vec!["**all**".to_owned()];
    cells.extend(lines.iter().map(|line| line.total().to_string()));
    cells.push(total.to_string());
    row(&mut text, cells);
    text.push('\n');
    for line in lines {
        writeln!(
            text,
            "- {}: {} events, {} of them flushes; BLAKE3 of the disks and the log `{}`",
            line.scenario, line.events, line.flushes, line.digest
        )
        .expect("a string takes what is written to it");
    }
    text
}

/// Returns the table of the machines that have booted.
#[must_use]
pub fn boots(boots: &[Boot]) -> String {
    let mut text = format!("\n{} machines were booted after a cut:\n\n", boots.len());
    text.push_str("| cut in | after | writes that survived | booted version |\n|---|---|---|---|\n");
    let mut sorted: Vec<_> = boots.iter().collect();
    sorted.sort_by_key(|boot| boot.planned.cut.at);
    for boot in sorted {
        writeln!(
            text,
            "| {} | `{}` | {} | {} |",
            boot.planned.phase.name(),
            boot.mark,
            boot.planned.cut.survivors.len(),
            boot.said.version
        )
        .expect("a string takes what is written to it");
    }
    text
}

/// Returns the table of the faults.
#[must_use]
pub fn faults(verdicts: &[(Fault, Verdict)]) -> String {
    let mut text = "| fault | |\n|---|---|\n".to_owned();
    for (fault, verdict) in verdicts {
        let verdict = match verdict {
            Verdict::Caught(scenario, error) => format!("caught ({scenario}): {}", shorten(error)),
            Verdict::Argued(reason) => format!("does not show: {reason}"),
            Verdict::Missed => "**does not show**".to_owned(),
        };
        writeln!(text, "| {fault} | {verdict} |").expect("a string takes what is written to it");
    }
    text
}

/// Returns what no scenario passes, and why.
#[must_use]
pub fn untried(calls: &[(String, Option<&str>)]) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (call, reason) in calls {
        reasons
            .entry(reason.unwrap_or("**not said**"))
            .or_default()
            .push(call);
    }
    let mut text = "\nSyncs that no scenario makes:\n\n".to_owned();
    for (reason, calls) in reasons {
        writeln!(text, "- {reason}: {}", calls.join(", ")).expect("a string takes what is written to it");
    }
    text
}

/// The first line, without digests and directories that are another in every run.
fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().replace('|', "\\|");
    let words = line.split(' ').map(|word| {
        let digits = word.bytes().filter(u8::is_ascii_hexdigit).count();
        match word {
            _ if word.len() > 40 && digits > 30 => "…",
            _ if word.contains("/atomos-power-cut-") && word.starts_with('`') => "`…",
            _ if word.contains("/atomos-power-cut-") => "…",
            _ => word,
        }
    });
    let mut text = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = text.char_indices().nth(120) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Puts `text` between the marks called `name` of the document.
///
/// # Errors
/// If the document has no such marks, or cannot be written.
pub fn write(document: &Path, name: &str, text: &str) -> Result<()> {
    let old =
        std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
    let new = put(&old, name, text).with_context(|| format!("in {}", document.display()))?;
    std::fs::write(document, new).with_context(|| format!("cannot write {}", document.display()))
}

fn put(document: &str, name: &str, text: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- {name}: begin -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let start = document
        .find(&begin)
        .with_context(|| format!("there is no {}", begin.trim_end()))?
        + begin.len();
    let length = document[start..]
        .find(&end)
        .with_context(|| format!("there is no {end}"))?;
    ensure!(!text.contains("<!--"), "a result must not have marks");
    Ok(format!(
        "{}{}{}",
        &document[..start],
        text,
        &document[start + length..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        assert_eq!(
            put(document, "x", "new\n").unwrap(),
            "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
        );
        put(document, "y", "new\n").unwrap_err();
        put("<!-- x: begin -->\n", "x", "new\n").unwrap_err();
    }

    #[test]
    fn the_table_adds_up() {
        let line = |name: &str, counts: &[(Phase, usize)]| Line {
            scenario: name.to_owned(),
            events: 10,
            flushes: 2,
            digest: "00".to_owned(),
            tried: counts.iter().copied().collect(),
            failed: 0,
        };
        let lines = [
            line("one", &[(Phase::Objects, 3), (Phase::Refs, 4)]),
            line("two", &[(Phase::Objects, 5)]),
        ];
        let text = cuts(&lines, 9);
        assert!(text.starts_with("Seed 9: 12 cuts, of which 0 left"));
        assert!(text.contains("| objects | 3 | 5 | 8 |"), "{text}");
        assert!(text.contains("| ref move | 4 | 0 | 4 |"), "{text}");
        assert!(text.contains("| **all** | 7 | 5 | 12 |"), "{text}");
    }
}
