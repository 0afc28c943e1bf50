//! `atomos fsck`

use clap::Args;
use libatomos::repo::FsckOptions;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{findings, json, text};

/// Verify the repository
///
/// Reads every object, compares its digest with its name, and follows every reference. Each bad object is printed with the
/// refs and paths that it belongs to. Exits with 0 only when everything is whole, and with 6 when something is damaged.
/// Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos fsck
  atomos fsck --json | jq '.findings[].used-by'")]
pub struct FsckArgs {}

/// Runs the verb.
pub fn run(context: &Context, _args: &FsckArgs) -> RunResult {
    let repo = context.open_repo()?;
    let report = repo.fsck(&FsckOptions::default(), context.progress(), context.cancel())?;
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            json::write(out, &report)
        } else {
            findings::write(out, &report.findings)
        }
    })?;
    let looked_at = format!(
        "{}, {}, {}, {}",
        text::count(report.commits, "commit", "commits"),
        text::count(report.dirtrees, "dirtree", "dirtrees"),
        text::count(report.blobs + report.variants, "file", "files"),
        text::size(report.bytes)
    );
    if report.strangers > 0 {
        ui.detail(format_args!(
            "{} in the store that no atomos has written; they do no harm",
            text::count(report.strangers, "file", "files")
        ));
    }
    for (commit, paths) in &report.partial {
        let paths: Vec<_> = paths.iter().map(|path| text::escape_text(path)).collect();
        ui.status(format_args!(
            "Only a part of commit {} is here, as was asked for: {}",
            commit.short(),
            paths.join(", ")
        ));
    }
    if report.is_clean() {
        ui.status(format_args!("Everything is whole: {looked_at}"));
        return Ok(Outcome::Done);
    }
    ui.warning(format_args!(
        "{} in {looked_at}",
        text::count(report.findings.len() as u64, "bad object", "bad objects")
    ));
    ui.labelled(
        crate::ui::Label::Hint,
        "remove the damaged files, and `atomos pull --from DIR REF` brings them back from a repository that is whole",
    );
    Ok(Outcome::Damaged)
}
