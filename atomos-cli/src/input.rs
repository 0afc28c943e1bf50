//! Standard input, where somebody may keep a command waiting.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::report::CliError;
use crate::signals;

/// Standard input, of which reading fails as soon as the command is asked to stop. A plain read would go on waiting.
#[derive(Debug)]
pub struct Input {
    stopped: UnixStream,
}

impl Input {
    /// Nothing else of the process may read it: nothing is kept in a buffer.
    pub fn open() -> Result<Self, CliError> {
        let stopped = signals::wake_up().map_err(|error| CliError::io("cannot handle signals", error))?;
        Ok(Self { stopped })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            let mut ready = [
                PollFd::new(&self.stopped, PollFlags::IN),
                PollFd::new(&stdin, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) if !ready[0].revents().is_empty() => {
                    return Err(io::Error::other("the command was asked to stop"));
                }
                Ok(_) => return Ok(rustix::io::read(&stdin, buffer)?),
            }
        }
    }
}
