//! The workspace that these tasks belong to, and building in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::run;

/// The directory of the workspace's `Cargo.toml`.
#[must_use]
pub fn root() -> PathBuf {
    // Known when this crate was compiled, so that the tasks work from every directory below.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the crate is a directory of the workspace")
        .to_owned()
}

/// The cargo that runs this task, for another one: what it told this one of its own package would have build scripts run again.
pub fn cargo(directory: &Path, words: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(words).current_dir(directory);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// Builds the binary as it is released, so that the times mean something.
///
/// # Errors
/// If it does not build.
pub fn build_atomos() -> Result<PathBuf> {
    let root = root();
    eprintln!("building atomos as it is released; the first time that takes some minutes");
    run(&mut cargo(
        &root,
        &[
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "atomos-cli",
        ],
    ))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    let atomos = target.join("release/atomos");
    if !atomos.is_file() {
        bail!("the build left no {}", atomos.display());
    }
    Ok(atomos)
}
