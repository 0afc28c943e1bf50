//! `atomos ls`

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use libatomos::digest::DirTreeId;
use libatomos::format::{Entry, Node};
use libatomos::repo::{LastLink, Located, Repo};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::list::{EntryModel, Style};
use crate::output::{json, list};
use crate::report::CliError;

/// List the files of a tree
///
/// Lists the directory PATH of the tree that REV names, or the one file that PATH is. Nothing is checked out, and no file is
/// read: sizes and owners are in the tree. Links on the way are followed; a slash at the end follows the last one, too.
///
/// In a name, control characters, backslashes and bytes that are not UTF-8 are written as \\n, \\\\, \\xff.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos ls debian/13 /usr/lib/modules
  atomos ls -lR debian/13 /usr/etc")]
pub struct LsArgs {
    /// List what lies beneath, too, with whole paths
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,

    /// A ref, a digest, or the beginning of one
    rev: String,

    /// A path in the tree
    #[arg(default_value = "/", hide_default_value = true)]
    path: OsString,
}

/// Runs the verb.
pub fn run(context: &Context, args: &LsArgs) -> RunResult {
    let repo = context.open_repo()?;
    let (root, metadata) = repo.resolve_tree(&args.rev)?;
    let located =
        repo.locate_through_links(&args.rev, root, metadata, args.path.as_bytes(), LastLink::Keep)?;
    let prefix = normalised(args.path.as_bytes());
    context.ui().result(|out| -> Result<(), CliError> {
        let mut sink = Sink::new(context.json(), args, out)?;
        match &located {
            Located::Root(tree, _)
            | Located::Entry(Entry {
                node: Node::Dir { tree },
                ..
            }) => list_tree(&repo, tree, &prefix, args.recursive, &mut sink)?,
            Located::Entry(entry) => {
                let parent = prefix.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                sink.push(&prefix[..parent], entry)?;
            }
        }
        Ok(sink.end()?)
    })?;
    Ok(Outcome::Done)
}

/// Returns a path as `/a/b`; the root as nothing.
fn normalised(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(path.len() + 1);
    for part in path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
    {
        normal.push(b'/');
        normal.extend_from_slice(part);
    }
    normal
}

enum Sink<'a> {
    Text(Style, &'a mut dyn Write),
    Json(json::Array<'a>),
}

impl<'a> Sink<'a> {
    fn new(as_json: bool, args: &LsArgs, out: &'a mut dyn Write) -> io::Result<Self> {
        Ok(if as_json {
            Self::Json(json::Array::begin(out)?)
        } else {
            let style = Style {
                long: args.long,
                whole_paths: args.recursive,
            };
            Self::Text(style, out)
        })
    }

    fn push(&mut self, parent: &[u8], entry: &Entry) -> io::Result<()> {
        match self {
            Self::Text(style, out) => list::write_entry(out, *style, parent, entry),
            Self::Json(array) => array.push(&EntryModel::new(parent, entry)),
        }
    }

    fn end(self) -> io::Result<()> {
        match self {
            Self::Text(..) => Ok(()),
            Self::Json(array) => array.end(),
        }
    }
}

/// Lists a tree in the order of its names, each directory before what lies beneath it. With a stack of its own: how deep a
/// tree is was somebody else's choice.
fn list_tree(
    repo: &Repo,
    tree: &DirTreeId,
    prefix: &[u8],
    recursive: bool,
    sink: &mut Sink<'_>,
) -> Result<(), CliError> {
    let open =
        |tree: &DirTreeId| -> Result<_, CliError> { Ok(repo.load_dirtree(tree)?.into_entries().into_iter()) };
    let mut stack = vec![(prefix.to_vec(), open(tree)?)];
    while let Some((parent, entries)) = stack.last_mut() {
        let Some(entry) = entries.next() else {
            stack.pop();
            continue;
        };
        sink.push(parent, &entry)?;
        if let (true, Node::Dir { tree }) = (recursive, &entry.node) {
            let path = list::join(parent, &entry.name);
            stack.push((path, open(tree)?));
        }
    }
    Ok(())
}
