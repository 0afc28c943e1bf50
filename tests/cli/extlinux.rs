//! `atomos boot extlinux`, and the hook that puts it where U-Boot looks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOOK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../bootloader-hooks/extlinux/atomos-extlinux"
);

/// Three versions as U-Boot reads them, and how one is rejected.
const NEW: &str = "default atomos-9-my-os-cc.0
label atomos-9-my-os-cc.0
  append root=LABEL=root atomos=my-os/cccc.0 atomos.etc=transient
label atomos-8-my-os-bb.0
  append root=LABEL=root atomos=my-os/bbbb.0
";
const MIDDLE: &str = "default atomos-8-my-os-bb.0
label atomos-8-my-os-bb.0
  append atomos=my-os/bbbb.0
";
const OLD: &str = "default atomos-7-my-os-aa.0
label atomos-7-my-os-aa.0
  append atomos=my-os/aaaa.0
";
const REJECT_NEW: &str = "boot mark-bad my-os/cccc.0\n";

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
        for dir in ["bin", "boot/extlinux", "env", "fails"] {
            fs::create_dir_all(board.path(dir)).unwrap();
        }
        board.program(
            "atomos",
            r#"echo "$*" >>"$BOARD/log"
[ ! -e "$BOARD/fails/$2" ] || exit 6
case "$*" in
"boot extlinux") cat "$BOARD/newest" ;;
"boot extlinux --alternative") cat "$BOARD/alternative" ;;
"boot mark-bad "*) cat "$BOARD/next" >"$BOARD/newest" ;;
esac"#,
        );
        board.program("fw_printenv", r#"[ "$1" = -n ] && cat "$BOARD/env/$2""#);
        board.program(
            "fw_setenv",
            r#"[ ! -e "$BOARD/fails/fw_setenv" ] || exit 9
echo "$2" >"$BOARD/env/$1""#,
        );
        board.write("newest", NEW);
        board.write("next", MIDDLE);
        board.write("alternative", OLD);
        board.write("env/bootlimit", "3\n");
        board
    }

    /// Makes `atomos boot <name>` or the program fail, or work again.
    fn fails(&self, name: &str, fails: bool) {
        match fails {
            true => self.write(&format!("fails/{name}"), ""),
            false => fs::remove_file(self.path("fails").join(name)).unwrap(),
        }
    }

    fn set_count(&self, count: &str) {
        self.write("env/bootcount", count);
    }

    fn count(&self) -> String {
        self.read("env/bootcount").trim().to_owned()
    }

    /// What U-Boot boots when it does not give up.
    fn default(&self) -> String {
        self.read("boot/extlinux/extlinux.conf")
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
        let (code, asked) = self.try_run(verb);
        assert_eq!(code, Some(0), "{:?} {verb}", self.shell);
        asked
    }

    /// Runs the hook, and returns its exit code and what `atomos` was asked.
    fn try_run(&self, verb: &str) -> (Option<i32>, String) {
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
        eprintln!("{:?} {verb}: {output:?}", self.shell);
        (output.status.code(), self.read("log"))
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
        assert_eq!(board.default(), NEW);
        assert_eq!(board.read("boot/extlinux/alternative.conf"), OLD);
        // Nothing to boot is no configuration.
        board.write("newest", "");
        board.run("update");
        assert_eq!(board.default(), NEW);
        assert_eq!(fs::read_dir(board.path("boot/extlinux")).unwrap().count(), 2);
    }
}

#[test]
fn a_version_that_u_boot_gave_up_is_given_up() {
    for board in boards() {
        board.run("update");
        for (count, gives_up) in [("0", false), ("3", false), ("4", true)] {
            board.set_count(count);
            let asked = board.run("boot");
            assert_eq!(asked.contains(REJECT_NEW), gives_up, "{count}: {asked}");
            assert_eq!(asked.is_empty(), !gives_up, "{count}: {asked}");
            assert_eq!(board.count(), if gives_up { "0" } else { count });
        }
        assert_eq!(board.default(), MIDDLE);
        board.set_count("2");
        board.run("good");
        assert_eq!(board.count(), "0");
    }
}

#[test]
fn a_healthy_boot_is_not_counted_where_nothing_can_be_written() {
    for board in boards() {
        board.run("update");
        board.fails("extlinux", true);
        board.set_count("3");
        assert_eq!(board.try_run("good").0, Some(6));
        assert_eq!(board.count(), "0");
        assert_eq!(board.default(), NEW);
    }
}

