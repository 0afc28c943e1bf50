//! Time that passes, and the limit on the rate.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tells the time and lets it pass. Tests have one in which an hour takes no time.
pub trait Timer: Send + Sync + fmt::Debug {
    /// Returns the time.
    fn now(&self) -> Instant;
    /// Waits.
    fn sleep(&self, duration: Duration);
}

/// The time of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealTimer;

impl Timer for RealTimer {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Keeps all connections together to a number of bytes per second: each read books the time that its bytes take, after what
/// was booked before it, and waits until then.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: Option<u64>,
    booked_until: Mutex<Option<Instant>>,
}

impl Limiter {
    pub(super) const fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            booked_until: Mutex::new(None),
        }
    }

    /// Returns how much to read at once into a buffer of `len` bytes: under a low rate a large read is a long wait.
    pub(super) fn at_most(&self, len: usize) -> usize {
        let share = |rate: u64| usize::try_from(rate / 8).unwrap_or(usize::MAX).max(512);
        self.rate.map_or(len, |rate| len.min(share(rate)))
    }

    /// Books `len` bytes, and returns how long to wait for them.
    pub(super) fn book(&self, len: u64, now: Instant) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let cost = Duration::from_secs_f64(len as f64 / rate.max(1) as f64);
        let mut booked = self.booked_until.lock().unwrap_or_else(PoisonError::into_inner);
        let until = booked.map_or(now, |until| until.max(now)) + cost;
        *booked = Some(until);
        until - now
    }
}

/// Bytes per second that a connection is taken to carry before anything was seen.
const DEFAULT_RATE: f64 = 5_000_000.0;

/// Bytes of a body that says something of the rate.
const TELLING: usize = 64 * 1024;

/// What was seen of the line: the shortest time to an answer, and the most bytes per second.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<(Option<Duration>, f64)>);

impl Observed {
    fn seen(&self) -> std::sync::MutexGuard<'_, (Option<Duration>, f64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_answer(&self, took: Duration) {
        let mut seen = self.seen();
        seen.0 = Some(seen.0.map_or(took, |least| least.min(took)));
    }

    pub(super) fn note_body(&self, len: usize, took: Duration) {
        if len >= TELLING {
            let mut seen = self.seen();
            seen.1 = seen.1.max(len as f64 / took.as_secs_f64().max(1e-6));
        }
    }

    /// Returns how many bytes a connection carries in a round trip.
    pub(super) fn request_cost(&self, limit: Option<u64>) -> u64 {
        let (round_trip, rate) = *self.seen();
        let rate = if rate > 0.0 { rate } else { DEFAULT_RATE };
        let rate = limit.map_or(rate, |limit| rate.min(limit as f64));
        (round_trip.unwrap_or_default().as_secs_f64() * rate) as u64
    }
}

/// Returns a number from 0 to 1.
pub(super) fn random_fraction() -> f64 {
    let mut bytes = [0u8; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(4) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        _ => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_connections_together_keep_the_rate() {
        let limiter = Limiter::new(Some(1000));
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(limiter.book(1000, start), second);
        assert_eq!(limiter.book(500, start), second * 3 / 2, "another connection");
        assert_eq!(limiter.book(1000, start + 2 * second), second);
        assert_eq!(
            limiter.book(1000, start + 100 * second),
            second,
            "what was not used is not saved up"
        );
        assert_eq!(limiter.at_most(1 << 20), 512);
        let none = Limiter::new(None);
        assert_eq!((none.book(1 << 40, start), none.at_most(9)), (Duration::ZERO, 9));
    }

    #[test]
    fn a_request_is_worth_what_a_line_carries_in_a_round_trip() {
        let seen = Observed::default();
        assert_eq!(seen.request_cost(None), 0);
        seen.note_answer(Duration::from_millis(80));
        seen.note_answer(Duration::from_millis(50));
        seen.note_body(1000, Duration::from_millis(1));
        assert_eq!(seen.request_cost(None), 250_000);
        assert_eq!(seen.request_cost(Some(1000)), 50);
        seen.note_body(1 << 20, Duration::from_millis(100));
        assert_eq!(seen.request_cost(None), 524_288);
    }
}
