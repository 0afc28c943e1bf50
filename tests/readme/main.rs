//! The commands in `README.md` run, and print what it says they print.
//!
//! The blocks `sh` after a line `<!-- run -->` are run as they stand. In the blocks `console` each line that begins with
//! `$ ` is a command, run in the same shell, and the lines after it are what it prints. To write what is printed into
//! the document, run this test with `UPDATE_README=1` in the environment, and read the difference.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Separates what the commands print. No command of ours prints a control character.
const MARK: char = '\u{1e}';

/// A part of the document.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    /// Anything else, with its line end.
    Text(&'a str),
    /// A line of a block to be run, with its line end.
    Script(&'a str),
    /// A command, without `$ ` and line end.
    Command(&'a str),
    /// What the document says a command prints, with its line end.
    Output(&'a str),
}

fn parts(text: &str) -> Vec<Part<'_>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Block {
        None,
        Script,
        Console,
        Other,
    }
    let (mut block, mut run_next) = (Block::None, false);
    let mut parts = Vec::new();
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches('\n');
        if let Some(language) = content.strip_prefix("```") {
            block = match (block, language) {
                (Block::None, "sh") if run_next => Block::Script,
                (Block::None, "console") => Block::Console,
                (Block::None, _) => Block::Other,
                _ => Block::None,
            };
            parts.push(Part::Text(line));
            continue;
        }
        run_next = content == "<!-- run -->";
        parts.push(match block {
            Block::Script => Part::Script(line),
            Block::Console => content
                .strip_prefix("$ ")
                .map_or(Part::Output(line), Part::Command),
            Block::None | Block::Other => Part::Text(line),
        });
    }
    parts
}

/// Returns what is to be run: the scripts, and before and after each command a mark.
fn script(parts: &[Part<'_>]) -> String {
    let mut script = String::from("set -eu\n");
    for part in parts {
        match part {
            Part::Script(line) => script.push_str(line),
            Part::Command(command) => {
                write!(script, "printf '\\036'\n{command}\nprintf '\\036'\n").unwrap();
            }
            Part::Text(_) | Part::Output(_) => {}
        }
    }
    script
}

/// Runs it as somebody would who has just built the program, and returns what each command printed.
fn run(script: &str, directory: &Path) -> Vec<String> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_atomos"));
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let output = Command::new("sh")
        .args(["-c", &format!("umask 022\nexec 2>&1\n{script}")])
        .current_dir(directory)
        .env_clear()
        // How long something takes is the machine\'s affair.
        .env("ATOMOS_PROGRESS", "never")
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}\n{printed}", output.status);
    let here = directory.to_str().unwrap();
    // Between two commands nothing is between the marks but what a script printed.
    let pieces = printed.split(MARK).skip(1).step_by(2);
    pieces.map(|piece| piece.replace(here, "/home/you/try")).collect()
}

#[test]
fn the_commands_in_the_readme_print_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path).unwrap();
    let parts = parts(&text);
    let commands = parts
        .iter()
        .filter(|part| matches!(part, Part::Command(_)))
        .count();
    assert!(commands > 5, "the document has a tour");
    assert!(
        parts.iter().any(|part| matches!(part, Part::Script(_))),
        "and a start"
    );

    let scratch = tempfile::tempdir().unwrap();
    let printed = run(&script(&parts), &scratch.path().canonicalize().unwrap());
    assert_eq!(printed.len(), commands);
    let mut printed = printed.into_iter();
    let mut actual = String::new();
    for part in &parts {
        match part {
            Part::Text(line) | Part::Script(line) => actual.push_str(line),
            Part::Command(command) => {
                writeln!(actual, "$ {command}").unwrap();
                actual.push_str(&printed.next().unwrap());
            }
            Part::Output(_) => {}
        }
    }
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    let differing = text
        .lines()
        .zip(actual.lines())
        .find(|(said, printed)| said != printed);
    assert!(
        text == actual,
        "README.md says something else than is printed; the first difference is {differing:#?}\nif what is printed is \
         right, run `UPDATE_README=1 cargo test -p atomos-cli --test readme`"
    );
}

#[test]
fn only_marked_scripts_are_run() {
    let text = "```sh\nnot me\n```\n<!-- run -->\n```sh\nme\n```\n```console\n$ echo a\na\n```\n";
    let parts = parts(text);
    assert_eq!(
        script(&parts),
        "set -eu\nme\nprintf '\\036'\necho a\nprintf '\\036'\n"
    );
    assert!(parts.contains(&Part::Output("a\n")));
}
