//! `atomos` on this machine, working on a mounted disk or on a repository.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::{capture, run};

/// The program, and what it works on.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    program: &'a Path,
    option: &'static str,
    place: &'a Path,
}

impl<'a> Host<'a> {
    /// Works on a machine's physical root.
    pub const fn sysroot(program: &'a Path, root: &'a Path) -> Self {
        Self {
            program,
            option: "--sysroot",
            place: root,
        }
    }

    /// Works on a repository.
    pub const fn repo(program: &'a Path, repo: &'a Path) -> Self {
        Self {
            program,
            option: "--repo",
            place: repo,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        run(self.command().args(words))
    }

    /// Runs it, and returns what it prints, without the end of the line.
    ///
    /// # Errors
    /// If it fails.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        Ok(capture(self.command().args(words))?.trim_end().to_owned())
    }

    /// The program with what it works on, for more words.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--quiet").arg(self.option).arg(self.place);
        command
    }
}
