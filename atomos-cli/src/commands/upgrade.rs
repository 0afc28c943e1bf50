//! `atomos upgrade`

use clap::Args;
use libatomos::sysroot::{UpgradeOptions, UpgradeOutcome};

use super::RunResult;
use super::deploy::DeployFlags;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json};

/// Deploy the newest version of what the machine follows
///
/// Looks at the ref that the default deployment follows, in the repository that it is pulled from, and deploys what the
/// ref names when that is another commit. It takes effect at the next boot.
#[derive(Debug, Args)]
#[command(visible_alias = "update")]
#[command(after_help = "\
Examples:
  atomos upgrade
  atomos upgrade --check --unchanged-exit-77    is there anything new?")]
pub struct UpgradeArgs {
    #[command(flatten)]
    common: DeployFlags,

    /// Only look whether there is something newer
    #[arg(long)]
    check: bool,

    /// Finish the update at once, not at shutdown. As yet every update is finished at once
    #[arg(long)]
    now: bool,

    /// Exit with 77 when there is nothing newer
    #[arg(long = "unchanged-exit-77")]
    unchanged_exit_77: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &UpgradeArgs) -> RunResult {
    let mut options = UpgradeOptions::default();
    options.stateroot = args.common.stateroot.clone();
    options.deploy = args.common.options();
    options.check = args.check;
    run_with(context, &options, args.unchanged_exit_77)
}

/// Upgrades, and says what came of it.
pub fn run_with(context: &Context, options: &UpgradeOptions, unchanged_exit_77: bool) -> RunResult {
    let sysroot = if options.check {
        context.open_sysroot()?
    } else {
        context.open_sysroot_to_write()?
    };
    let outcome = sysroot.upgrade(options, context.progress(), context.cancel())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &outcome))?;
    }
    match &outcome {
        UpgradeOutcome::Unchanged {
            deployment,
            reference,
        } => {
            ui.status(format_args!(
                "No update: {reference} is what {} was made of",
                deployment.short()
            ));
            if unchanged_exit_77 {
                return Ok(Outcome::NothingToDo);
            }
        }
        UpgradeOutcome::Available {
            commit,
            version,
            reference,
        } => {
            let version = deployment::version_or(version, "a newer version");
            ui.status(format_args!(
                "Available from {reference}: {version} ({})",
                commit.short()
            ));
            if !context.json() {
                ui.result(|out| writeln!(out, "{commit}"))?;
            }
        }
        UpgradeOutcome::Deployed(report) => deployment::narrate(context, report),
        _ => {}
    }
    Ok(Outcome::Done)
}
