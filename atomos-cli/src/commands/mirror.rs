//! `atomos mirror`

use std::path::PathBuf;

use clap::Args;
use libatomos::names::RefName;
use libatomos::pull::{MirrorOptions, Session};
use libatomos::remote::RemoteName;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Copy a remote's site, verified
///
/// Fetches the newest release of the refs, with everything that it needs, into DIR, which any web server can then serve: another mirror, or
/// a USB stick. Every file is verified, and the records come last. What DIR has already is not fetched again; it is read again only with --verify, and
/// after a run that did not end. A record in DIR is never replaced by an older one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos mirror origin debian/13 --to /media/usb/site
  atomos mirror origin debian/13 --to /srv/www/os --verify")]
pub struct MirrorArgs {
    /// The remote
    remote: RemoteName,

    /// The refs, as the remote calls them
    #[arg(value_name = "REF", required = true)]
    refs: Vec<RefName>,

    /// Where the copy is to be
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// Read what DIR has already, too, and fetch again what is damaged
    #[arg(long)]
    verify: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &MirrorArgs) -> RunResult {
    let repo = context.open_repo()?;
    let mut session = Session::open(
        &repo,
        &args.remote,
        &context.session_options(),
        context.progress(),
        context.cancel(),
    )?;
    let mut options = MirrorOptions::default();
    options.verify = args.verify;
    let report = session.mirror(&args.refs, &args.to, &options)?;
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
