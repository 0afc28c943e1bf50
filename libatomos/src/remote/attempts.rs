//! The tries for one thing: which mirror is asked next, and when.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::progress::Event;
use crate::transport::{Request, Response, Status, TransportError, TransportErrorKind};

use super::source::Source;
use super::timer::random_fraction;

/// The longest wait between two tries, unless the server asks for a longer one and there is no other.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The longest wait that a server can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A wait that somebody who watches is told of.
const NOTED_WAIT: Duration = Duration::from_secs(5);

/// The tries for one thing. Each mirror is tried until it fails for good, or too often.
#[derive(Debug)]
pub struct Attempts<'s, 'a> {
    source: &'s Source<'a>,
    tries: Vec<u32>,
    out: Vec<bool>,
    /// Mirrors that refused a range of this thing.
    whole: Vec<bool>,
    /// Mirrors that refused to say whether it has changed.
    always: Vec<bool>,
    current: usize,
    last: Option<TransportError>,
    /// Whether `last` is that of a body, of a server that answers.
    broke_off: bool,
    /// When each mirror may be asked again.
    ready: Vec<Option<Instant>>,
}

impl<'s, 'a> Attempts<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>, mirrors: usize) -> Self {
        Self {
            source,
            tries: vec![0; mirrors],
            out: vec![false; mirrors],
            whole: vec![false; mirrors],
            always: vec![false; mirrors],
            current: 0,
            last: None,
            broke_off: false,
            ready: vec![None; mirrors],
        }
    }
}

impl Attempts<'_, '_> {
    /// Asks the next mirror that is worth it. The answer is the whole file where that mirror has no ranges.
    pub fn get(&mut self, request: &Request<'_>) -> Result<Response, TransportError> {
        self.ask(request, None)
    }

    pub(super) fn ask(
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
            self.wait_for(index)?;
            let mirror = &self.source.mirrors[index];
            let mut request = request.clone();
            if self.whole[index] || mirror.no_ranges.load(Ordering::Relaxed) {
                request.range = None;
            }
            if let Some((site, tag)) = known {
                request.if_none_match = (site == mirror.transport.url()).then_some(tag);
            }
            if self.always[index] {
                request.if_none_match = None;
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
                    if response.status == Status::Partial {
                        mirror.ranges.store(true, Ordering::Relaxed);
                    }
                    return Ok(response);
                }
                Err(error) => {
                    self.broke_off = false;
                    if error.kind == TransportErrorKind::Cancelled {
                        return Err(error);
                    }
                    if error.kind == TransportErrorKind::RangeRefused && request.range.is_some() {
                        self.whole[index] = true;
                        self.last = Some(error);
                    } else if matches!(
                        error.kind,
                        TransportErrorKind::Denied | TransportErrorKind::Refused
                    ) && request.if_none_match.is_some()
                    {
                        // It may be the condition that the server does not like: a header that is too long for it.
                        self.always[index] = true;
                        self.last = Some(error);
                    } else if error.is_temporary() {
                        self.temporary(error);
                    } else {
                        self.give_up(error);
                    }
                }
            }
        }
    }

    /// Returns the address of the mirror that answered last.
    #[must_use]
    pub fn site(&self) -> &str {
        self.source.mirrors[self.current].transport.url()
    }

    /// The body broke off. The same mirror is asked again, after a while, where no other has had fewer tries.
    pub fn failed(&mut self, url: &str, error: &io::Error) {
        if self.source.cancel.is_cancelled() {
            // The next question ends with that. No mirror is to blame.
            return;
        }
        self.broke_off = true;
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

    /// Something of the thing came: the mirror's tries are for what is left of it.
    pub fn progressed(&mut self) {
        self.tries[self.current] = 0;
    }

    /// Returns whether the last mirror that was tried answers, and what it sends ends too early: the file is to blame there,
    /// more likely than the network.
    #[must_use]
    pub const fn broke_off(&self) -> bool {
        self.broke_off
    }

    /// Returns whether no mirror is left to ask.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.choose().is_none()
    }

    /// Each mirror is tried once before one is tried again: one that hangs takes half a minute each time.
    fn choose(&self) -> Option<usize> {
        (0..self.out.len())
            .filter(|index| !self.out[*index])
            .min_by_key(|index| (self.tries[*index], self.is_demoted(*index)))
    }

    fn is_demoted(&self, index: usize) -> bool {
        self.source.mirrors[index].demoted.load(Ordering::Relaxed)
    }

    fn wait_for(&mut self, index: usize) -> Result<(), TransportError> {
        let Some(ready) = self.ready[index].take() else {
            return Ok(());
        };
        let wait = ready.saturating_duration_since(self.source.options.timer.now());
        if wait >= NOTED_WAIT
            && let Some(error) = &self.last
        {
            let text = format!("{error}; the next try is in {} seconds", wait.as_secs());
            self.source.progress.report(Event::Note { text: &text });
        }
        self.source.sleep(wait)
    }

    /// Returns whether a mirror is left besides the one that was asked.
    fn has_others(&self) -> bool {
        self.others().next().is_some()
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        (0..self.out.len()).filter(|index| *index != self.current && !self.out[*index])
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
        let wait = asked_for + ceiling.mul_f64(random_fraction());
        self.ready[self.current] = Some(self.source.options.timer.now() + wait);
        if self.others().any(|index| !self.is_demoted(index)) {
            self.demote(&error);
        }
        self.last = Some(error);
    }

    /// Has whatever is asked for later asked of the other mirrors first.
    fn demote(&self, error: &TransportError) {
        let mirror = &self.source.mirrors[self.current];
        if !mirror.demoted.swap(true, Ordering::Relaxed) {
            let text = format!("{error}; going on with another mirror");
            self.source.progress.report(Event::Warning { text: &text });
        }
    }

    fn give_up(&mut self, error: TransportError) {
        self.out[self.current] = true;
        if self.has_others() {
            self.demote(&error);
        }
        self.last = Some(error);
    }
}
