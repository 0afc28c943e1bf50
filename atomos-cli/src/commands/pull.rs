//! `atomos pull`

use std::path::PathBuf;

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::pull::{PullOptions, PullReport, Selector, Wanted, pull};
use libatomos::remote::RemoteName;
use libatomos::repo::{LocalPullOptions, RepoError, TransactionStats};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::quantity;
use crate::report::CliError;

/// Bring commits from a remote, or from another repository
///
/// From a remote (`atomos remote add`), asks what the refs are now, plans what has to come, fetches it, and verifies every object; then
/// `REMOTE:REF` names what came. REF@VERSION and REF@DIGEST ask for an earlier release. Only what is missing is fetched, as
/// patches where there are some; an interrupted pull is taken up by the next one.
///
/// With --subpath, only files beneath PATH come, and no ref moves. A later pull without it brings the rest.
///
/// With --from DIR, takes from a repository on this machine, and sets the same refs here, under their own names. Files are hardlinked where
/// both repositories are of one owner, one mode and one file system, else they share blocks where the file system can, else they
/// are copied; each is verified.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos pull origin debian/13
  atomos pull origin debian/13@13.5 --allow-downgrade
  atomos pull origin debian/13 --dry-run               what would it cost?
  atomos pull origin debian/13 --limit-rate 500k --max-bytes 100M
  atomos pull --from /media/usb/repo debian/13")]
pub struct PullArgs {
    /// The repository to copy from, a directory on this machine
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dry_run", "subpath", "limit_rate", "max_bytes", "allow_downgrade"])]
    from: Option<PathBuf>,

    /// The remote, and the refs; only refs with --from
    #[arg(value_name = "REMOTE REF[@VERSION]", required = true)]
    names: Vec<String>,

    /// With --from: have no file in common with the other repository, as for a backup
    #[arg(long, requires = "from")]
    no_hardlinks: bool,

    /// Say what would come, and fetch no object
    #[arg(long)]
    dry_run: bool,

    /// Fetch only what lies beneath this directory; the ref does not move
    #[arg(long, value_name = "PATH")]
    subpath: Option<String>,

    /// Bytes per second, such as 500k or 2M
    #[arg(long, value_name = "RATE", value_parser = quantity::rate)]
    limit_rate: Option<u64>,

    /// Connections at once
    #[arg(long, value_name = "N")]
    jobs: Option<std::num::NonZeroUsize>,

    /// Stop before the first object if more bytes than this are to come
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    max_bytes: Option<u64>,

    /// Take a release that is older than what is here, or was withdrawn
    #[arg(long)]
    allow_downgrade: bool,
}

/// What came, for programs.
#[derive(Serialize)]
struct Pulled<'a> {
    refs: Vec<PulledRef<'a>>,
    #[serde(flatten)]
    stats: &'a TransactionStats,
    hardlinked: u64,
    reflinked: u64,
    copied: u64,
}

#[derive(Serialize)]
struct PulledRef<'a> {
    name: &'a RefName,
    commit: CommitId,
}

/// Runs the verb.
pub fn run(context: &Context, args: &PullArgs) -> RunResult {
    match &args.from {
        Some(from) => from_repository(context, args, from),
        None => from_remote(context, args),
    }
}

/// Reads `REF`, `REF@VERSION` or `REF@DIGEST`. A version may look like a digest; what is long and hexadecimal is one.
pub fn parse_wanted(text: &str) -> Result<Wanted, CliError> {
    let (reference, selector) = match text.split_once('@') {
        None => (text, Selector::Newest),
        Some((_, "")) => return Err(CliError::usage(format!("{text:?} has nothing after the @"))),
        Some((reference, wanted)) => {
            let digits = wanted
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let selector = if digits && wanted.len() >= 12 {
                Selector::Commit(wanted.to_owned())
            } else {
                Selector::Version(wanted.to_owned())
            };
            (reference, selector)
        }
    };
    Ok(Wanted {
        reference: reference.parse()?,
        selector,
    })
}

fn from_remote(context: &Context, args: &PullArgs) -> RunResult {
    let (remote, wanted): (RemoteName, Vec<Wanted>) = match args.names.as_slice() {
        // `remote:ref` is how the ref is called here, so people will write it.
        [one] if one.contains(':') => {
            let (remote, reference) = one.split_once(':').unwrap_or_default();
            (remote.parse()?, vec![parse_wanted(reference)?])
        }
        [_] => {
            return Err(CliError::usage("a remote and a ref are needed")
                .with_hint("`atomos remote list` lists the remotes"));
        }
        [remote, refs @ ..] => (
            remote.parse()?,
            refs.iter()
                .map(|text| parse_wanted(text))
                .collect::<Result<_, _>>()?,
        ),
        [] => return Err(CliError::usage("a remote and a ref are needed")),
    };
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = wanted.iter().find(|one| !seen.insert(&one.reference)) {
        return Err(CliError::usage(format!("{} is named twice", twice.reference))
            .with_hint("a ref names one commit here: pull one release of it after the other"));
    }
    let repo = context.open_repo()?;
    let mut session = context.session_options();
    session.jobs = args.jobs.map(Into::into);
    session.limit_rate = args.limit_rate;
    session.allow_downgrade = args.allow_downgrade;
    let mut options = PullOptions::default();
    options.dry_run = args.dry_run;
    options.subpath.clone_from(&args.subpath);
    options.max_bytes = args.max_bytes;
    let report = pull(
        &repo,
        &remote,
        &wanted,
        &session,
        &options,
        context.progress(),
        context.cancel(),
    )?;
    if context.json() {
        context.ui().result(|out| json::write(out, &report))?;
    }
    narrate(context, &report, args.dry_run);
    if report.unverified {
        context.ui().warning(format_args!(
            "nobody vouches for what came: the remote {remote} is not verified"
        ));
    }
    Ok(Outcome::Done)
}

