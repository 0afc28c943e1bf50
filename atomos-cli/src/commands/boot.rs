//! `atomos boot status` and `atomos boot recover`

use clap::{Args, Subcommand};
use libatomos::boot::{EntryFinding, LoaderForecast};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Look after what the boot loader reads
#[derive(Debug, Args)]
pub struct BootArgs {
    #[command(subcommand)]
    verb: BootVerb,
}

#[derive(Debug, Subcommand)]
enum BootVerb {
    Status(StatusArgs),
    Recover(RecoverArgs),
}

/// Show the boot entries, and whether each can be booted
///
/// Reads every entry of ours and compares every kernel file with its digest. → marks the one that the loader should take.
/// Exits with 6 when an entry cannot be booted.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos boot status")]
struct StatusArgs {}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct EntryModel<'a> {
    file: &'a str,
    deployment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<EntryFinding>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StatusModel<'a> {
    entries: Vec<EntryModel<'a>>,
    loader: &'a LoaderForecast,
}

/// Write /boot again from what /atomos says
///
/// Reads and compares every kernel, writes what is missing or damaged, and removes what interrupted runs left. Entries
/// that are not ours are left alone. Running it when nothing is wrong changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos boot recover")]
struct RecoverArgs {}

/// Runs the verb.
pub fn run(context: &Context, args: &BootArgs) -> RunResult {
    match &args.verb {
        BootVerb::Status(StatusArgs {}) => status(context),
        BootVerb::Recover(RecoverArgs {}) => recover(context),
    }
}

fn status(context: &Context) -> RunResult {
    let status = context.open_sysroot()?.boot_status()?;
    let entries: Vec<EntryModel<'_>> = status
        .entries
        .iter()
        .map(|entry| EntryModel {
            file: &entry.file_name,
            deployment: format!(
                "{}/{}.{}",
                entry.name.stateroot, entry.name.commit, entry.name.serial
            ),
            finding: entry.finding,
        })
        .collect();
    let bad = entries.iter().any(|entry| entry.finding.is_some());
    context.ui().result(|out| {
        if context.json() {
            return json::write(
                out,
                &StatusModel {
                    entries,
                    loader: &status.forecast,
                },
            );
        }
        for entry in &entries {
            let mark = if status.forecast.ours.as_deref() == Some(entry.file) {
                '→'
            } else {
                ' '
            };
            let state = entry
                .finding
                .map_or_else(|| "whole".to_owned(), |finding| finding.to_string());
            writeln!(out, "{mark} {}  {state}", text::escape_text(entry.file))?;
        }
        Ok(())
    })?;
    for pin in status.forecast.contrary_pins() {
        let takes = text::escape_text(pin.takes.as_deref().unwrap_or_default());
        context
            .ui()
            .warning(format_args!("{} makes the loader take {takes}", pin.source));
    }
    Ok(if bad { Outcome::Damaged } else { Outcome::Done })
}

fn recover(context: &Context) -> RunResult {
    let plan = context
        .open_sysroot_to_write()?
        .recover_boot(context.progress())?;
    let ui = context.ui();
    if plan.is_empty() {
        ui.status("/boot is as it should be");
        return Ok(Outcome::Done);
    }
    let removed = plan.remove_entries.len() + plan.remove_kernels.len() + plan.remove_leftovers.len();
    ui.status(format_args!(
        "Wrote {} and {}, removed {}",
        text::count(plan.install.len() as u64, "kernel", "kernels"),
        text::count(plan.write.len() as u64, "entry", "entries"),
        text::count(removed as u64, "leftover", "leftovers"),
    ));
    Ok(Outcome::Done)
}
