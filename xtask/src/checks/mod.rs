//! `cargo xtask test`: everything that has to hold before a change is taken.
//!
//! A contributor and the continuous integration run the same steps. They stop at the first that fails; the last lines
//! say how long each took, and what was left out and why.

mod initramfs;
mod kernel;
mod licences;
pub(crate) mod packages;
mod shell;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{has_program, run};
use crate::workspace::{self, cargo};

/// Programs of a workspace of their own, which use the library as others would.
const EMBEDDERS: [&str; 1] = ["examples/updater-daemon"];

/// How a step ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// It was left out, for this reason.
    Skipped(String),
}

/// Runs every step.
///
/// # Errors
/// At the first step that fails.
pub fn run_all() -> Result<()> {
    let root = workspace::root();
    let mut steps = Steps::default();
    steps.step("debian packages", packages::ensure_installed)?;
    steps.step("format", || {
        passed(run(&mut cargo(&root, &["fmt", "--all", "--check"])))
    })?;
    steps.step("lints", || {
        passed(run(&mut cargo(
            &root,
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
        )))
    })?;
    steps.step("shell scripts", || shell::check(&root))?;
    steps.step("licences", || passed(licences::check(&root)))?;
    steps.step("deny", || deny(&root))?;
    steps.step("tests", || {
        passed(run(&mut cargo(&root, &["test", "--workspace", "--locked"])))
    })?;
    steps.step("modules of a real kernel", || kernel::check(&root))?;
    steps.step("initramfs of two generators", || initramfs::check(&root))?;
    steps.step("documentation", || {
        let mut command = cargo(&root, &["doc", "--workspace", "--no-deps", "--locked"]);
        passed(run(command.env("RUSTDOCFLAGS", "-D warnings")))
    })?;
    for embedder in EMBEDDERS {
        steps.step(embedder, || embedded(&root, embedder))?;
    }
    steps.summary();
    Ok(())
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

/// Advisories need a network and a database, so they are looked at only where the tool is; what can be known offline
/// is asked of it in any case.
fn deny(root: &Path) -> Result<Outcome> {
    if !has_program("cargo-deny") {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed; the licences were checked above".to_owned(),
        ));
    }
    passed(run(&mut cargo(
        root,
        &["deny", "--offline", "check", "licenses", "bans", "sources"],
    )))
}

/// Checks and runs a program of another workspace, in this one's target directory: most of what it needs is built.
fn embedded(root: &Path, path: &str) -> Result<Outcome> {
    let directory = root.join(path);
    if !directory.join("Cargo.toml").exists() {
        return Ok(Outcome::Skipped("there is no such workspace".to_owned()));
    }
    let target = root.join("target");
    let words: [&[&str]; 4] = [
        &["fmt", "--check"],
        &["clippy", "--all-targets", "--locked", "--", "-D", "warnings"],
        &["test", "--locked"],
        &["run", "--quiet", "--locked"],
    ];
    for words in words {
        run(cargo(&directory, words).env("CARGO_TARGET_DIR", &target))
            .with_context(|| format!("in {path}"))?;
    }
    Ok(Outcome::Passed)
}

/// The steps so far.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(String, Duration, Outcome)>,
}

impl Steps {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        eprintln!("==> {name}");
        let start = Instant::now();
        let outcome = work().with_context(|| format!("the step `{name}` failed"))?;
        if let Outcome::Skipped(why) = &outcome {
            eprintln!("    skipped: {why}");
        }
        self.done.push((name.to_owned(), start.elapsed(), outcome));
        Ok(())
    }

    fn summary(&self) {
        println!("\nchecks");
        for (name, time, outcome) in &self.done {
            let outcome = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Skipped(why) => format!("skipped: {why}"),
            };
            println!("  {name:<26} {:>7.1} s  {outcome}", time.as_secs_f64());
        }
    }
}
