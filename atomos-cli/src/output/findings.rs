//! What fsck found, and repaired.

use std::io::{self, Write};

use libatomos::repo::{Finding, RepairedObject};

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

/// Writes each object that is whole again, and what still has the damaged file.
pub fn write_repaired(out: &mut dyn Write, repaired: &[RepairedObject], dry_run: bool) -> io::Result<()> {
    for object in repaired {
        let done = if dry_run {
            "can be repaired from"
        } else {
            "repaired from"
        };
        writeln!(
            out,
            "{} {} {done} {}",
            object.kind,
            object.digest,
            escape_text(&object.from)
        )?;
        for shared in &object.shared {
            writeln!(
                out,
                "  still damaged in the deployment {}: {}",
                shared.checkout,
                escape_text(&shared.path)
            )?;
        }
        let elsewhere = object.other_names.saturating_sub(object.shared.len() as u64);
        if elsewhere > 0 {
            writeln!(
                out,
                "  the damaged file has {elsewhere} more names outside of the store"
            )?;
        }
    }
    Ok(())
}
