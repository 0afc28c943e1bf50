//! `atomos refs`

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::repo::RefUpdate;
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::json;
use crate::report::CliError;

/// List, make and remove refs
///
/// Without an option, lists the refs, each after the digest of the commit that it names. With NAME, lists only that ref
/// and those beneath it.
///
/// Several --create and --delete are done together, all or none. Removing a ref removes no objects: `atomos prune` does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos refs
  atomos refs --create stable=debian/13
  atomos refs --delete debian/12")]
pub struct RefsArgs {
    /// Make a ref that names the commit REV
    #[arg(long, value_name = "NAME=REV", value_parser = parse_create)]
    create: Vec<(RefName, String)>,

    /// Remove a ref
    #[arg(long, value_name = "NAME")]
    delete: Vec<RefName>,

    /// Let --create move a ref that exists, and --delete pass over one that does not
    #[arg(long)]
    force: bool,

    /// List this ref and those beneath it
    #[arg(conflicts_with_all = ["create", "delete"])]
    name: Option<RefName>,
}

#[derive(Serialize)]
struct RefModel<'a> {
    name: &'a RefName,
    commit: CommitId,
}

fn parse_create(text: &str) -> Result<(RefName, String), String> {
    let (name, rev) = text
        .split_once('=')
        .ok_or("a name, an equals sign and a revision are needed, as stable=debian/13")?;
    Ok((
        name.parse()
            .map_err(|error: libatomos::names::InvalidName| error.to_string())?,
        rev.to_owned(),
    ))
}

/// Runs the verb.
pub fn run(context: &Context, args: &RefsArgs) -> RunResult {
    if args.create.is_empty() && args.delete.is_empty() {
        list(context, args)?;
    } else {
        change(context, args)?;
    }
    Ok(Outcome::Done)
}

fn list(context: &Context, args: &RefsArgs) -> Result<(), CliError> {
    let refs = context.open_repo()?.refs()?;
    let wanted = |name: &RefName| {
        args.name.as_ref().is_none_or(|wanted| {
            name.as_str()
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let models: Vec<_> = refs
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, commit)| RefModel {
            name,
            commit: *commit,
        })
        .collect();
    context.ui().result(|out| {
        if context.json() {
            return json::write(out, &models);
        }
        models
            .iter()
            .try_for_each(|model| writeln!(out, "{} {}", model.commit, model.name))
    })
}

fn change(context: &Context, args: &RefsArgs) -> Result<(), CliError> {
    let repo = context.open_repo()?;
    // Pruning between the look at a commit and the new name for it would leave the name dangling.
    let _shared = repo.lock_shared()?;
    let current = repo.refs()?;
    let mut updates = Vec::new();
    for name in &args.delete {
        let found = current.get(name).copied();
        if found.is_none() && !args.force {
            return Err(libatomos::repo::RepoError::RefNotFound {
                name: name.clone(),
                repo: repo.dir().path().to_owned(),
            }
            .into());
        }
        updates.push(RefUpdate {
            name: name.clone(),
            expected: Some(found),
            new: None,
        });
    }
    for (name, rev) in &args.create {
        updates.push(RefUpdate {
            name: name.clone(),
            expected: if args.force { None } else { Some(None) },
            new: Some(repo.resolve_commit(rev)?),
        });
    }
    repo.update_refs(&updates)?;
    for update in &updates {
        match &update.new {
            Some(commit) => context
                .ui()
                .status(format_args!("Ref {} names {}", update.name, commit.short())),
            None => context
                .ui()
                .status(format_args!("Removed the ref {}", update.name)),
        }
    }
    Ok(())
}
