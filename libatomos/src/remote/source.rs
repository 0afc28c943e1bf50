//! A remote's mirrors as one source: retries, fall-back, the limit on the rate, and what it all cost.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::progress::Progress;
use crate::transport::{Request, Status, Transport, TransportError, TransportErrorKind};

use super::attempts::Attempts;
use super::timer::{Limiter, Observed, RealTimer, Timer};

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

/// How long a wait may last before somebody looks whether to go on.
const SLICE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) transport: Box<dyn Transport>,
    /// Asked only when no other is left.
    pub(super) demoted: AtomicBool,
    pub(super) no_ranges: AtomicBool,
    /// Whether it has served a range.
    pub(super) ranges: AtomicBool,
}

impl Mirror {
    fn is_demoted(&self) -> bool {
        self.demoted.load(Ordering::Relaxed)
    }

    fn knows_ranges(&self) -> bool {
        self.no_ranges.load(Ordering::Relaxed)
            || self.ranges.load(Ordering::Relaxed)
            || self.transport.serves_ranges().is_some()
    }
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
    pub(super) mirrors: Vec<Mirror>,
    pub(super) options: SourceOptions,
    pub(super) requests: AtomicU64,
    bytes: AtomicU64,
    limiter: Limiter,
    pub(super) observed: Observed,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a Cancel,
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
                    ranges: AtomicBool::new(false),
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

    /// Returns whether it is known of the mirror that will be asked next whether it serves ranges.
    #[must_use]
    pub fn knows_ranges(&self) -> bool {
        let next = self.mirrors.iter().find(|mirror| !mirror.is_demoted());
        next.or(self.mirrors.first()).is_none_or(Mirror::knows_ranges)
    }

    /// Returns whether no mirror that would be asked serves ranges.
    #[must_use]
    pub fn has_no_ranges(&self) -> bool {
        let all = self.mirrors.iter().all(Mirror::is_demoted);
        self.mirrors
            .iter()
            .filter(|mirror| all || !mirror.is_demoted())
            .all(|mirror| mirror.no_ranges.load(Ordering::Relaxed))
    }

    /// Starts to ask for one thing.
    #[must_use]
    pub fn attempts(&self) -> Attempts<'_, 'a> {
        Attempts::new(self, self.mirrors.len())
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
                let was_asked = match known {
                    Some((site, _)) => site == attempts.site(),
                    None => request.if_none_match.is_some(),
                };
                if was_asked {
                    return Ok(Fetched::NotModified);
                }
                attempts.reject(&answer.url, "it says that nothing changed, which nobody asked");
                continue;
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

    pub(super) fn check_cancel(&self) -> Result<(), TransportError> {
        self.cancel.check().map_err(|cancelled| {
            let url = self.mirrors.first().map_or("", |mirror| mirror.transport.url());
            TransportError::new(url, TransportErrorKind::Cancelled, cancelled)
        })
    }

    pub(super) fn sleep(&self, duration: Duration) -> Result<(), TransportError> {
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
