//! `atomos bundle`

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use libatomos::error::ErrorKind;
use libatomos::names::RefName;
use libatomos::publish::SiteDir;
use libatomos::pull::{PullError, PullOptions, Selector, Session, Wanted, create_bundle};
use libatomos::remote::RemoteName;
use libatomos::transport::{BundleTransport, Transport};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::output_file::write_output;
use crate::report::CliError;

/// Updates in one file, for machines without a network
#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(CreateArgs),
    Apply(ApplyArgs),
}

/// Put an update into one file
///
/// Takes from a published site what a machine that has version FROM needs for the newest release of REF: the signed record, and patches or
/// blobs. Without --from, everything.
///
/// Where that machine has to take a barrier first (`publish --min-from`), the bundle leads to the barrier, and a warning says how to make the
/// one that leads on. One without --from is for machines that have nothing of REF yet, or the barrier.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos bundle create /srv/www/os debian/13 --from 13.5 -o update.atomos")]
struct CreateArgs {
    /// The site's directory
    site: PathBuf,

    /// The ref
    #[arg(value_name = "REF")]
    reference: RefName,

    /// The version, or the digest of the commit, that the machine has
    #[arg(long, value_name = "VERSION")]
    from: Option<String>,

    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Pull from a bundle
///
/// The bundle stands in for the remote: its record must be signed as the remote's are, and `REMOTE:REF` names what came. `atomos deploy
/// REMOTE:REF` deploys it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos bundle apply update.atomos --remote origin
  atomos bundle apply old-update.atomos --remote origin --accept-expired")]
struct ApplyArgs {
    /// The bundle
    file: PathBuf,

    /// The remote whose keys count
    #[arg(long, value_name = "NAME")]
    remote: RemoteName,

    /// Take it although its record has expired: somebody may be keeping newer versions from this machine
    #[arg(long)]
    accept_expired: bool,

    /// Take a release that is older than what is here
    #[arg(long)]
    allow_downgrade: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &BundleArgs) -> RunResult {
    match &args.verb {
        Verb::Create(args) => create(context, args),
        Verb::Apply(args) => apply(context, args),
    }
}

fn create(context: &Context, args: &CreateArgs) -> RunResult {
    if args.output == Path::new("-") {
        return Err(
            CliError::usage("a bundle is written into a file, and `-` is none")
                .with_hint("-o /dev/stdout writes it to standard output, -o ./- into a file of that name"),
        );
    }
    let site = SiteDir::open(&args.site)?;
    let shown = args.output.display();
    let report = write_output(&args.output, |file| {
        let mut out = BufWriter::new(file);
        let report = create_bundle(&site, &args.reference, args.from.as_deref(), &mut out)?;
        out.flush()
            .map_err(|error| CliError::io(format!("cannot write {shown}"), error))?;
        Ok(report)
    })?;
    if context.json() {
        context.ui().result(|out| json::write(out, &report))?;
    }
    context.ui().status(format_args!(
        "Wrote {shown}: {} {} ({}), {} for {}",
        args.reference,
        text::escape_text(&report.version),
        report.commit.short(),
        text::size(report.bytes),
        text::count(report.blobs, "blob", "blobs")
    ));
    if let Some(newest) = &report.leads_on_to {
        let version = text::escape_text(&report.version);
        context.ui().warning(format_args!(
            "{} {} has to be reached by way of {version} first, and this bundle leads there; `atomos bundle create {} {} --from {version} -o FILE` makes the one that leads on",
            args.reference,
            text::escape_text(newest),
            crate::report::shown(&args.site),
            args.reference
        ));
    }
    Ok(Outcome::Done)
}

/// How to make a bundle that this machine can take.
const OTHER_BUNDLE: &str = "`atomos bundle create SITE REF --from VERSION -o FILE`, where the site is, makes one for those with VERSION (`atomos log REMOTE:REF` says which one is here), without --from for those that have none";

fn apply(context: &Context, args: &ApplyArgs) -> RunResult {
    let repo = context.open_repo()?;
    let bundle = BundleTransport::open(&args.file).map_err(|error| {
        CliError::from(PullError::from(error))
            .with_hint("`atomos bundle create SITE REF -o FILE` makes a bundle, where the site is")
    })?;
    let wanted: Vec<Wanted> = bundle
        .paths()
        .filter_map(|path| path.strip_prefix("refs/")?.parse().ok())
        .map(|reference| Wanted {
            reference,
            selector: Selector::Newest,
        })
        .collect();
    let mut options = context.session_options();
    options.accept_expired = args.accept_expired;
    options.allow_downgrade = args.allow_downgrade;
    let mirrors: Vec<Box<dyn Transport>> = vec![Box::new(bundle)];
    let mut session = Session::open_with(
        &repo,
        &args.remote,
        mirrors,
        &options,
        context.progress(),
        context.cancel(),
    )?;
    let pulled = session.pull(&wanted, &PullOptions::default());
    let report = pulled.map_err(|error| match error {
        // What is not in the bundle is not anywhere.
        error @ PullError::BadObject { .. } => CliError::from(error).with_hint(format!(
            "the bundle is damaged, or was made for machines with another version than this one has: {OTHER_BUNDLE}"
        )),
        error @ (PullError::Gone { .. } | PullError::Transport(_)) if error.kind() == ErrorKind::NotFound => {
            CliError::from(error).with_hint(format!(
                "the bundle was made for machines with another version than this one has, and bundles are for certain versions: {OTHER_BUNDLE}"
            ))
        }
        error => error.into(),
    })?;
    if context.json() {
        context.ui().result(|out| json::write(out, &report))?;
    }
    super::pull::narrate(context, &report, false);
    Ok(Outcome::Done)
}
