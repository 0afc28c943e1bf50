//! Files that a command makes anew from what was merged.
//!
//! The library runs no programs. It says which are to be run, and whoever embeds it runs them in the new root, at
//! once or at its first boot; until then the new default's files stand in these places.

use std::collections::BTreeSet;
use std::io;

use serde::Serialize;

use super::path::EtcPath;

/// A command that makes a file anew from what was merged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Regeneration {
    /// The file.
    pub path: EtcPath,
    /// The program and its arguments, to be run in the new root.
    pub command: Vec<String>,
}

/// Runs commands in the new root.
pub trait CommandRunner {
    /// Runs a program with its arguments and waits for it. A program that fails is an error that says how.
    fn run(&self, command: &[String]) -> io::Result<()>;
}

/// Runs the commands of `files`, each once, and returns those that failed. The files of a failed one are as the new
/// default has them.
pub fn regenerate<'r>(
    files: &'r [Regeneration],
    runner: &dyn CommandRunner,
) -> Vec<(&'r [String], io::Error)> {
    let mut done = BTreeSet::new();
    files
        .iter()
        .filter(|file| done.insert(&file.command))
        .filter_map(|file| {
            let error = runner.run(&file.command).err()?;
            Some((file.command.as_slice(), error))
        })
        .collect()
}
