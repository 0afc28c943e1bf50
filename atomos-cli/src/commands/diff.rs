//! `atomos diff`

use std::path::Path;

use clap::Args;
use libatomos::commit::{MemoryTrees, ScanOptions, hash_directory};
use libatomos::diff::{Diff, DiffOptions, DiffSide};
use libatomos::digest::DirTreeId;
use libatomos::format::Metadata;
use libatomos::fs::Dir;
use libatomos::repo::{Repo, RepoError};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::change::{self, ChangeModel, Tally};
use crate::output::{json, text};
use crate::report::CliError;

/// Show what differs between two trees
///
/// Prints one line for each entry that was added (A), deleted (D) or modified (M), and for the last what of it: content,
/// mode, owner, extended attributes, link target, type. A change of the modification time alone is not shown unless
/// --mtime asks for it.
///
/// A tree is a revision or a directory. What begins with / or . is a directory; anything else is a revision. With one
/// revision alone, its parent is compared with it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos diff debian/12 debian/13
  atomos diff debian/13 ./rootfs      what committing ./rootfs would change
  atomos diff debian/13               what its last commit changed")]
pub struct DiffArgs {
    /// Count a change of the modification time, too
    #[arg(long)]
    mtime: bool,

    /// Leave sockets out of a directory instead of failing
    #[arg(long)]
    skip_special: bool,

    /// The first tree
    #[arg(value_name = "REV|DIR")]
    before: String,

    /// The second tree
    #[arg(value_name = "REV|DIR")]
    after: Option<String>,
}

/// A tree that was looked at.
enum Tree<'a> {
    Stored(&'a Repo, DirTreeId, Option<Metadata>),
    Hashed(MemoryTrees, DirTreeId, Metadata),
}

impl Tree<'_> {
    fn side(&self) -> DiffSide<'_> {
        match self {
            Self::Stored(repo, root, metadata) => DiffSide {
                source: *repo,
                root: *root,
                metadata: metadata.clone(),
            },
            Self::Hashed(trees, root, metadata) => DiffSide {
                source: trees,
                root: *root,
                metadata: Some(metadata.clone()),
            },
        }
    }
}

/// Runs the verb.
pub fn run(context: &Context, args: &DiffArgs) -> RunResult {
    let repo = context.open_repo()?;
    let (before, after) = match &args.after {
        Some(after) => (args.before.clone(), after.clone()),
        None if is_directory(&args.before) => {
            return Err(
                CliError::usage("a directory alone has nothing to be compared with")
                    .with_hint(format!("name a revision, too: `atomos diff REV {}`", args.before)),
            );
        }
        None => (format!("{}^", args.before), args.before.clone()),
    };
    let before = open(context, &repo, args, &before)?;
    let after = open(context, &repo, args, &after)?;
    let mut options = DiffOptions::default();
    options.mtime = args.mtime;
    let changes = Diff::new(&before.side(), &after.side(), options, context.cancel());
    let mut tally = Tally::default();
    let ui = context.ui();
    ui.result(|out| -> Result<(), CliError> {
        let counted = changes.inspect(|change| {
            if let Ok(change) = change {
                tally.count(change);
            }
        });
        if context.json() {
            let mut array = json::Array::begin(out)?;
            for change in counted {
                array.push(&ChangeModel::new(&change?))?;
            }
            array.end()?;
        } else {
            for change in counted {
                change::write(out, ui.color_out(), &change?)?;
            }
        }
        Ok(())
    })?;
    ui.status(format_args!(
        "{} added, {} deleted, {} modified",
        text::grouped(tally.added),
        text::grouped(tally.deleted),
        text::grouped(tally.modified)
    ));
    Ok(Outcome::Done)
}

/// No ref begins so, and no digest.
fn is_directory(text: &str) -> bool {
    text.starts_with(['/', '.'])
}

fn open<'a>(context: &Context, repo: &'a Repo, args: &DiffArgs, text: &str) -> Result<Tree<'a>, CliError> {
    if is_directory(text) {
        let mut options = ScanOptions::default();
        options.skip_special = args.skip_special;
        let dir = Dir::open_ambient(text)?;
        let (root, metadata, trees) = hash_directory(dir, &options, context.progress(), context.cancel())?;
        return Ok(Tree::Hashed(trees, root, metadata));
    }
    match repo.resolve_tree(text) {
        Ok((root, metadata)) => Ok(Tree::Stored(repo, root, metadata)),
        Err(error @ RepoError::RevNotFound { .. }) if Path::new(text).is_dir() => {
            Err(CliError::from(error).with_hint(format!("for the directory, write ./{text}")))
        }
        Err(error) => Err(error.into()),
    }
}
