//! `atomos etc diff`, `conflicts`, `resolve`, `reset`

use clap::{Args, Subcommand};
use libatomos::etc_merge::{EtcPath, Resolution};
use libatomos::sysroot::{DeploymentId, EtcReset, Sysroot};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{etc, json, text};
use crate::report::CliError;

/// Look after /etc
#[derive(Debug, Args)]
pub struct EtcArgs {
    #[command(subcommand)]
    verb: EtcVerb,
}

#[derive(Debug, Subcommand)]
enum EtcVerb {
    Diff(DiffArgs),
    Conflicts(ConflictsArgs),
    Resolve(ResolveArgs),
    Reset(ResetArgs),
}

#[derive(Debug, Args)]
struct Whose {
    /// Whose /etc: a position, a version, or the start of a digest [default: the running deployment, or the default]
    #[arg(long, value_name = "ID")]
    deployment: Option<String>,
}

/// Show what was changed in /etc
///
/// Compares /etc with the defaults in /usr/etc: A was added, M was modified, D was deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos etc diff")]
struct DiffArgs {
    #[command(flatten)]
    whose: Whose,
}

/// Show what the merge of /etc could not decide
///
/// At each of these paths both the machine and the new version had changed the same thing. What was here was kept, and
/// nothing was written beside it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos etc conflicts
  atomos etc conflicts --deployment 0     those of an update that was not booted yet")]
struct ConflictsArgs {
    #[command(flatten)]
    whose: Whose,
}

/// End a conflict
///
/// --mine keeps what is here, --theirs takes the new default, --edit says that you have put right the file yourself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos etc resolve ssh/sshd_config --theirs
  atomos etc resolve /etc/hosts --mine")]
struct ResolveArgs {
    /// The path, from / or from /etc
    path: String,

    /// Keep what is here
    #[arg(long, group = "how")]
    mine: bool,

    /// Take the new default
    #[arg(long, group = "how")]
    theirs: bool,

    /// It has been edited by hand
    #[arg(long, group = "how")]
    edit: bool,

    #[command(flatten)]
    whose: Whose,
}

/// Put the default back in place of what is in /etc
///
/// What has no default is removed. A directory in which something was made or changed here is refused: --recursive gives that up as well, and
/// prints its paths.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos etc reset ssh/sshd_config
  atomos etc reset /etc/ssh --recursive --dry-run     what was made or changed here, and would be lost")]
struct ResetArgs {
    /// The path, from / or from /etc
    path: String,

    /// With all that was made or changed here in the directory, the keys of this machine among it
    #[arg(long)]
    recursive: bool,

    /// Only print what would be lost in the directory
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    whose: Whose,
}

/// Runs the verb.
pub fn run(context: &Context, args: &EtcArgs) -> RunResult {
    match &args.verb {
        EtcVerb::Diff(args) => diff(context, args),
        EtcVerb::Conflicts(args) => conflicts(context, args),
        EtcVerb::Resolve(args) => resolve(context, args),
        EtcVerb::Reset(args) => reset(context, args),
    }
}

fn select(sysroot: &Sysroot, whose: &Whose) -> Result<DeploymentId, CliError> {
    Ok(sysroot.select_deployment(whose.deployment.as_deref())?)
}

/// Takes a path as a person types it, or as these commands print it: names with a literal `\x2d` are everywhere in systemd's directories, so what
/// there is by the very name is meant.
fn parse(sysroot: &Sysroot, id: &DeploymentId, path: &str) -> Result<EtcPath, CliError> {
    let below = path.strip_prefix("/etc");
    let inner = below
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .unwrap_or(path);
    let inner = inner.trim_matches('/');
    let literal = EtcPath::from_bytes(inner.as_bytes()).map_err(|error| CliError::usage(error.to_string()));
    let Ok(printed) = inner.parse::<EtcPath>() else {
        return literal;
    };
    match literal {
        Ok(literal) if literal != printed && sysroot.has_in_etc(id, &literal)? => Ok(literal),
        _ => Ok(printed),
    }
}

