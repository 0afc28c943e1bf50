//! A transport of the program's own: the updater runs without any network, and asks a broker that has one.
//!
//! [`BrokerTransport`] is what the library is given instead of http. It knows no digests and no keys, as no transport does:
//! whatever the broker says is verified by whoever asked. [`Broker`] is the other end, which reads a site's directory here and
//! would be a client of some message bus, modem or object store elsewhere.
//!
//! One connection of a Unix socket is one question, a line of text, and its answer, another line and the bytes.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libatomos::Cancel;
use libatomos::transport::{
    DirTransport, Request, Response, Status, Transport, TransportError, TransportErrorKind, check_path,
};

/// How often a wait looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);

/// How long the broker may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a question, or of an answer's first line.
const MAX_LINE: u64 = 8192;

/// Asks a broker for the files of a site.
#[derive(Debug)]
pub struct BrokerTransport {
    socket: PathBuf,
    url: String,
    cancel: Cancel,
    patience: Duration,
}

impl BrokerTransport {
    /// Returns a transport that asks the broker at `socket`. Every wait ends when `cancel` is set.
    pub fn new(socket: &Path, cancel: &Cancel) -> Self {
        Self {
            socket: socket.to_owned(),
            url: format!("broker:{}", socket.display()),
            cancel: cancel.clone(),
            patience: PATIENCE,
        }
    }

    fn ask(&self, request: &Request<'_>) -> io::Result<(String, Answer)> {
        let mut line = format!("get {}", request.path);
        match &request.range {
            Some(range) => write!(line, " {} {}", range.start, range.end),
            None => write!(line, " - -"),
        }
        .expect("a string grows");
        line += &format!(
            " {} {}\n",
            request.max_bytes,
            request.if_none_match.unwrap_or("-")
        );
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_write_timeout(Some(self.patience))?;
        stream.write_all(line.as_bytes())?;
        stream.set_read_timeout(Some(TICK))?;
        let mut answer = Answer {
            stream,
            cancel: self.cancel.clone(),
            patience: self.patience,
            left: MAX_LINE,
        };
        // Byte by byte: what comes after the line is the body's.
        let mut head = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            answer.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).map_err(|_| io::Error::other("the answer is no text"))?;
        Ok((head.trim_end().to_owned(), answer))
    }
}

impl Transport for BrokerTransport {
    fn url(&self) -> &str {
        &self.url
    }

    fn get(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let url = format!("{}/{}", self.url, request.path);
        let fail = |kind, reason: &dyn std::fmt::Display| TransportError::new(&url, kind, reason);
        if !check_path(request.path) {
            return Err(fail(TransportErrorKind::Local, &"this is no path of a site"));
        }
        let (head, mut body) = self.ask(request).map_err(|error| {
            let kind = match self.cancel.is_cancelled() {
                true => TransportErrorKind::Cancelled,
                // The broker may be starting anew.
                false => TransportErrorKind::Temporary,
            };
            fail(kind, &error)
        })?;
        let words: Vec<&str> = head.splitn(3, ' ').collect();
        let (status, len, tag) = match words.as_slice() {
            ["missing"] => {
                return Err(fail(
                    TransportErrorKind::NotFound,
                    &"the broker knows no such file",
                ));
            }
            ["failed", ..] => return Err(fail(TransportErrorKind::Temporary, &head)),
            ["unchanged", _, tag] => (Status::NotModified, Some(0), *tag),
            ["whole", len, tag] => (Status::Whole, len.parse().ok(), *tag),
            ["partial", len, tag] => (Status::Partial, len.parse().ok(), *tag),
            _ => (Status::Whole, None, ""),
        };
        // What was not asked for is not taken, and no more than was agreed upon.
        let most = match (&request.range, status) {
            (Some(range), Status::Partial) => len.filter(|len| *len == range.end - range.start),
            (None, Status::Partial) => None,
            _ => len.filter(|len| *len <= request.max_bytes),
        };
        body.left = most.ok_or_else(|| {
            let reason = format!("the broker answered {head:?}, which is no answer to this");
            fail(TransportErrorKind::Protocol, &reason)
        })?;
        Ok(Response {
            status,
            etag: Some(tag.to_owned()),
            url,
            content_type: None,
            body: Box::new(body),
        })
    }
}

/// An answer as it comes: exactly as many bytes as are left, or an error.
struct Answer {
    stream: UnixStream,
    cancel: Cancel,
    patience: Duration,
    left: u64,
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let begun = Instant::now();
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("somebody asked to stop"));
            }
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.left -= read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < self.patience => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Answers for the site in a directory, until it is dropped.
#[derive(Debug)]
pub struct Broker {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Listens at `socket` for the site at `site`.
    ///
    /// # Errors
    /// Where it cannot listen there.
    pub fn start(socket: &Path, site: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, site) = (Arc::clone(&stop), site.to_owned());
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let site = site.clone();
                // Whoever hangs up in the middle has a reason, and it is none of the broker's.
                thread::spawn(move || answer(stream, &site).ok());
            }
        });
        Ok(Self {
            socket: socket.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let woken = UnixStream::connect(&self.socket);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn answer(mut stream: UnixStream, site: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?.take(MAX_LINE)).read_line(&mut line)?;
    let words: Vec<&str> = line.trim_end().splitn(6, ' ').collect();
    let (["get", path, start, end, max, tag], Ok(site)) = (words.as_slice(), DirTransport::open(site)) else {
        return stream.write_all(b"failed\n");
    };
    let max = max.parse().unwrap_or(0);
    let mut request = match (start.parse(), end.parse()) {
        (Ok(start), Ok(end)) => Request::range(path, start..end, max),
        _ => Request::whole(path, max),
    };
    request.if_none_match = Some(*tag);
    let response = match site.get(&request) {
        Ok(response) => response,
        Err(error) if error.kind == TransportErrorKind::NotFound => return stream.write_all(b"missing\n"),
        Err(_) => return stream.write_all(b"failed\n"),
    };
    let mut body = Vec::new();
    let mut reader = response.body;
    let word = match response.status {
        Status::NotModified => "unchanged",
        Status::Partial => "partial",
        Status::Whole => "whole",
    };
    reader.read_to_end(&mut body)?;
    let tag = response.etag.unwrap_or_default();
    stream.write_all(format!("{word} {} {tag}\n", body.len()).as_bytes())?;
    stream.write_all(&body)
}
