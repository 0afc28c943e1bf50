//! A server that misbehaves.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::fault::{Deed, Fault};
use super::gzip::gzip;
use crate::answer::{Answer, Body};
use crate::connection::{After, Wire, now};
use crate::request::Request;
use crate::server::{Handler, Server, ServerOptions};
use crate::site::Site;

/// Serves a directory, misbehaves as its faults say, and remembers every request.
///
/// The first fault of the list that a request matches is done to it. Without faults it is the server of `atomos serve`.
#[derive(Debug)]
pub struct BadServer {
    server: Server,
    state: Arc<State>,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path without the first `/`, decoded.
    pub path: String,
    /// The target as it was sent: the whole address where the client takes this for a proxy.
    pub target: String,
    /// The header `Range` as it was sent.
    pub range: Option<String>,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// What was done to it.
    pub deed: Option<Deed>,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// How many bytes of the body were given to the kernel so far. Who has read them finds them counted; who closes the
    /// connection in the midst may find more than it read.
    pub bytes: u64,
}

impl Seen {
    /// Returns the value of a header; its name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the range that was asked for, if it has a first and a last byte.
    #[must_use]
    pub fn bytes_range(&self) -> Option<Range<u64>> {
        let (first, last) = self.range.as_ref()?.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
    }
}

#[derive(Debug)]
struct State {
    site: Site,
    faults: Mutex<Vec<Arc<Fault>>>,
    seen: Mutex<Vec<Record>>,
}

#[derive(Debug)]
struct Record {
    seen: Seen,
    status: Arc<AtomicU16>,
    bytes: Arc<AtomicU64>,
}

impl BadServer {
    /// Serves the directory at `path` with `faults`.
    ///
    /// # Panics
    ///
    /// If the directory cannot be opened.
    #[must_use]
    pub fn start(path: impl AsRef<Path>, faults: impl IntoIterator<Item = Fault>) -> Self {
        let site = Site::open(path.as_ref()).expect("the directory can be opened");
        let state = Arc::new(State {
            site,
            faults: Mutex::new(faults.into_iter().map(Arc::new).collect()),
            seen: Mutex::default(),
        });
        let server = Server::start_handler(Box::new(Arc::clone(&state)), ServerOptions::default())
            .expect("loopback can be listened at");
        Self { server, state }
    }

    /// Returns its address, such as `http://127.0.0.1:1234`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Replaces the faults. What is being answered is not changed.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        *self.state.faults.lock().unwrap() = faults.into_iter().map(Arc::new).collect();
    }

    /// Returns the requests so far, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().map(Record::seen).collect()
    }

    /// Returns the requests so far, and forgets them.
    #[must_use]
    pub fn take_requests(&self) -> Vec<Seen> {
        let records = std::mem::take(&mut *self.state.seen.lock().unwrap());
        records.iter().map(Record::seen).collect()
    }

    /// Returns how many connections there were.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }
}

impl Record {
    fn seen(&self) -> Seen {
        Seen {
            status: self.status.load(Ordering::SeqCst),
            bytes: self.bytes.load(Ordering::SeqCst),
            ..self.seen.clone()
        }
    }
}

impl Handler for Arc<State> {
    fn handle(&self, request: &Request, wire: &mut Wire, keep: bool) -> io::Result<After> {
        let faults = self.faults.lock().unwrap().clone();
        let deed = faults.iter().find_map(|fault| fault.strike(request));
        self.seen.lock().unwrap().push(Record {
            seen: Seen {
                method: request.method.clone(),
                path: request.path.clone(),
                target: request.target.clone(),
                range: request.header("range").map(str::to_owned),
                headers: request.headers.clone(),
                deed: deed.clone(),
                status: 0,
                bytes: 0,
            },
            status: Arc::clone(&wire.status),
            bytes: Arc::clone(&wire.sent),
        });
        match deed {
            None => self.site.handle(request, wire, keep),
            Some(deed) => self.misbehave(deed, request, wire, keep),
        }
    }
}

impl State {
    fn misbehave(&self, deed: Deed, request: &Request, wire: &mut Wire, keep: bool) -> io::Result<After> {
        let mut answer = self.site.answer(request);
        match deed {
            Deed::Html => {
                answer = Answer::plain(200);
                answer.set("Content-Type", "text/html");
                let page = "<!DOCTYPE html>\n<title>Welcome</title>\n<p>Please accept the terms of use.\n";
                answer.body = Body::Bytes(page.into());
            }
            Deed::Status(status) => answer = Answer::plain(status),
            Deed::Unavailable(seconds) => {
                answer = Answer::plain(503);
                answer.set("Retry-After", seconds.to_string());
            }
            Deed::RefuseRange => answer = Answer::plain(501),
            Deed::NoRanges => {
                answer = self.site.answer(&with_range(request, None));
                answer.headers.retain(|(name, _)| *name != "Accept-Ranges");
            }
            Deed::IgnoreRange => answer = self.site.answer(&with_range(request, None)),
            Deed::WrongRange(by) | Deed::LyingRange(by) => {
                let wrong = self.site.answer(&shifted(request, by));
                if deed == Deed::LyingRange(by) {
                    answer.body = wrong.body;
                } else {
                    answer = wrong;
                }
            }
            Deed::Gzip => {
                answer.body = Body::Bytes(gzip(&bytes(&answer.body)?));
                answer.set("Content-Encoding", "gzip");
            }
            Deed::RedirectLoop => answer = redirect(&request.target),
            Deed::Redirect(base) => {
                answer = redirect(&format!("{}/{}", base.trim_end_matches('/'), request.path));
            }
            Deed::Swap(path) => {
                let mut other = request.clone();
                other.path = path;
                answer = self.site.answer(&other);
            }
            Deed::Bytes(whole) => replace(&mut answer, &whole),
            Deed::Flip(at) => {
                let start = first_byte(&answer.body);
                let mut bytes = bytes(&answer.body)?;
                let index = at
                    .checked_sub(start)
                    .and_then(|index| usize::try_from(index).ok());
                if let Some(byte) = index.and_then(|index| bytes.get_mut(index)) {
                    *byte ^= 1;
                }
                answer.body = Body::Bytes(bytes);
            }
            Deed::NotModified => {
                answer.status = 304;
                answer.body = Body::None;
            }
            deed => return break_off(deed, &answer, wire),
        }
        wire.send(request, &answer, keep)
    }
}

