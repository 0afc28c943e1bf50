//! A machine on the measured file system that takes itself for running.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::contest::remove;
use super::measure::time;

/// What is committed on it, and what it runs.
pub const REF: &str = "os/bench";

/// A sysroot, and what of it is taken for what runs.
#[derive(Debug)]
pub struct Machine<'a> {
    atomos: &'a Path,
    directory: PathBuf,
    running: Option<PathBuf>,
}

impl<'a> Machine<'a> {
    /// An empty sysroot, in the place of what was there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(atomos: &'a Path, directory: PathBuf) -> Result<Self> {
        remove(&directory)?;
        let machine = Self {
            atomos,
            directory,
            running: None,
        };
        machine.run(&["sysroot", "init"])?;
        machine.run(&["stateroot", "init", "os"])?;
        Ok(machine)
    }

    /// The physical root.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program on it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.atomos);
        command.args(words).env("ATOMOS_SYSROOT", &self.directory);
        if let Some(running) = &self.running {
            command.env("ATOMOS_HOST_ROOT", running);
        }
        command
    }

    /// Runs it.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        time(&mut self.command(words)).map(drop)
    }

    /// Commits a tree as an operating system.
    ///
    /// # Errors
    /// If it fails.
    pub fn commit(&self, tree: &Path) -> Result<()> {
        let words = ["commit", "--os", "--ref", REF];
        time(self.command(&words).arg(tree)).map(drop)
    }

    /// Deploys the first version and takes it for what runs, with somebody there who finishes updates at shutdown. Returns its
    /// directory.
    ///
    /// # Errors
    /// If it cannot be deployed.
    pub fn boot(&mut self, reference: &str) -> Result<PathBuf> {
        self.run(&["deploy", reference, "--karg", "root=LABEL=root"])?;
        let root = self.newest()?;
        let flag = root.join("run/atomos/finalize-at-shutdown");
        let parent = flag.parent().context("a flag lies in a directory")?;
        std::fs::create_dir_all(parent)
            .and_then(|()| File::create(&flag))
            .with_context(|| format!("cannot make {}", flag.display()))?;
        self.running = Some(root.clone());
        Ok(root)
    }

    /// The directory of the deployment that does not run.
    ///
    /// # Errors
    /// If there is none.
    pub fn newest(&self) -> Result<PathBuf> {
        let deployments = self.directory.join("atomos/deploy/os/deploy");
        let listed = std::fs::read_dir(&deployments)
            .with_context(|| format!("cannot list {}", deployments.display()))?;
        let mut found = listed.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let is_new = |path: &PathBuf| path.is_dir() && Some(path) != self.running.as_ref();
        found.find(is_new).context("nothing was deployed")
    }
}
