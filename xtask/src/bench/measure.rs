//! Timing commands, and watching how much memory of their own they take.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::describe;

/// How often a process's memory is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Times of one command in several runs.
#[derive(Debug, Clone, Default)]
pub struct Series {
    seconds: Vec<f64>,
}

impl Series {
    /// Adds a run.
    pub fn push(&mut self, time: Duration) {
        self.seconds.push(time.as_secs_f64());
        self.seconds.sort_by(f64::total_cmp);
    }

    /// The fastest run; zero if there was none.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.seconds.first().copied().unwrap_or_default()
    }

    /// The slowest run; zero if there was none.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.seconds.last().copied().unwrap_or_default()
    }

    /// The run in the middle; of an even number the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let middle = self.seconds.len() / 2;
        match self.seconds.len() {
            0 => 0.0,
            length if length % 2 == 1 => self.seconds[middle],
            _ => f64::midpoint(self.seconds[middle - 1], self.seconds[middle]),
        }
    }
}

/// Runs a command that must succeed and returns how long it took.
///
/// # Errors
/// If it fails.
pub fn time(command: &mut Command) -> Result<Duration> {
    quiet(command);
    let start = Instant::now();
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    let elapsed = start.elapsed();
    if !output.status.success() {
        bail!(
            "`{}` failed: {}",
            describe(command),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(elapsed)
}

/// Runs a command that must succeed and returns the most anonymous memory that it was seen to hold, in bytes.
///
/// # Errors
/// If it fails.
pub fn peak_anonymous_memory(command: &mut Command) -> Result<u64> {
    Ok(time_and_watch(command)?.1)
}

/// Runs a command that must succeed, and returns how long it took, to within the [`POLL`], and the most anonymous memory that it was
/// seen to hold, in bytes. For what takes so long that being looked at makes no difference.
///
/// # Errors
/// If it fails.
pub fn time_and_watch(command: &mut Command) -> Result<(Duration, u64)> {
    quiet(command);
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", describe(command)))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // Gone between two looks is not an error; the exit status is asked for below.
        if let Some(bytes) = std::fs::read_to_string(&status)
            .ok()
            .as_deref()
            .and_then(anonymous)
        {
            peak = peak.max(bytes);
        }
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            if !status.success() {
                bail!("`{}` failed ({status})", describe(command));
            }
            return Ok((start.elapsed(), peak));
        }
        thread::sleep(POLL);
    }
}

/// `RssAnon` of a `/proc/PID/status`, in bytes.
fn anonymous(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn quiet(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .env_remove("SOURCE_DATE_EPOCH");
}

/// Writes everything back that is dirty on the filesystem of `path`, so that the next command does not pay for the last.
///
/// # Errors
/// If `sync` fails.
pub fn settle(path: &Path) -> Result<()> {
    time(Command::new("sync").arg("-f").arg(path)).map(|_| ())
}

/// Says of a ratio whether it is at most what is wanted.
pub fn verdict(ratio: f64, at_most: f64) -> &'static str {
    if ratio <= at_most { "met" } else { "**missed**" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_runs() {
        let mut series = Series::default();
        assert_eq!(series.median(), 0.0);
        for seconds in [5, 1, 3] {
            series.push(Duration::from_secs(seconds));
        }
        assert_eq!((series.min(), series.median(), series.max()), (1.0, 3.0, 5.0));
        series.push(Duration::from_secs(4));
        assert_eq!(series.median(), 3.5);
    }

    #[test]
    fn memory_that_a_process_fills_is_seen() {
        // The shell keeps 8 MB in a variable for a moment.
        let script = "x=$(head -c 8000000 /dev/zero | tr '\\0' x); sleep 0.1; test ${#x} = 8000000";
        let peak = peak_anonymous_memory(Command::new("sh").args(["-c", script])).unwrap();
        assert!((8_000_000..200_000_000).contains(&peak), "{peak}");
    }

    #[test]
    fn a_command_that_fails_is_not_timed() {
        assert!(time(Command::new("sh").args(["-c", "echo no >&2; exit 1"])).is_err());
    }
}
