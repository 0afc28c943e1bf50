//! `atomos boot recover`

use clap::{Args, Subcommand};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::text;

/// Look after what the boot loader reads
#[derive(Debug, Args)]
pub struct BootArgs {
    #[command(subcommand)]
    verb: BootVerb,
}

#[derive(Debug, Subcommand)]
enum BootVerb {
    Recover(RecoverArgs),
}

/// Write /boot again from what /atomos says
///
/// Reads and compares every kernel, writes what is missing or damaged, and removes what interrupted runs left. Entries
/// that are not ours are left alone. Running it when nothing is wrong changes nothing.
#[derive(Debug, Args)]
struct RecoverArgs {}

/// Runs the verb.
pub fn run(context: &Context, args: &BootArgs) -> RunResult {
    let BootVerb::Recover(RecoverArgs {}) = &args.verb;
    let plan = context
        .open_sysroot_to_write()?
        .recover_boot(context.progress())?;
    let ui = context.ui();
    if plan.is_empty() {
        ui.status("/boot is as it should be");
        return Ok(Outcome::Done);
    }
    let removed = plan.remove_entries.len() + plan.remove_kernels.len() + plan.remove_leftovers.len();
    ui.status(format_args!(
        "Wrote {} and {}, removed {}",
        text::count(plan.install.len() as u64, "kernel", "kernels"),
        text::count(plan.write.len() as u64, "entry", "entries"),
        text::count(removed as u64, "leftover", "leftovers"),
    ));
    Ok(Outcome::Done)
}
