//! `atomos config`

use clap::Args;
use libatomos::repo::{Config, MinFreeSpace};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::json;
use crate::report::CliError;

/// Show or change the repository's configuration
///
/// Without VALUE, prints what is set; with it, sets KEY. One key can be set:
///
/// min-free-space: what is to stay free on the repository's file system, a size such as 500M or 2GiB, or a part of it such as 3%; `none`
/// for nothing in particular. Commits, pulls, checkouts and deployments that would leave less free stop before they write, or as soon as they
/// would. Pruning and repairing do not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos config
  atomos config min-free-space 3%
  atomos config min-free-space none")]
pub struct ConfigArgs {
    /// The key
    key: Option<String>,

    /// What it is to be
    #[arg(requires = "key")]
    value: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ConfigModel<'a> {
    #[serde(flatten)]
    config: &'a Config,
    /// Bytes that are to stay free, by today's size of the file system.
    reserved_bytes: u64,
}

const MIN_FREE_SPACE: &str = "min-free-space";

/// Runs the verb.
pub fn run(context: &Context, args: &ConfigArgs) -> RunResult {
    if let Some(key) = args.key.as_ref().filter(|key| *key != MIN_FREE_SPACE) {
        return Err(CliError::usage(format!("there is no key {key:?}"))
            .with_hint("`atomos config` prints what can be set: min-free-space"));
    }
    let mut repo = context.open_repo()?;
    if let Some(value) = &args.value {
        let space = match value.as_str() {
            "none" => None,
            value => Some(value.parse::<MinFreeSpace>().map_err(CliError::usage)?),
        };
        repo.set_min_free_space(space)?;
        context.ui().status(match space {
            Some(space) => format!("{space} of the file system are to stay free"),
            None => "Nothing in particular is to stay free".to_owned(),
        });
        return Ok(Outcome::Done);
    }
    let model = ConfigModel {
        config: repo.config(),
        reserved_bytes: repo.reserved_space()?,
    };
    context.ui().result(|out| {
        if context.json() {
            return json::write(out, &model);
        }
        let space = model.config.min_free_space;
        let space = space.map_or_else(|| "none".to_owned(), |space| space.to_string());
        if args.key.is_some() {
            return writeln!(out, "{space}");
        }
        writeln!(
            out,
            "mode = {}\nid = {}\n{MIN_FREE_SPACE} = {space}",
            model.config.mode, model.config.id
        )
    })?;
    Ok(Outcome::Done)
}
