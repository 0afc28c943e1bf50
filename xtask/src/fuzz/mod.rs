//! `cargo xtask fuzz`: gives each decoder of the store millions of spoiled inputs, and measures how much of its code they reach.
//!
//! The work is cargo-fuzz's and LLVM's. Here is which code is a decoder (`decoders`), and what becomes of the numbers.

mod coverage;
mod decoders;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process::{Logged, run};
use crate::workspace;

use coverage::Tools;
use decoders::{DECODERS, Decoder};
use report::{Run, Table};

/// What a decoder's lines must be reached of, in hundredths.
const ENOUGH: usize = 80;

/// Memory that a target may take, in MiB, and seconds for one input.
const MEMORY: u64 = 1024;
const PATIENCE: u64 = 120;

/// How to fuzz.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// How long each target runs; 0 runs none, and takes what the last runs have left
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// This target alone; may be given several times [default: every decoder of the store]
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
    /// Measure how many lines of the decoders the inputs reach
    #[arg(long)]
    coverage: bool,
}

/// Fuzzes, measures, and writes both into `fuzz/README.md`.
///
/// # Errors
/// If something is missing that it takes, a target finds something, or too little of a decoder is reached.
pub fn fuzz(args: &FuzzArgs) -> Result<()> {
    let root = workspace::root();
    let decoders = chosen(&args.only)?;
    check_cargo_fuzz()?;
    let tools = args.coverage.then(Tools::find).transpose()?;
    let logs = root.join("target/xtask/fuzz");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    eprintln!("writing real inputs into fuzz/corpus");
    run(&mut workspace::cargo(
        &root,
        &[
            "run",
            "--quiet",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--example",
            "seeds",
        ],
    ))?;
    let mut too_little = Vec::new();
    for decoder in &decoders {
        let target = decoder.target;
        let found = match args.minutes {
            0 => last_run(target, &logs)?,
            minutes => Some(run_target(target, minutes, &logs)?),
        };
        if let Some(found) = found {
            println!("{target}: {} inputs in {} s", found.inputs, found.seconds);
            keep(|table| table.ran(target, found))?;
        }
        if let Some(tools) = &tools {
            eprintln!("{target}: building it to count what its inputs reach");
            let coverage = tools.measure(
                decoder,
                &Logged::create(&logs.join(format!("{target}.coverage.log")))?,
            )?;
            println!(
                "{target}: {} % of the {} lines of its decoder are reached, all but {}",
                coverage.percent(),
                coverage.lines,
                coverage.missed.len()
            );
            for missed in coverage::shown(&coverage.missed) {
                println!("  {missed}");
            }
            if coverage.percent() < ENOUGH {
                too_little.push(target);
            }
            keep(|table| table.reached(target, &coverage))?;
        }
    }
    if !too_little.is_empty() {
        bail!(
            "less than {ENOUGH} % of the decoder is reached by {}; better seeds are to be had in fuzz/examples/seeds.rs",
            too_little.join(", ")
        );
    }
    Ok(())
}

fn chosen(only: &[String]) -> Result<Vec<Decoder>> {
    if only.is_empty() {
        return Ok(DECODERS.to_vec());
    }
    only.iter()
        .map(|name| {
            let found = DECODERS.iter().find(|decoder| decoder.target == name).copied();
            found.with_context(|| {
                let all: Vec<_> = DECODERS.iter().map(|decoder| decoder.target).collect();
                format!("{name} is no decoder of the store: these are {}", all.join(", "))
            })
        })
        .collect()
}

/// `cargo fuzz`, with the compiler that there is: it asks for what only a nightly one admits to have.
fn cargo_fuzz(words: &[&str]) -> Command {
    let mut command = workspace::cargo(&workspace::root(), &["fuzz"]);
    command.args(words).env("RUSTC_BOOTSTRAP", "1");
    command
}

fn check_cargo_fuzz() -> Result<()> {
    let mut command = cargo_fuzz(&["--version"]);
    let found = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        bail!("there is no cargo-fuzz; `cargo install cargo-fuzz --locked` installs it");
    }
    Ok(())
}

fn log_of(target: &str, logs: &Path) -> PathBuf {
    logs.join(format!("{target}.log"))
}

/// Builds a target and runs it.
fn run_target(target: &str, minutes: u64, logs: &Path) -> Result<Run> {
    let path = log_of(target, logs);
    let log = Logged::create(&path)?;
    eprintln!(
        "{target}: building it, and running it for {minutes} minutes; {} has its output",
        path.display()
    );
    let limits = [
        format!("-max_total_time={}", minutes * 60),
        format!("-rss_limit_mb={MEMORY}"),
        format!("-timeout={PATIENCE}"),
    ];
    log.run(cargo_fuzz(&["run", "-s", "none", target, "--"]).args(limits))
        .with_context(|| format!("the target {target} has found something, or was not built"))?;
    last_run(target, logs)?
        .with_context(|| format!("{} does not say how many inputs were tried", path.display()))
}

/// Reads what a target said at the end of its last run; `None` where there was none, or it did not come to its end.
fn last_run(target: &str, logs: &Path) -> Result<Option<Run>> {
    let path = log_of(target, logs);
    match std::fs::read(&path) {
        Ok(text) => Ok(Run::parse(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Changes the table in the document.
fn keep(change: impl FnOnce(&mut Table)) -> Result<()> {
    let path = workspace::root().join("fuzz/README.md");
    let old = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table = Table::read(&old)?;
    change(&mut table);
    std::fs::write(&path, table.written_into(&old)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
