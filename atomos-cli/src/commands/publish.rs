//! `atomos publish`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use libatomos::digest::CommitId;
use libatomos::error::ErrorKind;
use libatomos::names::RefName;
use libatomos::publish::{Profile, PublishOptions, PublishReport, RefOutcome, WithdrawnCommit, publish};
use libatomos::repo::{Repo, RepoError};

use super::RunResult;
use super::key::read_public;
use super::key_set;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::quantity::now;
use crate::report::{CliError, shown};
use crate::signing::{SigningArgs, borrowed};

/// For how many seconds before a key set's end it is spoken of: 30 days.
const KEY_SET_WARNING: i64 = 30 * 24 * 3600;

/// How much work to spend on fewer bytes.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ProfileArg {
    /// Seconds
    #[default]
    Fast,
    /// Minutes, for fewer bytes on every machine
    Thorough,
}

/// Write a site that any web server can serve
///
/// Publishes the refs of the repository into DIR, as static files. Only what DIR lacks is compressed; publishing again what is
/// there changes nothing. Each ref gets a signed record, which is replaced last: a machine that pulls meanwhile sees the
/// old version or the new.
///
/// A record is believed for --expires days. Publish again before that (or with --renew): a record in the last third of its life is
/// signed anew.
///
/// What `atomos site withdraw` has taken back from a ref is not published again as that ref: where the ref still names it, a warning says so,
/// the release before stays, and its record is signed anew when it is due. All other refs are published, and the exit code is 0.
///
/// To upload: everything else first, refs/ last. docs/serving.md has the commands.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos publish --key release-key --to /srv/www/os
  atomos publish --ref debian/13 --key release-key --profile thorough --to /srv/www/os
  atomos publish --sign-command 'my-token sign' --public token.pub --to /srv/www/os")]
pub struct PublishArgs {
    /// The site's directory; it is made if there is none
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// A ref to publish; all where none is named
    #[arg(long = "ref", value_name = "REF")]
    refs: Vec<RefName>,

    #[command(flatten)]
    signing: SigningArgs,

    /// Go over to this key set (`atomos key set create`) and sign every ref by its keys
    #[arg(long, value_name = "FILE")]
    key_set: Option<PathBuf>,

    /// A public key that machines were given, by which the first key set is judged, and records of before it; can be repeated
    #[arg(long, value_name = "FILE")]
    pinned: Vec<PathBuf>,

    /// How much work to spend on fewer bytes
    #[arg(long, value_enum, default_value_t)]
    profile: ProfileArg,

    /// Make patches from this version, too: a revision, or a version in the refs' history; can be repeated
    #[arg(long, value_name = "VERSION")]
    patch_from: Vec<String>,

    /// Make no patches
    #[arg(long, conflicts_with = "patch_from")]
    no_patches: bool,

    /// Make no image of the whole tree, which new machines get by
    #[arg(long)]
    no_image: bool,

    /// The version is for machines of this name only, such as a board or an architecture; for those of the last one where none is named
    #[arg(long, value_name = "NAME")]
    compatible: Vec<String>,

    /// The version is for all machines, whatever the last one was for
    #[arg(long, conflicts_with = "compatible")]
    for_all: bool,

    /// Machines must have had this release, by number, before they take this one
    #[arg(long, value_name = "NUMBER")]
    min_from: Option<u64>,

    /// For how many days the record is to be believed
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires: u32,

    /// Sign new records although nothing else is new
    #[arg(long)]
    renew: bool,

    /// Begin a ref anew whose record is gone, at release 1: machines that know it refuse it from then on
    #[arg(long)]
    anew: bool,
}

/// Returns the commit that `text` names: a revision, or a version in the history of the refs that are published.
fn patch_base(repo: &Repo, refs: &[RefName], text: &str) -> Result<CommitId, CliError> {
    let not_found = match repo.resolve_commit(text) {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        result => return Ok(result?),
    };
    for (name, newest) in repo.refs()? {
        if !refs.is_empty() && !refs.contains(&name) {
            continue;
        }
        let mut next = Some(newest);
        while let Some(id) = next {
            // History may have been cut.
            let commit = match repo.load_commit(&id) {
                Err(RepoError::ObjectMissing { .. }) => break,
                result => result?,
            };
            if commit.version == text {
                return Ok(id);
            }
            next = commit.parent;
        }
    }
    Err(not_found.into())
}

fn reason(withdrawn: &WithdrawnCommit) -> String {
    match withdrawn.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({})", text::escape_text(reason)),
    }
}

/// Says that a ref was left as it is, and how it goes on.
fn warn_of_withdrawn(context: &Context, withdrawn: &WithdrawnCommit, report: &PublishReport) {
    let name = &withdrawn.reference;
    let mut published = report.refs.iter();
    let Some(kept) = published.find(|published| published.reference == *name) else {
        return;
    };
    context.ui().warning(format_args!(
        "commit {} of {name} was withdrawn{} and is not published; commit a newer version, or `atomos reset {name} {}` goes back to what the site has",
        withdrawn.commit.short(),
        reason(withdrawn),
        kept.commit.short()
    ));
}

