//! The command line of atomos.
//!
//! `main` parses, installs the signal handlers, runs one verb and turns its outcome into an exit code; nothing else.
//! A verb (`commands/`) fills an options struct of the library, calls it once, and gives what it returns to a renderer
//! (`output/`). The result goes to stdout, narration to stderr (`ui`), progress to the terminal or to a descriptor
//! (`progress`), failures through `report`. Nothing here knows the store's format or order of writes.
#![deny(unsafe_code)]

mod cli;
mod commands;
mod context;
mod exit_code;
mod input;
mod memory;
mod output;
mod output_file;
#[cfg(feature = "failpoints")]
mod power_cut;
mod progress;
mod quantity;
mod reboot;
mod report;
mod signals;
mod signing;
mod ui;

use std::process::ExitCode;

use crate::cli::Cli;
use crate::context::Context;

fn main() -> ExitCode {
    memory::give_back_large_buffers();
    #[cfg(feature = "failpoints")]
    power_cut::listen();
    let cli = Cli::of_process();
    let ui = ui::Ui::new(&cli.globals);
    let code = match Context::new(cli.globals, ui).and_then(|context| {
        let outcome = cli.command.run(&context);
        context.finish();
        outcome
    }) {
        Ok(outcome) => outcome.code(),
        Err(error) => report::report(&ui, &error),
    };
    ExitCode::from(code)
}
