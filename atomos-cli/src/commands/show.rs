//! `atomos show`

use clap::Args;
use libatomos::repo::Resolved;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::commit::{CommitModel, Marks};
use crate::output::json;
use crate::output::list::{EntryModel, Style, write_entry};
use crate::report::CliError;

/// Show a commit or a dirtree
///
/// Prints all that a commit says: its tree, parent, time, version, message and metadata. For a dirtree, as REV^{tree} names
/// one, lists its entries.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos show debian/13
  atomos show 'debian/13^{tree}'")]
pub struct ShowArgs {
    /// A ref, a digest, or the beginning of one
    rev: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &ShowArgs) -> RunResult {
    let repo = context.open_repo()?;
    match repo.resolve(&args.rev)? {
        Resolved::Commit(id) => {
            let model = CommitModel::new(id, repo.load_commit(&id)?, &Marks::of(&repo)?);
            context.ui().result(|out| {
                if context.json() {
                    json::write(out, &model)
                } else {
                    model.write_whole(out)
                }
            })?;
        }
        Resolved::Tree(id) => {
            let tree = repo.load_dirtree(&id)?;
            context.ui().result(|out| -> Result<(), CliError> {
                if context.json() {
                    let mut array = json::Array::begin(out)?;
                    for entry in tree.entries() {
                        array.push(&EntryModel::new(b"", entry))?;
                    }
                    return Ok(array.end()?);
                }
                writeln!(out, "dirtree {id}\n")?;
                let style = Style {
                    long: true,
                    whole_paths: false,
                };
                for entry in tree.entries() {
                    write_entry(out, style, b"", entry)?;
                }
                Ok(())
            })?;
        }
    }
    Ok(Outcome::Done)
}
