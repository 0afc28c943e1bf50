//! `atomos etc` on a machine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[test]
fn a_path_can_be_given_back_as_it_was_printed() {
    let mut machine = Machine::new();
    let commit = machine.boot();
    let etc = machine.root(&commit).join("etc");
    // systemd's own names have such sequences.
    let odd = [
        &b"bad\xffname"[..],
        b"new\nline",
        b"back\\slash",
        b"a\\x2db.mount",
    ];
    for name in odd {
        fs::write(etc.join(OsStr::from_bytes(name)), "mine").unwrap();
    }
    fs::write(etc.join("hostname"), "mine").unwrap();
    let diff = machine.atomos(&["etc", "diff"]).ok();
    let printed: Vec<&str> = diff.lines().filter_map(|line| line.strip_prefix("A ")).collect();
    assert_eq!(printed.len(), odd.len(), "{diff}");
    for path in printed {
        let run = machine.atomos(&["etc", "reset", path]).code(0);
        assert_eq!(run.err, format!("Removed {path}, which has no default\n"));
    }
    for name in ["a-b.mount", "a\\x2db.mount"] {
        fs::write(etc.join(name), "mine").unwrap();
    }
    machine.atomos(&["etc", "reset", "a\\x2db.mount"]).code(0);
    assert!(etc.join("a-b.mount").exists() && !etc.join("a\\x2db.mount").exists());
    machine.atomos(&["etc", "reset", "a-b.mount"]).code(0);
    let run = machine.atomos(&["etc", "reset", "/etc/hostname/"]).code(0);
    assert_eq!(run.err, "/etc/hostname is the default again\n");
    assert_eq!(machine.atomos(&["etc", "diff"]).ok(), "");
    let run = machine.atomos(&["etc", "reset", "/etc/"]);
    assert_ne!(run.code, 0);
    assert!(etc.join("hostname").exists(), "{}", run.err);
}
