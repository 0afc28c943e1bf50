//! `atomos pull`

use std::path::PathBuf;

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::repo::{LocalPullOptions, TransactionStats};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Bring commits from another repository
///
/// Copies the commits that the refs name, with their trees and history, and sets the same refs here. Only what is missing is
/// copied, and every object is verified. The refs move when everything is here; an interrupted run is taken up by the next
/// one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos pull --from /media/usb/repo debian/13")]
pub struct PullArgs {
    /// The repository to copy from, a directory on this machine
    #[arg(long, value_name = "DIR", required = true)]
    from: PathBuf,

    /// The refs
    #[arg(value_name = "REF", required = true)]
    refs: Vec<RefName>,
}

/// What came, for programs.
#[derive(Serialize)]
struct Pulled<'a> {
    refs: Vec<PulledRef<'a>>,
    #[serde(flatten)]
    stats: &'a TransactionStats,
}

#[derive(Serialize)]
struct PulledRef<'a> {
    name: &'a RefName,
    commit: CommitId,
}

/// Runs the verb.
pub fn run(context: &Context, args: &PullArgs) -> RunResult {
    let repo = context.open_repo()?;
    let source = context.open_repo_at(&args.from)?;
    let options = LocalPullOptions::default();
    let report = repo.pull_local(
        &source,
        &args.refs,
        &options,
        context.progress(),
        context.cancel(),
    )?;
    let ui = context.ui();
    if context.json() {
        let pulled = Pulled {
            refs: report
                .refs
                .iter()
                .map(|(name, commit)| PulledRef {
                    name,
                    commit: *commit,
                })
                .collect(),
            stats: &report.stats,
        };
        ui.result(|out| json::write(out, &pulled))?;
    }
    let names: Vec<_> = report
        .refs
        .iter()
        .map(|(name, commit)| format!("{name} ({})", commit.short()))
        .collect();
    ui.status(format_args!(
        "Pulled {}: {}, {}; {}",
        names.join(", "),
        text::count(report.stats.commits_added, "new commit", "new commits"),
        text::count(report.stats.blobs_added, "new blob", "new blobs"),
        text::size(report.stats.bytes_added)
    ));
    Ok(Outcome::Done)
}
