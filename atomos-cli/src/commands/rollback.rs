//! `atomos rollback`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::reboot::RebootFlag;

/// Go back to the deployment before
///
/// Makes the previous deployment the default, with the /etc that it has; running it twice goes forth again. After an update
/// that was not booted yet, what is running becomes the default; one that is staged is given up. Where the default was booted with the kernel
/// arguments before the present ones, or is the only deployment, these come back. /var is shared and stays as it
/// is. It takes effect at the next boot.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos rollback
  atomos rollback --to 2      to what `atomos status` lists as 2; a version or the start of a digest does too")]
pub struct RollbackArgs {
    /// Which deployment to go to
    #[arg(long, value_name = "ID")]
    to: Option<String>,

    #[command(flatten)]
    reboot: RebootFlag,
}

/// Runs the verb.
pub fn run(context: &Context, args: &RollbackArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    args.reboot.check(&sysroot)?;
    let report = sysroot.rollback(args.to.as_deref(), context.progress())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    }
    for other in &report.ran_since {
        ui.warning(format_args!(
            "{} has run since {} did, and may have written to /var, which both share and which does not go back",
            other.short(),
            report.default.short()
        ));
    }
    if let Some(id) = &report.discarded {
        ui.status(format_args!("Gave up {}, which was staged", id.short()));
    }
    if report.default != report.previous {
        ui.status(format_args!(
            "The next boot takes {} instead of {}",
            report.default.short(),
            report.previous.short()
        ));
    } else if let Some(kargs) = &report.kargs {
        ui.status(format_args!(
            "The next boot takes {} with the kernel arguments that it had: {}",
            report.default.short(),
            text::escape_text(kargs)
        ));
    } else if report.changed {
        ui.status(format_args!("The next boot takes {}", report.default.short()));
    } else {
        ui.status(format_args!("{} is the default already", report.default.short()));
    }
    args.reboot.act(context, report.changed)?;
    Ok(Outcome::Done)
}
