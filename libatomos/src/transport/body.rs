//! A body that must come in time.
//!
//! A server that sends a byte now and then keeps a connection alive for ever, so the time without a byte is not enough of a
//! bound. Only the time that is spent waiting counts: a caller that reads slowly, because it was told to keep a rate, is
//! no reason to blame the server.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// How slow a server may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Over this time of waiting the rate is measured; also the longest time without a byte.
    pub(super) window: Duration,
    /// Bytes per second.
    pub(super) min_rate: u64,
    /// The longest time of waiting for all of it.
    pub(super) whole: Option<Duration>,
}

/// A body under a [`Pace`].
#[derive(Debug)]
pub(super) struct Paced<R> {
    inner: R,
    pace: Pace,
    waited: Duration,
    window: Duration,
    bytes: u64,
}

impl<R> Paced<R> {
    pub(super) fn new(inner: R, pace: Pace) -> Self {
        Self {
            inner,
            pace,
            waited: Duration::ZERO,
            window: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Counts one read.
    fn note(&mut self, len: u64, time: Duration) -> io::Result<()> {
        let slow = |text: String| Err(io::Error::new(io::ErrorKind::TimedOut, text));
        self.waited += time;
        self.window += time;
        self.bytes += len;
        // What ends the body cannot be too late.
        if len == 0 {
            return Ok(());
        }
        if let Some(whole) = self.pace.whole
            && self.waited > whole
        {
            return slow(format!("the body takes more than {} s", whole.as_secs_f32()));
        }
        if self.window >= self.pace.window {
            let seconds = self.window.as_secs_f64();
            if (self.bytes as f64) < self.pace.min_rate as f64 * seconds {
                return slow(format!("only {} bytes came in {seconds:.1} s", self.bytes));
            }
            (self.window, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(())
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        let len = self.inner.read(buffer).map_err(|error| {
            let timeout = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<ureq::Error>());
            match timeout {
                Some(ureq::Error::Timeout(_)) => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no byte came for {} s", self.pace.window.as_secs_f32()),
                ),
                _ => error,
            }
        })?;
        self.note(len as u64, started.elapsed())?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(whole: Option<u64>) -> Paced<io::Empty> {
        let pace = Pace {
            window: Duration::from_secs(30),
            min_rate: 100,
            whole: whole.map(Duration::from_secs),
        };
        Paced::new(io::empty(), pace)
    }

    #[test]
    fn a_trickle_fails_and_a_slow_line_does_not() {
        let second = Duration::from_secs(1);
        let mut trickle = paced(None);
        let result = (0..60).try_for_each(|_| trickle.note(1, second));
        assert!(result.unwrap_err().to_string().contains("only 30 bytes"));
        let mut slow = paced(None);
        (0..3600).try_for_each(|_| slow.note(100, second)).unwrap();
        let mut bursts = paced(None);
        (0..100).try_for_each(|_| bursts.note(3000, 29 * second)).unwrap();
    }

    #[test]
    fn the_whole_time_is_bounded_and_its_end_is_not_late() {
        let mut body = paced(Some(10));
        body.note(5000, Duration::from_secs(9)).unwrap();
        body.note(0, Duration::from_secs(9)).unwrap();
        let error = body.note(5000, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
