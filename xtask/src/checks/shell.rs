//! The hooks' shell scripts, read by `shellcheck`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use crate::process::{has_program, run};

/// Where scripts lie.
const DIRECTORIES: [&str; 2] = ["bootloader-hooks", "xtask/src/vm/guest"];

/// What a generator defines for a script that it sources, or that sources it: SC1091 is "not following" such a file,
/// SC2154 a variable that is set there.
const EXCEPT: &str = "SC1091,SC2154";

/// Checks every script, if the program is installed.
pub(super) fn check(root: &Path) -> Result<Outcome> {
    if !has_program("shellcheck") {
        return Ok(Outcome::Skipped("shellcheck is not installed".to_owned()));
    }
    let mut scripts = Vec::new();
    for directory in DIRECTORIES {
        find_scripts(&root.join(directory), &mut scripts)?;
    }
    ensure!(!scripts.is_empty(), "there are no scripts in {DIRECTORIES:?}");
    run(Command::new("shellcheck")
        .args(["--exclude", EXCEPT])
        .args(&scripts))?;
    Ok(Outcome::Passed)
}

/// Finds the files that begin with `#!` and name a shell.
fn find_scripts(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", directory.display()))?
            .path();
        if path.is_dir() {
            find_scripts(&path, found)?;
            continue;
        }
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if first.starts_with(b"#!") && first.ends_with(b"sh") {
            found.push(path);
        }
    }
    Ok(())
}
