//! Ctrl-C.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, Run};

/// Runs the program and sends it `signal` after `delay`.
fn interrupted_after(place: &Place, args: &[&str], signal: Signal, delay: Duration) -> Run {
    let mut command = place.command(args);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(delay);
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
    child.wait_with_output().unwrap().into()
}

/// Interrupts the operation at growing delays until it was met at work a few times. Whatever happens, the store is
/// whole.
fn interrupt(place: &Place, args: &[&str], signal: Signal, undo: impl Fn()) {
    let mut hits = 0;
    for step in 1..60 {
        let run = interrupted_after(place, args, signal, Duration::from_millis(10 * step));
        place.atomos(&["fsck"]).ok();
        match run.code {
            // Before the handler was there: the signal's own effect.
            None => assert!(run.err.is_empty(), "{run:#?}"),
            Some(0) => undo(),
            code => {
                assert_eq!(code, Some(130), "{run:#?}");
                assert!(run.err.contains("interrupted"), "{run:#?}");
                assert_eq!(run.out, "");
                hits += 1;
                if hits == 3 {
                    break;
                }
            }
        }
    }
    assert!(hits > 0, "no signal met the operation at work");
}

/// A place whose `many` takes the program some tenths of a second.
fn busy() -> Place {
    let place = Place::new();
    libatomos::testing::small_tree(&place.path("many"), 3, 4000);
    place
}

#[test]
fn a_commit_that_is_interrupted() {
    let place = busy();
    for signal in [Signal::INT, Signal::TERM] {
        interrupt(&place, &["commit", "-b", "many", "many"], signal, || {
            // Once it is in the store there is little left to interrupt.
            place.atomos(&["refs", "--delete", "many"]).ok();
            place.atomos(&["prune"]).ok();
        });
        let run = place.atomos(&["rev-parse", "many"]);
        assert!([Some(0), Some(3)].contains(&run.code), "{run:?}");
    }
    place.atomos(&["commit", "-b", "many", "many"]).ok();
    place.assert_usable();
    assert_eq!(std::fs::read_dir(place.path("repo/tmp")).unwrap().count(), 0);
}

#[test]
fn a_checkout_that_is_interrupted() {
    let place = busy();
    place.atomos(&["commit", "-b", "many", "many"]).ok();
    let undo = || {
        let _ = std::fs::remove_dir_all(place.path("out"));
    };
    interrupt(
        &place,
        &["checkout", "many", "out", "--link", "copy"],
        Signal::INT,
        undo,
    );
    assert!(!place.path("out").exists());
    place.atomos(&["checkout", "many", "out"]).ok();
    // What an interrupted one left is taken away by the next.
    let beside: Vec<_> = std::fs::read_dir(place.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(beside, [""; 0]);
    place.assert_usable();
}

#[test]
fn a_commit_that_waits_for_its_archive() {
    let place = Place::new();
    std::fs::create_dir(place.path("large")).unwrap();
    std::fs::write(place.path("large/file"), vec![1; 2 << 20]).unwrap();
    place.atomos(&["commit", "-b", "large", "large"]).ok();
    place.atomos(&["export", "large", "-o", "large.tar"]).ok();
    let archive = std::fs::read(place.path("large.tar")).unwrap();
    let mut child = place
        .command(&["commit", "-b", "piped", "--tar", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds: when all is written, somebody reads.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[..archive.len() / 2]).unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let mut left = 600;
    while child.try_wait().unwrap().is_none() {
        left -= 1;
        if left == 0 {
            child.kill().unwrap();
            panic!("it waits for the rest");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.code, Some(130), "{run:#?}");
    assert!(run.err.contains("interrupted"), "{run:#?}");
    drop(stdin);
    assert_eq!(place.atomos(&["rev-parse", "piped"]).code, Some(3));
    place.assert_usable();
}