/// Does what is not an answer as a server means it.
fn break_off(deed: Deed, answer: &Answer, wire: &mut Wire) -> io::Result<After> {
    let length = answer.length();
    if !matches!(deed, Deed::Silence | Deed::Hangup | Deed::Garbage) {
        wire.status.store(answer.status, Ordering::SeqCst);
    }
    let head = |length, keep| answer.head(length, keep, &now());
    match deed {
        Deed::LongLength(more) => {
            wire.write_answer(head(Some(length + more), true), &answer.body, u64::MAX)?;
            Ok(After::Close)
        }
        Deed::ShortLength(less) => {
            wire.write_answer(
                head(Some(length.saturating_sub(less)), true),
                &answer.body,
                u64::MAX,
            )?;
            Ok(After::Keep)
        }
        Deed::Trickle(piece, pause) => {
            let bytes = bytes(&answer.body)?;
            wire.write(&head(Some(length), true))?;
            for piece in bytes.chunks(piece.max(1)) {
                wire.write_body(piece)?;
                wait(wire, pause)?;
            }
            Ok(After::Keep)
        }
        Deed::Stall(after) => {
            wire.write_answer(head(Some(length), true), &answer.body, after)?;
            wait(wire, Duration::MAX)?;
            Ok(After::Close)
        }
        Deed::Silence => {
            wait(wire, Duration::MAX)?;
            Ok(After::Close)
        }
        Deed::Reset(after) => {
            wire.write_answer(head(Some(length), true), &answer.body, after)?;
            Ok(After::Reset)
        }
        Deed::Close(after) => {
            wire.write_answer(head(Some(length), true), &answer.body, after)?;
            Ok(After::Close)
        }
        Deed::Garbage => {
            wire.write(b"220 mail.example ESMTP ready\r\n")?;
            Ok(After::Close)
        }
        Deed::Endless => {
            wire.write_answer(head(None, false), &answer.body, u64::MAX)?;
            loop {
                wire.write_body(&[0x5a; 16 * 1024])?;
            }
        }
        _ => Ok(After::Close),
    }
}

/// Waits, but no longer than the client stays and the server runs.
fn wait(wire: &Wire, pause: Duration) -> io::Result<()> {
    let begin = Instant::now();
    while let Some(left) = pause.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
        wire.stream()
            .set_read_timeout(Some(left.min(Duration::from_secs(60))))?;
        match wire.stream().peek(&mut [0]) {
            Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
            // The client has sent its next request already; that it goes is noticed by writing.
            Ok(_) => std::thread::sleep(left.min(Duration::from_millis(10))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes `whole` the file that an answer is about.
fn replace(answer: &mut Answer, whole: &[u8]) {
    let range = match (answer.status, &answer.body) {
        (206, Body::File(_, range)) => range.clone(),
        _ => {
            answer.status = 200;
            answer.body = Body::Bytes(whole.to_vec());
            return;
        }
    };
    let size = whole.len() as u64;
    let part = range.start.min(size)..range.end.min(size);
    if part.is_empty() {
        *answer = Answer::plain(416);
        answer.set("Content-Range", format!("bytes */{size}"));
        return;
    }
    answer.set(
        "Content-Range",
        format!("bytes {}-{}/{size}", part.start, part.end - 1),
    );
    answer.body = Body::Bytes(whole[part.start as usize..part.end as usize].to_vec());
}

fn redirect(to: &str) -> Answer {
    let mut answer = Answer::plain(302);
    answer.set("Location", to);
    answer
}

fn with_range(request: &Request, range: Option<String>) -> Request {
    let mut other = request.clone();
    other.headers.retain(|(name, _)| name != "range");
    other
        .headers
        .extend(range.map(|range| ("range".to_owned(), range)));
    other
}

/// Returns the request with both ends of its range `by` bytes later.
fn shifted(request: &Request, by: u64) -> Request {
    let later = |number: &str| {
        number
            .parse()
            .map_or(String::new(), |number: u64| (number + by).to_string())
    };
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let range = range.map(|(first, last)| format!("bytes={}-{}", later(first), later(last)));
    with_range(request, range)
}

fn first_byte(body: &Body) -> u64 {
    match body {
        Body::File(_, range) => range.start,
        _ => 0,
    }
}

fn bytes(body: &Body) -> io::Result<Vec<u8>> {
    match body {
        Body::None => Ok(Vec::new()),
        Body::Bytes(bytes) => Ok(bytes.clone()),
        Body::File(file, range) => {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        }
    }
}
