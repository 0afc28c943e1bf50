//! `atomos checkout`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use libatomos::checkout::{
    CheckoutError, CheckoutOptions, CheckoutReport, InPlaceReport, LinkMode, Ownership, Union, UpdateOptions,
    checkout, union, update,
};
use libatomos::composefs;
use libatomos::error::ErrorKind;
use libatomos::repo::Repo;

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
/// With --update DEST is an earlier checkout, and gets what differs. With --union the tree is laid over whatever is in DEST.
/// Both look first: where something is in the way, or was changed by somebody, they name it and change nothing. Then each name
/// changes in one step, and DEST as a whole in many; an update that is interrupted is taken up by the same command.
///
/// With --composefs DEST becomes one file, an image of the names and metadata, for `atomos mount --image`.
///
/// From a bare repository the files are hardlinks to the store's: that is fast and takes no space, and writing to such a
/// file damages the repository. Ask for --link copy to get files of your own.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos checkout debian/13 /srv/root
  atomos checkout --user --subpath /usr/share/doc debian/13 ./doc
  atomos checkout --update debian/13 /srv/root       bring it to the newest
  atomos checkout --update=debian/13^ debian/13 /srv/root       it is a checkout of the one before
  atomos checkout --union replace overlay/site /srv/root
  atomos checkout --composefs debian/13 debian.img")]
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

    /// Apply only what differs between REV and what DEST is a checkout of; say what that is where it is not recorded
    #[arg(
        long,
        value_name = "FROM",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with = "union"
    )]
    update: Option<String>,

    /// Look at everything in DEST and read every file before it is updated, not only what has to change
    #[arg(long, requires = "update")]
    verify: bool,

    /// Check out into DEST, which may exist, and merge directories; what becomes of files that are there
    #[arg(long, value_name = "HOW")]
    union: Option<UnionArg>,

    /// Make an image of names and metadata, which is mounted over the repository
    #[arg(long, conflicts_with_all = ["update", "union", "user", "link"])]
    composefs: bool,

    /// A ref, a digest, or the beginning of one
    rev: String,

    /// The directory to make, or to update; the image, with --composefs
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

/// What becomes of files that are there.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum UnionArg {
    /// The tree's take their place
    Replace,
    /// They stay
    Add,
    /// They must be the same, or nothing is done
    Identical,
}

impl From<UnionArg> for Union {
    fn from(union: UnionArg) -> Self {
        match union {
            UnionArg::Replace => Self::Replace,
            UnionArg::Add => Self::Add,
            UnionArg::Identical => Self::Identical,
        }
    }
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
    if args.composefs {
        return image(context, &repo, args);
    }
    let mut options = CheckoutOptions::default();
    options.link = args.link.into();
    options.remember = true;
    options.ownership = if args.user {
        Ownership::User
    } else {
        Ownership::Exact
    };
    if let Some(path) = &args.subpath {
        options.subpath = path.as_bytes().to_vec();
    }
    let (verb, changes, made) = do_it(context, &repo, args, &options).map_err(|error| {
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
        match &changes {
            Some(report) => ui.result(|out| json::write(out, report))?,
            None => ui.result(|out| json::write(out, &made))?,
        }
    }
    let what = match &changes {
        None => made_text(&made),
        Some(report) if (report.added, report.changed, report.removed) == (0, 0, 0) => {
            "nothing had to change".to_owned()
        }
        Some(report) => format!(
            "{} added, {} changed, {} removed",
            text::grouped(report.added),
            text::grouped(report.changed),
            text::grouped(report.removed)
        ),
    };
    ui.status(format_args!(
        "{verb} {} to {}: {what}",
        args.rev,
        text::escape_path(&args.dest)
    ));
    if made.skipped > 0 {
        ui.warning(format_args!(
            "left out {}: only root can make them",
            text::count(made.skipped, "device", "devices")
        ));
    }
    if made.hardlinked > 0 {
        ui.status(
            "The files are the repository's own: do not write to them. --link copy makes files of your own.",
        );
    }
    Ok(Outcome::Done)
}

fn image(context: &Context, repo: &Repo, args: &CheckoutArgs) -> RunResult {
    let subpath = args.subpath.as_ref().map_or(&b""[..], |path| path.as_bytes());
    let report = composefs::image(repo, &args.rev, subpath, &args.dest, context.cancel())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    }
    ui.status(format_args!(
        "Made the image {} of {}: {}, {}",
        text::escape_path(&args.dest),
        args.rev,
        text::count(report.inodes, "inode", "inodes"),
        text::size(report.bytes)
    ));
    Ok(Outcome::Done)
}

/// Returns what was done, as a word; what changed, where there was something before; and what was made.
fn do_it(
    context: &Context,
    repo: &Repo,
    args: &CheckoutArgs,
    options: &CheckoutOptions,
) -> Result<(&'static str, Option<InPlaceReport>, CheckoutReport), CheckoutError> {
    let (rev, dest) = (&args.rev, &args.dest);
    let (progress, cancel) = (context.progress(), context.cancel());
    if let Some(from) = &args.update {
        let mut how = UpdateOptions::default();
        how.from = (!from.is_empty()).then(|| from.clone());
        how.verify = args.verify;
        let report = update(repo, rev, dest, options, &how, progress, cancel)?;
        return Ok(("Updated", Some(report.clone()), report.made));
    }
    if let Some(how) = args.union
        && dest.is_dir()
    {
        let report = union(repo, rev, dest, options, how.into(), progress, cancel)?;
        return Ok(("Merged", Some(report.clone()), report.made));
    }
    let made = checkout(repo, rev, dest, options, progress, cancel)?;
    Ok(("Checked out", None, made))
}

fn made_text(report: &CheckoutReport) -> String {
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
    let how = match parts.is_empty() {
        true => String::new(),
        false => format!(" ({})", parts.join(", ")),
    };
    format!(
        "{}{how}, {}",
        text::count(files, "file", "files"),
        text::count(report.directories, "directory", "directories")
    )
}
