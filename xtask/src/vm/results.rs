//! What ran and what came out, in `docs/boot-tests.md`, written by the run itself.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::lab::Lab;
use super::scenario::Scenario;
use super::versions::ALL;
use crate::process::capture;

const BEGIN: &str = "<!-- results: `cargo xtask vm-test` writes what follows -->\n";
const END: &str = "<!-- results: end -->\n";

/// What came of a test.
#[derive(Debug)]
pub struct Outcome {
    /// The test.
    pub scenario: &'static Scenario,
    /// How long it took.
    pub time: Duration,
    /// How many times a machine came up.
    pub boots: u32,
    /// Why it failed, if it did.
    pub error: Option<anyhow::Error>,
}

impl Outcome {
    /// In one word.
    pub const fn word(&self) -> &'static str {
        if self.error.is_none() { "passed" } else { "FAILED" }
    }
}

/// Replaces the results in the document.
///
/// # Errors
/// If something that belongs there cannot be had, or the document cannot be written.
pub fn write(document: &Path, lab: &Lab, outcomes: &[Outcome], jobs: usize, time: Duration) -> Result<()> {
    let text =
        std::fs::read_to_string(document).with_context(|| format!("cannot read {}", document.display()))?;
    let text = replace(&text, &render(lab, outcomes, jobs, time)?)
        .with_context(|| format!("{} has no place for results", document.display()))?;
    std::fs::write(document, text).with_context(|| format!("cannot write {}", document.display()))
}

/// The document with other results; `None` if it has no place for them.
fn replace(document: &str, results: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{results}\n{END}{after}"))
}

fn render(lab: &Lab, outcomes: &[Outcome], jobs: usize, time: Duration) -> Result<String> {
    let mut text = String::new();
    let passed = outcomes.iter().filter(|outcome| outcome.error.is_none()).count();
    let boots: u32 = outcomes.iter().map(|outcome| outcome.boots).sum();
    let date = capture(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
    let qemu = capture(Command::new("qemu-system-x86_64").arg("--version"))?;
    writeln!(
        text,
        "On {}, {passed} of {} tests passed: {boots} boots, {:.0} minutes, {jobs} tests at a time, {}.\n",
        date.trim(),
        outcomes.len(),
        time.as_secs_f64() / 60.0,
        qemu.lines().next().unwrap_or_default(),
    )?;
    text.push_str("| test | disk | shows | boots | seconds | |\n|---|---|---|---|---|---|\n");
    for outcome in outcomes {
        let scenario = outcome.scenario;
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {:.0} | {} |",
            scenario.name,
            scenario.kind.name(),
            scenario.shows,
            outcome.boots,
            outcome.time.as_secs_f64(),
            outcome.word(),
        )?;
    }
    text.push_str("\nThe versions, which `b3sum` cannot make again: a commit has a time. The digest of a tree says what is in it.\n\n");
    text.push_str("| version | commit | tree |\n|---|---|---|\n");
    for version in ALL {
        if let Some((commit, tree)) = lab.store().digests(version)? {
            writeln!(text, "| {} | `{commit}` | `{tree}` |", version.name)?;
        }
    }
    text.push_str("\nThe disks as they were installed, before the first boot, by BLAKE3:\n\n| disk | image |\n|---|---|\n");
    for (name, digest) in lab.disk_digests()? {
        writeln!(text, "| {name} | `{digest}` |")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("before\n{BEGIN}old\n{END}after\n");
        let replaced = replace(&document, "new\n").unwrap();
        assert_eq!(replaced, format!("before\n{BEGIN}\nnew\n\n{END}after\n"));
        assert_eq!(replace(&replaced, "new\n").unwrap(), replaced);
        assert!(replace("before\nafter\n", "new").is_none());
        assert!(replace(&format!("{BEGIN}no end"), "new").is_none());
    }

    #[test]
    fn the_document_has_a_place_for_results() {
        let document = std::fs::read_to_string(crate::workspace::root().join("docs/boot-tests.md")).unwrap();
        assert!(replace(&document, "").is_some());
    }
}
