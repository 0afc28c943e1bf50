//! `atomos undeploy`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;

/// Remove a deployment
///
/// Removes its boot entry, its files, and its kernel where no other deployment boots with it. What is running, what is
/// pinned, and the last one stay. Objects stay in the repository until `atomos cleanup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos undeploy 2        what `atomos status` lists as 2")]
pub struct UndeployArgs {
    /// Which deployment: its position, its version, or the start of its digest
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &UndeployArgs) -> RunResult {
    let id = context
        .open_sysroot_to_write()?
        .undeploy(&args.id, context.progress())?;
    context.ui().status(format_args!("Removed {}", id.short()));
    Ok(Outcome::Done)
}
