//! `atomos finalize`

use clap::Args;
use libatomos::sysroot::{FinalizeOptions, FinalizeOutcome};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json};

/// Finish the staged deployment
///
/// Merges /etc as it is now, and makes the deployment the default by one new boot entry. Shutdown does the same by itself
/// (atomos-finalize-staged.service); what is edited in /etc after this stays in the old version. Nothing is staged: nothing is
/// done. When it fails the machine boots what it booted before, and `atomos status` says why.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos finalize
  atomos finalize --shutdown       what an init system runs at shutdown, before /boot and /sysroot are unmounted")]
pub struct FinalizeArgs {
    /// The system is shutting down: tidy up later, and leave alone what three shutdowns could not finish
    #[arg(long)]
    shutdown: bool,

    /// Exit with 77 when nothing is staged
    #[arg(long = "unchanged-exit-77")]
    unchanged_exit_77: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &FinalizeArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let mut options = FinalizeOptions::default();
    options.at_shutdown = args.shutdown;
    let outcome = sysroot.finalize(&options, context.progress(), context.cancel())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &outcome))?;
    }
    match &outcome {
        FinalizeOutcome::NothingStaged => {
            ui.status("Nothing is staged");
            if args.unchanged_exit_77 {
                return Ok(Outcome::NothingToDo);
            }
        }
        FinalizeOutcome::AlreadyDone { deployment } => ui.status(format_args!(
            "{} is the default already: an interrupted run had got that far",
            deployment.short()
        )),
        FinalizeOutcome::GivenUp { deployment } => ui.warning(format_args!(
            "{} was left alone, because shutdown could not finish it before: `atomos finalize` tries again",
            deployment.short()
        )),
        FinalizeOutcome::Finished(report) => deployment::narrate(context, report),
        _ => {}
    }
    Ok(Outcome::Done)
}
