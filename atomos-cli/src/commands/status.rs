//! `atomos status`

use clap::Args;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{deployment, json};

/// Show the deployments
///
/// The default comes first; ● marks what is running. Warnings say what needs a person's attention.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos status
  atomos status --json | jq -r '.deployments[] | select(.booted) | .version'")]
pub struct StatusArgs {}

/// Runs the verb.
pub fn run(context: &Context, _args: &StatusArgs) -> RunResult {
    let status = context.open_sysroot()?.status()?;
    context.ui().result(|out| match context.json() {
        true => json::write(out, &status),
        false => deployment::write_status(out, &status),
    })?;
    if !context.json() {
        for warning in &status.warnings {
            context.ui().warning(crate::output::text::escape_text(warning));
        }
    }
    Ok(Outcome::Done)
}
