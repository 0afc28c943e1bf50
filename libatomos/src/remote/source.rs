//! A remote's mirrors as one source: retries, fall-back, the limit on the rate, and what it all cost.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::progress::{Event, Progress};
use crate::transport::{Request, Response, Transport, TransportError, TransportErrorKind};

/// How patient to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceOptions {
    /// How often a mirror that fails for a moment is asked again.
    pub retries: u32,
    /// About how long to wait before the first of these; each one waits twice as long.
    pub backoff: Duration,
    /// Bytes per second of all connections together.
    pub limit_rate: Option<u64>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            retries: 4,
            backoff: Duration::from_millis(500),
            limit_rate: None,
        }
    }
}

/// Bytes per second that a connection is taken to carry before anything was seen.
const DEFAULT_RATE: f64 = 5_000_000.0;

/// The longest wait between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Mirror {
    transport: Box<dyn Transport>,
    /// Asked only when no other is left.
    demoted: AtomicBool,
    no_ranges: AtomicBool,
}

/// What was asked and what came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Traffic {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

/// The mirrors of a remote.
pub struct Source<'a> {
    mirrors: Vec<Mirror>,
    options: SourceOptions,
    requests: AtomicU64,
    bytes: AtomicU64,
    limiter: Mutex<Instant>,
    /// The shortest time to an answer, and the most bytes per second, that were seen so far.
    pace: Mutex<(Option<Duration>, f64)>,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("mirrors", &self.mirrors)
            .finish_non_exhaustive()
    }
}

impl<'a> Source<'a> {
    /// Takes mirrors in the order in which they are to be asked. There must be one at least.
    #[must_use]
    pub fn new(
        mirrors: Vec<Box<dyn Transport>>,
        options: SourceOptions,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            mirrors: mirrors
                .into_iter()
                .map(|transport| Mirror {
                    transport,
                    demoted: AtomicBool::new(false),
                    no_ranges: AtomicBool::new(false),
                })
                .collect(),
            options,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            limiter: Mutex::new(Instant::now()),
            pace: Mutex::new((None, 0.0)),
            progress,
            cancel,
        }
    }

    /// Returns what has been asked and what has come so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns who asks to be told.
    #[must_use]
    pub fn progress(&self) -> &'a dyn Progress {
        self.progress
    }

    /// Returns who may stop everything.
    #[must_use]
    pub fn cancel(&self) -> &'a Cancel {
        self.cancel
    }

    /// Returns whether no mirror that is left serves ranges.
    #[must_use]
    pub fn has_no_ranges(&self) -> bool {
        self.mirrors
            .iter()
            .all(|mirror| mirror.no_ranges.load(Ordering::Relaxed))
    }

    /// Starts to ask for one thing.
    #[must_use]
    pub fn attempts(&self) -> Attempts<'_, 'a> {
        Attempts {
            source: self,
            tries: vec![0; self.mirrors.len()],
            out: vec![false; self.mirrors.len()],
            current: 0,
            last: None,
            wait: None,
        }
    }

    /// Reads a small file whole, from the first mirror that `accept` likes it from. `what` is for messages.
    pub fn read<T>(
        &self,
        request: &Request<'_>,
        mut accept: impl FnMut(Vec<u8>, &Meta) -> Result<T, Rejection>,
    ) -> Result<Fetched<T>, TransportError> {
        let mut attempts = self.attempts();
        loop {
            let answer = attempts.get(request)?;
            if answer.status == crate::transport::Status::NotModified {
                return Ok(Fetched::NotModified);
            }
            let meta = Meta {
                url: answer.url.clone(),
                site: attempts.site().to_owned(),
                etag: answer.etag.clone(),
                content_type: answer.content_type.clone(),
            };
            let mut bytes = Vec::new();
            let began = Instant::now();
            match Metered::new(self, answer.body).read_to_end(&mut bytes) {
                Ok(len) => {
                    self.note_rate(len, began.elapsed());
                    match accept(bytes, &meta) {
                        Ok(value) => return Ok(Fetched::New(value)),
                        Err(rejection) => {
                            let mut reason = rejection.reason;
                            if let Some(kind) = meta.content_type.filter(|kind| kind.contains("html")) {
                                reason = format!("{reason} (the server calls it {kind})");
                            }
                            attempts.reject(&meta.url, &reason);
                        }
                    }
                }
                Err(error) => attempts.failed(&meta.url, &error),
            }
        }
    }

    /// Small answers say nothing of the rate.
    fn note_rate(&self, len: usize, took: Duration) {
        if len >= 64 * 1024 {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.1 = pace.1.max(len as f64 / took.as_secs_f64().max(1e-6));
        }
    }

    /// Returns how many bytes a request is worth: what a connection carries in a round trip, as far as was seen.
    #[must_use]
    pub fn request_cost(&self) -> u64 {
        let (round_trip, rate) = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = if rate > 0.0 { rate } else { DEFAULT_RATE };
        let rate = self
            .options
            .limit_rate
            .map_or(rate, |limit| rate.min(limit as f64));
        (round_trip.unwrap_or_default().as_secs_f64() * rate) as u64
    }

    fn sleep(&self, duration: Duration) -> Result<(), TransportError> {
        let until = Instant::now() + duration;
        loop {
            if self.cancel.is_cancelled() {
                return Err(TransportError::new(
                    self.mirrors[0].transport.url(),
                    TransportErrorKind::Cancelled,
                    "stopped as asked",
                ));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Returns how long the reader of `len` bytes has to wait to keep the rate.
    fn charge(&self, len: u64) -> Duration {
        let Some(rate) = self.options.limit_rate else {
            return Duration::ZERO;
        };
        let mut free_at = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let cost = Duration::from_secs_f64(len as f64 / rate.max(1) as f64);
        *free_at = (*free_at).max(now) + cost;
        *free_at - now
    }
}

/// What is known of a file besides its bytes.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Where it came from.
    pub url: String,
    /// The mirror's address.
    pub site: String,
    /// How the server calls this state of it.
    pub etag: Option<String>,
    /// What the server calls it.
    pub content_type: Option<String>,
}

/// Why a file of a mirror is not taken; another mirror may have a better one.
#[derive(Debug)]
pub struct Rejection {
    /// As the rest of a sentence.
    pub reason: String,
}

impl Rejection {
    /// Says why.
    pub fn new(reason: impl std::fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
        }
    }
}

