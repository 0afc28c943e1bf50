//! What a verb works with: the global options, the repository, the person it talks to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libatomos::cancel::Cancel;
use libatomos::progress::Progress;
use libatomos::repo::{Repo, RepoError};

use crate::cli::Globals;
use crate::progress::Renderer;
use crate::report::CliError;
use crate::signals;
use crate::ui::Ui;

/// Where the repository of a sysroot lies.
const SYSROOT_REPO: &str = "atomos/repo";

/// The surroundings of one run.
pub struct Context {
    globals: Globals,
    ui: Ui,
    cancel: Cancel,
    progress: Renderer,
}

impl Context {
    /// Installs the signal handlers and opens what the global options name, the repository excepted.
    pub fn new(globals: Globals, ui: Ui) -> Result<Self, CliError> {
        let cancel = signals::install().map_err(|error| CliError::io("cannot handle signals", error))?;
        let progress = Renderer::new(&ui, globals.progress_fd)?;
        Ok(Self {
            globals,
            ui,
            cancel,
            progress,
        })
    }

    /// Returns the way to the person.
    pub fn ui(&self) -> &Ui {
        &self.ui
    }

    /// Returns the flag that Ctrl-C sets.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Returns who is told of progress.
    pub fn progress(&self) -> &dyn Progress {
        &self.progress
    }

    /// Returns whether the result is to be JSON.
    pub fn json(&self) -> bool {
        self.globals.json
    }

    /// Returns the repository that was named, or `None` where the sysroot's is meant.
    pub fn named_repo(&self) -> Option<&Path> {
        self.globals.repo.as_deref()
    }

    /// Opens the repository: the one that was named, else the sysroot's.
    pub fn open_repo(&self) -> Result<Repo, CliError> {
        match self.named_repo() {
            Some(path) => self.open_repo_at(path),
            None => {
                let path = self.sysroot_repo();
                self.open_repo_at(&path).map_err(|error| match error.library() {
                    Some(RepoError::NotARepository { .. }) => error.with_hint(
                        "name a repository with --repo DIR or ATOMOS_REPO; `atomos init --repo DIR` makes one",
                    ),
                    _ => error,
                })
            }
        }
    }

    /// Opens the repository at `path`, with the global options applied.
    pub fn open_repo_at(&self, path: &Path) -> Result<Repo, CliError> {
        let mut repo = Repo::open(path)?;
        repo.set_lock_timeout(Duration::from_secs(self.globals.lock_timeout));
        Ok(repo)
    }

    /// Returns where the sysroot's repository lies.
    pub fn sysroot_repo(&self) -> PathBuf {
        self.globals.sysroot.join(SYSROOT_REPO)
    }

    /// Takes what was drawn off the terminal.
    pub fn finish(&self) {
        self.progress.finish();
    }
}
