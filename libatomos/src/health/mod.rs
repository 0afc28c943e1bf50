//! Health checks: programs that say whether a machine is well.
//!
//! A check is an executable file in `/usr/lib/atomos/health.d`, which comes with the tree, or `/etc/atomos/health.d`, which
//! is the machine's own and comes first where both have a file of one name. All run at the same time, each with a
//! time limit and in a process group of its own, which is killed as a whole when the check ends. Exit code 0 is well. A check
//! in the directory `wanted.d` below one of these is reported and decides nothing.
//!
//! Nothing is marked or counted here: [`run`] returns what every check said.

mod process;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::error::ErrorKind;
use crate::fs::{Dir, FileKind, FsError};

/// Where checks are, the machine's own first.
pub const PLACES: [&str; 2] = ["etc/atomos/health.d", "usr/lib/atomos/health.d"];

/// Below each of [`PLACES`], checks that decide nothing.
pub const WANTED: &str = "wanted.d";

/// Checks of one kind that are run; a machine with more has another problem.
const MAX_CHECKS: usize = 256;

/// How to run checks.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HealthOptions {
    /// How long each check may take.
    pub timeout: Duration,
    /// Bytes of what each prints that are kept: the last ones.
    pub max_output: usize,
    /// Variables for the checks, besides those of this process.
    pub variables: Vec<(String, String)>,
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_output: 4096,
            variables: Vec::new(),
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "ended")]
#[non_exhaustive]
pub enum CheckEnd {
    /// By itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// By a signal that we did not send.
    Killed {
        /// Which.
        signal: i32,
    },
    /// It had not ended in time, and was killed.
    TimedOut {
        /// The limit, in seconds.
        seconds: u64,
    },
    /// It could not be started.
    NotStarted {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for CheckEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit code {code}"),
            Self::Killed { signal } => write!(f, "killed by signal {signal}"),
            Self::TimedOut { seconds } => write!(f, "no end after {seconds} s"),
            Self::NotStarted { reason } => write!(f, "not started: {reason}"),
        }
    }
}

/// What a check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckResult {
    /// Its name; `wanted.d/…` for one that decides nothing.
    pub check: String,
    /// Where it is.
    #[serde(serialize_with = "crate::fs::path_text::one")]
    pub path: PathBuf,
    /// Whether the machine must not go on without it.
    pub required: bool,
    /// How it ended.
    #[serde(flatten)]
    pub end: CheckEnd,
    /// The end of what it printed, with what is not UTF-8 replaced.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

impl CheckResult {
    /// Returns whether it passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.end == CheckEnd::Exited { code: 0 }
    }
}

/// What all checks said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct HealthReport {
    /// Each check's result, sorted by name.
    pub checks: Vec<CheckResult>,
    /// Files where checks are which were not run, because nobody may execute them or their names are those of editors'
    /// and package managers' copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[serde(serialize_with = "crate::fs::path_text::all")]
    pub not_run: Vec<PathBuf>,
}

impl HealthReport {
    /// Returns whether every check that must pass did.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// Returns the checks that must pass and did not.
    pub fn failed(&self) -> impl Iterator<Item = &CheckResult> {
        self.checks
            .iter()
            .filter(|check| check.required && !check.passed())
    }
}

/// The checks could not be looked for, or somebody asked to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// A system call failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] crate::cancel::Cancelled),
}

impl HealthError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fs(error) => error.kind(),
            Self::Cancelled(_) => ErrorKind::Cancelled,
        }
    }
}

/// Runs the checks of the system at `root` and waits for them. A machine without any is well.
pub fn run(root: &Path, options: &HealthOptions, cancel: &Cancel) -> Result<HealthReport, HealthError> {
    let mut report = HealthReport::default();
    let found = find(root, &mut report.not_run)?;
    let ends: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = found
            .values()
            .map(|check| scope.spawn(move || process::run(&check.path, options, cancel)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("the thread of a check does not panic"))
            .collect()
    });
    cancel.check()?;
    for ((name, check), (end, output)) in found.into_iter().zip(ends) {
        report.checks.push(CheckResult {
            check: name,
            path: check.path,
            required: check.required,
            end,
            output,
        });
    }
    Ok(report)
}

struct Found {
    path: PathBuf,
    required: bool,
}

/// Lists the checks by name.
fn find(root: &Path, not_run: &mut Vec<PathBuf>) -> Result<BTreeMap<String, Found>, FsError> {
    let host = Dir::open_ambient(root)?;
    let mut found = BTreeMap::new();
    for place in PLACES {
        for (below, required) in [("", true), (WANTED, false)] {
            let place = Path::new(place).join(below);
            let dir = match host.open_dir_in_root(&place) {
                Ok(Some(dir)) => dir,
                Ok(None) => continue,
                // A file, or a link that leads round, is told of, and fails no boot.
                Err(error) if is_no_directory(&error) => {
                    not_run.push(root.join(place));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in dir.entries()?.into_iter().take(MAX_CHECKS) {
                let path = root.join(&place).join(&entry.name);
                let name = entry.name.to_str().filter(|name| is_check_name(name));
                let stat = dir.stat(&entry.name)?;
                if stat.kind == FileKind::Dir {
                    continue;
                }
                let Some(name) = name else {
                    not_run.push(path);
                    continue;
                };
                let name = Path::new(below).join(name).to_string_lossy().into_owned();
                // A link to /dev/null in /etc takes a check of the tree away, as elsewhere.
                let masked = stat.kind == FileKind::Symlink && dir.read_link(&entry.name)? == b"/dev/null";
                let executable = stat.kind == FileKind::Symlink || stat.mode & 0o111 != 0;
                if !executable {
                    not_run.push(path.clone());
                }
                // One that nobody may run takes the place of the other all the same: so checks are turned off.
                found
                    .entry(name)
                    .or_insert_with(|| (executable && !masked).then_some(Found { path, required }));
            }
        }
    }
    Ok(found
        .into_iter()
        .filter_map(|(name, found)| Some((name, found?)))
        .collect())
}

fn is_no_directory(error: &FsError) -> bool {
    let errno = error
        .source
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    matches!(errno, Some(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP))
}

/// No hidden files, no backups, no copies that package managers leave.
fn is_check_name(name: &str) -> bool {
    const COPIES: [&str; 9] = [
        ".bak", ".orig", ".rej", ".swp", ".rpmnew", ".rpmsave", ".rpmorig", ".pacnew", ".pacsave",
    ];
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
    !name.starts_with('.')
        && name.chars().all(allowed)
        && !COPIES.iter().any(|copy| name.ends_with(copy))
        && !name.contains(".dpkg-")
        && !name.contains(".ucf-")
}
