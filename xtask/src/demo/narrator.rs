//! Showing commands as a person would type them, with what they really print, and holding them to their promises.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::quote;

/// How much of one command's output is shown.
const SHOWN_LINES: usize = 24;

/// Runs and shows commands.
#[derive(Debug)]
pub struct Narrator {
    atomos: PathBuf,
    directory: PathBuf,
    environment: Vec<(String, OsString)>,
    steps: usize,
    timings: Vec<(String, Duration)>,
    promises: usize,
}

/// What a command printed on standard output, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its standard output.
    pub stdout: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Output {
    /// The standard output as one word.
    #[must_use]
    pub fn word(&self) -> &str {
        self.stdout.trim()
    }
}

impl Narrator {
    /// Commands run in `directory`; the word `atomos` means the binary at `atomos`.
    #[must_use]
    pub fn new(atomos: &Path, directory: &Path) -> Self {
        Self {
            atomos: atomos.to_owned(),
            directory: directory.to_owned(),
            environment: Vec::new(),
            steps: 0,
            timings: Vec::new(),
            promises: 0,
        }
    }

    /// Begins a new part.
    pub fn heading(&mut self, title: &str) {
        self.steps += 1;
        println!("\n== {}. {title}", self.steps);
    }

    /// Says a sentence.
    #[allow(clippy::unused_self, reason = "what is said belongs to the narration")]
    pub fn say(&self, text: &str) {
        println!("{text}");
    }

    /// Sets a variable for all commands to come.
    pub fn export(&mut self, name: &str, value: &Path) {
        println!("$ export {name}={}", quote(&value.to_string_lossy()));
        self.environment
            .push((name.to_owned(), value.as_os_str().to_owned()));
    }

    /// Runs an atomos command that must succeed.
    ///
    /// # Errors
    /// If it does not.
    pub fn atomos(&mut self, words: &[&str]) -> Result<Output> {
        let output = self.attempt(words)?;
        if !output.status.success() {
            bail!("broken promise: `{}` failed ({})", shown(words), output.status);
        }
        Ok(output)
    }

    /// Runs an atomos command that may fail.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn attempt(&mut self, words: &[&str]) -> Result<Output> {
        let label = shown(words);
        println!("$ {label}");
        let mut command = Command::new(&self.atomos);
        command.args(words).current_dir(&self.directory);
        let start = Instant::now();
        let output = self.show(&mut command)?;
        let time = start.elapsed();
        println!("  ({:.2} s)", time.as_secs_f64());
        self.timings.push((label, time));
        Ok(output)
    }

    /// Runs an atomos command without showing it, for a question that only the checks ask.
    ///
    /// # Errors
    /// If it fails.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.atomos);
        command
            .args(words)
            .current_dir(&self.directory)
            .envs(self.environment.clone());
        crate::process::capture(command.stderr(Stdio::null())).map(|text| text.trim().to_owned())
    }

    /// Runs a line of shell that must succeed, in `directory`.
    ///
    /// # Errors
    /// If it fails.
    pub fn shell(&mut self, directory: &Path, line: &str) -> Result<Output> {
        println!("$ {line}");
        let output = self.show(Command::new("sh").args(["-euc", line]).current_dir(directory))?;
        if !output.status.success() {
            bail!("`{line}` failed ({})", output.status);
        }
        Ok(output)
    }

    /// Says that something was checked and holds, or fails saying that it does not.
    ///
    /// # Errors
    /// If `holds` is false.
    pub fn promise(&mut self, holds: bool, what: &str) -> Result<()> {
        if !holds {
            bail!("broken promise: {what}");
        }
        self.promises += 1;
        println!("  [ok] {what}");
        Ok(())
    }

    /// How many promises were checked.
    #[must_use]
    pub fn promises(&self) -> usize {
        self.promises
    }

    /// Every atomos command that was shown, with its time.
    #[must_use]
    pub fn timings(&self) -> &[(String, Duration)] {
        &self.timings
    }

    fn show(&self, command: &mut Command) -> Result<Output> {
        let mut child = command
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("the child has no standard output")?;
        let stderr = child.stderr.take().context("the child has no standard error")?;
        let readers = [
            reader(stdout, Stream::Result, sender.clone()),
            reader(stderr, Stream::Narration, sender),
        ];
        let (mut result, mut count) = (String::new(), 0_usize);
        for (stream, line) in lines {
            count += 1;
            if count <= SHOWN_LINES {
                println!("  {line}");
            }
            if matches!(stream, Stream::Result) {
                result.push_str(&line);
                result.push('\n');
            }
        }
        for reader in readers {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reader of the command's output panicked"))??;
        }
        if count > SHOWN_LINES {
            println!("  … and {} more lines", count - SHOWN_LINES);
        }
        let status = child.wait().context("cannot wait for the command")?;
        Ok(Output {
            stdout: result,
            status,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Result,
    Narration,
}

fn reader(
    source: impl Read + Send + 'static,
    stream: Stream,
    sender: mpsc::Sender<(Stream, String)>,
) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        while source
            .read_until(b'\n', &mut line)
            .context("cannot read a command's output")?
            > 0
        {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            line.clear();
            // Nobody listens any more only after the narrator itself has failed.
            if sender.send((stream, text)).is_err() {
                break;
            }
        }
        Ok(())
    })
}

fn shown(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("atomos {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_are_kept_apart_and_a_failure_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut narrator = Narrator::new(Path::new("/bin/sh"), directory.path());
        let output = narrator.atomos(&["-c", "echo result; echo said >&2"]).unwrap();
        assert_eq!(output.word(), "result");
        assert!(narrator.atomos(&["-c", "exit 4"]).is_err());
        assert_eq!(
            narrator.attempt(&["-c", "exit 4"]).unwrap().status.code(),
            Some(4)
        );
        assert_eq!(narrator.timings().len(), 3);
    }

    #[test]
    fn a_broken_promise_names_what_was_promised() {
        let mut narrator = Narrator::new(Path::new("/bin/sh"), Path::new("/"));
        narrator.promise(true, "water is wet").unwrap();
        let error = narrator.promise(false, "fire is cold").unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), narrator.promises()),
            ("broken promise: fire is cold", 1)
        );
    }
}
