use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use crate::common::Scratch;

/// Runs a commit with progress on a pipe that the program inherits, and returns the events.
fn events_of_a_commit(scratch: &Scratch) -> Vec<serde_json::Value> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The child keeps what is not marked to be closed.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let fd = writer.as_raw_fd().to_string();
    let run = scratch
        .atomos(&["commit", "-b", "os", "--progress-fd", &fd, "tree"])
        .code(0);
    drop(writer);
    assert_eq!(run.out.len(), 65, "stdout stays the result");
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn events_come_as_json_lines_with_a_version_in_the_first() {
    let scratch = Scratch::new();
    scratch.tree();
    let events = events_of_a_commit(&scratch);
    assert_eq!(events[0]["event"], "start");
    assert_eq!(events[0]["version"], 1);
    let of = |event: &str, phase: &str| {
        events
            .iter()
            .find(|line| line["event"] == event && line["phase"] == phase)
            .unwrap_or_else(|| panic!("{event} of {phase} in {events:#?}"))
    };
    for phase in ["scan", "store", "sync"] {
        of("begin", phase);
        of("end", phase);
    }
    assert_eq!(of("begin", "store")["total"], 17);
    assert_eq!(of("begin", "store")["unit"], "bytes");
    assert_eq!(of("end", "store")["done"], 17, "the total was exact");
}

#[test]
fn a_descriptor_that_is_not_open_is_an_error() {
    let scratch = Scratch::new();
    let run = scratch.atomos(&["refs", "--progress-fd", "987"]).code(1);
    assert!(
        run.err.starts_with(
            "error: cannot write progress to the descriptor 987\n  caused by: Bad file descriptor"
        ),
        "{}",
        run.err
    );
}

#[test]
fn a_reader_of_progress_that_has_gone_stops_nothing() {
    let scratch = Scratch::new();
    scratch.tree();
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    drop(reader);
    let fd = writer.as_raw_fd().to_string();
    scratch
        .atomos(&["commit", "-b", "os", "--progress-fd", &fd, "tree"])
        .code(0);
}

#[test]
fn nothing_is_drawn_without_a_terminal() {
    let scratch = Scratch::new();
    scratch.tree();
    let err = scratch.path("err");
    scratch
        .run(
            scratch
                .command(&["commit", "-b", "os", "tree"])
                .stderr(File::create(&err).unwrap()),
        )
        .code(0);
    let text = std::fs::read_to_string(err).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("Committed "), "{text}");
}
