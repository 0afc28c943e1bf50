//! `atomos init`

use clap::Args;
use libatomos::repo::{Repo, RepoMode};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::CliError;

/// Make a repository
///
/// Makes the directory that --repo names, and in it an empty repository. Making one twice is no error.
///
/// A bare repository keeps every file with its true owner, mode and attributes, so that a checkout is made of hardlinks;
/// that takes root. A bare-user repository keeps plain files, takes no rights, and is checked out by copying. Both keep
/// the same objects under the same digests.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos init --repo /srv/os                 a repository that deployments can be linked from
  atomos init --repo ~/os --mode bare-user   one for building, without root")]
pub struct InitArgs {
    /// How files are kept: bare or bare-user [default: bare for root, bare-user for others]
    #[arg(long, value_name = "MODE", value_parser = ["bare", "bare-user"], hide_possible_values = true)]
    mode: Option<String>,
}

#[derive(Serialize)]
struct Made<'a> {
    repo: String,
    mode: RepoMode,
    id: &'a str,
}

/// Runs the verb.
pub fn run(context: &Context, args: &InitArgs) -> RunResult {
    let path = context.named_repo().ok_or_else(|| {
        CliError::usage("no directory was named for the repository").with_hint(
            "name one: `atomos init --repo DIR`; for this machine, `atomos sysroot init` makes one",
        )
    })?;
    let mode = match args.mode.as_deref() {
        Some(mode) => mode.parse().map_err(CliError::usage)?,
        None if rustix::process::geteuid().is_root() => RepoMode::Bare,
        None => RepoMode::BareUser,
    };
    let existed = Repo::open(path).is_ok();
    let repo = Repo::init(path, mode)?;
    if context.json() {
        let made = Made {
            repo: path.to_string_lossy().into_owned(),
            mode: repo.mode(),
            id: &repo.config().id,
        };
        context.ui().result(|out| json::write(out, &made))?;
    }
    let shown = text::escape_path(path);
    if existed {
        context
            .ui()
            .status(format_args!("There is a {mode} repository at {shown} already."));
        return Ok(Outcome::Done);
    }
    context
        .ui()
        .status(format_args!("Made the {mode} repository {shown}"));
    if args.mode.is_none() && mode == RepoMode::BareUser {
        context
            .ui()
            .status("The mode is bare-user because you are not root: checkouts will copy.");
    }
    Ok(Outcome::Done)
}
