//! `atomos checkout`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use libatomos::checkout::{CheckoutOptions, LinkMode, Ownership, checkout};
use libatomos::error::ErrorKind;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::CliError;

/// Write a tree to a directory
///
/// Makes DEST, which must not exist, with the tree of REV: owners, modes, times and extended attributes as they were
/// committed. DEST appears when it is complete.
///
/// From a bare repository the files are hardlinks to the store's: that is fast and takes no space, and writing to such a
/// file damages the repository. Ask for --link copy to get files of your own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos checkout debian/13 /srv/root
  atomos checkout --user --subpath /usr/share/doc debian/13 ./doc")]
pub struct CheckoutArgs {
    /// The part of the tree that is wanted
    #[arg(long, value_name = "P")]
    subpath: Option<OsString>,

    /// How files come to their place
    #[arg(long, value_name = "HOW", default_value = "auto")]
    link: Link,

    /// Make everything the caller's: no owners, setuid bits, extended attributes or devices
    #[arg(long)]
    user: bool,

    /// A ref, a digest, or the beginning of one
    rev: String,

    /// The directory to make
    dest: PathBuf,
}

/// How files come to their place.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Link {
    /// Hardlinks from a bare repository, else reflinks, else copies
    Auto,
    /// Hardlinks, or an error
    Hardlink,
    /// Share blocks, or an error
    Reflink,
    /// Copies
    Copy,
}

impl From<Link> for LinkMode {
    fn from(link: Link) -> Self {
        match link {
            Link::Auto => Self::Auto,
            Link::Hardlink => Self::Hardlink,
            Link::Reflink => Self::Reflink,
            Link::Copy => Self::Copy,
        }
    }
}

/// Runs the verb.
pub fn run(context: &Context, args: &CheckoutArgs) -> RunResult {
    let repo = context.open_repo()?;
    let mut options = CheckoutOptions::default();
    options.link = args.link.into();
    options.ownership = if args.user {
        Ownership::User
    } else {
        Ownership::Exact
    };
    if let Some(path) = &args.subpath {
        options.subpath = path.as_bytes().to_vec();
    }
    let report = checkout(
        &repo,
        &args.rev,
        &args.dest,
        &options,
        context.progress(),
        context.cancel(),
    )
    .map_err(|error| {
        let error = CliError::from(error);
        let owners = options.ownership == Ownership::Exact && !rustix::process::geteuid().is_root();
        if owners && error.kind() == Some(ErrorKind::Denied) {
            error.with_hint("only root can give files away: --user makes everything yours")
        } else {
            error
        }
    })?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    }
    let mut parts = Vec::new();
    for (number, how) in [
        (report.hardlinked, "hardlinked"),
        (report.reflinked, "reflinked"),
        (report.copied, "copied"),
    ] {
        if number > 0 {
            parts.push(format!("{} {how}", text::grouped(number)));
        }
    }
    let files = report.hardlinked + report.reflinked + report.copied;
    let how = if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    };
    ui.status(format_args!(
        "Checked out {} to {}: {}{how}, {}",
        args.rev,
        text::escape_path(&args.dest),
        text::count(files, "file", "files"),
        text::count(report.directories, "directory", "directories"),
    ));
    if report.skipped > 0 {
        ui.warning(format_args!(
            "left out {}: only root can make them",
            text::count(report.skipped, "device", "devices")
        ));
    }
    if report.hardlinked > 0 {
        ui.status(
            "The files are the repository's own: do not write to them. --link copy makes files of your own.",
        );
    }
    Ok(Outcome::Done)
}
