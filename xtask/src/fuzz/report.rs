//! What was found, as a table in `fuzz/README.md`. A row keeps what was not measured anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::coverage::Coverage;

/// Begin and end of what is written.
const MARKS: (&str, &str) = (
    "<!-- fuzz: written by `cargo xtask fuzz` -->",
    "<!-- end of fuzz -->",
);

const HEAD: &str =
    "| target | minutes | inputs | lines of the decoder | reached |\n| --- | --- | --- | --- | --- |\n";

/// What libFuzzer says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Inputs that were tried.
    pub inputs: u64,
    /// Seconds that it took.
    pub seconds: u64,
}

impl Run {
    /// Reads a log; `None` where it has not come to its end.
    #[must_use]
    pub fn parse(log: &str) -> Option<Self> {
        let line = log.lines().rev().find_map(|line| line.strip_prefix("Done "))?;
        let (inputs, rest) = line.split_once(" runs in ")?;
        let seconds = rest.split_once(' ')?.0;
        Some(Self {
            inputs: inputs.parse().ok()?,
            seconds: seconds.parse().ok()?,
        })
    }
}

/// The rows of the table, by target. A cell without text was never measured.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<String, [String; 4]>);

impl Table {
    /// Reads the table that stands in the document.
    ///
    /// # Errors
    /// If the document has no place for one.
    pub fn read(document: &str) -> Result<Self> {
        let (_, table, _) = split(document)?;
        let mut rows = BTreeMap::new();
        for line in table
            .lines()
            .skip_while(|line| !line.starts_with("| ---"))
            .skip(1)
        {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            if let [target, minutes, inputs, lines, reached] = cells.as_slice() {
                let cells = [minutes, inputs, lines, reached].map(|cell| (*cell).to_owned());
                rows.insert(target.trim_matches('`').to_owned(), cells);
            }
        }
        Ok(Self(rows))
    }

    /// Takes in how a target ran.
    pub fn ran(&mut self, target: &str, run: Run) {
        let row = self.0.entry(target.to_owned()).or_default();
        row[0] = (run.seconds / 60).to_string();
        row[1] = match run.inputs {
            inputs @ 10_000_000.. => format!("{} million", inputs / 1_000_000),
            inputs => inputs.to_string(),
        };
    }

    /// Takes in what a target's corpus reaches.
    pub fn reached(&mut self, target: &str, coverage: &Coverage) {
        let row = self.0.entry(target.to_owned()).or_default();
        row[2] = coverage.lines.to_string();
        row[3] = format!("{} %", coverage.percent());
    }

    /// Returns the table as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (target, cells) in &self.0 {
            writeln!(text, "| `{target}` | {} |", cells.join(" | ")).expect("memory takes it");
        }
        text
    }

    /// Returns the document with this table in it.
    ///
    /// # Errors
    /// If it has no place for one.
    pub fn written_into(&self, document: &str) -> Result<String> {
        let (head, _, tail) = split(document)?;
        Ok(format!("{head}{}\n\n{}\n{}{tail}", MARKS.0, self.text(), MARKS.1))
    }
}

/// Splits a document where the table is.
fn split(document: &str) -> Result<(&str, &str, &str)> {
    let missing = "fuzz/README.md has no place for the results";
    let (head, rest) = document.split_once(MARKS.0).context(missing)?;
    let (table, tail) = rest.split_once(MARKS.1).context(missing)?;
    Ok((head, table, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn a_run_is_read_from_the_end_of_its_log() {
        let log = "#1\tINITED\nDone 5 runs\n#9\tDONE   cov: 7\nDone 1234 runs in 601 second(s)\nstat::peak_rss_mb: 28\n";
        assert_eq!(
            Run::parse(log),
            Some(Run {
                inputs: 1234,
                seconds: 601
            })
        );
        assert_eq!(Run::parse("==1== ERROR: libFuzzer: deadly signal\n"), None);
        assert_eq!(Run::parse("Done x runs in 1 second(s)\n"), None);
    }

    #[test]
    fn a_row_keeps_what_was_not_measured_anew() {
        let document = format!("head\n{}\n{}\ntail\n", MARKS.0, MARKS.1);
        let mut table = Table::read(&document).unwrap();
        assert_eq!(table, Table::default());
        table.ran(
            "tar",
            Run {
                inputs: 12_345_678,
                seconds: 605,
            },
        );
        let coverage = Coverage {
            lines: 10,
            missed: vec![("a.rs".to_owned(), 1)],
        };
        table.reached("commit", &coverage);
        let document = table.written_into(&document).unwrap();
        assert!(document.starts_with("head\n") && document.ends_with("tail\n"));
        let mut again = Table::read(&document).unwrap();
        assert_eq!(again, table);
        again.reached("tar", &coverage);
        let text = again.text();
        assert!(
            text.contains("| `tar` | 10 | 12 million | 10 | 90 % |\n"),
            "{text}"
        );
        assert!(text.contains("| `commit` |  |  | 10 | 90 % |\n"), "{text}");
        assert_eq!(again.written_into(&document).unwrap().matches(HEAD).count(), 1);
        assert!(Table::read("no marks").is_err());
    }

    #[test]
    fn the_document_has_a_place_for_the_table() {
        let document = std::fs::read_to_string(workspace::root().join("fuzz/README.md")).unwrap();
        Table::read(&document).unwrap();
    }
}
