//! `atomos kargs`

use clap::{ArgMatches, Args, FromArgMatches};
use libatomos::sysroot::KargsChange;
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::reboot::RebootFlag;

/// Show or change kernel arguments
///
/// Without a change, prints the arguments of what the next boot takes: what is staged, or else the default deployment. With one,
/// writes the default's boot entry again under a new number, or keeps the change for what is staged; it takes effect at the next
/// boot. With --deployment, that one becomes the default, and what is staged is given up. Changes are applied in the order in which they are given.
/// Quotes are kept: --append 'dyndbg="file drivers/usb/* +p"'.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos kargs
  atomos kargs --append quiet --delete console=tty0
  atomos kargs --replace console=ttyS0=ttyS1     the value ttyS0 by ttyS1
  atomos kargs --replace loglevel=7              whatever its value was")]
pub struct KargsArgs {
    #[command(flatten)]
    changes: Changes,

    /// Whose: a position, booted, staged, a version, or the start of a digest [default: what the next boot takes]
    #[arg(long, value_name = "ID")]
    deployment: Option<String>,

    /// Exit with 77 when nothing changes
    #[arg(long = "unchanged-exit-77")]
    unchanged_exit_77: bool,

    #[command(flatten)]
    reboot: RebootFlag,
}

/// The changes, in the order in which they stand on the command line.
#[derive(Debug)]
struct Changes(Vec<KargsChange>);

#[derive(Debug, Args)]
struct ChangeFlags {
    /// Add an argument at the end
    #[arg(long, value_name = "K[=V]")]
    append: Vec<String>,

    /// Add an argument unless it is there
    #[arg(long, value_name = "K[=V]")]
    append_if_missing: Vec<String>,

    /// Remove an argument
    #[arg(long, value_name = "K[=V]")]
    delete: Vec<String>,

    /// Replace an argument's value
    #[arg(long, value_name = "K=V=NEW|K=NEW")]
    replace: Vec<String>,
}

impl FromArgMatches for Changes {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut changes = Vec::new();
        let mut take = |id: &str, make: fn(String) -> KargsChange| {
            let values = matches.get_many::<String>(id).into_iter().flatten().cloned();
            let places = matches.indices_of(id).into_iter().flatten();
            changes.extend(places.zip(values.map(make)));
        };
        take("append", KargsChange::Append);
        take("append_if_missing", KargsChange::AppendIfMissing);
        take("delete", KargsChange::Delete);
        take("replace", KargsChange::Replace);
        changes.sort_by_key(|(place, _)| *place);
        Ok(Self(changes.into_iter().map(|(_, change)| change).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Changes {
    fn augment_args(command: clap::Command) -> clap::Command {
        ChangeFlags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        ChangeFlags::augment_args_for_update(command)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report<'a> {
    deployment: String,
    kargs: Vec<&'a str>,
    staged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded: Option<String>,
    changed: bool,
}

/// Runs the verb.
pub fn run(context: &Context, args: &KargsArgs) -> RunResult {
    let changes = &args.changes.0;
    let sysroot = if changes.is_empty() {
        context.open_sysroot()?
    } else {
        context.open_sysroot_to_write()?
    };
    args.reboot.check(&sysroot)?;
    let report = if changes.is_empty() {
        sysroot.kargs(args.deployment.as_deref())?
    } else {
        sysroot.edit_kargs(args.deployment.as_deref(), changes, context.progress())?
    };
    let (id, changed) = (&report.deployment, report.changed);
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            let model = Report {
                deployment: id.to_string(),
                kargs: report.kargs.iter().collect(),
                staged: report.staged,
                discarded: report.discarded.as_ref().map(ToString::to_string),
                changed,
            };
            return json::write(out, &model);
        }
        writeln!(out, "{}", text::escape_text(&report.kargs.to_string()))
    })?;
    if let Some(discarded) = &report.discarded {
        ui.status(format_args!("Gave up {}, which was staged", discarded.short()));
    }
    if changed {
        let when = if report.staged { ", which is staged," } else { "" };
        ui.status(format_args!(
            "The next boot takes {}{when} with these arguments",
            id.short()
        ));
    }
    args.reboot.act(context, changed)?;
    let unchanged = !changed && !changes.is_empty() && args.unchanged_exit_77;
    Ok(if unchanged {
        Outcome::NothingToDo
    } else {
        Outcome::Done
    })
}