/// A file, or the news that it is as it was.
#[derive(Debug)]
pub enum Fetched<T> {
    /// What was made of it.
    New(T),
    /// It has not changed.
    NotModified,
}

/// The tries for one thing. Each mirror is tried until it fails for good, or too often.
#[derive(Debug)]
pub struct Attempts<'s, 'a> {
    source: &'s Source<'a>,
    tries: Vec<u32>,
    out: Vec<bool>,
    current: usize,
    last: Option<TransportError>,
    wait: Option<Duration>,
}

impl Attempts<'_, '_> {
    /// Asks the next mirror that is worth it.
    pub fn get(&mut self, request: &Request<'_>) -> Result<Response, TransportError> {
        loop {
            let Some(index) = self.choose() else {
                return Err(self.last.take().expect("a mirror is out only after an error"));
            };
            self.current = index;
            if let Some(wait) = self.wait.take() {
                self.source.sleep(wait)?;
            }
            self.source.sleep(Duration::ZERO)?;
            let mirror = &self.source.mirrors[index];
            self.source.requests.fetch_add(1, Ordering::Relaxed);
            let mut request = request.clone();
            if mirror.no_ranges.load(Ordering::Relaxed) {
                request.range = None;
            }
            let asked = Instant::now();
            let answered = mirror.transport.get(&request);
            let took = asked.elapsed();
            match answered {
                Ok(response) => {
                    let mut pace = self.source.pace.lock().unwrap_or_else(PoisonError::into_inner);
                    pace.0 = Some(pace.0.map_or(took, |least| least.min(took)));
                    drop(pace);
                    if request.range.is_some() && response.status == crate::transport::Status::Whole {
                        mirror.no_ranges.store(true, Ordering::Relaxed);
                    }
                    return Ok(response);
                }
                Err(error) if error.kind == TransportErrorKind::RangeRefused => {
                    mirror.no_ranges.store(true, Ordering::Relaxed);
                    self.last = Some(error);
                }
                Err(error) if error.is_temporary() => self.temporary(error),
                Err(error) => self.give_up(error),
            }
        }
    }

