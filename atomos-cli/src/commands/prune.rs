//! `atomos prune`

use clap::Args;
use libatomos::repo::PruneOptions;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Remove what nothing leads to
///
/// Removes the objects that no ref, deployment or mount leads to, and what interrupted runs left behind. Parents are kept as
/// long as a ref leads to them. Waits for running commits, and they for it, so nothing that is being written is lost.
///
/// Space is free only once no checkout links to the removed files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos prune --dry-run
  atomos refs --delete debian/12 && atomos prune")]
pub struct PruneArgs {
    /// Remove nothing, and print what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &PruneArgs) -> RunResult {
    let repo = context.open_repo()?;
    let mut options = PruneOptions::default();
    options.dry_run = args.dry_run;
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
        ": {}. Kept {}.",
        text::size(report.bytes_removed),
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
