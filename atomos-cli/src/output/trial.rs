//! Trials and checks, as people read them.

use std::io::{self, Write};

use libatomos::health::CheckResult;
use libatomos::sysroot::{BootAttempt, FailedCheck, FailedTrial, Status};

use super::text;

/// Lines of a check's output that are shown; `--json` has more.
const SHOWN_LINES: usize = 5;

/// Writes what a check said.
pub fn write_check(out: &mut dyn Write, check: &CheckResult) -> io::Result<()> {
    let mark = if check.passed() { "ok    " } else { "failed" };
    write!(out, "{mark}  {}", text::escape_text(&check.check))?;
    if check.passed() {
        return writeln!(out);
    }
    let wanted = if check.required {
        ""
    } else {
        ", which decides nothing"
    };
    writeln!(out, "  {}{wanted}", text::escape_text(&check.end.to_string()))?;
    write_output(out, &check.output)
}

fn write_output(out: &mut dyn Write, output: &str) -> io::Result<()> {
    let lines: Vec<&str> = output.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        writeln!(out, "          {}", text::escape_text(line))?;
    }
    Ok(())
}

/// Writes what failed and how.
pub fn write_failed(out: &mut dyn Write, failed: &FailedTrial) -> io::Result<()> {
    let version = super::deployment::version_or(&failed.version, "a version without a name");
    let what = match &failed.kargs {
        Some(kargs) => format!("kernel arguments of {version}: {kargs}"),
        None => version.to_owned(),
    };
    writeln!(
        out,
        "gave up {} ({}) after {}",
        text::escape_text(&what),
        failed.deployment.short(),
        text::count(failed.attempts.len() as u64, "try", "tries")
    )?;
    failed
        .attempts
        .iter()
        .try_for_each(|attempt| write_attempt(out, attempt))
}

/// Writes how far a try got, and where to read more.
pub fn write_attempt(out: &mut dyn Write, attempt: &BootAttempt) -> io::Result<()> {
    let when = attempt
        .time
        .map_or_else(String::new, |time| format!("  {}", text::time(time)));
    let log = match &attempt.boot_id {
        Some(id) => format!("  journalctl -b {}", text::escape_text(id)),
        None => String::new(),
    };
    writeln!(out, "      got as far as {}{when}{log}", attempt.stage)?;
    for FailedCheck {
        check, ended, output, ..
    } in &attempt.failed
    {
        writeln!(
            out,
            "        {}: {}",
            text::escape_text(check),
            text::escape_text(ended)
        )?;
        write_output(out, output)?;
    }
    Ok(())
}

/// Writes what `status` has to say of boots that failed.
pub fn write_boots(out: &mut dyn Write, status: &Status) -> io::Result<()> {
    for failed in &status.failures {
        writeln!(out)?;
        write_failed(out, failed)?;
    }
    if let Some(last) = &status.last_failure {
        writeln!(out)?;
        writeln!(out, "checks failed on {}, which stays", last.deployment.short())?;
        write_attempt(out, &last.attempt)?;
    }
    Ok(())
}
