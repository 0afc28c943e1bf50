//! Failures: the error, why it happened, and the next command to try.

mod delivery;
mod sources;
mod store;
mod system;

use std::error::Error;
use std::io;

use libatomos::error::ErrorKind;
use libatomos::names::InvalidName;
use libatomos::repo::RepoError;

use crate::exit_code::{Failure, Outcome};
use crate::output::text::escape_text;
use crate::ui::{Label, Ui};

/// Why the program cannot do what it was asked.
#[derive(Debug)]
pub struct CliError {
    cause: Cause,
    failure: Failure,
    hint: Option<String>,
}

#[derive(Debug)]
enum Cause {
    Repo(Box<RepoError>),
    Other(Box<dyn Error + Send + Sync>),
    /// Whoever reads stdout does not want more.
    BrokenPipe,
}

/// A failure of the program's own.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Own {
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl CliError {
    fn new(kind: ErrorKind, error: impl Error + Send + Sync + 'static, hint: Option<String>) -> Self {
        Self {
            cause: Cause::Other(Box::new(error)),
            failure: Failure::Kind(kind),
            hint,
        }
    }

    fn own(what: impl Into<String>, source: Option<io::Error>, failure: Failure) -> Self {
        let what = what.into();
        Self {
            cause: Cause::Other(Box::new(Own { what, source })),
            failure,
            hint: None,
        }
    }

    /// Says that the command line cannot be followed.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::own(what, None, Failure::Usage)
    }

    /// Says what is wrong, of the given kind.
    pub fn of_kind(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self::own(what, None, Failure::Kind(kind))
    }

    /// Says that a system call failed; `what` is the whole first line.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
            _ => ErrorKind::Io,
        };
        Self::own(what, Some(source), Failure::Kind(kind))
    }

    /// Says that the result could not be written.
    pub fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                cause: Cause::BrokenPipe,
                failure: Failure::Kind(ErrorKind::Io),
                hint: None,
            };
        }
        Self::io("cannot write to stdout", error)
    }

    /// Returns the hint.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Sets the hint, which names a command or a file.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the coarse kind, if the library or the system failed.
    pub const fn kind(&self) -> Option<ErrorKind> {
        match self.failure {
            Failure::Kind(kind) => Some(kind),
            Failure::Usage => None,
        }
    }

    /// Returns the repository's error, if it is one.
    pub fn library(&self) -> Option<&RepoError> {
        match &self.cause {
            Cause::Repo(error) => Some(error),
            _ => None,
        }
    }
}

/// The only system calls of the program's own that fail in passing are those that write the result.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        Self::stdout(error)
    }
}

impl From<InvalidName> for CliError {
    fn from(error: InvalidName) -> Self {
        Self::new(ErrorKind::Invalid, error, None)
    }
}

pub fn shown(path: &std::path::Path) -> String {
    crate::output::text::escape_path(path)
}

/// Prints the failure and returns the exit code.
pub fn report(ui: &Ui, error: &CliError) -> u8 {
    let first: &dyn Error = match &error.cause {
        // The reader has seen what it wanted.
        Cause::BrokenPipe => return Outcome::Done.code(),
        Cause::Repo(error) => &**error,
        Cause::Other(error) => &**error,
    };
    ui.labelled(Label::Error, escape_text(&first.to_string()));
    let mut cause = first.source();
    while let Some(error) = cause {
        ui.line(format_args!("  caused by: {}", escape_text(&error.to_string())));
        cause = error.source();
    }
    if let Some(hint) = &error.hint {
        ui.labelled(Label::Hint, escape_text(hint));
    }
    error.failure.code()
}
