//! `atomos upgrade`

use clap::Args;
use libatomos::sysroot::{UpgradeOptions, UpgradeOutcome};

use super::RunResult;
use super::deploy::DeployFlags;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json, text};
use crate::quantity;
use crate::reboot::RebootFlag;

/// Deploy the newest version of what the machine follows
///
/// Looks at the ref that the default deployment follows, at the remote or in the repository that it is pulled from, and deploys what
/// the ref names when that is another commit. It takes effect at the next boot.
///
/// On a machine that runs a deployment it is staged: the download, the tree and the kernel are put in place now, and shutdown merges
/// /etc as it is then, and switches. --now does all of it at once; for what is staged already, it finishes that.
///
/// --check costs one request, which brings nothing where nothing is new. When the remote cannot be asked, that is an error: it is never
/// taken for "nothing new".
///
/// A version that ran out of tries on this machine is not installed again: --allow-rejected, `atomos boot forget` or `atomos deploy` do that.
#[derive(Debug, Args)]
#[command(visible_alias = "update")]
#[command(after_help = "\
Examples:
  atomos upgrade
  atomos upgrade --reboot                       and restart, if there was anything
  atomos upgrade --check --unchanged-exit-77    is there anything new?
  atomos upgrade --download-only                fetch it while the line is cheap,
  atomos upgrade --cache-only                   and deploy what was fetched, without a network")]
pub struct UpgradeArgs {
    #[command(flatten)]
    common: DeployFlags,

    /// Only look whether there is something newer
    #[arg(long, conflicts_with_all = ["download_only", "reboot"])]
    check: bool,

    /// Only fetch what is newer, and keep it
    #[arg(long, conflicts_with_all = ["cache_only", "reboot"])]
    download_only: bool,

    /// Ask nobody: take what was fetched
    #[arg(short = 'C', long)]
    cache_only: bool,

    /// Bytes per second of the download, such as 500k or 2M
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    limit_rate: Option<u64>,

    /// Stop before the first object if more bytes than this are to come
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    max_bytes: Option<u64>,

    /// Take a release that is older than what is here, or was withdrawn
    #[arg(long)]
    allow_downgrade: bool,

    /// Install a version that failed here before
    #[arg(long)]
    allow_rejected: bool,

    /// Exit with 77 when there is nothing newer
    #[arg(long = "unchanged-exit-77")]
    unchanged_exit_77: bool,

    #[command(flatten)]
    reboot: RebootFlag,
}

/// Runs the verb.
pub fn run(context: &Context, args: &UpgradeArgs) -> RunResult {
    let mut options = UpgradeOptions::default();
    options.stateroot = args.common.stateroot.clone();
    options.deploy = args.common.options();
    options.check = args.check;
    options.download_only = args.download_only;
    options.cache_only = args.cache_only;
    options.allow_rejected = args.allow_rejected;
    options.session = context.session_options();
    options.session.limit_rate = args.limit_rate;
    options.session.allow_downgrade = args.allow_downgrade;
    options.max_bytes = args.max_bytes;
    run_with(context, &options, args.unchanged_exit_77, &args.reboot)
}

/// Upgrades, and says what came of it.
pub fn run_with(
    context: &Context,
    options: &UpgradeOptions,
    unchanged_exit_77: bool,
    reboot: &RebootFlag,
) -> RunResult {
    let sysroot = if options.check {
        context.open_sysroot()?
    } else {
        context.open_sysroot_to_write()?
    };
    reboot.check(&sysroot)?;
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
        UpgradeOutcome::GoneBack {
            deployment,
            commit,
            version,
            reference,
        } => {
            ui.status(format_args!(
                "No update: {reference} is {} ({}), which was gone back from; the next boot takes {}",
                text::escape_text(deployment::version_or(version, "a version")),
                commit.short(),
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
            let version = text::escape_text(deployment::version_or(version, "a newer version"));
            ui.status(format_args!(
                "Available from {reference}: {version} ({})",
                commit.short()
            ));
            if !context.json() {
                ui.result(|out| writeln!(out, "{commit}"))?;
            }
        }
        UpgradeOutcome::Downloaded {
            commit,
            version,
            reference,
        } => {
            let version = text::escape_text(deployment::version_or(version, "a newer version"));
            ui.status(format_args!(
                "Fetched from {reference}: {version} ({}); `atomos upgrade --cache-only` deploys it",
                commit.short()
            ));
            if !context.json() {
                ui.result(|out| writeln!(out, "{commit}"))?;
            }
        }
        UpgradeOutcome::Deployed(report) => {
            deployment::narrate(context, report);
            reboot.act(context, true)?;
        }
        UpgradeOutcome::Rejected {
            commit,
            version,
            reference,
            failed,
        } => {
            ui.warning(format_args!(
                "{reference} is {} ({}), which failed here after {} and is not installed again",
                text::escape_text(deployment::version_or(version, "a version")),
                commit.short(),
                text::count(failed.attempts.len() as u64, "try", "tries"),
            ));
            ui.labelled(
                crate::ui::Label::Hint,
                format_args!(
                    "`atomos boot forget {}` forgets that it failed; `atomos upgrade --allow-rejected` installs it all the same",
                    commit.short()
                ),
            );
            if unchanged_exit_77 {
                return Ok(Outcome::NothingToDo);
            }
        }
        _ => {}
    }
    Ok(Outcome::Done)
}
