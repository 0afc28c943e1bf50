//! `atomos upgrade`

use clap::Args;
use libatomos::sysroot::{UpgradeOptions, UpgradeOutcome};

use super::RunResult;
use super::deploy::DeployFlags;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json};
use crate::quantity;

/// Deploy the newest version of what the machine follows
///
/// Looks at the ref that the default deployment follows, at the remote or in the repository that it is pulled from, and deploys what
/// the ref names when that is another commit. It takes effect at the next boot.
///
/// --check costs one request, which brings nothing where nothing is new. When the remote cannot be asked, that is an error: it is never
/// taken for "nothing new".
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

    /// Bytes per second of the download, such as 500k or 2M
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    limit_rate: Option<u64>,

    /// Stop before the first object if more bytes than this are to come
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    max_bytes: Option<u64>,

    /// Take a release that is older than what is here, or was withdrawn
    #[arg(long)]
    allow_downgrade: bool,

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
    options.session = context.session_options();
    options.session.limit_rate = args.limit_rate;
    options.session.allow_downgrade = args.allow_downgrade;
    options.max_bytes = args.max_bytes;
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
