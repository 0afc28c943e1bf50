//! `atomos prune`

use clap::Args;
use libatomos::repo::PruneOptions;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::quantity;

/// Remove what nothing leads to
///
/// Removes the objects that no ref, deployment or mount leads to, and what interrupted runs left behind. Waits for running
/// commits and checkouts, and they for it, so nothing that is being written or read is lost.
///
/// Parents of a ref's commit are kept, unless --depth or --keep-younger-than says how far back: a history ends with the first parent that
/// neither of them keeps. What a ref names, what is deployed and what is pinned stays however old it is.
///
/// Space is free only once no checkout links to the removed files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos prune --dry-run
  atomos prune --depth 3 --keep-younger-than 90d
  atomos prune --keep-younger-than 2024-05-01
  atomos refs --delete debian/12 && atomos prune")]
pub struct PruneArgs {
    /// Remove nothing, and print what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Keep this many parents of each ref's commit; 0 keeps what refs name alone
    #[arg(long, value_name = "N")]
    depth: Option<u64>,

    /// Keep parents that are not older: an age such as 12h, 30d, 4w, 6months, 2y, or a date
    #[arg(long, value_name = "AGE|DATE", value_parser = |text: &str| quantity::moment(text, quantity::now()))]
    keep_younger_than: Option<i64>,
}

/// Runs the verb.
pub fn run(context: &Context, args: &PruneArgs) -> RunResult {
    let repo = context.open_repo()?;
    let mut options = PruneOptions::default();
    options.dry_run = args.dry_run;
    options.depth = args.depth;
    options.keep_younger_than = args.keep_younger_than;
    let report = repo.prune(&options, context.progress(), context.cancel())?;
    let mut line = format!(
        "{} {}, {}, {}",
        if report.dry_run { "Would remove" } else { "Removed" },
        text::count(report.commits_removed, "commit", "commits"),
        text::count(report.dirtrees_removed, "dirtree", "dirtrees"),
        text::count(report.blobs_removed, "blob", "blobs"),
    );
    if report.variants_removed > 0 {
        line += &format!(
            ", {}",
            text::count(report.variants_removed, "inode variant", "inode variants")
        );
    }
    if report.staging_removed > 0 {
        line += &format!(
            ", {}",
            text::count(report.staging_removed, "interrupted run", "interrupted runs")
        );
    }
    line += &format!(
        ": {}, of which {} on disk {} free. Kept {}.",
        text::size(report.bytes_removed),
        text::size(report.bytes_freed),
        if report.dry_run { "would be" } else { "are" },
        text::count(report.commits_kept, "commit", "commits")
    );
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    } else if report.dry_run {
        // Here the plan is the result.
        ui.result(|out| writeln!(out, "{line}"))?;
    } else {
        ui.status(line);
    }
    Ok(Outcome::Done)
}
