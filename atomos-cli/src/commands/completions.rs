//! `atomos completions`, `atomos man`, `atomos reference`: what is generated from the command line's own definition.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::RunResult;
use crate::cli::Cli;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::{reference, text};
use crate::report::CliError;

/// Print a script that completes commands in a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos completions bash > /usr/share/bash-completion/completions/atomos
  atomos completions zsh > /usr/share/zsh/site-functions/_atomos
  atomos completions fish > /usr/share/fish/vendor_completions.d/atomos.fish")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the manual pages to a directory
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory, which is made if it is missing
    dir: PathBuf,
}

/// Runs `completions`.
pub fn run(context: &Context, args: &CompletionsArgs) -> RunResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "atomos", &mut script);
    context.ui().result(|out| out.write_all(&script))?;
    Ok(Outcome::Done)
}

/// Runs `man`.
pub fn run_man(context: &Context, args: &ManArgs) -> RunResult {
    let fail = |error: io::Error| {
        CliError::io(
            format!(
                "cannot write the manual pages to {}",
                text::escape_path(&args.dir)
            ),
            error,
        )
    };
    std::fs::create_dir_all(&args.dir).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(fail)?;
    context.ui().status(format_args!(
        "Wrote the manual pages to {}",
        text::escape_path(&args.dir)
    ));
    Ok(Outcome::Done)
}

/// Runs `reference`: the contents of docs/cli.md.
pub fn run_reference(context: &Context) -> RunResult {
    context.ui().result(|out| reference::write(out, Cli::command()))?;
    Ok(Outcome::Done)
}
