//! `atomos kargs`

use clap::{ArgMatches, Args, FromArgMatches};
use libatomos::sysroot::KargsChange;
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};

/// Show or change kernel arguments
///
/// Without a change, prints the arguments of the default deployment. With one, writes that deployment's boot entry again
/// under a new number; it takes effect at the next boot. Changes are applied in the order in which they are given.
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

    /// Whose: a position, booted, a version, or the start of a digest [default: the default deployment]
    #[arg(long, value_name = "ID")]
    deployment: Option<String>,

    /// Exit with 77 when nothing changes
    #[arg(long = "unchanged-exit-77")]
    unchanged_exit_77: bool,
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
    let (id, kargs, changed) = if changes.is_empty() {
        let id = sysroot.select_deployment(Some(args.deployment.as_deref().unwrap_or("default")))?;
        let kargs = sysroot.kargs(&id)?;
        (id, kargs, false)
    } else {
        sysroot.edit_kargs(args.deployment.as_deref(), changes, context.progress())?
    };
    context.ui().result(|out| {
        if context.json() {
            let report = Report {
                deployment: id.to_string(),
                kargs: kargs.iter().collect(),
                changed,
            };
            return json::write(out, &report);
        }
        writeln!(out, "{}", text::escape_text(&kargs.to_string()))
    })?;
    if changed {
        context.ui().status(format_args!(
            "The next boot takes {} with these arguments",
            id.short()
        ));
    }
    let unchanged = !changed && !changes.is_empty() && args.unchanged_exit_77;
    Ok(if unchanged {
        Outcome::NothingToDo
    } else {
        Outcome::Done
    })
}
