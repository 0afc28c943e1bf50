//! `atomos pin` and `atomos unpin`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;

/// Keep a deployment, whatever is deployed later
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos pin booted
  atomos pin 1        what `atomos status` lists as 1")]
pub struct PinArgs {
    /// Which deployment: its position, booted, default, its version, or the start of its digest
    #[arg(value_name = "ID")]
    id: String,
}

/// Let retention remove a pinned deployment again
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos unpin 1")]
pub struct UnpinArgs {
    /// Which deployment: its position, booted, default, its version, or the start of its digest
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `pin`.
pub fn run_pin(context: &Context, args: &PinArgs) -> RunResult {
    set(context, &args.id, true)
}

/// Runs `unpin`.
pub fn run_unpin(context: &Context, args: &UnpinArgs) -> RunResult {
    set(context, &args.id, false)
}

fn set(context: &Context, selector: &str, pinned: bool) -> RunResult {
    let (id, changed) = context.open_sysroot_to_write()?.set_pinned(selector, pinned)?;
    let state = if pinned { "pinned" } else { "not pinned" };
    let already = if changed { "" } else { " already" };
    context
        .ui()
        .status(format_args!("{} is {state}{already}", id.short()));
    Ok(Outcome::Done)
}
