//! `atomos site`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use libatomos::names::RefName;
use libatomos::publish::{
    PublishError, SiteDir, SitePruneOptions, WithdrawOptions, prune_site, remove_site_ref, withdraw_with,
};
use libatomos::sign::TrustedKeys;
use libatomos::site::Record;

use super::RunResult;
use super::key::read_public;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::{CliError, shown};
use crate::signing::{SigningArgs, borrowed};

/// Look after a published site
#[derive(Debug, Args)]
pub struct SiteArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Fsck(FsckArgs),
    Prune(PruneArgs),
    Withdraw(WithdrawArgs),
    RemoveRef(RemoveRefArgs),
}

/// Verify a published site
///
/// Reads every key set, record, release and manifest, verifies the digest of every file, and takes every blob of the newest releases out of its pack
/// and out of the image. Exits with 0 only when everything is whole.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos site fsck /srv/www/os --key release-key.pub")]
struct FsckArgs {
    /// The site's directory
    dir: PathBuf,

    /// A public key that machines were given: from there the key sets are followed to the one that must have signed the
    /// records; without one, their signatures are not looked at
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
}

/// Remove what only old releases need
///
/// Keeps what the newest releases of every ref need, what was placed within the grace period, and what a release needs that was the
/// newest then: a machine that read its record may be about to ask for it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos site prune /srv/www/os --keep 5 --dry-run")]
struct PruneArgs {
    /// The site's directory
    dir: PathBuf,

    /// Releases of each ref that stay pullable
    #[arg(long, value_name = "N", default_value = "10")]
    keep: std::num::NonZeroUsize,

    /// Hours that a file stays after it was placed
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    grace: u32,

    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Take a release back
///
/// The ref's record then names the newest release that was not taken back, and says why. Machines that have the withdrawn one go back at
/// their next upgrade, and none takes it again by this ref. Its commit cannot be published again as this ref.
///
/// Other refs of the site that have the same commit go on offering it; a warning names them, and how to take it back there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos site withdraw /srv/www/os debian/13@13.6 --reason 'does not boot on board B' --key release-key")]
struct WithdrawArgs {
    /// The site's directory
    dir: PathBuf,

    /// The ref, and the version or the digest of the commit
    #[arg(value_name = "REF@VERSION")]
    release: String,

    /// Why, for whoever has it
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// A public key that machines were given, for records of before the first key set; can be repeated
    #[arg(long, value_name = "FILE")]
    pinned: Vec<PathBuf>,

    #[command(flatten)]
    signing: SigningArgs,
}

/// Take a ref off a site
///
/// Removes the ref's record: nobody can ask for the ref any more. What it alone needs goes with the next `site prune`. Its releases stay, so
/// that `publish` does not begin the ref again as if it were new: machines that know it would refuse that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos site remove-ref /srv/www/os debian/12")]
struct RemoveRefArgs {
    /// The site's directory
    dir: PathBuf,

    /// The ref
    #[arg(value_name = "REF")]
    reference: RefName,
}

/// Runs the verb.
pub fn run(context: &Context, args: &SiteArgs) -> RunResult {
    match &args.verb {
        Verb::Fsck(args) => fsck(context, args),
        Verb::Prune(args) => prune(context, args),
        Verb::Withdraw(args) => take_back(context, args),
        Verb::RemoveRef(args) => remove(context, args),
    }
}

fn fsck(context: &Context, args: &FsckArgs) -> RunResult {
    let site = SiteDir::open(&args.dir)?;
    let keys = args
        .key
        .iter()
        .map(|file| read_public(file))
        .collect::<Result<Vec<_>, _>>()?;
    let trusted: Option<TrustedKeys> = if keys.is_empty() {
        None
    } else {
        Some(TrustedKeys::pinned(keys).map_err(PublishError::from)?)
    };
    let report = site.fsck(trusted.as_ref(), context.progress(), context.cancel())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    } else {
        ui.result(|out| {
            for finding in &report.findings {
                writeln!(
                    out,
                    "{}: {}",
                    text::escape_text(&finding.file),
                    text::escape_text(&finding.problem)
                )?;
            }
            Ok::<(), std::io::Error>(())
        })?;
    }
    for warning in &report.warnings {
        ui.warning(format_args!(
            "machines refuse {}: {}",
            text::escape_text(&warning.file),
            text::escape_text(&warning.problem)
        ));
    }
    if !report.warnings.is_empty() {
        ui.status("`atomos publish --renew` signs records anew, and `atomos key set create` begins the next key set");
    }
    if report.findings.is_empty() {
        ui.status(format_args!(
            "Whole: {}, {}, {} in {}",
            text::count(report.refs, "ref", "refs"),
            text::count(report.releases, "release", "releases"),
            text::size(report.bytes),
            text::count(report.files, "file", "files")
        ));
        if report.refs == 0 {
            ui.warning("the site has no refs: nobody can pull anything from it");
        }
        if trusted.is_none() {
            ui.status("Signatures were not looked at; --key FILE.pub has them verified as machines do");
        }
        return Ok(Outcome::Done);
    }
    let is_signed = |file: &str| file.starts_with("refs/") || file.starts_with("keys/");
    let dir = shown(&args.dir);
    let hint = if !report.findings.iter().all(|finding| is_signed(&finding.file)) {
        format!(
            "remove the damaged files and publish again: what the newest releases lack is made anew; older ones that lack something go with `atomos site prune {dir} --keep 1 --grace 0`"
        )
    } else if trusted.is_none() {
        format!(
            "copy what is damaged in refs/ and keys/ back from a server or a mirror: machines refuse a record that begins anew; `atomos key set show --site {dir}` shows the keys that count"
        )
    } else {
        format!(
            "--key takes the keys that machines were given, and `atomos key set show --site {dir}` shows those that count now; what is damaged is copied back from a server or a mirror"
        )
    };
    Err(CliError::of_kind(
        libatomos::ErrorKind::Corrupt,
        format!(
            "the site {} is damaged: {}",
            args.dir.display(),
            text::count(report.findings.len() as u64, "finding", "findings")
        ),
    )
    .with_hint(hint))
}

