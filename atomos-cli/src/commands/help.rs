//! `atomos help`

use clap::{Args, CommandFactory};

use super::RunResult;
use crate::cli::Cli;
use crate::exit_code::Outcome;

/// Print the help of a verb
///
/// The same as `atomos VERB --help`; without a verb, the list of all.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos help upgrade
  atomos help site withdraw")]
pub struct HelpArgs {
    /// The verb, and the one beneath it
    #[arg(value_name = "VERB")]
    verb: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &HelpArgs) -> RunResult {
    let name = ["atomos".to_owned()];
    let line = name
        .iter()
        .chain(&args.verb)
        .cloned()
        .chain(["--help".to_owned()]);
    match Cli::command().try_get_matches_from(line) {
        // The help is such an error; so is a verb that there is not, with what is like it.
        Err(error) => error.exit(),
        Ok(_) => Ok(Outcome::Done),
    }
}
