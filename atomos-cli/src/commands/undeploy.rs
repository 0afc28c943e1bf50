//! `atomos undeploy`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::json;

/// Remove a deployment
///
/// Removes its boot entry, its files, and its kernel where no other deployment boots with it. What is running, what is
/// pinned, and the last one stay. Objects stay in the repository until `atomos cleanup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos undeploy 2        what `atomos status` lists as 2
  atomos undeploy staged   give up an update that shutdown would finish")]
pub struct UndeployArgs {
    /// Which deployment: its position, staged, its version, or the start of its digest
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &UndeployArgs) -> RunResult {
    let report = context
        .open_sysroot_to_write()?
        .undeploy(&args.id, context.progress())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    }
    match &report.deployment {
        Some(id) => ui.status(format_args!("Removed {}", id.short())),
        None => ui.status("Removed what was staged; its record could not be read"),
    }
    Ok(Outcome::Done)
}