/// Runs the verb.
pub fn run(context: &Context, args: &PublishArgs) -> RunResult {
    let repo = context.open_repo()?;
    let signers = args.signing.signers()?;
    let mut options = PublishOptions::default();
    options.refs.clone_from(&args.refs);
    options.signers = borrowed(&signers);
    options.key_set = match &args.key_set {
        Some(file) => Some(key_set::read(file)?.encode()),
        None => None,
    };
    options.pinned = args
        .pinned
        .iter()
        .map(|file| read_public(file))
        .collect::<Result<_, _>>()?;
    options.profile = match args.profile {
        ProfileArg::Fast => Profile::Fast,
        ProfileArg::Thorough => Profile::Thorough,
    };
    options.no_image = args.no_image;
    options.no_patches = args.no_patches;
    options.patch_from = args
        .patch_from
        .iter()
        .map(|text| patch_base(&repo, &args.refs, text))
        .collect::<Result<_, _>>()?;
    options.compatible.clone_from(&args.compatible);
    options.for_all = args.for_all;
    options.min_from = args.min_from;
    options.lifetime = Some(i64::from(args.expires) * 24 * 3600);
    options.renew = args.renew;
    options.anew = args.anew;
    let report =
        publish(&repo, &args.to, &options, context.progress(), context.cancel()).map_err(CliError::from)?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    }
    for published in &report.refs {
        let what = match published.outcome {
            RefOutcome::Released => "Published",
            RefOutcome::Renewed => "Renewed",
            _ => "Unchanged:",
        };
        let version = if published.version.is_empty() {
            String::new()
        } else {
            format!(" {}", text::escape_text(&published.version))
        };
        // What was said long ago is not to be a surprise.
        let machines = if published.compatible.is_empty() {
            String::new()
        } else {
            let names: Vec<_> = published
                .compatible
                .iter()
                .map(|name| text::escape_text(name))
                .collect();
            format!(", for machines called {} (--for-all ends that)", names.join(", "))
        };
        ui.status(format_args!(
            "{what} {}{version} ({}), release {}{machines}",
            published.reference,
            published.commit.short(),
            published.number
        ));
    }
    for withdrawn in &report.withdrawn {
        warn_of_withdrawn(context, withdrawn, &report);
    }
    for one in &report.withdrawn_elsewhere {
        ui.warning(format_args!(
            "{} is published with {}, which was withdrawn from {} of this site{}; `atomos site withdraw {} {}@{} --reason TEXT --key FILE` takes it back here, too",
            one.reference,
            one.commit.short(),
            one.withdrawn_from,
            reason(one),
            shown(&args.to),
            one.reference,
            one.commit.short()
        ));
    }
    for lost in &report.lost {
        let again = report.refs.iter().any(|published| {
            published.reference == lost.reference && published.outcome == RefOutcome::Released
        });
        ui.warning(format_args!(
            "the site had lost {} that {} needs, such as {}; {}",
            text::count(lost.files.len() as u64, "file", "files"),
            lost.reference,
            lost.files[0],
            if again {
                "the new release does not need them"
            } else {
                "machines that need them cannot pull it until a new release of it is published: without --renew, from a repository that has it"
            }
        ));
    }
    if !report.lost_key_sets.is_empty() {
        ui.warning(format_args!(
            "the site had lost {}: machines that know an older key set cannot follow to the newest; copy back from a server or a mirror: {}",
            text::count(report.lost_key_sets.len() as u64, "key set", "key sets"),
            report.lost_key_sets.join(", ")
        ));
    }
    for name in &report.not_here {
        ui.warning(format_args!(
            "the site has {name}, and it is not among the refs of the repository: its record is not signed anew, and machines refuse it when it expires; `--ref {name}` publishes an alias, and `atomos site remove-ref` takes a ref off the site"
        ));
    }
    for name in &report.old_key_set {
        ui.warning(format_args!(
            "the record of {name} is signed by keys of before key set {}, and machines that know the set refuse it; publish it, too",
            report.key_set
        ));
    }
    let soon = now().saturating_add(KEY_SET_WARNING);
    if let Some(expires) = report.key_set_expires.filter(|expires| *expires <= soon) {
        ui.warning(format_args!(
            "key set {} is good until {}, and no record is believed for longer; go over to the next one before that: `atomos key set create`",
            report.key_set,
            text::time(expires)
        ));
    }
    if args.key_set.is_some() {
        ui.status(format_args!("Key set {} counts now", report.key_set));
    }
    if report.manifest_bytes > 0 {
        ui.status(format_args!(
            "New: {} in packs ({}), {} in patches, {} in images, {} in manifests",
            text::size(report.pack_bytes),
            text::count(report.new_blobs, "blob", "blobs"),
            text::size(report.patch_bytes),
            text::size(report.image_bytes),
            text::size(report.manifest_bytes)
        ));
    }
    Ok(Outcome::Done)
}
