//! `atomos import`

use std::path::PathBuf;

use clap::Args;
use libatomos::fs::Dir;
use libatomos::import::{ImportOptions, ImportRef, import_ostree};
use libatomos::names::RefName;
use libatomos::ostree::OstreeRepo;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, text};
use crate::report::CliError;

/// Import refs of an OSTree repository, with their history
///
/// Reads repositories of the modes archive, bare, bare-user and bare-user-only. Each commit keeps its subject, body, version, time and parent,
/// and says in its metadata (ostree.commit) which one it was. Every object is checked against its SHA-256. Run again, it
/// takes only what is new. Prints each ref and its commit.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos import --ostree /ostree/repo debian:debian/13/amd64     from a machine that runs OSTree
  atomos import --ostree ./repo os/stable --depth 1              without history
  atomos import --ostree ./repo os/stable --as debian/13         under another name")]
pub struct ImportArgs {
    /// The OSTree repository
    #[arg(long, value_name = "REPO")]
    ostree: PathBuf,

    /// Refs there, NAME or REMOTE:NAME; here they are called NAME
    #[arg(value_name = "REF", required = true)]
    refs: Vec<String>,

    /// What the ref is called here, if it is one
    #[arg(long = "as", value_name = "REF")]
    name: Option<RefName>,

    /// How many commits to take of each ref [default: all that are there]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    depth: Option<u32>,
}

/// Runs the verb.
pub fn run(context: &Context, args: &ImportArgs) -> RunResult {
    if args.name.is_some() && args.refs.len() != 1 {
        return Err(CliError::usage("--as names one ref, and there are several"));
    }
    let repo = context.open_repo()?;
    let source = OstreeRepo::open(Dir::open_ambient(&args.ostree)?)?;
    let mut refs = Vec::new();
    for name in &args.refs {
        let target = match &args.name {
            Some(target) => target.clone(),
            None => name.rsplit(':').next().unwrap_or(name).parse::<RefName>()?,
        };
        refs.push(ImportRef {
            source: name.clone(),
            target,
        });
    }
    let mut options = ImportOptions::default();
    options.depth = args.depth.map(|depth| depth as usize);
    let report = import_ostree(
        &repo,
        &source,
        &refs,
        &options,
        context.progress(),
        context.cancel(),
    )?;
    for imported in &report.refs {
        let more = if imported.truncated {
            "; history before them is left out"
        } else {
            ""
        };
        context.ui().status(format_args!(
            "Imported {}: {}{more}",
            imported.reference,
            text::count(imported.imported as u64, "new commit", "new commits"),
        ));
    }
    context.ui().result(|out| {
        if context.json() {
            return json::write(out, &report);
        }
        for imported in &report.refs {
            writeln!(out, "{} {}", imported.commit, imported.reference)?;
        }
        Ok(())
    })?;
    Ok(Outcome::Done)
}
