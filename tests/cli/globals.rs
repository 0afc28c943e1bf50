//! Options that every verb has, and how the program ends.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::common::Scratch;

#[test]
fn without_a_repository_the_hint_says_how_to_name_one() {
    let scratch = Scratch::empty();
    let run = scratch
        .run(
            scratch
                .command(&["--sysroot", "sys", "refs"])
                .env_remove("ATOMOS_REPO"),
        )
        .code(3);
    assert_eq!(
        run.err,
        "error: sys/atomos/repo is not an atomos repository: it does not exist\n\
         hint: name a repository with --repo DIR or ATOMOS_REPO; `atomos init --repo DIR` makes one\n"
    );
}

#[test]
fn a_variable_that_is_empty_is_none_and_an_empty_argument_is_an_error() {
    let scratch = Scratch::empty();
    let without = |args: &[&str]| {
        let mut command = scratch.command(args);
        for name in ["ATOMOS_REPO", "ATOMOS_SYSROOT", "ATOMOS_PROGRESS"] {
            command.env(name, "");
        }
        scratch.run(&mut command)
    };
    without(&["init", "--mode", "bare-user", "--repo", "sys/atomos/repo"]).code(0);
    assert_eq!(without(&["--sysroot", "sys", "refs"]).ok(), "");
    let run = without(&["--repo", "", "refs"]).code(2);
    assert!(run.err.contains("a value is required for '--repo"), "{}", run.err);
}

#[test]
fn the_sysroots_repository_is_the_default() {
    let scratch = Scratch::empty();
    scratch
        .atomos(&["init", "--mode", "bare-user", "--repo", "sys/atomos/repo"])
        .code(0);
    for named in [&["--sysroot", "sys", "refs"][..], &["refs"]] {
        scratch
            .run(
                scratch
                    .command(named)
                    .env_remove("ATOMOS_REPO")
                    .env("ATOMOS_SYSROOT", "sys"),
            )
            .code(0);
    }
}

#[test]
fn an_option_wins_over_the_environment() {
    let scratch = Scratch::new();
    scratch.atomos(&["refs", "--repo", "elsewhere"]).code(3);
}

#[test]
fn quiet_leaves_the_result_and_the_warnings() {
    let scratch = Scratch::new();
    scratch.tree();
    let run = scratch.atomos(&["-q", "commit", "-b", "os", "tree"]).code(0);
    assert_eq!(run.err, "");
    assert_eq!(run.out.len(), 65);
}

#[test]
fn a_command_line_that_is_not_understood_exits_with_2() {
    let scratch = Scratch::empty();
    for args in [
        &["frobnicate"][..],
        &[],
        &["refs", "--frobnicate"],
        &["-q", "-v", "refs"],
    ] {
        let run = scratch.atomos(args).code(2);
        assert_eq!(run.out, "", "{args:?}");
    }
}

#[test]
fn a_usage_does_not_ask_for_what_a_variable_says() {
    let scratch = Scratch::new();
    // The variables for the repository and for progress are set.
    let run = scratch.atomos(&["publish", "--to", "site"]).code(2);
    assert!(
        run.err.contains("Usage: atomos publish --to <DIR>"),
        "{}",
        run.err
    );
    assert!(
        !run.err.contains("--progress") && !run.err.contains("--repo"),
        "{}",
        run.err
    );
}

#[test]
fn a_command_that_waits_says_for_whom() {
    let scratch = Scratch::new();
    let lock = std::fs::File::open(scratch.path("repo/lock")).unwrap();
    lock.lock().unwrap();
    let run = scratch.atomos(&["--lock-timeout", "1", "prune"]).code(8);
    let (first, rest) = run.err.split_once('\n').unwrap();
    assert!(
        first.starts_with("Waiting for the lock of the repository, held by process "),
        "{}",
        run.err
    );
    assert!(
        rest.starts_with(
            "error: cannot lock the repository ([SCRATCH]/repo/lock) after waiting 1 s: held by "
        ),
        "{}",
        run.err
    );
    assert!(run.err.contains("\nhint: "), "{}", run.err);
    lock.unlock().unwrap();
    scratch.atomos(&["prune"]).code(0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let scratch = Scratch::new();
    // More than a pipe holds.
    for number in 0..3000 {
        scratch.write(&format!("tree/a-file-with-a-rather-long-name-{number}"), "");
    }
    scratch.commit("many");
    let mut child = scratch
        .command(&["ls", "-l", "os"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(100, child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_full_stdout_is_an_error() {
    let scratch = Scratch::new();
    scratch.tree();
    scratch.commit("first");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = scratch.run(scratch.command(&["ls", "os"]).stdout(full)).code(9);
    assert!(
        run.err
            .starts_with("error: cannot write to stdout\n  caused by: No space left"),
        "{}",
        run.err
    );
}

#[test]
fn errors_are_coloured_only_when_asked_for() {
    let scratch = Scratch::empty();
    let run = scratch.atomos(&["--color", "always", "refs"]).code(3);
    assert!(run.err.starts_with("\x1b[1;31merror:\x1b[0m "), "{:?}", run.err);
    let run = scratch.atomos(&["refs"]).code(3);
    assert!(!run.err.contains('\x1b'), "{:?}", run.err);
}

#[test]
fn help_tells_every_exit_code() {
    let scratch = Scratch::empty();
    let help = scratch.atomos(&["--help"]).ok();
    for line in ["   0  done", "  77  there was nothing to do", " 130  interrupted"] {
        assert!(help.contains(line), "{line}");
    }
    assert!(scratch.atomos(&["--version"]).ok().starts_with("atomos "));
}

#[test]
fn every_verb_has_an_example_in_its_help() {
    let scratch = Scratch::empty();
    let mut without = Vec::new();
    let mut groups: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = groups.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let help = scratch.atomos(&[&words[..], &["--help"]].concat()).ok();
        let verbs: Vec<&str> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_whitespace().next())
            .filter(|verb| *verb != "help")
            .collect();
        let example = ["\nExample:\n  atomos ", "\nExamples:\n  atomos "]
            .iter()
            .any(|title| help.contains(title));
        if verbs.is_empty() && !example {
            without.push(path.join(" "));
        }
        for verb in verbs {
            groups.push(path.iter().cloned().chain([verb.to_owned()]).collect());
        }
    }
    assert!(without.is_empty(), "{without:?}");
}
