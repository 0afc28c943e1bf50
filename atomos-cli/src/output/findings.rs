//! What fsck found, and repaired.

use std::io::{self, Write};

use libatomos::repo::{FileFinding, Finding, RepairedObject};
use libatomos::sysroot::{ImageFinding, ImagesRepair};

use super::text::{escape_bytes, escape_path, escape_text};

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

/// Writes each file of the repository's own that cannot be used.
pub fn write_files(out: &mut dyn Write, findings: &[FileFinding]) -> io::Result<()> {
    findings.iter().try_for_each(|finding| {
        let problem = escape_text(&finding.problem.to_string());
        writeln!(out, "file {} {problem}", finding.file)
    })
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

/// Writes each bad image, and beneath it the file that is bad.
pub fn write_images<'a>(
    out: &mut dyn Write,
    findings: impl IntoIterator<Item = &'a ImageFinding>,
) -> io::Result<()> {
    for finding in findings {
        writeln!(
            out,
            "image of {} {}\n  {}",
            finding.deployment,
            escape_text(&finding.problem.to_string()),
            escape_path(&finding.path)
        )?;
    }
    Ok(())
}

/// Writes each image that is whole again, and what is wrong with those that are not.
pub fn write_repaired_images(out: &mut dyn Write, images: &ImagesRepair, dry_run: bool) -> io::Result<()> {
    for one in &images.repaired {
        let done = if dry_run { "can be made anew" } else { "made anew" };
        writeln!(
            out,
            "image of {} {done}\n  {}",
            one.deployment,
            escape_path(&one.path)
        )?;
    }
    for one in &images.lost {
        let of_it = |finding: &&ImageFinding| finding.deployment == one.deployment;
        write_images(out, images.found.findings.iter().filter(of_it))?;
        writeln!(out, "  cannot be made anew: {}", escape_text(&one.reason))?;
    }
    Ok(())
}
