//! `atomos switch`

use std::path::PathBuf;

use clap::Args;
use libatomos::names::RefName;
use libatomos::sysroot::UpgradeOptions;

use super::RunResult;
use super::deploy::DeployFlags;
use crate::context::Context;
use crate::reboot::RebootFlag;

/// Follow another ref from now on, and deploy what it names
///
/// /etc, /var and kernel arguments are taken over as by an upgrade. It takes effect at the next boot, and is staged as an upgrade
/// is.
#[derive(Debug, Args)]
#[command(visible_alias = "rebase")]
#[command(after_help = "\
Examples:
  atomos switch debian/14
  atomos switch origin:debian/14                   pull it from the remote, now and at every upgrade
  atomos switch debian/14 --from /media/usb/repo   and pull it from there, now and at every upgrade")]
pub struct SwitchArgs {
    /// The ref to follow
    #[arg(value_name = "REF")]
    reference: RefName,

    /// Pull the ref from this repository, now and at every upgrade
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,

    #[command(flatten)]
    common: DeployFlags,

    /// Exit with 77 when the machine follows the ref already and there is nothing newer
    #[arg(long = "unchanged-exit-77")]
    unchanged_exit_77: bool,

    #[command(flatten)]
    reboot: RebootFlag,
}

/// Runs the verb.
pub fn run(context: &Context, args: &SwitchArgs) -> RunResult {
    let mut options = UpgradeOptions::default();
    options.stateroot = args.common.stateroot.clone();
    options.deploy = args.common.options();
    options.session = context.session_options();
    options.switch_to = Some(args.reference.clone());
    options.pull_from = args.from.clone();
    super::upgrade::run_with(context, &options, args.unchanged_exit_77, &args.reboot)
}
