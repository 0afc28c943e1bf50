//! The reference of the command line, as Markdown: every verb's help, as it is printed.

use std::io::{self, Write};

use clap::Command;

/// Lines are as wide as this, whatever the terminal is.
const WIDTH: usize = 100;

/// Writes the reference.
pub fn write(out: &mut dyn Write, command: Command) -> io::Result<()> {
    writeln!(
        out,
        "# The command line\n\n\
         Generated from the program itself by `atomos reference > docs/cli.md`; a test compares the two.\n"
    )?;
    // The environment must not show through.
    let mut command = command
        .term_width(WIDTH)
        .mut_args(|arg| arg.hide_env_values(true));
    command.build();
    let name = command.get_name().to_owned();
    section(out, &mut command, &name, 2)
}

fn section(out: &mut dyn Write, command: &mut Command, path: &str, level: usize) -> io::Result<()> {
    let help = command.render_long_help().to_string();
    writeln!(out, "{} {path}\n\n```text", "#".repeat(level))?;
    // The global options stand once, at the top.
    let mut global = false;
    let mut blank = false;
    for line in help.lines().map(str::trim_end) {
        if level > 2 && line == "Global options:" {
            global = true;
        } else if !line.starts_with(' ') && !line.is_empty() {
            global = false;
        }
        if global {
            continue;
        }
        // Two blank lines are left where something was taken out.
        if blank && !line.is_empty() {
            writeln!(out)?;
        }
        blank = line.is_empty();
        if !blank {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(out, "```")?;
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
        let path = format!("{path} {}", verb.get_name());
        writeln!(out)?;
        section(out, verb, &path, level + 1)?;
    }
    Ok(())
}
