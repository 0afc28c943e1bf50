//! `atomos stateroot init`

use clap::{Args, Subcommand};
use libatomos::names::StaterootName;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;

/// Make a stateroot
#[derive(Debug, Args)]
pub struct StaterootArgs {
    #[command(subcommand)]
    verb: StaterootVerb,
}

#[derive(Debug, Subcommand)]
enum StaterootVerb {
    Init(InitArgs),
}

/// Make a stateroot: a line of deployments that share one /var
///
/// Most machines have one. Its /var is empty, and gets what the first deployment brings along. Making one twice is no
/// error.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos stateroot init default")]
struct InitArgs {
    /// Its name: letters, digits and . _ - +
    name: StaterootName,
}

/// Runs the verb.
pub fn run(context: &Context, args: &StaterootArgs) -> RunResult {
    let StaterootVerb::Init(args) = &args.verb;
    context.open_sysroot()?.init_stateroot(&args.name)?;
    context
        .ui()
        .status(format_args!("Made the stateroot {}", args.name));
    Ok(Outcome::Done)
}
