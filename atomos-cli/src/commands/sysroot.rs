//! `atomos sysroot init`

use clap::{Args, Subcommand};
use libatomos::repo::RepoMode;
use libatomos::sysroot::Sysroot;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::text;
use crate::report::CliError;

/// Make a sysroot
#[derive(Debug, Args)]
pub struct SysrootArgs {
    #[command(subcommand)]
    verb: SysrootVerb,
}

#[derive(Debug, Subcommand)]
enum SysrootVerb {
    Init(InitArgs),
}

/// Make a sysroot on a machine's root file system
///
/// Makes /atomos with an empty repository in it, on the file system that --sysroot names, and /boot where it is missing.
/// Making one twice is no error. A stateroot comes next: `atomos stateroot init NAME`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos sysroot init --sysroot /mnt         on a disk that is mounted there
  atomos sysroot init --sysroot ~/try --mode bare-user   one to look at, without root; it cannot boot")]
struct InitArgs {
    /// How the repository keeps files: bare or bare-user [default: bare for root, bare-user for others]
    #[arg(long, value_name = "MODE", value_parser = ["bare", "bare-user"], hide_possible_values = true)]
    mode: Option<String>,
}

/// Runs the verb.
pub fn run(context: &Context, args: &SysrootArgs) -> RunResult {
    let SysrootVerb::Init(args) = &args.verb;
    let mode = match args.mode.as_deref() {
        Some(mode) => mode.parse().map_err(CliError::usage)?,
        None if rustix::process::geteuid().is_root() => RepoMode::Bare,
        None => RepoMode::BareUser,
    };
    Sysroot::init(context.sysroot_path(), mode, &context.sysroot_options())?;
    let ui = context.ui();
    ui.status(format_args!(
        "Made a sysroot in {}",
        text::escape_path(context.sysroot_path())
    ));
    if mode == RepoMode::BareUser {
        ui.warning("its repository is bare-user, so deployments are not owned by root and cannot boot");
    }
    Ok(Outcome::Done)
}
