//! What lint found.

use std::io::{self, Write};

use libatomos::lint::LintReport;

use super::os_tree::describe_cost;
use super::text::{escape_text, grouped};

/// Paths of a finding that are shown unless all are wanted.
const SHOWN: usize = 5;

/// Writes each finding and, beneath it, where it is.
pub fn write(out: &mut dyn Write, report: &LintReport, all: bool) -> io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{} {}: {}", finding.severity, finding.name, finding.text)?;
        if let Some(cost) = &finding.cost {
            writeln!(out, "  {}", describe_cost(cost))?;
        }
        let shown = if all { finding.paths.len() } else { SHOWN };
        for path in finding.paths.iter().take(shown) {
            writeln!(out, "  /{}", escape_text(path))?;
        }
        if finding.paths.len() > shown {
            let more = finding.paths.len() - shown;
            writeln!(out, "  and {} more", grouped(more as u64))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use libatomos::cancel::Cancel;
    use libatomos::fs::Dir;
    use libatomos::lint::lint_directory;

    use super::*;

    #[test]
    fn long_lists_are_cut_unless_all_is_wanted() {
        let base = tempfile::tempdir().unwrap();
        let report = lint_directory(Dir::open_ambient(base.path()).unwrap(), &Cancel::new()).unwrap();
        let render = |all| {
            let mut out = Vec::new();
            write(&mut out, &report, all).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (short, long) = (render(false), render(true));
        assert!(
            short.starts_with("error no-usr: there is no directory /usr"),
            "{short}"
        );
        // An empty directory lacks all eight mount points.
        assert!(
            short.contains("  /sys\n  and 3 more\n") && !short.contains("/tmp"),
            "{short}"
        );
        assert!(long.contains("  /tmp\n") && !long.contains("more"), "{long}");
    }
}
