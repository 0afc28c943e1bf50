//! `atomos deploy`

use clap::Args;
use libatomos::names::StaterootName;
use libatomos::sysroot::{DeployOptions, KargsChange};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json};

/// Make a deployment of a commit, and make it the default
///
/// Checks the tree out, takes over /etc from the running deployment by a three-way merge, seeds /var, copies the kernel to
/// /boot, and switches by one new boot entry. It takes effect at the next boot. Interrupted at any moment, the machine
/// boots what it booted before, or the new deployment, whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos deploy debian/13 --karg root=LABEL=root --karg rw
  atomos deploy debian/13 --dry-run      what would happen to /etc, and what would be removed
  atomos deploy 4f1c9a2b07de             a digest, or the start of one")]
pub struct DeployArgs {
    /// What to deploy: a ref, a digest, or the start of one
    rev: String,

    #[command(flatten)]
    common: DeployFlags,

    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// What every verb has that makes a deployment.
#[derive(Debug, Args)]
pub struct DeployFlags {
    /// The stateroot [default: the running one, or the only one]
    #[arg(long, value_name = "NAME")]
    pub stateroot: Option<StaterootName>,

    /// Add a kernel argument; those of the deployment before are taken over
    #[arg(long = "karg", value_name = "ARG")]
    kargs: Vec<String>,

    /// Take over neither /etc nor kernel arguments
    #[arg(long)]
    no_merge: bool,

    /// How many deployments of the stateroot to keep, besides pinned ones
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    keep: u8,
}

impl DeployFlags {
    /// Returns the library's options.
    pub fn options(&self) -> DeployOptions {
        let mut options = DeployOptions::default();
        options.stateroot = self.stateroot.clone();
        options.kargs = self.kargs.iter().cloned().map(KargsChange::Append).collect();
        options.no_merge = self.no_merge;
        options.keep = self.keep.into();
        options
    }
}

/// Runs the verb.
pub fn run(context: &Context, args: &DeployArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let options = args.common.options();
    let (progress, cancel) = (context.progress(), context.cancel());
    if args.dry_run {
        let preview = sysroot.preview_deploy(&args.rev, &options, progress, cancel)?;
        context.ui().result(|out| match context.json() {
            true => json::write(out, &preview),
            false => deployment::write_preview(out, &preview),
        })?;
        return Ok(Outcome::Done);
    }
    let report = sysroot.deploy(&args.rev, &options, progress, cancel)?;
    deployment::announce(context, &report)?;
    Ok(Outcome::Done)
}
