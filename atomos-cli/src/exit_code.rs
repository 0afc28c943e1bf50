//! What the exit code says. Programs rely on these numbers: they may be added to, and never changed.

use libatomos::error::ErrorKind;

/// The last part of `atomos --help`.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  failed for a reason without a code of its own, such as an I/O error
   2  the command line is not understood
   3  something that was named does not exist
   4  something exists already
   5  a name, an option or a tree is not acceptable; lint found an error
   6  stored data is damaged; fsck found something
   7  data is not signed by whom it should be
   8  another process holds a lock
   9  there is no space
  10  two changes exclude each other
  11  this program, kernel or file system cannot do it
  12  permission denied, or the file system is read-only
  20  health checks failed, and a reboot helps: this version is tried again, or the one before is taken
  21  health checks failed, and a reboot would not help
  77  there was nothing to do (where asked for with --unchanged-exit-77)
 130  interrupted";

/// The command line is not understood; clap's number too.
const USAGE: u8 = 2;

/// How a verb ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for is done.
    Done,
    /// Nothing had to be done, and the caller wants to know.
    NothingToDo,
    /// What was looked at is damaged; the findings are printed.
    Damaged,
    /// What was looked at is not acceptable; the findings are printed.
    Unacceptable,
    /// Health checks failed.
    Unhealthy {
        /// Whether a reboot would help.
        reboot_helps: bool,
    },
}

impl Outcome {
    /// Returns the exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NothingToDo => 77,
            Self::Damaged => of_kind(ErrorKind::Corrupt),
            Self::Unacceptable => of_kind(ErrorKind::Invalid),
            Self::Unhealthy { reboot_helps: true } => 20,
            Self::Unhealthy { reboot_helps: false } => 21,
        }
    }
}

/// Why the program failed, as far as the exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The command line cannot be followed.
    Usage,
    /// The library or the system failed.
    Kind(ErrorKind),
}

impl Failure {
    /// Returns the exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => USAGE,
            Self::Kind(kind) => of_kind(kind),
        }
    }
}

const fn of_kind(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 3,
        ErrorKind::AlreadyExists => 4,
        ErrorKind::Invalid => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::Untrusted => 7,
        ErrorKind::Locked => 8,
        ErrorKind::NoSpace => 9,
        ErrorKind::Conflict => 10,
        ErrorKind::Unsupported => 11,
        ErrorKind::Denied => 12,
        ErrorKind::Cancelled => 130,
        // `Io`, and kinds that a later library has.
        _ => 1,
    }
}
