//! `atomos pull`

use std::path::PathBuf;

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::pull::{PullOptions, PullReport, Selector, Wanted, pull};
use libatomos::remote::RemoteName;
use libatomos::repo::{LocalPullOptions, TransactionStats};
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
/// With --from DIR, copies from a repository on this machine, and sets the same refs here, under their own names.
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
    Ok(Outcome::Done)
}

/// Says what came, in one line for each ref and one for the whole.
pub fn narrate(context: &Context, report: &PullReport, dry_run: bool) {
    let ui = context.ui();
    for pulled in &report.refs {
        let version = if pulled.version.is_empty() {
            "version without a name"
        } else {
            &pulled.version
        };
        let commit = pulled.commit.short();
        if pulled.old == Some(pulled.commit) {
            ui.status(format_args!("Unchanged: {} is {version} ({commit})", pulled.name));
        } else if dry_run {
            ui.status(format_args!("Would pull {}: {version} ({commit})", pulled.name));
        } else {
            ui.status(format_args!("Pulled {}: {version} ({commit})", pulled.name));
        }
    }
    if report.unchanged {
        return;
    }
    let patches = if report.patched_blobs > 0 {
        format!("; patches save {}", text::size(report.saved_by_patches))
    } else {
        String::new()
    };
    ui.status(format_args!(
        "{} in {} for {} of {}{patches}",
        text::size(report.planned_bytes),
        text::count(report.planned_requests, "request", "requests"),
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
    let source = context.open_repo_at(from)?;
    let mut options = LocalPullOptions::default();
    options.threads = args.jobs.map(Into::into);
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
