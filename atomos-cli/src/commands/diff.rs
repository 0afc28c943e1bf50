//! `atomos diff`

use std::path::Path;

use clap::Args;
use libatomos::commit::{MemoryTrees, ScanOptions, hash_directory};
use libatomos::diff::{Change, Diff, DiffOptions, DiffSide};
use libatomos::digest::DirTreeId;
use libatomos::format::{Entry, Metadata, Node};
use libatomos::fs::Dir;
use libatomos::repo::{Located, Repo, RepoError};

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
///
/// With --booted, what runs is compared with the commit that it was made of: every file is read. /etc belongs to the machine, and
/// `atomos etc diff` shows it. Nothing should differ, unless `atomos usr-overlay` made /usr writable.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos diff debian/12 debian/13
  atomos diff debian/13 ./rootfs      what committing ./rootfs would change
  atomos diff debian/13               what its last commit changed
  atomos diff --booted                has anything changed that must not?")]
pub struct DiffArgs {
    /// Count a change of the modification time, too
    #[arg(long)]
    mtime: bool,

    /// Leave sockets out of a directory instead of failing
    #[arg(long)]
    skip_special: bool,

    /// Compare the running system with its commit
    #[arg(long, conflicts_with_all = ["before", "after"])]
    booted: bool,

    /// The first tree
    #[arg(value_name = "REV|DIR", required_unless_present = "booted")]
    before: Option<String>,

    /// The second tree
    #[arg(value_name = "REV|DIR")]
    after: Option<String>,
}

impl DiffArgs {
    fn options(&self) -> DiffOptions {
        let mut options = DiffOptions::default();
        options.mtime = self.mtime;
        options
    }
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
    let Some(first) = &args.before else {
        return run_booted(context, args);
    };
    let repo = context.open_repo()?;
    let (before, after) = match &args.after {
        Some(after) => (first.clone(), after.clone()),
        None if is_directory(first) => {
            return Err(
                CliError::usage("a directory alone has nothing to be compared with")
                    .with_hint(format!("name a revision, too: `atomos diff REV {first}`")),
            );
        }
        None => (format!("{first}^"), first.clone()),
    };
    let before = open(context, &repo, args, &before)?;
    let after = open(context, &repo, args, &after)?;
    let changes = Diff::new(&before.side(), &after.side(), args.options(), context.cancel());
    show(context, changes)
}

/// Compares what runs with its commit. The deployment's own directory or image is read, in which nothing is mounted; and /usr as it is seen,
/// where something was put over it.
fn run_booted(context: &Context, args: &DiffArgs) -> RunResult {
    let sysroot = context.open_sysroot()?;
    let repo = sysroot.repo();
    let id = sysroot.select_deployment(Some("booted")).map_err(|error| {
        CliError::from(error).with_hint("--booted is for a machine that runs a deployment of this sysroot")
    })?;
    let commit = repo.load_commit(&id.commit)?;
    let stored = |root, metadata| Tree::Stored(repo, root, metadata);
    let before = stored(commit.root, Some(commit.root_metadata.clone()));
    let after = hashed(context, args, sysroot.booted_tree(&id)?)?;
    let is_of_the_machine = |change: &Change| change.path == b"/etc" || change.path.starts_with(b"/etc/");
    let (before, after) = (before.side(), after.side());
    let below = Diff::new(&before, &after, args.options(), context.cancel())
        .filter(|change| !change.as_ref().is_ok_and(is_of_the_machine));
    let Some(usr) = sysroot.overlaid_usr()? else {
        return show(context, below);
    };
    let Located::Entry(Entry {
        node: Node::Dir { tree },
        metadata,
        ..
    }) = repo.locate("", commit.root, None, b"usr")?
    else {
        return show(context, below);
    };
    let (before, after) = (stored(tree, Some(metadata)), hashed(context, args, usr)?);
    let (before, after) = (before.side(), after.side());
    let above = Diff::new(&before, &after, args.options(), context.cancel()).map(|change| {
        let mut change = change?;
        let inner = if change.path == b"/" {
            Vec::new()
        } else {
            change.path
        };
        change.path = [b"/usr".as_slice(), &inner].concat();
        Ok(change)
    });
    show(context, below.chain(above))
}

fn show(context: &Context, changes: impl Iterator<Item = Result<Change, RepoError>>) -> RunResult {
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

fn hashed<'a>(context: &Context, args: &DiffArgs, dir: Dir) -> Result<Tree<'a>, CliError> {
    let mut options = ScanOptions::default();
    options.skip_special = args.skip_special;
    let (root, metadata, trees) = hash_directory(dir, &options, context.progress(), context.cancel())?;
    Ok(Tree::Hashed(trees, root, metadata))
}

fn open<'a>(context: &Context, repo: &'a Repo, args: &DiffArgs, text: &str) -> Result<Tree<'a>, CliError> {
    if is_directory(text) {
        return hashed(context, args, Dir::open_ambient(text)?);
    }
    match repo.resolve_tree(text) {
        Ok((root, metadata)) => Ok(Tree::Stored(repo, root, metadata)),
        Err(error @ RepoError::RevNotFound { .. }) if Path::new(text).is_dir() => {
            Err(CliError::from(error).with_hint(format!("for the directory, write ./{text}")))
        }
        Err(error) => Err(error.into()),
    }
}
