//! `atomos fsck`

use clap::Args;
use libatomos::fs::Dir;
use libatomos::repair::open_source;
use libatomos::repo::{FsckOptions, FsckReport, RepairOptions, RepairReport, RepairSource, Repo};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{findings, json, text};
use crate::report::CliError;
use crate::ui::Label;

/// Verify the repository, and repair it
///
/// Reads every object, compares its digest with its name, and follows every reference. Each bad object is printed with the
/// refs and paths that it belongs to. Without --repair, changes nothing.
///
/// With --repair, what is damaged or missing is replaced by good copies: from another inode of the same blob in this repository, and
/// then from each --from in order. A good copy is verified before it has a name, and takes the place of the bad one in one step.
/// A damaged object that nobody has is moved into `damaged/` in the repository, so that the next pull or commit that brings the
/// object stores it anew. Files of deployments that are the damaged inode stay damaged, and are named: deploy anew.
///
/// SOURCE is a configured remote, the URL of a published site, or a directory: a repository, a sysroot, a site, a deployment, or any
/// tree that has the files where the commits have them. Nobody has to vouch for it, since an object's name is its digest.
///
/// Exits with 0 only when everything is whole (after the repair), and with 6 when something is damaged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos fsck
  atomos fsck --json | jq '.findings[].used-by'
  atomos fsck --repair --from origin --from /mnt/backup/repo
  atomos fsck --repair --from https://os.example.org/site --dry-run")]
pub struct FsckArgs {
    /// Replace what is damaged or missing by good copies
    #[arg(long)]
    repair: bool,

    /// Where good copies may be; can be repeated
    #[arg(long, value_name = "SOURCE", requires = "repair")]
    from: Vec<String>,

    /// Replace nothing, and print what could be replaced. What a site has is fetched, to be sure
    #[arg(long, requires = "repair")]
    dry_run: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &FsckArgs) -> RunResult {
    let repo = context.open_repo()?;
    if args.repair {
        return repair(context, args, &repo);
    }
    let report = repo.fsck(&FsckOptions::default(), context.progress(), context.cancel())?;
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            json::write(out, &report)
        } else {
            findings::write(out, &report.findings)
        }
    })?;
    narrate(context, &report);
    if report.is_clean() {
        ui.status(format_args!("Everything is whole: {}", looked_at(&report)));
        return Ok(Outcome::Done);
    }
    warn_of_bad(context, &report);
    ui.labelled(
        Label::Hint,
        "`atomos fsck --repair --from SOURCE` brings back what a remote, another repository or a directory has whole",
    );
    Ok(Outcome::Damaged)
}

fn looked_at(report: &FsckReport) -> String {
    format!(
        "{}, {}, {}, {}",
        text::count(report.commits, "commit", "commits"),
        text::count(report.dirtrees, "dirtree", "dirtrees"),
        text::count(report.blobs + report.variants, "file", "files"),
        text::size(report.bytes)
    )
}

fn warn_of_bad(context: &Context, report: &FsckReport) {
    context.ui().warning(format_args!(
        "{} in {}",
        text::count(report.findings.len() as u64, "bad object", "bad objects"),
        looked_at(report)
    ));
}

fn narrate(context: &Context, report: &FsckReport) {
    let ui = context.ui();
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
}

fn repair(context: &Context, args: &FsckArgs, repo: &Repo) -> RunResult {
    let session = context.session_options();
    let mut sources: Vec<Box<dyn RepairSource + '_>> = Vec::new();
    for from in &args.from {
        sources.push(open_source(
            repo,
            from,
            &session,
            context.progress(),
            context.cancel(),
        )?);
    }
    let mut options = RepairOptions::default();
    options.dry_run = args.dry_run;
    options.checkouts = deployments(context)?;
    let report = repo.repair(&mut sources, &options, context.progress(), context.cancel())?;
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            return json::write(out, &report);
        }
        findings::write_repaired(out, &report.repaired, report.dry_run)?;
        findings::write(out, &report.lost)
    })?;
    narrate(context, &report.found);
    conclude(context, args, &report);
    Ok(if report.is_whole() {
        Outcome::Done
    } else {
        Outcome::Damaged
    })
}

fn conclude(context: &Context, args: &FsckArgs, report: &RepairReport) {
    let ui = context.ui();
    if report.found.is_clean() {
        ui.status(format_args!("Everything is whole: {}", looked_at(&report.found)));
        return;
    }
    warn_of_bad(context, &report.found);
    let (did, set) = match report.dry_run {
        true => ("Would repair", "Would move"),
        false => ("Repaired", "Moved"),
    };
    ui.status(format_args!(
        "{did} {}",
        text::count(report.repaired.len() as u64, "object", "objects")
    ));
    if report.set_aside > 0 {
        ui.status(format_args!(
            "{set} {} into {}",
            text::count(report.set_aside, "damaged file", "damaged files"),
            "damaged/"
        ));
    }
    if report.repaired.iter().any(|one| one.other_names > 0) {
        ui.labelled(
            Label::Hint,
            "checkouts and deployments that have a damaged file still have it: `atomos deploy REV` makes a new deployment",
        );
    }
    if !report.lost.is_empty() {
        ui.warning(format_args!(
            "nobody has {}",
            text::count(report.lost.len() as u64, "bad object whole", "bad objects whole")
        ));
        ui.labelled(
            Label::Hint,
            match args.from.is_empty() {
                true => "name who may have them with --from SOURCE",
                false => {
                    "name another --from SOURCE; a ref that nobody needs any more goes with `atomos refs --delete`"
                }
            },
        );
    }
}

/// Deployments may have files in common with the store of their sysroot.
fn deployments(context: &Context) -> Result<Vec<(String, Dir)>, CliError> {
    if context.named_repo().is_some() {
        return Ok(Vec::new());
    }
    let sysroot = context.open_sysroot()?;
    let mut deployments = Vec::new();
    for deployment in sysroot.state()?.deployments {
        // One that is gone shares nothing.
        if let Ok(dir) = sysroot.deployment_dir(&deployment.id) {
            deployments.push((deployment.id.to_string(), dir));
        }
    }
    Ok(deployments)
}