/// Says what came, in one line for each ref and one for the whole.
pub fn narrate(context: &Context, report: &PullReport, dry_run: bool) {
    let ui = context.ui();
    for pulled in &report.refs {
        let version = if pulled.version.is_empty() {
            "version without a name".to_owned()
        } else {
            text::escape_text(&pulled.version)
        };
        let commit = pulled.commit.short();
        if pulled.old == Some(pulled.commit) && report.missing_blobs == 0 {
            ui.status(format_args!("Unchanged: {} is {version} ({commit})", pulled.name));
        } else if let Some(path) = &report.subpath {
            let path = text::escape_text(path);
            let what = if dry_run { "Would pull" } else { "Pulled" };
            ui.status(format_args!(
                "{what} {path} of {}: {version} ({commit})",
                pulled.name
            ));
            if !dry_run {
                ui.status(format_args!(
                    "No ref names it: `atomos checkout {commit} --subpath {path} DEST` checks it out, and `atomos prune` would remove it"
                ));
            }
        } else if dry_run {
            ui.status(format_args!("Would pull {}: {version} ({commit})", pulled.name));
        } else {
            ui.status(format_args!("Pulled {}: {version} ({commit})", pulled.name));
        }
    }
    if report.missing_blobs == 0 {
        let unchanged = |pulled: &libatomos::pull::PulledRef| pulled.old == Some(pulled.commit);
        if !report.refs.iter().all(unchanged) {
            ui.status("Every file of it was here already");
        }
        return;
    }
    // What was planned is for blobs alone; what came is all that went over the network.
    let (bytes, requests) = match dry_run {
        true => (report.planned_bytes, report.planned_requests),
        false => (report.traffic.bytes, report.traffic.requests),
    };
    let patches = if report.patched_blobs > 0 {
        format!("; patches save {}", text::size(report.saved_by_patches))
    } else {
        String::new()
    };
    ui.status(format_args!(
        "{} in {} for {} of {}{patches}",
        text::size(bytes),
        text::count(requests, "request", "requests"),
        text::count(report.missing_blobs, "new blob", "new blobs"),
        text::size(report.missing_bytes)
    ));
}

fn from_repository(context: &Context, args: &PullArgs, from: &std::path::Path) -> RunResult {
    let refs = args
        .names
        .iter()
        .map(|name| name.parse())
        .collect::<Result<Vec<RefName>, _>>()?;
    let repo = context.open_repo()?;
    let source = context
        .open_repo_at(from)
        .map_err(|error| match error.library() {
            Some(RepoError::NotARepository { .. }) => error.with_hint(hint_for_source(from)),
            _ => error,
        })?;
    let mut options = LocalPullOptions::default();
    options.threads = args.jobs.map(Into::into);
    options.no_hardlinks = args.no_hardlinks;
    let report = repo.pull_local(&source, &refs, &options, context.progress(), context.cancel())?;
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
            hardlinked: report.hardlinked,
            reflinked: report.reflinked,
            copied: report.copied,
        };
        ui.result(|out| json::write(out, &pulled))?;
    }
    let names: Vec<_> = report
        .refs
        .iter()
        .map(|(name, commit)| format!("{name} ({})", commit.short()))
        .collect();
    let ways: Vec<_> = [
        (report.hardlinked, "hardlinked"),
        (report.reflinked, "reflinked"),
        (report.copied, "copied"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, way)| format!("{} {way}", text::grouped(count)))
    .collect();
    let ways = if ways.is_empty() {
        String::new()
    } else {
        format!(" ({})", ways.join(", "))
    };
    ui.status(format_args!(
        "Pulled {}: {}, {}{ways}; {}",
        names.join(", "),
        text::count(report.stats.commits_added, "new commit", "new commits"),
        text::count(report.stats.blobs_added, "new blob", "new blobs"),
        text::size(report.stats.bytes_added)
    ));
    Ok(Outcome::Done)
}

/// What to do with a directory that is no repository.
fn hint_for_source(from: &std::path::Path) -> String {
    if !from.join("atomos.json").is_file() {
        return "name the directory of a repository, as `atomos init --repo DIR` makes one".to_owned();
    }
    let path = std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
    format!(
        "it is a published site: `atomos remote add NAME {} --key FILE.pub`, then `atomos pull NAME REF`",
        text::escape_path(&path)
    )
}
