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

#[test]
fn a_directory_with_keys_of_the_machine_is_not_reset_unasked() {
    let mut machine = Machine::new();
    let commit = machine.boot();
    let etc = machine.root(&commit).join("etc");
    fs::create_dir(etc.join("ssh")).unwrap();
    fs::write(etc.join("ssh/ssh_host_key"), "key").unwrap();
    let run = machine.atomos(&["etc", "reset", "/etc/ssh"]).code(10);
    assert_eq!(
        run.err,
        "error: cannot put back the default of the directory /etc/ssh: made or changed here, and lost with it in /etc: ssh/ssh_host_key\n\
         hint: name a path in it; or `atomos etc reset /etc/ssh --recursive --dry-run` prints all that would be lost, and the same \
         without --dry-run does it\n"
    );
    let words = ["etc", "reset", "/etc/ssh", "--recursive"];
    let run = machine.atomos(&[&words[..], &["--dry-run"]].concat()).code(0);
    assert_eq!(run.out, "/etc/ssh/ssh_host_key\n");
    assert_eq!(run.err, "Would remove /etc/ssh, which has no default\n");
    assert!(etc.join("ssh/ssh_host_key").exists());
    let run = machine.atomos(&[&words[..], &["--json"]].concat()).code(0);
    assert_eq!(run.err, "Removed /etc/ssh, which has no default\n");
    assert_eq!(run.json()["lost"][0], "ssh/ssh_host_key");
    assert!(!etc.join("ssh").exists());
}
