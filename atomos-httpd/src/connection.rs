//! One connection: heads come in, answers go out, each within its time.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::answer::{Answer, Body};
use crate::date::http_date;
use crate::request::{MAX_HEAD, Refused, Request};

/// Bytes that are written at once, and have to leave within [`Times::piece`].
pub(crate) const PIECE: usize = 64 * 1024;

/// What is read and thrown away before a connection with unread bytes is closed. Closing at once would make the kernel
/// reset it, and the client might never see the answer.
const LEFTOVER: usize = 64 * 1024;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For its next request to begin.
    pub(crate) idle: Duration,
    /// For the head of a request to be complete.
    pub(crate) head: Duration,
    /// To take [`PIECE`] bytes.
    pub(crate) piece: Duration,
}

/// What happens to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It is used again.
    Keep,
    /// It is closed.
    Close,
    /// It is reset.
    #[cfg_attr(
        not(feature = "testing"),
        expect(dead_code, reason = "only a server that misbehaves resets")
    )]
    Reset,
}

/// A connection's two directions.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    times: Times,
    /// What came and was not looked at.
    pending: Vec<u8>,
    /// The status of the last answer; 0 while there is none.
    pub(crate) status: Arc<AtomicU16>,
    /// Bytes of the last answer's body that were given to the kernel.
    pub(crate) sent: Arc<AtomicU64>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, times: Times) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            times,
            pending: Vec::new(),
            status: Arc::default(),
            sent: Arc::default(),
        })
    }

    /// Waits for a request. `Ok(None)` is the end of the connection, between requests or in the midst of one.
    pub(crate) fn read_request(&mut self) -> Result<Option<Request>, Refused> {
        let mut deadline = None;
        self.sent = Arc::default();
        self.status = Arc::default();
        let mut searched = 0;
        loop {
            // An empty line before a request is a slip that servers have always forgiven.
            while searched == 0 && self.pending.starts_with(b"\r\n") {
                self.pending.drain(..2);
            }
            if let Some(end) = end_of_head(&self.pending, searched) {
                let head: Vec<u8> = self.pending.drain(..end).collect();
                return Request::parse(&head).map(Some);
            }
            if self.pending.len() >= MAX_HEAD {
                return Err(Refused(431));
            }
            searched = self.pending.len().saturating_sub(3);
            let deadline = match (&deadline, self.pending.is_empty()) {
                (_, true) => Instant::now() + self.times.idle,
                (Some(known), false) => *known,
                (None, false) => *deadline.insert(Instant::now() + self.times.head),
            };
            let mut buffer = [0; 4096];
            let room = buffer.len().min(MAX_HEAD - self.pending.len());
            match self.read_until(&mut buffer[..room], deadline) {
                Ok(0) => return Ok(None),
                Ok(len) => self.pending.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.pending.is_empty() => {
                    return Err(Refused(408));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    fn read_until(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(left(deadline)?))?;
            match self.stream.read(buffer) {
                Err(error) if is_again(&error) => {}
                other => return other,
            }
        }
    }

    /// Writes bytes within a piece's time.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.times.piece;
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match self.stream.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if is_again(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes `head` and then the first `limit` bytes of the body, if it has as many.
    pub(crate) fn write_answer(&mut self, head: Vec<u8>, body: &Body, limit: u64) -> io::Result<()> {
        let (mut at, end) = match body {
            Body::None => (0, 0),
            Body::Bytes(bytes) => (0, (bytes.len() as u64).min(limit)),
            Body::File(_, range) => (range.start, range.end.min(range.start.saturating_add(limit))),
        };
        // The head and the first piece leave together: a small answer is one packet.
        let mut buffer = head;
        loop {
            let len = (end - at).min(PIECE as u64) as usize;
            let begin = buffer.len();
            match body {
                Body::None => {}
                Body::Bytes(bytes) => buffer.extend_from_slice(&bytes[at as usize..at as usize + len]),
                Body::File(file, _) => {
                    buffer.resize(begin + len, 0);
                    file.read_exact_at(&mut buffer[begin..], at)?;
                }
            }
            // Counted before they leave: whoever has them must find them counted.
            self.sent.fetch_add(len as u64, Ordering::SeqCst);
            self.write(&buffer)?;
            at += len as u64;
            if at == end {
                return Ok(());
            }
            buffer.clear();
        }
    }

    /// Writes bytes that are part of a body.
    #[cfg(feature = "testing")]
    pub(crate) fn write_body(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        self.write(bytes)
    }

    /// Sends an answer as it is meant.
    pub(crate) fn send(&mut self, request: &Request, answer: &Answer, keep: bool) -> io::Result<After> {
        let keep = keep && request.keep_alive;
        self.status.store(answer.status, Ordering::SeqCst);
        let length = match answer.body {
            Body::None => None,
            _ => Some(answer.length()),
        };
        let head = answer.head(length, keep, &now());
        self.write_answer(head, &answer.body, if request.is_head() { 0 } else { u64::MAX })?;
        Ok(if keep { After::Keep } else { After::Close })
    }

    /// Says what is wrong with a request that could not be read.
    pub(crate) fn refuse(&mut self, refused: Refused) -> io::Result<()> {
        let answer = Answer::plain(refused.0);
        self.status.store(answer.status, Ordering::SeqCst);
        let head = answer.head(Some(answer.length()), false, &now());
        self.write_answer(head, &answer.body, u64::MAX)
    }

    /// Closes the connection so that what was sent arrives.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut left = LEFTOVER;
        let mut buffer = [0; 4096];
        while left > 0 {
            match self.read_until(&mut buffer, deadline)? {
                0 => break,
                len => left = left.saturating_sub(len),
            }
        }
        Ok(())
    }

    /// Returns the connection.
    pub(crate) const fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// Returns the date of this moment.
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    http_date(since.map_or(0, |since| since.as_secs()))
}

/// Returns what is left until `deadline`, which is not nothing.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Returns whether the caller looks at its deadline and tries again.
fn is_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Returns where the empty line ends that ends a head; what is before `from` was looked at.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = bytes.get(at..)?.iter().position(|byte| *byte == b'\n') {
        at += found + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::end_of_head;

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        for text in [
            "GET / HTTP/1.1\r\nA: b\r\n\r\nrest",
            "GET / HTTP/1.1\nA: b\n\nrest",
        ] {
            let end = text.len() - 4;
            assert_eq!(end_of_head(text.as_bytes(), 0), Some(end));
            for cut in 0..text.len() {
                let seen = end_of_head(&text.as_bytes()[..cut], 0);
                assert_eq!(seen, (cut >= end).then_some(end), "{cut}");
                if seen.is_none() {
                    let found = end_of_head(text.as_bytes(), cut.saturating_sub(3));
                    assert_eq!(found, Some(end), "{cut}");
                }
            }
        }
        assert_eq!(end_of_head(b"", 0), None);
    }
}
