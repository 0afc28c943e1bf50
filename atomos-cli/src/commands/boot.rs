//! `atomos boot`: its verbs, and `status` and `recover` themselves

use clap::{Args, Subcommand};
use libatomos::boot::{EntryFinding, ExtlinuxDefault, LoaderForecast};
use serde::Serialize;

use super::{RunResult, boot_trial};
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
    Check(boot_trial::CheckArgs),
    MarkGood(boot_trial::MarkGoodArgs),
    MarkBad(boot_trial::MarkBadArgs),
    Forget(boot_trial::ForgetArgs),
    Record(boot_trial::RecordArgs),
    Extlinux(ExtlinuxArgs),
}

/// Show the boot entries, and whether each can be booted
///
/// Reads every entry of ours and compares every kernel file with its digest. → marks the one that the loader should take.
/// An entry on trial says how many tries it has left.
/// Exits with 6 when an entry cannot be booted, or when /boot lacks what the deployments need.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    tries_left: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StatusModel<'a> {
    entries: Vec<EntryModel<'a>>,
    /// Whether `boot recover` has something to write.
    behind: bool,
    /// Whether what the loader reads is not mounted.
    unmounted: bool,
    loader: &'a LoaderForecast,
}

/// Write /boot again from what /atomos says
///
/// Reads and compares every kernel, writes what is missing or damaged, and removes what interrupted runs left. Entries
/// that are not ours are left alone. Running it when nothing is wrong changes nothing.
///
/// Where the list of deployments in /atomos is itself lost or damaged, --from-entries makes it anew from what /boot boots. Which deployments were pinned
/// or known to be good is not known then.
///
/// Where /boot was a partition and is not mounted, it fails: no loader would see what it writes. With --directory the loader reads the directory from
/// now on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos boot recover
  atomos boot recover --from-entries    the list of deployments is damaged
  atomos boot recover --directory       /boot is no partition any more")]
struct RecoverArgs {
    /// First make the list of deployments anew, which is lost or damaged
    #[arg(long)]
    from_entries: bool,
    /// Take the directory /boot for what the loader reads, which was a partition before
    #[arg(long)]
    directory: bool,
}

/// Print the entries as U-Boot reads them, in extlinux.conf
///
/// Changes nothing: bootloader-hooks/extlinux puts it where U-Boot looks. Prints nothing where there are no entries.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos boot extlinux > /boot/extlinux/extlinux.conf.new
  atomos boot extlinux --alternative      for altbootcmd: the default is what to boot when the newest has failed")]
struct ExtlinuxArgs {
    /// Make the one to go back to the default
    #[arg(long)]
    alternative: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &BootArgs) -> RunResult {
    match &args.verb {
        BootVerb::Status(StatusArgs {}) => status(context),
        BootVerb::Recover(args) => recover(context, args),
        BootVerb::Check(args) => boot_trial::check(context, args),
        BootVerb::MarkGood(args) => boot_trial::mark_good(context, args),
        BootVerb::MarkBad(args) => boot_trial::mark_bad(context, args),
        BootVerb::Forget(args) => boot_trial::forget(context, args),
        BootVerb::Record(args) => boot_trial::record(context, args),
        BootVerb::Extlinux(args) => extlinux(context, args),
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
            tries_left: status.tries_left.get(&entry.name.n).copied(),
        })
        .collect();
    let bad = entries.iter().any(|entry| entry.finding.is_some());
    context.ui().result(|out| {
        if context.json() {
            return json::write(
                out,
                &StatusModel {
                    entries,
                    behind: status.is_behind,
                    unmounted: status.is_unmounted,
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
            let tries = match entry.tries_left {
                None => String::new(),
                Some(0) => ", bad: no tries are left".to_owned(),
                Some(left) => format!(", on trial: {} left", text::count(left.into(), "try", "tries")),
            };
            writeln!(out, "{mark} {}  {state}{tries}", text::escape_text(entry.file))?;
        }
        Ok(())
    })?;
    for pin in status.forecast.contrary_pins() {
        let takes = text::escape_text(pin.takes.as_deref().unwrap_or_default());
        context
            .ui()
            .warning(format_args!("{} makes the loader take {takes}", pin.source));
    }
    if status.is_unmounted {
        context.ui().warning(
            "/boot was a file system of its own, and is a directory now: what a loader reads is not mounted, and was not looked at",
        );
    }
    if status.is_behind {
        let command = context.command("boot recover", &[]);
        context.ui().warning(format_args!(
            "/boot is not what the deployments need: run `{command}`"
        ));
    }
    Ok(match bad || status.is_behind || status.is_unmounted {
        true => Outcome::Damaged,
        false => Outcome::Done,
    })
}

fn extlinux(context: &Context, args: &ExtlinuxArgs) -> RunResult {
    let default = match args.alternative {
        true => ExtlinuxDefault::Alternative,
        false => ExtlinuxDefault::Newest,
    };
    let text = context.open_sysroot()?.extlinux_conf(default)?;
    context.ui().result(|out| out.write_all(text.as_bytes()))?;
    Ok(Outcome::Done)
}

fn recover(context: &Context, args: &RecoverArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let ui = context.ui();
    if args.directory {
        sysroot.take_boot_directory()?;
    }
    if args.from_entries {
        let found = sysroot.rebuild_state(context.progress())?;
        let names: Vec<_> = found.iter().map(|id| id.short().to_string()).collect();
        ui.status(format_args!(
            "Made the list anew from {}: {}",
            text::count(found.len() as u64, "deployment", "deployments"),
            names.join(", ")
        ));
    }
    let plan = sysroot.recover_boot(context.progress())?;
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
    if plan.menu_outdated {
        ui.status("Wrote what GRUB reads of them");
    }
    Ok(Outcome::Done)
}
