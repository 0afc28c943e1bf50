//! `atomos mirror`

use std::path::PathBuf;

use clap::Args;
use libatomos::names::RefName;
use libatomos::pull::Session;
use libatomos::remote::RemoteName;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Copy a remote's site, verified
///
/// Fetches the newest release of the refs, with everything that it needs, into DIR, which any web server can then serve: another mirror, or
/// a USB stick. Every file is verified, and the records come last. What DIR has already is not fetched again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos mirror origin debian/13 --to /media/usb/site")]
pub struct MirrorArgs {
    /// The remote
    remote: RemoteName,

    /// The refs, as the remote calls them
    #[arg(value_name = "REF", required = true)]
    refs: Vec<RefName>,

    /// Where the copy is to be
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Runs the verb.
pub fn run(context: &Context, args: &MirrorArgs) -> RunResult {
    let repo = context.open_repo()?;
    let options = context.session_options();
    let mut session = Session::open(
        &repo,
        &args.remote,
        &options,
        context.progress(),
        context.cancel(),
    )?;
    let report = session.mirror(&args.refs, &args.to)?;
    if context.json() {
        context.ui().result(|out| json::write(out, &report))?;
    }
    context.ui().status(format_args!(
        "Copied {}, {}; {} were there",
        text::count(report.files, "file", "files"),
        text::size(report.bytes),
        report.present
    ));
    Ok(Outcome::Done)
}