    /// Returns the address of the mirror that answered last.
    #[must_use]
    pub fn site(&self) -> &str {
        self.source.mirrors[self.current].transport.url()
    }

    /// The body broke off. The same mirror is asked again, after a while.
    pub fn failed(&mut self, url: &str, error: &io::Error) {
        let kind = match error.kind() {
            io::ErrorKind::FileTooLarge => TransportErrorKind::TooLarge,
            _ => TransportErrorKind::Temporary,
        };
        let error = TransportError::new(url, kind, error);
        if error.is_temporary() {
            self.temporary(error);
        } else {
            self.give_up(error);
        }
    }

    /// What came is not what it should be: this mirror is not asked for it again.
    pub fn reject(&mut self, url: &str, reason: &str) {
        self.give_up(TransportError::new(url, TransportErrorKind::Protocol, reason));
    }

    /// Returns whether no mirror is left to ask.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.choose().is_none()
    }

    fn choose(&self) -> Option<usize> {
        let left = || (0..self.out.len()).filter(|index| !self.out[*index]);
        let demoted = |index: &usize| self.source.mirrors[*index].demoted.load(Ordering::Relaxed);
        left().find(|index| !demoted(index)).or_else(|| left().next())
    }

    fn temporary(&mut self, error: TransportError) {
        self.tries[self.current] += 1;
        let tries = self.tries[self.current];
        if tries > self.source.options.retries {
            self.give_up(error);
            return;
        }
        let ceiling = (self.source.options.backoff * 2u32.saturating_pow(tries - 1)).min(MAX_BACKOFF);
        // Full jitter: a fleet that lost its server must not come back as one.
        self.wait = Some(
            error
                .retry_after
                .unwrap_or_else(|| ceiling.mul_f64(random_fraction())),
        );
        self.last = Some(error);
    }

    fn give_up(&mut self, error: TransportError) {
        self.out[self.current] = true;
        let others = self.out.iter().any(|out| !out);
        let mirror = &self.source.mirrors[self.current];
        if others && !mirror.demoted.swap(true, Ordering::Relaxed) {
            let text = format!("{error}; going on with another mirror");
            self.source.progress.report(Event::Warning { text: &text });
        }
        self.last = Some(error);
    }
}

/// Returns a number from 0 to 1.
fn random_fraction() -> f64 {
    let mut bytes = [0u8; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(4) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        _ => 0.5,
    }
}

/// Reads a body, counting, keeping the rate, and stopping when asked to.
#[derive(Debug)]
pub struct Metered<'s, 'a, R> {
    source: &'s Source<'a>,
    inner: R,
}

impl<'s, 'a, R: Read> Metered<'s, 'a, R> {
    /// Wraps a body.
    pub fn new(source: &'s Source<'a>, inner: R) -> Self {
        Self { source, inner }
    }
}

impl<R: Read> Read for Metered<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.source.cancel.is_cancelled() {
            return Err(io::Error::other("stopped as asked"));
        }
        // A large read under a low rate would be a long sleep.
        let most = self.source.options.limit_rate.map_or(buffer.len(), |rate| {
            buffer
                .len()
                .min(usize::try_from(rate / 8).unwrap_or(usize::MAX).max(512))
        });
        let len = self.inner.read(&mut buffer[..most])?;
        self.source.bytes.fetch_add(len as u64, Ordering::Relaxed);
        let wait = self.source.charge(len as u64);
        if !wait.is_zero() {
            self.source.sleep(wait).map_err(io::Error::other)?;
        }
        Ok(len)
    }
}
