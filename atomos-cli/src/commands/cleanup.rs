//! `atomos cleanup`

use clap::Args;
use libatomos::sysroot::CleanupOptions;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Remove what no deployment needs
///
/// What interrupted runs left, entries and kernels in /boot that belong to no deployment, and objects that no ref and no
/// deployment leads to.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos cleanup --dry-run")]
pub struct CleanupArgs {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &CleanupArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let mut options = CleanupOptions::default();
    options.dry_run = args.dry_run;
    let report = sysroot.cleanup(&options, context.progress(), context.cancel())?;
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            return json::write(out, &report);
        }
        for path in &report.orphans {
            writeln!(out, "atomos/deploy/{}", text::escape_text(path))?;
        }
        for path in &report.boot {
            writeln!(out, "boot/{}", text::escape_text(path))?;
        }
        Ok(())
    })?;
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    for (what, paths, bytes) in [
        ("of interrupted runs", &report.orphans, report.orphan_bytes),
        ("in /boot", &report.boot, report.boot_bytes),
    ] {
        if !paths.is_empty() {
            let paths = text::count(paths.len() as u64, "leftover", "leftovers");
            ui.status(format_args!("{verb} {paths} {what} with {}", text::size(bytes)));
        }
    }
    let objects = &report.objects;
    let count =
        objects.commits_removed + objects.dirtrees_removed + objects.blobs_removed + objects.variants_removed;
    ui.status(format_args!(
        "{verb} {} with {}",
        text::count(count, "object", "objects"),
        text::size(objects.bytes_removed)
    ));
    Ok(Outcome::Done)
}
