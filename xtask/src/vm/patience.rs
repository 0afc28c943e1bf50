//! How long to wait for a machine, whatever else this one is doing.
//!
//! A guest that gets half of a processor needs twice the time, and is none the worse. So what is counted is the processor time that
//! the emulator has used: a guest that is booting uses it, and one that is stuck in a loop has soon used too much. One
//! that is stuck waiting uses none, and for that there is a limit by the clock, which is far away.

use std::time::{Duration, Instant};

/// How many seconds of the clock stand for one of the processor.
const CLOCK: u32 = 8;

/// The end of a wait.
#[derive(Debug)]
pub struct Patience {
    process: u32,
    started: Instant,
    used_before: Duration,
    limit: Duration,
}

impl Patience {
    /// Waits until the process has used `limit` of processor time.
    pub fn new(process: u32, limit: Duration) -> Self {
        Self {
            process,
            started: Instant::now(),
            used_before: processor_time(process).unwrap_or_default(),
            limit,
        }
    }

    /// Whether it is enough.
    pub fn is_over(&self) -> bool {
        let used = processor_time(self.process).unwrap_or_default();
        used.saturating_sub(self.used_before) > self.limit || self.started.elapsed() > self.limit * CLOCK
    }
}

/// The processor time that a process has used; `None` if there is no such process.
pub fn processor_time(process: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    parse_stat(&stat, rustix::param::clock_ticks_per_second())
}

/// User and system time, the 14th and 15th field. The second one is a name in brackets that may hold anything.
fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let milliseconds = user.checked_add(system)?.checked_mul(1000)?;
    Some(Duration::from_millis(milliseconds / ticks_per_second.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_whatever_the_program_is_called() {
        let stat = "17 (a) b) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 1 0 5 6 7";
        assert_eq!(parse_stat(stat, 100), Some(Duration::from_secs(3)));
        assert_eq!(parse_stat("17 (a) S 1", 100), None);
        assert!(processor_time(std::process::id()).is_some());
        assert!(processor_time(u32::MAX).is_none());
    }

    #[test]
    fn patience_ends_when_the_processor_was_used() {
        let patience = Patience::new(std::process::id(), Duration::ZERO);
        // Work, until the kernel's clock has ticked: the limit by the clock is zero too, so this ends.
        while !patience.is_over() {
            std::hint::black_box(0);
        }
        assert!(!Patience::new(std::process::id(), Duration::from_secs(1000)).is_over());
    }
}