fn prune(context: &Context, args: &PruneArgs) -> RunResult {
    let mut options = SitePruneOptions::default();
    options.keep = args.keep.into();
    options.grace = u64::from(args.grace) * 3600;
    options.dry_run = args.dry_run;
    options.patience = context.patience();
    let report = prune_site(&args.dir, &options, context.cancel())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    } else if args.dry_run {
        ui.result(|out| {
            for file in &report.removed {
                writeln!(out, "{file}")?;
            }
            Ok::<(), std::io::Error>(())
        })?;
    }
    ui.status(format_args!(
        "{} {}, {}",
        if args.dry_run { "Would remove" } else { "Removed" },
        text::count(report.removed.len() as u64, "file", "files"),
        text::size(report.bytes)
    ));
    Ok(Outcome::Done)
}

fn remove(context: &Context, args: &RemoveRefArgs) -> RunResult {
    remove_site_ref(&args.dir, &args.reference, &context.patience())?;
    context.ui().status(format_args!(
        "Removed {} from the site; `atomos site prune {}` removes what it alone needs",
        args.reference,
        shown(&args.dir)
    ));
    Ok(Outcome::Done)
}

fn take_back(context: &Context, args: &WithdrawArgs) -> RunResult {
    let Some((reference, selector)) = args.release.split_once('@') else {
        return Err(CliError::usage(
            "a ref and a version are needed, as debian/13@13.6",
        ));
    };
    let reference: RefName = reference.parse()?;
    let signers = args.signing.signers()?;
    let mut options = WithdrawOptions::default();
    options.signers = borrowed(&signers);
    options.patience = context.patience();
    options.pinned = args
        .pinned
        .iter()
        .map(|file| read_public(file))
        .collect::<Result<_, _>>()?;
    let record = withdraw_with(&args.dir, &reference, selector, &args.reason, &options)?;
    if context.json() {
        context.ui().result(|out| json::write(out, &record))?;
    }
    context.ui().status(format_args!(
        "Withdrew {}; {reference} is {} ({}) now",
        text::escape_text(&args.release),
        text::escape_text(&record.version),
        record.commit.short()
    ));
    warn_of_others(context, args, &record);
    Ok(Outcome::Done)
}

/// Names the refs that the site still offers the commit by. It is withdrawn by now, so that what is damaged there stops nothing.
fn warn_of_others(context: &Context, args: &WithdrawArgs, record: &Record) {
    let Some(gone) = record.withdrawn.last() else {
        return;
    };
    let others = SiteDir::open(&args.dir).and_then(|site| site.refs_that_offer(&gone.commit));
    match others {
        Ok(others) => {
            for other in others {
                context.ui().warning(format_args!(
                    "{other} still offers the same commit; `atomos site withdraw {} {other}@{} --reason TEXT --key FILE` takes it back there, too",
                    shown(&args.dir),
                    gone.commit.short()
                ));
            }
        }
        Err(error) => context.ui().warning(format_args!(
            "whether other refs of the site offer the same commit is not known: {error}"
        )),
    }
}
