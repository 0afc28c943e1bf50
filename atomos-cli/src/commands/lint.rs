//! `atomos lint`

use std::path::Path;

use clap::Args;
use libatomos::fs::Dir;
use libatomos::lint::{LintReport, Severity, lint_commit, lint_directory, lint_tree};
use libatomos::repo::Resolved;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{json, lint, text};
use crate::report::CliError;
use crate::ui::Label;

/// Say what is wrong with an operating system tree before anybody boots it
///
/// Looks at names, kinds, modes and sizes of a commit's tree, or of a directory as it would be committed without --os.
/// With an error the tree cannot be deployed or will not start; a warning is something that few people want; an info is
/// worth knowing. Exits with 0 when there is no error, and with 5 when there is. Changes nothing.
///
/// The names of findings are stable; programs match them in the output of --json.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos lint debian/13
  atomos lint --json ./rootfs | jq '.findings[] | select(.severity == \"error\").name'")]
pub struct LintArgs {
    /// Print every path, not the first few of each finding
    #[arg(long)]
    all: bool,

    /// The tree; if there is a directory of that name, it is meant
    #[arg(value_name = "REV|DIR")]
    tree: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &LintArgs) -> RunResult {
    let path = Path::new(&args.tree);
    let is_directory = path.is_dir();
    let report = if is_directory {
        lint_directory(Dir::open_ambient(path)?, context.cancel())?
    } else {
        let repo = context.open_repo()?;
        match repo.resolve(&args.tree)? {
            Resolved::Commit(id) => lint_commit(&repo, &id, context.cancel())?,
            Resolved::Tree(root) => lint_tree(&repo, &root, context.cancel())?,
        }
    };
    render(context, &report, args.all)?;
    if report.is_deployable() {
        return Ok(Outcome::Done);
    }
    if is_directory {
        context.ui().labelled(
            Label::Hint,
            "`atomos commit --os` brings an ordinary root file system into shape",
        );
    }
    Ok(Outcome::Unacceptable)
}

fn render(context: &Context, report: &LintReport, all: bool) -> Result<(), CliError> {
    let ui = context.ui();
    ui.result(|out| {
        if context.json() {
            json::write(out, report)
        } else {
            lint::write(out, report, all)
        }
    })?;
    let number = |severity| report.count(severity) as u64;
    ui.status(format_args!(
        "{}, {}, {}",
        text::count(number(Severity::Error), "error", "errors"),
        text::count(number(Severity::Warning), "warning", "warnings"),
        text::count(number(Severity::Info), "info", "infos"),
    ));
    Ok(())
}
