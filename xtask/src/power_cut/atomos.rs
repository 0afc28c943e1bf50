//! Running the program that is tested.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::describe;
use crate::workspace::{cargo, root};

/// The socket's name in the environment.
const SOCKET: &str = "ATOMOS_TEST_POWER_CUT";

/// The program, built so that it can be watched.
#[derive(Debug, Clone)]
pub struct Atomos {
    program: PathBuf,
}

impl Atomos {
    /// Builds it, and keeps a copy in `place`: the next build of the workspace replaces it.
    ///
    /// # Errors
    /// If it does not build.
    pub fn build(place: &Path) -> Result<Self> {
        let root = root();
        let words = [
            "build",
            "--quiet",
            "--locked",
            "--package",
            "atomos-cli",
            "--features",
            "failpoints",
        ];
        crate::process::run(&mut cargo(&root, &words))?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let program = place.join("atomos");
        std::fs::copy(target.join("debug/atomos"), &program).context("the build left no atomos")?;
        Ok(Self { program })
    }

    /// Returns a command, with an environment of its own.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")),
            )
            .env("SOURCE_DATE_EPOCH", "1767225600")
            .stdin(Stdio::null());
        command
    }

    /// Runs it; `socket` is told what it does.
    ///
    /// # Errors
    /// If it fails.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S], socket: Option<&Path>) -> Result<String> {
        let mut command = self.command(words);
        if let Some(socket) = socket {
            command.env(SOCKET, socket);
        }
        let output = command.output().context("cannot start atomos")?;
        if !output.status.success() {
            bail!(
                "`{}` failed ({}): {}",
                describe(&command),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
