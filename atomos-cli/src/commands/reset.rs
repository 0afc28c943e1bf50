//! `atomos reset`

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::repo::{RefUpdate, RepoError};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::json;
use crate::ui::Label;

/// Move a ref to another commit
///
/// REF, which must exist, names the commit REV from then on: an earlier one, or any other. If somebody else moves the ref meanwhile,
/// nothing is changed. No objects are removed: what the ref named can be had back until `atomos prune` removes it, and the
/// command that does it is printed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos reset debian/13 debian/13^
  atomos reset debian/13 4f2a91c07b3e --expect 8d0e5511fa02")]
pub struct ResetArgs {
    /// The ref
    #[arg(value_name = "REF")]
    name: RefName,

    /// What it is to name
    #[arg(value_name = "REV")]
    rev: String,

    /// Change nothing unless the ref names this commit now
    #[arg(long, value_name = "REV")]
    expect: Option<String>,
}

#[derive(Serialize)]
struct ResetModel<'a> {
    name: &'a RefName,
    old: CommitId,
    commit: CommitId,
}

/// Runs the verb.
pub fn run(context: &Context, args: &ResetArgs) -> RunResult {
    let repo = context.open_repo()?;
    // Pruning between the look at a commit and the new name for it would leave the name dangling.
    let _shared = repo.lock_shared()?;
    let Some(old) = repo.ref_optional(&args.name)? else {
        return Err(RepoError::RefNotFound {
            name: args.name.clone(),
            repo: repo.dir().path().to_owned(),
        }
        .into());
    };
    let expected = match &args.expect {
        Some(rev) => repo.resolve_commit(rev)?,
        None => old,
    };
    let commit = repo.resolve_commit(&args.rev)?;
    repo.load_commit(&commit)?;
    repo.update_refs(&[RefUpdate {
        name: args.name.clone(),
        expected: Some(Some(expected)),
        new: Some(commit),
    }])?;
    let ui = context.ui();
    if context.json() {
        let name = &args.name;
        ui.result(|out| json::write(out, &ResetModel { name, old, commit }))?;
    }
    if old == commit {
        ui.status(format_args!(
            "Unchanged: ref {} names {}",
            args.name,
            commit.short()
        ));
        return Ok(Outcome::Done);
    }
    ui.status(format_args!(
        "Ref {} named {}, and names {}",
        args.name,
        old.short(),
        commit.short()
    ));
    ui.labelled(
        Label::Hint,
        format_args!(
            "`{} {} {}` takes it back, until a prune",
            context.command("reset", &[]),
            args.name,
            old.short()
        ),
    );
    Ok(Outcome::Done)
}
