//! `atomos fsck`

use clap::Args;
use libatomos::fs::Dir;
use libatomos::repair::open_source;
use libatomos::repo::{FsckOptions, FsckReport, RepairOptions, RepairReport, RepairSource, Repo};
use libatomos::sysroot::{ImageRepairOptions, ImagesRepair, ImagesReport};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::text::escape_text;
use crate::output::{findings, json, text};
use crate::report::CliError;
use crate::ui::Label;

/// Verify the repository, and repair it
///
/// Reads every object, compares its digest with its name, and follows every reference. Each bad object is printed with the
/// refs and paths that it belongs to. Without --repair, changes nothing.
///
/// In a sysroot, looks at the images that deployments boot from, too: each is read from the disk and compared with what was made, and
/// where the root is verified when it boots, so is its seal, and the kernel is asked whether it verifies each file. With --repair, a bad image is made anew from the commit, which takes no source.
/// A machine that runs it goes on with the old one until it boots again.
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
  atomos fsck --json | jq '.findings[].\"used-by\"'
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
    let images = match context.named_repo() {
        Some(_) => None,
        None => Some(
            context
                .open_sysroot()?
                .check_images(context.progress(), context.cancel())?,
        ),
    };
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            let images = images.as_ref();
            return json::write(
                out,
                &Checked {
                    report: &report,
                    images,
                },
            );
        }
        findings::write(out, &report.findings)?;
        findings::write_files(out, &report.files)?;
        findings::write_images(out, images.iter().flat_map(|images| &images.findings))
    })?;
    narrate(context, &report);
    if report.is_clean() && images.as_ref().is_none_or(ImagesReport::is_clean) {
        ui.status(format_args!(
            "Everything is whole: {}",
            looked_at(&report, images.as_ref())
        ));
        return Ok(Outcome::Done);
    }
    warn_of_bad(context, &report, images.as_ref());
    hint_at_files(context, &repo, &report);
    if !report.findings.is_empty() {
        ui.labelled(
            Label::Hint,
            "`atomos fsck --repair --from SOURCE` brings back what a remote, another repository or a directory has whole",
        );
    } else if images.is_some_and(|images| !images.is_clean()) {
        ui.labelled(Label::Hint, "`atomos fsck --repair` makes images anew");
    }
    Ok(Outcome::Damaged)
}

/// Says what to do about the repository's own files, as whatever needs them says it.
fn hint_at_files(context: &Context, repo: &Repo, report: &FsckReport) {
    if report.files.is_empty() {
        return;
    }
    if let Some(error) = repo.aliases().err().map(CliError::from)
        && let Some(hint) = error.hint()
    {
        context.ui().labelled(Label::Hint, escape_text(hint));
    }
}

/// What was found, of the repository and, in a sysroot, of images.
#[derive(Serialize)]
struct Checked<'a, R, I> {
    #[serde(flatten)]
    report: &'a R,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<&'a I>,
}

fn looked_at(report: &FsckReport, images: Option<&ImagesReport>) -> String {
    let images = images.filter(|images| images.checked > 0);
    format!(
        "{}, {}, {}, {}{}",
        text::count(report.commits, "commit", "commits"),
        text::count(report.dirtrees, "dirtree", "dirtrees"),
        text::count(report.blobs + report.variants, "file", "files"),
        text::size(report.bytes),
        images.map_or_else(String::new, |images| {
            let count = text::count(images.checked, "image of a deployment", "images of deployments");
            format!("; {count}")
        })
    )
}

fn warn_of_bad(context: &Context, report: &FsckReport, images: Option<&ImagesReport>) {
    let objects = (report.findings.len() as u64, "bad object", "bad objects");
    let files = (report.files.len() as u64, "bad file", "bad files");
    let bad_images = images.map_or(0, |images| images.findings.len() as u64);
    let bad: Vec<_> = [objects, files, (bad_images, "bad image", "bad images")]
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| text::count(count, one, many))
        .collect();
    context.ui().warning(format_args!(
        "{} in {}",
        bad.join(" and "),
        looked_at(report, images)
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
    // After the objects: what images are made of may be among them.
    let images = repair_images(context, args)?;
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            let images = images.as_ref();
            return json::write(
                out,
                &Checked {
                    report: &report,
                    images,
                },
            );
        }
        findings::write_repaired(out, &report.repaired, report.dry_run)?;
        findings::write(out, &report.lost)?;
        findings::write_files(out, &report.found.files)?;
        images.as_ref().map_or(Ok(()), |images| {
            findings::write_repaired_images(out, images, report.dry_run)
        })
    })?;
    narrate(context, &report.found);
    conclude(context, args, &report, images.as_ref());
    hint_at_files(context, repo, &report.found);
    let images_are_whole = images.is_none_or(|images| match report.dry_run {
        true => images.found.is_clean(),
        false => images.lost.is_empty(),
    });
    Ok(match report.is_whole() && images_are_whole {
        true => Outcome::Done,
        false => Outcome::Damaged,
    })
}

/// Makes bad images of the sysroot's deployments anew, where it is one that is looked at.
fn repair_images(context: &Context, args: &FsckArgs) -> Result<Option<ImagesRepair>, CliError> {
    if context.named_repo().is_some() {
        return Ok(None);
    }
    let mut options = ImageRepairOptions::default();
    options.dry_run = args.dry_run;
    let sysroot = context.open_sysroot_to_write()?;
    Ok(Some(sysroot.repair_images(
        &options,
        context.progress(),
        context.cancel(),
    )?))
}

fn conclude(context: &Context, args: &FsckArgs, report: &RepairReport, images: Option<&ImagesRepair>) {
    let ui = context.ui();
    let found = images.map(|images| &images.found);
    if report.found.is_clean() && found.is_none_or(ImagesReport::is_clean) {
        ui.status(format_args!(
            "Everything is whole: {}",
            looked_at(&report.found, found)
        ));
        return;
    }
    warn_of_bad(context, &report.found, found);
    let (did, set) = match report.dry_run {
        true => ("Would repair", "Would move"),
        false => ("Repaired", "Moved"),
    };
    if !report.found.findings.is_empty() {
        ui.status(format_args!(
            "{did} {}",
            text::count(report.repaired.len() as u64, "object", "objects")
        ));
    }
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
    if let Some(images) = images {
        conclude_images(context, images, report.dry_run);
    }
}

fn conclude_images(context: &Context, images: &ImagesRepair, dry_run: bool) {
    let ui = context.ui();
    if images.found.is_clean() {
        return;
    }
    ui.status(format_args!(
        "{} {} anew",
        if dry_run { "Would make" } else { "Made" },
        text::count(images.repaired.len() as u64, "image", "images")
    ));
    if images.repaired.iter().any(|one| one.booted) {
        ui.status("What runs goes on with the image that it has; the next boot takes the new one.");
    }
    if !images.lost.is_empty() {
        ui.labelled(
            Label::Hint,
            "`atomos deploy REV` makes a new deployment of what cannot be made anew, `atomos rollback` goes to another one",
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
