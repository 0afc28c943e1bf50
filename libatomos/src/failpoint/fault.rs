//! System calls that fail once, for tests of what an operation does then.
//!
//! The calls by which the store, checkouts and files of state are written go through `call`. In an ordinary build that only takes the
//! call up again when a signal interrupted it. In this crate's own tests, and with the feature `failpoints`, a test can make the n-th call of the process
//! fail with an error of its choice, or be the process's last, from whatever thread. The call itself is not made then.

use rustix::io::Errno;

/// Makes the system call `make`, called `name`, again as long as a signal interrupts it.
#[inline]
pub(crate) fn call<T>(
    name: &'static str,
    mut make: impl FnMut() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    loop {
        let made = match injected(name) {
            Some(errno) => Err(errno),
            None => make(),
        };
        match made {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Makes the system call `make`, called `name`, once: another time would undo it.
#[inline]
pub(crate) fn once<T>(
    name: &'static str,
    make: impl FnOnce() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match injected(name) {
        Some(errno) => Err(errno),
        None => make(),
    }
}

#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
const fn injected(_name: &'static str) -> Option<Errno> {
    None
}

#[cfg(any(test, feature = "failpoints"))]
mod enabled {
    use std::sync::{Mutex, PoisonError};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    struct State {
        left: u64,
        /// `None` ends the process.
        errno: Option<i32>,
        hit: Option<&'static str>,
    }

    static STATE: Mutex<Option<State>> = Mutex::new(None);

    fn state() -> std::sync::MutexGuard<'static, Option<State>> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn injected(name: &'static str) -> Option<Errno> {
        let mut state = state();
        let state = state.as_mut()?;
        if state.hit.is_some() {
            return None;
        }
        if state.left > 0 {
            state.left -= 1;
            return None;
        }
        let Some(errno) = state.errno else {
            // Nothing of the process runs after this: no destructor, no other thread.
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
            unreachable!("a signal that cannot be held up was");
        };
        state.hit = Some(name);
        Some(Errno::from_raw_os_error(errno))
    }

    /// Has the process killed at the call after `n` others, whichever thread makes it.
    pub fn kill_at_nth(n: u64) {
        *state() = Some(State {
            left: n,
            errno: None,
            hit: None,
        });
    }

    /// Runs `operation`, in which the call after `n` others fails with `errno`, once, whichever thread makes it. Returns the name of the call,
    /// or `None` where there were not so many, and the operation's result.
    ///
    /// The whole process is watched: a test that uses this has a process of its own.
    pub fn fail_nth<T>(n: u64, errno: i32, operation: impl FnOnce() -> T) -> (Option<&'static str>, T) {
        *state() = Some(State {
            left: n,
            errno: Some(errno),
            hit: None,
        });
        let result = operation();
        let hit = state().take().and_then(|state| state.hit);
        (hit, result)
    }
}

#[cfg(any(test, feature = "failpoints"))]
use enabled::injected;
#[cfg(any(test, feature = "failpoints"))]
pub use enabled::{fail_nth, kill_at_nth};
