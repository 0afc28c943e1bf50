//! Messages of the early boot: to the console, and to the kernel's log, whence the journal of the booted system
//! keeps them.

use std::fs::OpenOptions;
use std::io::Write;

/// How urgent a message is, as the kernel counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Says `message` once: through the kernel's log when that reaches the console by itself, and on standard error
/// for everything that a person must see even with `quiet` on the command line.
pub(crate) fn say(level: Level, message: &str) {
    let logged = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(format!("<{}>atomos: {message}\n", level as u8).as_bytes()))
        .is_ok();
    if !logged || !matches!(level, Level::Info) {
        // A console that cannot be written to is no reason to stop a boot.
        let _ = writeln!(std::io::stderr(), "atomos-prepare-root: {message}");
    }
}
