//! Running other programs.
//!
//! Two ways: [`capture`] for a program whose answer is wanted, and [`Logged`] for a long step whose thousands
//! of lines nobody wants to read unless it fails. Neither passes standard input on: a step that
//! asks a question must fail, not hang.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed step's log is shown.
const TAIL_BYTES: u64 = 4000;

/// Runs a program and returns its standard output; its standard error goes to ours.
///
/// # Errors
/// If the program cannot be started, fails, or prints what is not UTF-8.
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = describe(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed what is not UTF-8"))
}

/// Runs a program that talks to the person itself.
///
/// # Errors
/// If the program cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Returns whether a program of this name is on the search path.
pub fn has_program(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(extra_paths())
            .any(|directory| directory.join(name).is_file())
    })
}

/// Directories with administrators' programs, which an ordinary user's search path may lack.
fn extra_paths() -> impl Iterator<Item = PathBuf> {
    ["/usr/sbin", "/sbin"].into_iter().map(PathBuf::from)
}

/// Returns whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command as a person would type it, for messages.
pub fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        // A script is told by its name, which follows it.
        if word.contains('\n') {
            "…".to_owned()
        } else {
            quote(&word)
        }
    }));
    words.join(" ")
}

/// Quotes a word for a POSIX shell if it needs it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Programs whose output goes to one log file, the end of which is shown when one of them fails.
#[derive(Debug)]
pub struct Logged {
    path: PathBuf,
}

impl Logged {
    /// Starts an empty log.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Runs a program with both of its outputs in the log.
    ///
    /// # Errors
    /// If the program cannot be started or fails; the message then ends with the end of the log.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let words = describe(command);
        let log = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .status()
            .with_context(|| format!("cannot start `{words}`"))?;
        if !status.success() {
            bail!(
                "`{words}` failed ({status}); the end of {}:\n{}",
                self.path.display(),
                tail(&self.path).unwrap_or_else(|error| format!("(cannot be read: {error})"))
            );
        }
        Ok(())
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if length <= TAIL_BYTES {
        return Ok(text);
    }
    // The first line is most likely cut.
    Ok(text
        .split_once('\n')
        .map_or(text.clone(), |(_, rest)| rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_plain_words_alone_and_survives_a_shell() {
        assert_eq!(quote("os/stable"), "os/stable");
        for word in ["", "a b", "it's", "$HOME", "x;y", "ä"] {
            let echoed =
                capture(Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))])).unwrap();
            assert_eq!(echoed, word);
        }
    }

    #[test]
    fn a_failed_step_shows_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = Logged::create(&directory.path().join("log")).unwrap();
        log.run(Command::new("sh").args(["-c", "echo fine"])).unwrap();
        let error = log
            .run(Command::new("sh").args(["-c", "echo why it broke >&2; exit 3"]))
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("exit status: 3") && text.contains("why it broke"),
            "{text}"
        );
    }
}
