//! `atomos refs`

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::names::RefName;
use libatomos::repo::{Aliases, RefUpdate};
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
/// Several --create and --delete are done together, all or none; aliases are changed after that, one by one. Removing a ref removes no
/// objects: `atomos prune` does.
///
/// An alias points at a ref, and stands for it wherever a revision is read; it is listed with `-> REF`. It is never moved by a commit or a
/// reset, keeps nothing from a prune by itself, and is published only where it is named.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos refs
  atomos refs --create stable=debian/13
  atomos refs --delete debian/12
  atomos refs --alias stable=debian/13")]
pub struct RefsArgs {
    /// Make a ref that names the commit REV
    #[arg(long, value_name = "NAME=REV", value_parser = parse_create)]
    create: Vec<(RefName, String)>,

    /// Remove a ref
    #[arg(long, value_name = "NAME")]
    delete: Vec<RefName>,

    /// Make an alias that points at the ref REF
    #[arg(long, value_name = "NAME=REF", value_parser = parse_alias, conflicts_with_all = ["create", "delete"])]
    alias: Vec<(RefName, RefName)>,

    /// Let --create move a ref that exists, --alias an alias, and --delete pass over one that does not
    #[arg(long)]
    force: bool,

    /// List this ref and those beneath it
    #[arg(conflicts_with_all = ["create", "delete", "alias"])]
    name: Option<RefName>,
}

#[derive(Serialize)]
struct RefModel<'a> {
    name: &'a RefName,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<CommitId>,
    #[serde(rename = "alias-of", skip_serializing_if = "Option::is_none")]
    alias_of: Option<&'a RefName>,
}

fn parse_alias(text: &str) -> Result<(RefName, RefName), String> {
    let (name, target) = text
        .split_once('=')
        .ok_or("a name, an equals sign and a ref are needed, as stable=debian/13")?;
    let parse = |text: &str| {
        text.parse()
            .map_err(|error: libatomos::names::InvalidName| error.to_string())
    };
    Ok((parse(name)?, parse(target)?))
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
    if !args.alias.is_empty() {
        make_aliases(context, args)?;
    } else if args.create.is_empty() && args.delete.is_empty() {
        list(context, args)?;
    } else {
        change(context, args)?;
    }
    Ok(Outcome::Done)
}

fn list(context: &Context, args: &RefsArgs) -> Result<(), CliError> {
    let repo = context.open_repo()?;
    // What can be listed is, before it is said what cannot.
    let (refs, aliases) = (repo.refs()?, repo.aliases());
    let wanted = |name: &RefName| {
        args.name.as_ref().is_none_or(|wanted| {
            name.as_str()
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let mut models: Vec<_> = refs
        .iter()
        .map(|(name, commit)| RefModel {
            name,
            commit: Some(*commit),
            alias_of: None,
        })
        .collect();
    for (name, target) in aliases.iter().flatten() {
        models.push(RefModel {
            name,
            // One that leads nowhere is listed: it is what somebody looks for.
            commit: repo.ref_optional(name).ok().flatten(),
            alias_of: Some(target),
        });
    }
    models.retain(|model| wanted(model.name));
    models.sort_by_key(|model| model.name);
    context.ui().result(|out| {
        if context.json() {
            return json::write(out, &models);
        }
        models.iter().try_for_each(|model| {
            let commit = model
                .commit
                .map_or_else(|| "-".repeat(64), |commit| commit.to_string());
            match model.alias_of {
                Some(target) => writeln!(out, "{commit} {} -> {target}", model.name),
                None => writeln!(out, "{commit} {}", model.name),
            }
        })
    })?;
    aliases?;
    Ok(())
}

fn make_aliases(context: &Context, args: &RefsArgs) -> Result<(), CliError> {
    let repo = context.open_repo()?;
    for (name, target) in &args.alias {
        let before = repo.aliases()?.remove(name);
        if let Some(before) = before.filter(|_| !args.force) {
            return Err(libatomos::repo::RepoError::IsAlias {
                name: name.clone(),
                target: before,
            }
            .into());
        }
        repo.set_alias(name, Some(target))?;
        context
            .ui()
            .status(format_args!("{name} is an alias of {target}"));
    }
    Ok(())
}

/// Each name once, in the order in which they were given.
fn unique(names: &[RefName]) -> impl Iterator<Item = &RefName> {
    let is_first = |(index, name): &(usize, &RefName)| !names[..*index].contains(name);
    names.iter().enumerate().filter(is_first).map(|(_, name)| name)
}

fn change(context: &Context, args: &RefsArgs) -> Result<(), CliError> {
    let repo = context.open_repo()?;
    // Pruning between the look at a commit and the new name for it would leave the name dangling.
    let _shared = repo.lock_shared()?;
    let current = repo.refs()?;
    // What is a ref is no alias, and aliases that cannot be read do not matter to it.
    let aliases = match args.delete.iter().all(|name| current.contains_key(name)) {
        true => Aliases::new(),
        false => repo.aliases()?,
    };
    let mut updates = Vec::new();
    let (delete, old_aliases): (Vec<_>, Vec<_>) =
        unique(&args.delete).partition(|name| !aliases.contains_key(*name));
    for name in delete {
        let found = current.get(name).copied();
        if found.is_none() && !args.force {
            return Err(libatomos::repo::RepoError::RefNotFound {
                name: name.clone(),
                repo: repo.dir().path().to_owned(),
            }
            .into());
        }
        if found.is_none() {
            context.ui().status(format_args!("There is no ref {name}"));
            continue;
        }
        updates.push(RefUpdate {
            name: name.clone(),
            expected: Some(found),
            new: None,
        });
    }
    for (name, rev) in &args.create {
        if let Some(found) = current.get(name).filter(|_| !args.force) {
            return Err(libatomos::repo::RepoError::RefExists {
                name: name.clone(),
                found: *found,
            }
            .into());
        }
        updates.push(RefUpdate {
            name: name.clone(),
            expected: if args.force { None } else { Some(None) },
            new: Some(repo.resolve_commit(rev)?),
        });
    }
    if !updates.is_empty() {
        repo.update_refs(&updates)?;
    }
    for name in old_aliases {
        repo.set_alias(name, None)?;
        context.ui().status(format_args!("Removed the alias {name}"));
    }
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
