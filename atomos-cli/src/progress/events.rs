//! Progress for programs: one JSON object per line, on a descriptor that the caller opened.
//!
//! The first line is `{"event":"start","version":1,…}`. The version changes only when a field changes its meaning; new
//! fields and events may come without notice.

use std::fs::File;
use std::io::{self, Write};

use libatomos::progress::{Phase, Unit};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::Serialize;

use super::Running;
use crate::report::CliError;

/// The version in the first line.
const VERSION: u32 = 1;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Start {
        version: u32,
        program: &'a str,
    },
    Begin {
        phase: Phase,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        unit: Unit,
    },
    Advance {
        phase: Phase,
        done: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
        unit: Unit,
    },
    End {
        phase: Phase,
        done: u64,
        seconds: f64,
    },
    Note {
        text: &'a str,
    },
    Warning {
        text: &'a str,
    },
}

/// Writes the lines.
pub(super) struct EventWriter {
    file: Option<File>,
    last: Option<(Phase, u64)>,
}

impl EventWriter {
    /// Takes over the descriptor `fd` of this process.
    pub(super) fn open(fd: i32) -> Result<Self, CliError> {
        let file = duplicate(fd).map_err(|error| {
            CliError::io(format!("cannot write progress to the descriptor {fd}"), error).with_hint(format!(
                "open it in the shell: atomos --progress-fd {fd} … {fd}>FILE"
            ))
        })?;
        let mut writer = Self {
            file: Some(file),
            last: None,
        };
        writer.write(&Line::Start {
            version: VERSION,
            program: concat!("atomos ", env!("CARGO_PKG_VERSION")),
        });
        Ok(writer)
    }

    pub(super) fn begin(&mut self, running: &Running) {
        self.write(&Line::Begin {
            phase: running.phase,
            total: running.total,
            unit: running.unit,
        });
    }

    pub(super) fn advance(&mut self, running: &Running) {
        let done = running.done();
        if done > 0 && self.last != Some((running.phase, done)) {
            self.last = Some((running.phase, done));
            self.write(&Line::Advance {
                phase: running.phase,
                done,
                total: running.total,
                unit: running.unit,
            });
        }
    }

    pub(super) fn end(&mut self, running: &Running) {
        self.write(&Line::End {
            phase: running.phase,
            done: running.done(),
            seconds: (running.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        });
    }

    pub(super) fn note(&mut self, text: &str) {
        self.write(&Line::Note { text });
    }

    pub(super) fn warning(&mut self, text: &str) {
        self.write(&Line::Warning { text });
    }

    /// A reader that has gone away does not stop the operation.
    fn write(&mut self, line: &Line<'_>) {
        let Some(file) = &mut self.file else { return };
        let mut bytes = serde_json::to_vec(line).expect("text and numbers can be encoded");
        bytes.push(b'\n');
        if file.write_all(&bytes).is_err() {
            self.file = None;
        }
    }
}

/// Returns a descriptor of our own for what `fd` is open on, without trusting the number: the kernel is asked as it
/// would be for another process's. Where that is forbidden (some containers), the file is opened again.
fn duplicate(fd: i32) -> io::Result<File> {
    let through_pidfd = pidfd_open(getpid(), PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, fd, PidfdGetfdFlags::empty()));
    match through_pidfd {
        Ok(fd) => Ok(File::from(fd)),
        Err(rustix::io::Errno::BADF) => Err(rustix::io::Errno::BADF.into()),
        Err(_) => File::options().append(true).open(format!("/proc/self/fd/{fd}")),
    }
}
