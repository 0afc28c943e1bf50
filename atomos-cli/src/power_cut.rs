//! For tests of power cuts: somebody outside is told what this process does, and may leave syncs out.
//!
//! Built only with the feature `failpoints`. Each step of the library is one line to the socket that
//! `ATOMOS_TEST_POWER_CUT` names, and waits for one byte: `1` where a sync is to be made.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use libatomos::failpoint::watch::{Step, Sync, watch};

/// Names the socket. Without it nobody listens.
const SOCKET: &str = "ATOMOS_TEST_POWER_CUT";

/// Tells the listener, where there is one, every step from now on.
pub fn listen() {
    let Some(path) = std::env::var_os(SOCKET) else {
        return;
    };
    let stream = Mutex::new(UnixStream::connect(path).expect("the test listens on its socket"));
    watch(move |step| {
        let line = match step {
            Step::Point(name) => format!("point {name}\n"),
            Step::Sync(Sync::File, place) => format!("file {}:{}\n", place.file(), place.line()),
            Step::Sync(Sync::FileSystem, place) => format!("syncfs {}:{}\n", place.file(), place.line()),
            Step::Sync(Sync::Flush, place) => format!("flush {}:{}\n", place.file(), place.line()),
            Step::Sync(Sync::Freeze, place) => format!("freeze {}:{}\n", place.file(), place.line()),
            Step::Renamed(place) => format!("renamed {}:{}\n", place.file(), place.line()),
            _ => return true,
        };
        // One step at a time, whichever thread makes it.
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = [0];
        stream
            .write_all(line.as_bytes())
            .and_then(|()| stream.read_exact(&mut answer))
            .expect("the test answers every step");
        answer == *b"1"
    });
}
