//! `atomos boot extlinux`, and the hook that puts it where U-Boot looks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOOK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bootloader-hooks/extlinux/atomos-extlinux"
);

/// A board: its `/boot`, its environment, and an `atomos` that says what it was asked.
struct Board {
    scratch: tempfile::TempDir,
    shell: Vec<&'static str>,
}

impl Board {
    fn new(shell: &[&'static str]) -> Self {
        let board = Self {
            scratch: tempfile::tempdir().unwrap(),
            shell: shell.to_vec(),
        };
        for dir in ["bin", "boot/extlinux", "env"] {
            fs::create_dir_all(board.path(dir)).unwrap();
        }
        board.program(
            "atomos",
            r#"echo "$*" >>"$BOARD/log"
case "$*" in
"boot extlinux") cat "$BOARD/newest" ;;
"boot extlinux --alternative") cat "$BOARD/alternative" ;;
esac"#,
        );
        board.program("fw_printenv", r#"[ "$1" = -n ] && cat "$BOARD/env/$2""#);
        board.program("fw_setenv", r#"echo "$2" >"$BOARD/env/$1""#);
        board.write("newest", "default new\n");
        board.write("alternative", "default old\n");
        board
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the hook, and returns what `atomos` was asked.
    fn run(&self, verb: &str) -> String {
        let _ = fs::remove_file(self.path("log"));
        let path = std::env::var("PATH").unwrap();
        let output = Command::new(self.shell[0])
            .args(&self.shell[1..])
            .args([HOOK, verb])
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("BOARD", self.scratch.path())
            .env("ATOMOS_BOOT", self.path("boot"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{:?} {verb}: {output:?}", self.shell);
        self.read("log")
    }
}

fn boards() -> Vec<Board> {
    let shells: [&[&str]; 3] = [&["sh"], &["dash"], &["busybox", "sh"]];
    let there = |shell: &&&[&'static str]| {
        let found = Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", "exit 0"])
            .status();
        found.is_ok_and(|status| status.success())
    };
    shells
        .iter()
        .filter(there)
        .map(|shell| Board::new(shell))
        .collect()
}

#[test]
fn the_way_back_is_there_before_the_new_version_is_the_default() {
    for board in boards() {
        assert_eq!(
            board.run("update"),
            "boot extlinux --alternative\nboot extlinux\n"
        );
        assert_eq!(board.read("boot/extlinux/extlinux.conf"), "default new\n");
        assert_eq!(board.read("boot/extlinux/alternative.conf"), "default old\n");
        // Nothing to boot is no configuration.
        board.write("newest", "");
        board.run("update");
        assert_eq!(board.read("boot/extlinux/extlinux.conf"), "default new\n");
        assert_eq!(fs::read_dir(board.path("boot/extlinux")).unwrap().count(), 2);
    }
}

#[test]
fn a_version_that_u_boot_gave_up_is_given_up() {
    for board in boards() {
        board.write("env/bootlimit", "3\n");
        for (count, gives_up) in [("0", false), ("3", false), ("4", true)] {
            board.write("env/bootcount", count);
            let asked = board.run("boot");
            assert_eq!(
                asked.starts_with("boot mark-bad default\n"),
                gives_up,
                "{count}: {asked}"
            );
            let after = if gives_up { "0" } else { count };
            assert_eq!(board.read("env/bootcount").trim(), after);
        }
        board.write("env/bootcount", "2\n");
        board.run("good");
        assert_eq!(board.read("env/bootcount"), "0\n");
    }
}

#[test]
fn a_board_without_limits_or_extlinux_is_left_alone() {
    for board in boards() {
        // fw_printenv fails for what is not set.
        assert_eq!(board.run("boot"), "");
        board.run("good");
        assert!(!board.path("env/bootcount").exists());
        fs::remove_dir_all(board.path("boot/extlinux")).unwrap();
        for verb in ["boot", "update", "good"] {
            assert_eq!(board.run(verb), "");
        }
    }
}

#[test]
fn the_hook_is_short() {
    let text = fs::read_to_string(Path::new(HOOK)).unwrap();
    assert!(text.lines().count() < 50, "{}", text.lines().count());
}
