//! `atomos history`

use clap::Args;
use libatomos::pull::Session;
use libatomos::remote::RemoteName;
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::table::Table;
use crate::output::{json, text};

/// List the releases of a remote's ref
///
/// Asks the remote, and lists every release that it knows, the newest first. `atomos pull REMOTE REF@VERSION` brings one of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos history origin debian/13")]
pub struct HistoryArgs {
    /// The remote
    remote: RemoteName,

    /// The ref, as the remote calls it
    #[arg(value_name = "REF")]
    reference: libatomos::names::RefName,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ReleaseModel {
    number: u64,
    version: String,
    commit: String,
    /// Absent where the site knows no more than that it was withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn: Option<String>,
}

/// Runs the verb.
pub fn run(context: &Context, args: &HistoryArgs) -> RunResult {
    let repo = context.open_repo()?;
    let options = context.session_options();
    let mut session = Session::open(
        &repo,
        &args.remote,
        &options,
        context.progress(),
        context.cancel(),
    )?;
    let (record, history) = session.history(&args.reference)?;
    let mut releases: Vec<_> = history
        .into_iter()
        .map(|entry| ReleaseModel {
            number: entry.number,
            withdrawn: record
                .withdrawn
                .iter()
                .find(|one| one.commit == entry.commit)
                .map(|one| one.reason.clone()),
            version: entry.version,
            commit: entry.commit.to_string(),
            time: Some(entry.time),
        })
        .collect();
    // What was taken back is not in the history of what came in its place.
    for one in &record.withdrawn {
        let commit = one.commit.to_string();
        if !releases.iter().any(|release| release.commit == commit) {
            releases.push(ReleaseModel {
                number: one.number,
                version: one.version.clone(),
                commit,
                time: None,
                withdrawn: Some(one.reason.clone()),
            });
        }
    }
    releases.sort_by_key(|release| std::cmp::Reverse(release.number));
    if context.json() {
        context.ui().result(|out| json::write(out, &releases))?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["Version", "Release", "Commit", "Published", ""]);
    for release in &releases {
        let note = match &release.withdrawn {
            Some(reason) => format!("withdrawn: {reason}"),
            None => String::new(),
        };
        table.row([
            text::escape_text(&release.version),
            release.number.to_string(),
            release.commit[..12].to_owned(),
            release.time.map_or_else(String::new, text::time),
            text::escape_text(&note),
        ]);
    }
    context.ui().result(|out| table.write(out))?;
    Ok(Outcome::Done)
}
