//! One check: a process with a time limit, a process group of its own, and an output that is kept in part.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::cancel::Cancel;

use super::{CheckEnd, HealthOptions};

/// How long nobody looks whether the caller wants to stop.
const LOOK_UP: Duration = Duration::from_millis(200);

/// Runs the check and returns how it ended and the last of what it printed.
pub(super) fn run(path: &Path, options: &HealthOptions, cancel: &Cancel) -> (CheckEnd, String) {
    let mut output = Tail::new(options.max_output);
    let end = follow(path, options, cancel, &mut output).unwrap_or_else(|error| CheckEnd::NotStarted {
        reason: error.to_string(),
    });
    (end, output.into_text())
}

fn follow(
    path: &Path,
    options: &HealthOptions,
    cancel: &Cancel,
    output: &mut Tail,
) -> std::io::Result<CheckEnd> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(path);
    command
        .envs(options.variables.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    // The command holds the pipe's other end, and would keep it open.
    drop(command);
    let followed = wait(&mut child, reader, options, cancel, output);
    // Whatever it left running ends with it. It is not reaped yet, so its number is still its own.
    if let Some(group) = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait()?;
    Ok(match (followed?, status.code(), status.signal()) {
        (Ended::TimedOut, ..) => CheckEnd::TimedOut {
            seconds: options.timeout.as_secs(),
        },
        (Ended::ByItself, Some(code), _) => CheckEnd::Exited { code },
        (Ended::ByItself, None, signal) => CheckEnd::Killed {
            signal: signal.unwrap_or_default(),
        },
    })
}

enum Ended {
    ByItself,
    TimedOut,
}

/// Reads what the process prints until it has ended, is out of time, or nobody wants to know any more. It is not reaped.
fn wait(
    child: &mut Child,
    mut reader: std::io::PipeReader,
    options: &HealthOptions,
    cancel: &Cancel,
    output: &mut Tail,
) -> std::io::Result<Ended> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let pid = pid.ok_or_else(|| std::io::Error::other("a process has no number"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(reader.as_fd(), true)?;
    let deadline = Instant::now() + options.timeout;
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || cancel.is_cancelled() {
            drain(&mut reader, output);
            return Ok(Ended::TimedOut);
        }
        let timeout = Timespec::try_from(left.min(LOOK_UP)).map_err(std::io::Error::other)?;
        let mut events = vec![PollFd::new(&process, PollFlags::IN)];
        if open {
            events.push(PollFd::new(&reader, PollFlags::IN));
        }
        match poll(&mut events, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ended = !events[0].revents().is_empty();
        drop(events);
        if open {
            open = drain(&mut reader, output);
        }
        if ended {
            // What it printed before it ended is in the pipe by now.
            drain(&mut reader, output);
            return Ok(Ended::ByItself);
        }
    }
}

/// Reads what is there; returns whether more can come. Not without an end: a check that prints as fast as it can must
/// not keep its time limit from being looked at.
fn drain(reader: &mut std::io::PipeReader, output: &mut Tail) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..256 {
        match reader.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => output.add(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// The last bytes of a stream.
struct Tail {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Tail {
    fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            cut: false,
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.bytes.len().saturating_sub(self.limit);
        self.cut |= excess > 0;
        self.bytes.drain(..excess);
    }

    fn into_text(self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_end();
        // Half a line at the start says nothing.
        match text.split_once('\n') {
            Some((_, rest)) if self.cut => rest.to_owned(),
            _ => text.to_owned(),
        }
    }
}
