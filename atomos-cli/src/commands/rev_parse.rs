//! `atomos rev-parse`

use clap::Args;
use libatomos::repo::Resolved;
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::json;

/// Print the digest that a revision names
///
/// A revision is a ref, remote:ref, a digest, or the beginning of one (4 digits or more). Each ^ after it means the parent;
/// ^{tree} at the end means the root dirtree, which is equal for equal trees.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos rev-parse debian/13
  atomos rev-parse 'debian/13^' 'debian/13^{tree}'")]
pub struct RevParseArgs {
    /// Revisions; one digest is printed for each
    #[arg(required = true, value_name = "REV")]
    revs: Vec<String>,
}

#[derive(Serialize)]
struct Named<'a> {
    rev: &'a str,
    kind: &'static str,
    digest: String,
}

/// Runs the verb.
pub fn run(context: &Context, args: &RevParseArgs) -> RunResult {
    let repo = context.open_repo()?;
    let mut named = Vec::new();
    for rev in &args.revs {
        let resolved = repo.resolve(rev)?;
        named.push(Named {
            rev,
            kind: match resolved {
                Resolved::Commit(_) => "commit",
                Resolved::Tree(_) => "dirtree",
            },
            digest: resolved.digest().to_hex(),
        });
    }
    context.ui().result(|out| {
        if context.json() {
            return json::write(out, &named);
        }
        named
            .iter()
            .try_for_each(|named| writeln!(out, "{}", named.digest))
    })?;
    Ok(Outcome::Done)
}
