//! `atomos deploy`

use clap::Args;
use libatomos::names::StaterootName;
use libatomos::repo::RepoError;
use libatomos::sysroot::{DeployOptions, Finish, KargsChange, ReadBack, SysrootError};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json, text};
use crate::reboot::RebootFlag;
use crate::report::{CliError, shown};

/// Make a deployment of a commit, and make it the default
///
/// Checks the tree out, takes over /etc from the running deployment by a three-way merge, seeds /var, copies the kernel to
/// /boot, and switches by one new boot entry. It takes effect at the next boot. Interrupted at any moment, the machine
/// boots what it booted before, or the new deployment, whole.
///
/// On a machine that runs a deployment it is staged: tree and kernel are put in place now, and shutdown merges /etc as it is then,
/// and switches. --now does all of it at once.
///
/// Where the tree's prepare-root.conf says `composefs = required`, or a kernel argument atomos.composefs=required, the root is an image
/// of names and metadata over the repository, and no file is linked; with `wanted` there are both, and the kernel decides.
///
/// An old version can be named by its version: that is looked for in the history of what the machine follows, then in that of
/// every ref.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos deploy debian/13 --karg root=LABEL=root --karg rw
  atomos deploy debian/13 --dry-run      what would happen to /etc, and what would be removed
  atomos deploy debian/13 --karg atomos.composefs=required
  atomos deploy 4f1c9a2b07de             a digest, or the start of one
  atomos deploy 13.1 --reboot            an old version, as the history of the ref has it; and boot it")]
pub struct DeployArgs {
    /// What to deploy: a ref, a digest or the start of one, or a version
    rev: String,

    #[command(flatten)]
    common: DeployFlags,

    /// Only say what would be done
    #[arg(long, conflicts_with = "reboot")]
    dry_run: bool,

    #[command(flatten)]
    reboot: RebootFlag,
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

    /// How many deployments of the stateroot to keep, besides pinned ones [default: as retention.toml says, or 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    keep: Option<u8>,

    /// Finish it at once, not at shutdown. What is edited in /etc afterwards stays in the old version
    #[arg(long)]
    now: bool,

    /// Do not read what is new back from the disk
    #[arg(long)]
    no_read_back: bool,

    /// How often the boot loader tries the new version before it goes back [default: 3]; 0 for as often as it likes. Where the tree has
    /// no /usr/lib/atomos/health.d, nothing is counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    tries: Option<u8>,
}

impl DeployFlags {
    /// Returns the library's options.
    pub fn options(&self) -> DeployOptions {
        let mut options = DeployOptions::default();
        options.stateroot = self.stateroot.clone();
        options.kargs = self.kargs.iter().cloned().map(KargsChange::Append).collect();
        options.no_merge = self.no_merge;
        options.keep = self.keep.map(usize::from);
        if self.now {
            options.finish = Finish::Now;
        }
        if self.no_read_back {
            options.read_back = ReadBack::Never;
        }
        options.tries = self.tries.map(u32::from);
        options
    }
}

/// Says where a version comes from that is in no history here.
fn not_here(rev: &str, error: SysrootError) -> CliError {
    let SysrootError::Repo(RepoError::RefNotFound { repo, .. } | RepoError::RevNotFound { repo, .. }) =
        &error
    else {
        return error.into();
    };
    let hint = format!(
        "`atomos refs --repo {}` lists the refs; if it is a version that their histories do not have, `atomos history REMOTE REF` lists those of a remote, and `atomos pull REMOTE REF@{} --allow-downgrade` fetches it",
        shown(repo),
        text::escape_text(rev)
    );
    CliError::from(error).with_hint(hint)
}

/// Runs the verb.
pub fn run(context: &Context, args: &DeployArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    args.reboot.check(&sysroot)?;
    let options = args.common.options();
    let (progress, cancel) = (context.progress(), context.cancel());
    if args.dry_run {
        let preview = sysroot
            .preview_deploy(&args.rev, &options, progress, cancel)
            .map_err(|error| not_here(&args.rev, error))?;
        context.ui().result(|out| match context.json() {
            true => json::write(out, &preview),
            false => deployment::write_preview(out, &preview),
        })?;
        return Ok(Outcome::Done);
    }
    let report = sysroot
        .deploy(&args.rev, &options, progress, cancel)
        .map_err(|error| not_here(&args.rev, error))?;
    deployment::announce(context, &report)?;
    args.reboot.act(context, true)?;
    Ok(Outcome::Done)
}