#[test]
fn a_rejection_that_cannot_be_written_rejects_nothing_else() {
    for board in boards() {
        board.run("update");
        board.set_count("4");
        // There is room for nothing.
        board.fails("extlinux", true);
        let (code, asked) = board.try_run("boot");
        assert_eq!(code, Some(6));
        assert!(!asked.contains("mark-bad"), "{asked}");
        assert_eq!(board.count(), "0");

        // It can be read what is the default, and not be written.
        board.fails("extlinux", false);
        fs::create_dir(board.path("boot/extlinux/extlinux.conf.new")).unwrap();
        board.set_count("4");
        let (code, asked) = board.try_run("boot");
        assert_ne!(code, Some(0));
        assert!(asked.contains(REJECT_NEW), "{asked}");
        assert_eq!(board.count(), "0");

        // U-Boot has tried the rejected version once more, since that is what it was told.
        assert_eq!(board.default(), NEW);
        board.set_count("4");
        let (code, asked) = board.try_run("boot");
        assert_ne!(code, Some(0));
        assert!(!asked.contains("mark-bad"), "{asked}");
        assert_eq!(board.count(), "0");

        fs::remove_dir(board.path("boot/extlinux/extlinux.conf.new")).unwrap();
        board.set_count("4");
        assert!(!board.run("boot").contains("mark-bad"));
        assert_eq!((board.default().as_str(), board.count().as_str()), (MIDDLE, "0"));
    }
}

#[test]
fn a_counter_that_stays_rejects_nothing() {
    for board in boards() {
        board.run("update");
        board.set_count("4");
        board.fails("fw_setenv", true);
        // Nor is anything written: what was tried must be known when the counter can be reset.
        board.write("newest", MIDDLE);
        for verb in ["boot", "update", "good", "boot"] {
            assert_eq!(board.try_run(verb), (Some(9), String::new()), "{verb}");
            assert_eq!(board.default(), NEW);
        }
        board.write("newest", NEW);
        board.fails("fw_setenv", false);
        let asked = board.run("update");
        assert_eq!(asked.matches("mark-bad").count(), 1, "{asked}");
        assert!(asked.contains(REJECT_NEW), "{asked}");
        board.set_count("1");
        for verb in ["boot", "update", "good"] {
            assert!(!board.run(verb).contains("mark-bad"), "{verb}");
        }
        assert_eq!((board.default().as_str(), board.count().as_str()), (MIDDLE, "0"));
    }
}

#[test]
fn healthy_boots_that_were_counted_all_the_same_reject_nothing() {
    for board in boards() {
        board.run("update");
        board.fails("fw_setenv", true);
        for count in ["1", "2", "3"] {
            board.set_count(count);
            assert_eq!(board.try_run("good").0, Some(9));
        }
        board.fails("fw_setenv", false);
        board.set_count("4");
        assert!(!board.run("boot").contains("mark-bad"));
        assert_eq!(board.count(), "0");
        // That was good for one time.
        board.set_count("4");
        assert!(board.run("boot").contains(REJECT_NEW));
    }
}

#[test]
fn a_rejection_that_fails_is_said_and_made_good() {
    for board in boards() {
        board.run("update");
        board.fails("mark-bad", true);
        board.set_count("4");
        let (code, asked) = board.try_run("boot");
        assert_eq!(code, Some(6));
        // The same version, whatever became the default.
        assert!(asked.contains(REJECT_NEW), "{asked}");
        assert_eq!(board.count(), "0");
        board.fails("mark-bad", false);
        board.set_count("4");
        assert!(board.run("boot").contains(REJECT_NEW));
        assert_eq!(board.default(), MIDDLE);
    }
}

#[test]
fn a_new_version_has_all_its_tries() {
    for board in boards() {
        board.write("newest", MIDDLE);
        board.run("update");
        board.set_count("3");
        // The same default: it goes on being counted.
        board.write("newest", &format!("{MIDDLE}label other\n"));
        board.run("update");
        assert_eq!(board.count(), "3");
        board.write("newest", NEW);
        board.fails("fw_setenv", true);
        assert_eq!(board.try_run("update").0, Some(9));
        assert_ne!(board.default(), NEW);
        board.fails("fw_setenv", false);
        board.run("update");
        assert_eq!((board.default().as_str(), board.count().as_str()), (NEW, "0"));
    }
}

#[test]
fn a_board_without_limits_or_extlinux_is_left_alone() {
    for board in boards() {
        // fw_printenv fails for what is not set.
        fs::remove_file(board.path("env/bootlimit")).unwrap();
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
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let lines = text.lines().filter(is_code).count();
    assert!(lines <= 60, "{lines}");
}
