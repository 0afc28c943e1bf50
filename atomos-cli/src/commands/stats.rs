//! `atomos stats`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, stats};

/// Say where the space goes
///
/// Prints how many objects there are and how large they are; for each ref the files of its tree, their size, the blobs that they are
/// kept in, and how much of that no other ref's tree has; and what only one ref (with its history), or one deployment or other root, needs:
/// so much would become free if it went and a prune followed. What nothing needs, a prune removes now.
///
/// Blobs are not compressed: what the file system saves by compressing or by holes shows as `on disk` below the sizes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos stats
  atomos stats --json | jq .deduplication
  atomos stats --json | jq '.holders, .prunable'")]
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
