//! `atomos stats`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, stats};

/// Count objects and what deduplication saves
///
/// Prints how many objects there are and how large they are, and for each ref: the files of its tree, their size, the blobs
/// that they are kept in, and how much of that no other ref's tree has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos stats
  atomos stats --json | jq .deduplication")]
pub struct StatsArgs {}

/// Runs the verb.
pub fn run(context: &Context, _args: &StatsArgs) -> RunResult {
    let repo = context.open_repo()?;
    let found = repo.stats(context.cancel())?;
    context.ui().result(|out| {
        if context.json() {
            json::write(out, &stats::StatsModel::new(&found))
        } else {
            stats::write(out, &found)
        }
    })?;
    Ok(Outcome::Done)
}
