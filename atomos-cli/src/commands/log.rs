//! `atomos log`

use clap::Args;
use libatomos::digest::CommitId;
use libatomos::repo::{ObjectKind, Repo};

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::commit::{CommitModel, Marks};
use crate::output::json;
use crate::report::CliError;

/// Show the history of a commit
///
/// Prints the commit, its parent, and so on, the newest first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos log debian/13
  atomos log -n 1 --json debian/13")]
pub struct LogArgs {
    /// Stop after this many commits
    #[arg(short = 'n', long, value_name = "N")]
    max_count: Option<usize>,

    /// A ref, a digest, or the beginning of one
    rev: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &LogArgs) -> RunResult {
    let repo = context.open_repo()?;
    let first = repo.resolve_commit(&args.rev)?;
    let marks = Marks::of(&repo)?;
    let mut cut = None;
    context.ui().result(|out| -> Result<(), CliError> {
        let mut history = History {
            repo: &repo,
            next: Some(first),
            cut: None,
        };
        let models = std::iter::from_fn(|| history.take())
            .take(args.max_count.unwrap_or(usize::MAX))
            .map(|found| found.map(|(id, commit)| CommitModel::new(id, commit, &marks)));
        if context.json() {
            let mut array = json::Array::begin(out)?;
            for model in models {
                array.push(&model?)?;
            }
            array.end()?;
        } else {
            for (index, model) in models.enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                model?.write_brief(out)?;
            }
        }
        cut = history.cut;
        Ok(())
    })?;
    if let Some(id) = cut {
        context.ui().status(format_args!(
            "The history goes on with {}, which is not in this repository.",
            id.short()
        ));
    }
    Ok(Outcome::Done)
}

struct History<'a> {
    repo: &'a Repo,
    next: Option<CommitId>,
    /// The parent that was pruned, or never pulled.
    cut: Option<CommitId>,
}

impl History<'_> {
    fn take(&mut self) -> Option<Result<(CommitId, libatomos::format::Commit), CliError>> {
        let id = self.next.take()?;
        match self.load(&id) {
            Ok(commit) => Some(Ok((id, commit))),
            Err(error) => Some(Err(error)),
        }
    }

    fn load(&mut self, id: &CommitId) -> Result<libatomos::format::Commit, CliError> {
        let commit = self.repo.load_commit(id)?;
        if let Some(parent) = commit.parent {
            if self.repo.has_object(ObjectKind::Commit, parent.digest())? {
                self.next = Some(parent);
            } else {
                self.cut = Some(parent);
            }
        }
        Ok(commit)
    }
}
