//! What fsck found.

use std::io::{self, Write};

use libatomos::repo::Finding;

use super::text::{escape_bytes, escape_text};

/// Writes each finding and, beneath it, where the object is used.
pub fn write(out: &mut dyn Write, findings: &[Finding]) -> io::Result<()> {
    for finding in findings {
        writeln!(
            out,
            "{} {} {}",
            finding.kind,
            finding.digest,
            escape_text(&finding.problem.to_string())
        )?;
        if finding.used_by.is_empty() {
            writeln!(out, "  no ref leads to it")?;
        }
        for place in &finding.used_by {
            writeln!(
                out,
                "  {} in {}: {}",
                escape_text(&place.root),
                place.commit.short(),
                escape_bytes(place.path.as_bytes())
            )?;
        }
    }
    Ok(())
}
