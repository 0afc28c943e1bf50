//! The top level of the command line: global options and the list of verbs.

use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::commands::Command;
use crate::exit_code;

/// Keep operating system trees in a content-addressed store, and move a machine between them atomically
///
/// A repository holds commits: snapshots of whole operating system trees, in which equal files are kept once. What is
/// interrupted, at any moment, leaves the old state or the new one, and never a mixture.
///
/// The result of a command is on stdout, everything else on stderr.
#[derive(Debug, Parser)]
#[command(name = "atomos", version, max_term_width = 100)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
#[command(after_long_help = exit_code::HELP)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the command line and ends the process where it says nothing that can be done. A variable that is empty is none: so it is in
    /// a unit or a script that has nothing to say.
    pub fn of_process() -> Self {
        let command = Self::command().mut_args(|arg| {
            let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
            match arg.get_env().is_some_and(is_empty) {
                true => arg.env(Resettable::Reset),
                false => arg,
            }
        });
        let matches = command.try_get_matches().unwrap_or_else(|error| {
            // A usage names what variables say as if it had to be given. Without them the error is the same.
            let plain = Self::command().mut_args(|arg| arg.env(Resettable::Reset));
            match plain.try_get_matches() {
                Err(plain) if error.use_stderr() && plain.kind() == error.kind() => plain.exit(),
                _ => error.exit(),
            }
        });
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Options that every verb has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The repository [default: atomos/repo in the sysroot]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ATOMOS_REPO",
        hide_env_values = true
    )]
    pub repo: Option<PathBuf>,

    /// The root of the machine's file system that deployments live in
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ATOMOS_SYSROOT",
        hide_env_values = true,
        default_value = "/"
    )]
    pub sysroot: PathBuf,

    /// The directory that is running as / (for tests)
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ATOMOS_HOST_ROOT",
        hide = true
    )]
    pub host_root: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Say nothing on stderr but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,

    /// Use colours; NO_COLOR in the environment means never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub color: ColorWhen,

    /// Show how far long work is: as bars on a terminal, as lines elsewhere
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        env = "ATOMOS_PROGRESS",
        hide_env_values = true,
        default_value = "auto",
        hide_possible_values = true
    )]
    pub progress: ProgressWhen,

    /// Write progress as JSON lines to this file descriptor, which is open already
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(i32).range(2..))]
    pub progress_fd: Option<i32>,

    /// How long to wait for a lock that another process holds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    pub lock_timeout: u64,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// When to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressWhen {
    /// Of what takes long.
    Auto,
    /// Never; what is said at the end is said all the same.
    Never,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
