//! A remote's mirrors as one source: retries, fall-back, the limit on the rate, and what it all cost.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::progress::{Event, Progress};
use crate::transport::{Request, Response, Status, Transport, TransportError, TransportErrorKind};

use super::timer::{Limiter, Observed, RealTimer, Timer, random_fraction};

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
    /// Lets time pass.
    pub timer: Arc<dyn Timer>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            retries: 4,
            backoff: Duration::from_millis(500),
            limit_rate: None,
            timer: Arc::new(RealTimer),
        }
    }
}

/// The longest wait between two tries, unless the server asks for a longer one and there is no other.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The longest wait that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How long a wait may last before somebody looks whether to go on.
const SLICE: Duration = Duration::from_millis(50);

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
    limiter: Limiter,
    observed: Observed,
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
            limiter: Limiter::new(options.limit_rate),
            observed: Observed::default(),
            options,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
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

    /// Returns whether no mirror that would be asked serves ranges.
    #[must_use]
    pub fn has_no_ranges(&self) -> bool {
        let is_demoted = |mirror: &Mirror| mirror.demoted.load(Ordering::Relaxed);
        let all = self.mirrors.iter().all(is_demoted);
        self.mirrors
            .iter()
            .filter(|mirror| all || !is_demoted(mirror))
            .all(|mirror| mirror.no_ranges.load(Ordering::Relaxed))
    }

    /// Starts to ask for one thing.
    #[must_use]
    pub fn attempts(&self) -> Attempts<'_, 'a> {
        Attempts {
            source: self,
            tries: vec![0; self.mirrors.len()],
            out: vec![false; self.mirrors.len()],
            whole: vec![false; self.mirrors.len()],
            current: 0,
            last: None,
            wait: None,
        }
    }

    /// Reads a small file whole, from the first mirror that `accept` likes it from.
    pub fn read<T>(
        &self,
        request: &Request<'_>,
        accept: impl FnMut(Vec<u8>, &Meta) -> Result<T, Rejection>,
    ) -> Result<Fetched<T>, TransportError> {
        self.read_if_changed(request, None, accept)
    }

    /// Reads a small file as [`Source::read`] does, unless it is as it was. `known` is a mirror's address and what it called
    /// the file ([`Meta::site`], [`Meta::etag`]): another mirror may mean another file by the same word.
    pub fn read_if_changed<T>(
        &self,
        request: &Request<'_>,
        known: Option<(&str, &str)>,
        mut accept: impl FnMut(Vec<u8>, &Meta) -> Result<T, Rejection>,
    ) -> Result<Fetched<T>, TransportError> {
        let mut attempts = self.attempts();
        loop {
            let answer = attempts.ask(request, known)?;
            if answer.status == Status::NotModified {
                return Ok(Fetched::NotModified);
            }
            let meta = Meta {
                url: answer.url.clone(),
                site: attempts.site().to_owned(),
                etag: answer.etag.clone(),
                content_type: answer.content_type.clone(),
            };
            let mut bytes = Vec::new();
            let began = self.options.timer.now();
            match Metered::new(self, answer.body).read_to_end(&mut bytes) {
                Ok(len) => {
                    let took = self.options.timer.now().saturating_duration_since(began);
                    self.observed.note_body(len, took);
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

    /// Returns how many bytes a request is worth: what a connection carries in a round trip, as far as was seen.
    #[must_use]
    pub fn request_cost(&self) -> u64 {
        self.observed.request_cost(self.options.limit_rate)
    }

    fn check_cancel(&self) -> Result<(), TransportError> {
        self.cancel.check().map_err(|cancelled| {
            let url = self.mirrors.first().map_or("", |mirror| mirror.transport.url());
            TransportError::new(url, TransportErrorKind::Cancelled, cancelled)
        })
    }

    fn sleep(&self, duration: Duration) -> Result<(), TransportError> {
        let timer = &self.options.timer;
        let until = timer.now() + duration;
        loop {
            self.check_cancel()?;
            let left = until.saturating_duration_since(timer.now());
            if left.is_zero() {
                return Ok(());
            }
            timer.sleep(left.min(SLICE));
        }
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
    /// Mirrors that refused a range of this thing.
    whole: Vec<bool>,
    current: usize,
    last: Option<TransportError>,
    wait: Option<Duration>,
}

impl Attempts<'_, '_> {
    /// Asks the next mirror that is worth it. The answer is the whole file where that mirror has no ranges.
    pub fn get(&mut self, request: &Request<'_>) -> Result<Response, TransportError> {
        self.ask(request, None)
    }

    fn ask(
        &mut self,
        request: &Request<'_>,
        known: Option<(&str, &str)>,
    ) -> Result<Response, TransportError> {
        loop {
            self.source.check_cancel()?;
            let Some(index) = self.choose() else {
                return Err(self.last.take().unwrap_or_else(|| {
                    TransportError::new(request.path, TransportErrorKind::Local, "the remote has no URL")
                }));
            };
            self.current = index;
            if let Some(wait) = self.wait.take() {
                self.source.sleep(wait)?;
            }
            let mirror = &self.source.mirrors[index];
            let mut request = request.clone();
            if self.whole[index] || mirror.no_ranges.load(Ordering::Relaxed) {
                request.range = None;
            }
            if let Some((site, tag)) = known {
                request.if_none_match = (site == mirror.transport.url()).then_some(tag);
            }
            self.source.requests.fetch_add(1, Ordering::Relaxed);
            let asked = self.source.options.timer.now();
            match mirror.transport.get(&request) {
                Ok(response) => {
                    let took = self.source.options.timer.now().saturating_duration_since(asked);
                    self.source.observed.note_answer(took);
                    // A server that has refused one range may only lack that file's end.
                    if response.status == Status::Whole && (request.range.is_some() || self.whole[index]) {
                        mirror.no_ranges.store(true, Ordering::Relaxed);
                    }
                    return Ok(response);
                }
                Err(error) if error.kind == TransportErrorKind::Cancelled => return Err(error),
                Err(error) if error.kind == TransportErrorKind::RangeRefused && request.range.is_some() => {
                    self.whole[index] = true;
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
        if self.source.cancel.is_cancelled() {
            // The next question ends with that. No mirror is to blame.
            return;
        }
        match error.kind() {
            io::ErrorKind::FileTooLarge => {
                self.give_up(TransportError::new(url, TransportErrorKind::TooLarge, error));
            }
            _ => self.temporary(TransportError::new(url, TransportErrorKind::Temporary, error)),
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

    /// Returns whether a mirror is left besides the one that was asked.
    fn has_others(&self) -> bool {
        (0..self.out.len()).any(|index| index != self.current && !self.out[index])
    }

    fn temporary(&mut self, error: TransportError) {
        self.tries[self.current] += 1;
        let tries = self.tries[self.current];
        let asked_for = error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        if tries > self.source.options.retries || (asked_for > MAX_BACKOFF && self.has_others()) {
            self.give_up(error);
            return;
        }
        let factor = 2u32.saturating_pow(tries - 1);
        let ceiling = self
            .source
            .options
            .backoff
            .saturating_mul(factor)
            .min(MAX_BACKOFF);
        // Full jitter, and on top of what the server asks for: a fleet that lost its server must not come back as one.
        self.wait = Some(asked_for + ceiling.mul_f64(random_fraction()));
        self.last = Some(error);
    }

    fn give_up(&mut self, error: TransportError) {
        self.out[self.current] = true;
        let mirror = &self.source.mirrors[self.current];
        if self.has_others() && !mirror.demoted.swap(true, Ordering::Relaxed) {
            let text = format!("{error}; going on with another mirror");
            self.source.progress.report(Event::Warning { text: &text });
        }
        self.last = Some(error);
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
        self.source.cancel.check().map_err(io::Error::other)?;
        let most = self.source.limiter.at_most(buffer.len());
        let len = self.inner.read(&mut buffer[..most])?;
        self.source.bytes.fetch_add(len as u64, Ordering::Relaxed);
        let wait = self
            .source
            .limiter
            .book(len as u64, self.source.options.timer.now());
        if !wait.is_zero() {
            self.source.sleep(wait).map_err(io::Error::other)?;
        }
        Ok(len)
    }
}
