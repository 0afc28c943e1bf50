//! Talking to whoever runs the program: the result to stdout, everything else to stderr.
//!
//! Nothing that comes from a tree or a file reaches a terminal raw: a file name may hold an escape sequence.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use crate::cli::{ColorWhen, Globals, ProgressWhen};
use crate::report::CliError;

/// How much is said, and how.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    quiet: bool,
    verbose: bool,
    /// Whether stderr takes colours.
    color: bool,
    /// Whether stdout takes colours.
    color_out: bool,
    /// Whether a person watches stderr.
    terminal: bool,
    progress: bool,
}

/// What a line on stderr is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// A failure.
    Error,
    /// Something that a person ought to read.
    Warning,
    /// The next command to try.
    Hint,
}

impl Label {
    const fn text(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Hint => "hint",
        }
    }

    const fn color(self) -> &'static str {
        match self {
            Self::Error => "\x1b[1;31m",
            Self::Warning => "\x1b[1;33m",
            Self::Hint => "\x1b[1;36m",
        }
    }
}

impl Ui {
    /// Takes the global options and looks at the terminal.
    pub fn new(globals: &Globals) -> Self {
        let colored = |terminal: bool| match globals.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let terminal = io::stderr().is_terminal();
        Self {
            quiet: globals.quiet,
            verbose: globals.verbose,
            color: colored(terminal),
            color_out: colored(io::stdout().is_terminal()),
            terminal,
            progress: globals.progress == ProgressWhen::Auto && !globals.quiet,
        }
    }

    /// Returns whether a person watches stderr.
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Returns whether it is wanted to be seen how far something is.
    pub const fn shows_progress(&self) -> bool {
        self.progress
    }

    /// Returns whether the result may be coloured.
    pub const fn color_out(&self) -> bool {
        self.color_out
    }

    /// Calls `write` with stdout, buffered, and flushes it.
    pub fn result<E: Into<CliError>>(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), CliError> {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write(&mut out).map_err(Into::into);
        // What was written before a failure is worth reading, too; the failure is the one to tell.
        let flushed = out.flush().map_err(CliError::stdout);
        // A flush that failed must not be tried again by the buffer's destructor.
        let _ = out.into_parts();
        written.and(flushed)
    }

    /// Prints a line of narration.
    pub fn status(&self, text: impl Display) {
        if !self.quiet {
            self.line(text);
        }
    }

    /// Prints a line of narration for those who want more of it.
    pub fn detail(&self, text: impl Display) {
        if self.verbose {
            self.line(text);
        }
    }

    /// Prints a warning.
    pub fn warning(&self, text: impl Display) {
        self.labelled(Label::Warning, text);
    }

    /// Prints a labelled line.
    pub fn labelled(&self, label: Label, text: impl Display) {
        if self.color {
            self.line(format_args!("{}{}:\x1b[0m {text}", label.color(), label.text()));
        } else {
            self.line(format_args!("{}: {text}", label.text()));
        }
    }

    /// Prints a line to stderr. A stderr that is gone is nobody's loss.
    pub fn line(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}