fn diff(context: &Context, args: &DiffArgs) -> RunResult {
    let sysroot = context.open_sysroot()?;
    let diff = sysroot.etc_diff(&select(&sysroot, &args.whose)?, context.cancel())?;
    context.ui().result(|out| match context.json() {
        true => json::write(out, &diff),
        false => etc::write_diff(out, &diff),
    })?;
    Ok(Outcome::Done)
}

fn conflicts(context: &Context, args: &ConflictsArgs) -> RunResult {
    let sysroot = context.open_sysroot()?;
    let status = sysroot.etc_conflicts(&select(&sysroot, &args.whose)?)?;
    context.ui().result(|out| match context.json() {
        true => json::write(out, &status),
        false => etc::write_conflicts(out, &status.conflicts),
    })?;
    if status.conflicts.is_empty() {
        context.ui().status(format_args!(
            "No conflicts in /etc of {}",
            status.deployment.short()
        ));
    } else if !context.json() {
        context
            .ui()
            .status("`atomos etc resolve PATH --mine|--theirs|--edit` ends one");
    }
    Ok(Outcome::Done)
}

fn resolve(context: &Context, args: &ResolveArgs) -> RunResult {
    let resolution = match (args.mine, args.theirs, args.edit) {
        (true, ..) => Resolution::Mine,
        (_, true, _) => Resolution::Theirs,
        (_, _, true) => Resolution::Edited,
        _ => {
            return Err(CliError::usage("it is not said how the conflict ends")
                .with_hint("add --mine, --theirs or --edit"));
        }
    };
    let sysroot = context.open_sysroot_to_write()?;
    let id = select(&sysroot, &args.whose)?;
    let path = parse(&sysroot, &id, &args.path)?;
    let left = sysroot.etc_resolve(&id, &path, resolution, context.cancel())?;
    context.ui().status(format_args!(
        "Resolved /etc/{}; {} left",
        etc::shown_path(&path),
        text::count(left, "conflict is", "conflicts are")
    ));
    Ok(Outcome::Done)
}

fn reset(context: &Context, args: &ResetArgs) -> RunResult {
    if args.dry_run {
        let sysroot = context.open_sysroot()?;
        let id = select(&sysroot, &args.whose)?;
        let path = parse(&sysroot, &id, &args.path)?;
        let reset = sysroot.plan_etc_reset(&id, &path, context.cancel())?;
        write_reset(context, &reset)?;
        let shown = etc::shown_path(&path);
        context.ui().status(match reset.has_default {
            true => format!("Would put the default back at /etc/{shown}"),
            false => format!("Would remove /etc/{shown}, which has no default"),
        });
        return Ok(Outcome::Done);
    }
    let sysroot = context.open_sysroot_to_write()?;
    let id = select(&sysroot, &args.whose)?;
    let path = parse(&sysroot, &id, &args.path)?;
    if !args.recursive {
        let has_default = sysroot.etc_reset(&id, &path, context.cancel())?;
        say_reset(context, &path, has_default);
        return Ok(Outcome::Done);
    }
    let reset = sysroot.etc_reset_all(&id, &path, context.cancel())?;
    write_reset(context, &reset)?;
    say_reset(context, &path, reset.has_default);
    Ok(Outcome::Done)
}

/// Prints what is lost, or would be.
fn write_reset(context: &Context, reset: &EtcReset) -> Result<(), CliError> {
    context.ui().result(|out| match context.json() {
        true => json::write(out, reset),
        false => etc::write_paths(out, &reset.lost),
    })
}

fn say_reset(context: &Context, path: &EtcPath, has_default: bool) {
    context.ui().status(match has_default {
        true => format!("/etc/{} is the default again", etc::shown_path(path)),
        false => format!("Removed /etc/{}, which has no default", etc::shown_path(path)),
    });
}
