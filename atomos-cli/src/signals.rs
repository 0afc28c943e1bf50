//! Ctrl-C: the first one asks the running operation to stop, the second ends the process.
//!
//! Both leave the store whole: an operation that is killed leaves staged work, which the next run takes up. The first
//! is only kinder, because it says what happened.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use libatomos::cancel::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Returns a flag that SIGINT, SIGTERM and SIGHUP set. A second one of them exits with 130, as shells do.
pub fn install() -> std::io::Result<Cancel> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the shutdown looks at the flag before the first signal has set it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(Cancel::from_flag(flag))
}

/// Returns what can be read as soon as one of the signals has come: for a verb that only waits.
pub fn wake_up() -> std::io::Result<UnixStream> {
    let (woken, wake) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
    }
    Ok(woken)
}
