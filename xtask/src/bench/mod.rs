//! `cargo xtask bench`: atomos against ostree and `cp`, on the same real tree, in the same run.
//!
//! Numbers of one tool alone say little: a machine's disk, its load and the age of its filesystem change them
//! twofold. So the tools take turns, what counts is the ratio of their medians, and what a figure leaves out (a write-back that comes
//! later) is put in on both sides. `benches/RESULTS.md` keeps the last results with the machine they are from.

mod contest;
mod measure;
mod report;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::debian::{self, Availability};
use crate::facts::{actual_additions, expected_additions, store_facts, tree_facts};
use crate::own_disk::Again;
use crate::process::{has_program, is_root};
use crate::workspace;
use contest::{Contestant, Ring, Work};
use measure::{peak_anonymous_memory, time};
use report::{Circumstances, Results};

/// How to run it.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Runs of each command; the median is what counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Directory that keeps the Debian trees [default: target/xtask/trees]
    #[arg(long, value_name = "DIR")]
    trees: Option<PathBuf>,
    /// An empty directory on the filesystem that is to be measured [default: on a new ext4 in a file]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// The atomos to measure, instead of building one
    #[arg(long, value_name = "FILE", hide = true)]
    atomos: Option<PathBuf>,
    /// Print the results and leave benches/RESULTS.md as it is
    #[arg(long)]
    print_only: bool,
    /// Fail if a target is missed
    #[arg(long)]
    strict: bool,
}

/// Runs the comparison.
///
/// # Errors
/// If a command fails, or with `--strict` if a target is missed.
pub fn bench(args: &BenchArgs) -> Result<()> {
    if !is_root() {
        bail!("a bare repository keeps true owners: the comparison needs root");
    }
    if !has_program("ostree") {
        bail!("ostree is not installed (`cargo xtask test` installs it)");
    }
    let atomos = match &args.atomos {
        Some(path) => path
            .canonicalize()
            .with_context(|| format!("there is no {}", path.display()))?,
        None => workspace::build_atomos()?,
    };
    let trees = trees(args)?;
    let Some(work) = &args.work else {
        return measure_elsewhere(args, &atomos, &trees);
    };
    let circumstances = Circumstances {
        command: format!("cargo xtask bench --runs {}", args.runs),
        runs: usize::from(args.runs),
        trees: &trees,
        directory: work,
        load: load()?,
    };
    let results = measure_all(args, &atomos, &trees, work)?;
    finish(args, &results, &circumstances)
}

/// Starts it again on a filesystem of its own.
fn measure_elsewhere(args: &BenchArgs, atomos: &Path, trees: &debian::Trees) -> Result<()> {
    let runs = args.runs.to_string();
    let mut words = vec!["bench", "--runs", &runs];
    words.extend(args.print_only.then_some("--print-only"));
    words.extend(args.strict.then_some("--strict"));
    let words: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    let trees = trees.v1.parent().context("the trees lie in no directory")?;
    Again {
        name: "bench",
        atomos,
        trees,
        user: None,
        gibibytes: 16,
    }
    .run(&words)
}

fn finish(args: &BenchArgs, results: &Results, circumstances: &Circumstances<'_>) -> Result<()> {
    let text = results.render(circumstances)?;
    println!("{text}");
    if !args.print_only {
        let path = workspace::root().join("benches/RESULTS.md");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to {}", path.display());
    }
    let missed = results.missed();
    for miss in &missed {
        eprintln!("missed: {miss}");
    }
    if args.strict && !missed.is_empty() {
        bail!("{} targets are missed", missed.len());
    }
    Ok(())
}

fn trees(args: &BenchArgs) -> Result<debian::Trees> {
    let options = debian::Options::kept_in(args.trees.as_deref());
    if let Some(trees) = debian::load_trees(&options)? {
        return Ok(trees);
    }
    match debian::find_archive(&options.release)? {
        Availability::Answers(archive) => debian::ensure_trees(&options, &archive),
        Availability::Unavailable(why) => bail!("the comparison needs real trees, but {why}"),
    }
}

fn measure_all(args: &BenchArgs, atomos: &Path, trees: &debian::Trees, work: &Path) -> Result<Results> {
    if work.to_str().is_none() {
        bail!("{} is not UTF-8", work.display());
    }
    eprintln!("copying the trees");
    let ring = Ring::prepare(work, atomos, trees)?;
    let mut results = Results::default();
    for number in 0..args.runs {
        eprintln!("run {} of {}", number + 1, args.runs);
        for contestant in Contestant::ALL {
            ring.reset(contestant)?;
        }
        let mut order = Contestant::ALL;
        if number % 2 == 1 {
            order.reverse();
        }
        for piece in Work::ALL {
            for contestant in order {
                let Some(mut command) = ring.command(contestant, piece) else {
                    continue;
                };
                ring.clear(contestant, piece)?;
                let elapsed = time(&mut command)?;
                eprintln!(
                    "  {:<40} {contestant:?} {:.2} s",
                    piece.title(),
                    elapsed.as_secs_f64()
                );
                results
                    .times
                    .entry((piece, contestant))
                    .or_default()
                    .push(elapsed);
            }
        }
    }
    count_and_watch(&ring, &mut results)?;
    Ok(results)
}

/// One run more, for what timing would disturb or be disturbed by.
fn count_and_watch(ring: &Ring, results: &mut Results) -> Result<()> {
    eprintln!("memory and counts");
    let mut before = None;
    for contestant in [Contestant::Atomos, Contestant::Ostree] {
        ring.reset(contestant)?;
        // A shell that waits for `sync` would be what is watched.
        for piece in Work::ALL
            .into_iter()
            .filter(|piece| *piece != Work::CheckoutSynced)
        {
            let Some(mut command) = ring.command(contestant, piece) else {
                continue;
            };
            ring.clear(contestant, piece)?;
            if contestant == Contestant::Atomos && piece == Work::SecondCommit {
                before = Some(store_facts(&ring.repo(contestant))?);
            }
            results
                .memory
                .insert((piece, contestant), peak_anonymous_memory(&mut command)?);
        }
    }
    if let Some(before) = before {
        let (v1, v2) = ring.trees();
        let expected = expected_additions(&tree_facts(v1)?, &tree_facts(v2)?);
        let actual = actual_additions(&before, &store_facts(&ring.repo(Contestant::Atomos))?);
        results.additions = Some((expected, actual));
    }
    Ok(())
}

fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(", "))
}
