//! Named points at which a test can stop an operation, to see what an interruption there leaves behind.
//!
//! An operation calls [`hit`] before and after each step that must survive a power cut. In an ordinary build that
//! is nothing at all. In this crate's own tests, and with the feature `failpoints`, a test can make the operation
//! return [`Tripped`] at any of them:
//!
//! - `trace` runs the operation once and tells which points it passed, in order;
//! - `stop_at` runs it and stops it at the n-th of them.
//!
//! A test that loops over the trace therefore covers every point, those included that are added later:
//!
//! ```
//! # #[cfg(feature = "failpoints")] {
//! use libatomos::failpoint::{self, Tripped};
//!
//! fn operation() -> Result<(), Tripped> {
//!     failpoint::hit("example.written")?;
//!     failpoint::hit("example.renamed")
//! }
//! let (points, _) = failpoint::trace(operation);
//! assert_eq!(points, ["example.written", "example.renamed"]);
//! for n in 0..points.len() {
//!     assert!(failpoint::stop_at(n, operation).is_err());
//! }
//! # }
//! ```
//!
//! From the point where it stops, every later point stops too: a process that died does not go on cleaning up. What
//! is armed is armed for the calling thread alone, so tests may run side by side; points in worker threads never
//! stop.
//!
//! [`watch`] is for tests of power cuts, which look at the whole process; [`fault`] makes single system calls fail.

pub mod fault;
pub mod watch;

/// An operation was stopped at a failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped at the failpoint {name}")]
pub struct Tripped {
    /// Which point.
    pub name: &'static str,
}

/// Passes the point `name`, unless a test wants the operation to stop here.
#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub fn hit(_name: &'static str) -> Result<(), Tripped> {
    Ok(())
}

#[cfg(any(test, feature = "failpoints"))]
mod enabled {
    use super::Tripped;
    use std::cell::RefCell;

    #[derive(Default)]
    struct State {
        /// The points passed, where somebody listens.
        trace: Option<Vec<&'static str>>,
        /// How many points may still be passed before one stops the operation.
        left: Option<usize>,
    }

    thread_local! {
        static STATE: RefCell<State> = RefCell::default();
    }

    /// Passes the point `name`, unless a test wants the operation to stop here.
    pub fn hit(name: &'static str) -> Result<(), Tripped> {
        super::watch::passed(name);
        STATE.with_borrow_mut(|state| {
            if let Some(left) = &mut state.left {
                if *left == 0 {
                    return Err(Tripped { name });
                }
                *left -= 1;
            }
            if let Some(trace) = &mut state.trace {
                trace.push(name);
            }
            Ok(())
        })
    }

    /// Puts the thread's state back when the operation is over, or panics.
    struct Restore(Option<State>);

    impl Restore {
        fn arm(state: State) -> Self {
            Self(Some(STATE.replace(state)))
        }
    }

    impl Drop for Restore {
        fn drop(&mut self) {
            if let Some(state) = self.0.take() {
                STATE.set(state);
            }
        }
    }

    /// Runs `operation` and returns the points that it passed on this thread, with its result.
    pub fn trace<T>(operation: impl FnOnce() -> T) -> (Vec<&'static str>, T) {
        let _restore = Restore::arm(State {
            trace: Some(Vec::new()),
            left: None,
        });
        let result = operation();
        let points = STATE.with_borrow_mut(|state| state.trace.take());
        (points.unwrap_or_default(), result)
    }

    /// Runs `operation` and stops it at the point that it reaches after passing `n` others.
    pub fn stop_at<T>(n: usize, operation: impl FnOnce() -> T) -> T {
        let _restore = Restore::arm(State {
            trace: None,
            left: Some(n),
        });
        operation()
    }
}

#[cfg(any(test, feature = "failpoints"))]
pub use enabled::{hit, stop_at, trace};

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Result<&'static str, Tripped> {
        hit("one")?;
        hit("two")?;
        hit("three")?;
        Ok("done")
    }

    #[test]
    fn every_point_of_a_trace_can_stop_the_operation() {
        let (points, result) = trace(operation);
        assert_eq!(
            (points.as_slice(), result),
            (&["one", "two", "three"][..], Ok("done"))
        );
        for (n, name) in points.into_iter().enumerate() {
            assert_eq!(stop_at(n, operation), Err(Tripped { name }));
        }
        assert_eq!(stop_at(3, operation), Ok("done"));
        assert_eq!(operation(), Ok("done"), "nothing stays armed");
    }

    #[test]
    fn after_the_first_stop_nothing_goes_on() {
        let results = stop_at(1, || [hit("one"), hit("two"), hit("three")]);
        assert_eq!(results.map(|result| result.is_ok()), [true, false, false]);
    }
}
