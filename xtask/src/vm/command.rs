//! `cargo xtask vm-test`.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::hardware::MEMORY;
use super::lab::Lab;
use super::programs::{build_programs, check_requirements};
use super::results::{self, Outcome};
use super::scenario::{self, Level, Scenario};
use super::store::Store;
use super::{Options, enter_namespace};
use crate::debian::{self, Availability, Trees};
use crate::memory;
use crate::workspace;

/// What tests in virtual machines can be told. Without --smoke or --quick, all are run.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Only boot, upgrade from the machine's own repository, and roll back
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Only boot, upgrade over HTTP, and roll back
    #[arg(long)]
    quick: bool,
    /// Only the test of this name; can be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List the tests, and run none
    #[arg(long)]
    list: bool,
    /// How many tests run at the same time [default: as many as there are processors, and memory for their machines]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Directory that keeps the Debian trees
    #[arg(long, value_name = "DIR", default_value = "target/xtask/trees")]
    trees: PathBuf,
    /// Directory for disks and logs
    #[arg(long, value_name = "DIR", default_value = "target/xtask/vm")]
    work: PathBuf,
    /// Leave disks and logs there, and the versions for the next run; those of a test that fails stay anyway
    #[arg(long)]
    keep: bool,
    /// How much of the emulator's processor time one boot may take, in seconds; by the clock, it may take eight times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 200)]
    boot_limit: u64,
}

/// Returns how many machines run side by side on so many processors, in so many bytes. A machine takes half as much again as it
/// has: for the code that the emulator makes, and for the programs that look at its disks.
fn jobs_on(processors: usize, available: u64) -> usize {
    let machine = (u64::from(MEMORY) << 20) * 3 / 2;
    processors
        .min(usize::try_from(available / machine).unwrap_or(usize::MAX))
        .max(1)
}

impl TestArgs {
    fn jobs(&self) -> Result<usize> {
        if let Some(jobs) = self.jobs {
            return Ok(jobs.get());
        }
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(jobs_on(processors.get(), memory::bytes("MemAvailable")?))
    }

    const fn level(&self) -> Level {
        match (self.smoke, self.quick) {
            (true, _) => Level::Smoke,
            (_, true) => Level::Quick,
            _ => Level::Whole,
        }
    }
}

/// Runs the tests.
///
/// # Errors
/// If something is missing on this machine, or a test fails. A test that fails does not keep the others from running.
pub fn test(args: &TestArgs) -> Result<()> {
    let scenarios = scenario::select(args.level(), &args.only)?;
    if args.list {
        for scenario in scenarios {
            println!(
                "{:<18} {:<24} {}",
                scenario.name,
                scenario.kind.name(),
                scenario.shows
            );
        }
        return Ok(());
    }
    check_requirements()?;
    enter_namespace()?;
    let programs = build_programs()?;
    let trees = find_trees(args)?;
    let work = super::ensure_work_directory(&args.work)?;
    let options = Options {
        keep: args.keep,
        resume: args.keep || has_two_of_a_kind(&scenarios),
        boot_limit: Duration::from_secs(args.boot_limit),
    };
    let store = Store::open(&work, &programs, &trees)?;
    let lab = Lab::new(work.clone(), store, &programs, &options);
    let started = Instant::now();
    let jobs = args.jobs()?.min(scenarios.len());
    let outcomes = run_all(&lab, &scenarios, jobs);
    for outcome in &outcomes {
        println!(
            "  {:<18} {:>7.1} s {:>3} boots  {}",
            outcome.scenario.name,
            outcome.time.as_secs_f64(),
            outcome.boots,
            outcome.word()
        );
    }
    if args.level() == Level::Whole && args.only.is_empty() {
        let document = workspace::root().join("docs/boot-tests.md");
        results::write(&document, &lab, &outcomes, jobs, started.elapsed())?;
    }
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    if failed > 0 {
        bail!(
            "{failed} of {} tests in virtual machines failed; see {}",
            outcomes.len(),
            work.display()
        );
    }
    drop(lab);
    if !args.keep
        && let Err(error) = super::remove_work_directory(&work)
    {
        // The tests have passed; what is left takes room, and the next run removes it.
        eprintln!("{} was not removed: {error:#}", work.display());
    }
    Ok(())
}

/// Whether what a machine was when it had booted is of use to another one.
fn has_two_of_a_kind(scenarios: &[&Scenario]) -> bool {
    scenarios
        .iter()
        .enumerate()
        .any(|(index, scenario)| scenarios[..index].iter().any(|other| other.kind == scenario.kind))
}

/// Runs tests, so many at a time, begun in their order; what came of them is in that order too.
fn run_all(lab: &Lab, scenarios: &[&'static Scenario], jobs: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match scenarios.get(index) {
                Some(scenario) => done.push((index, run_one(lab, scenario))),
                None => return done,
            }
        }
    };
    let mut outcomes: Vec<(usize, Outcome)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn run_one(lab: &Lab, scenario: &'static Scenario) -> Outcome {
    let say = |what: &str| lab.steps.say(&format!("{}: {what}", scenario.name));
    say(&format!("begins: {}", scenario.shows));
    let started = Instant::now();
    let boots = Arc::new(AtomicU32::new(0));
    let play = || {
        lab.stage(scenario.name, scenario.kind, &boots)
            .and_then(scenario.story)
    };
    // One that panics has said why on standard error, and the others are of use all the same.
    let error = catch_unwind(AssertUnwindSafe(play))
        .unwrap_or_else(|_| bail!("it panicked"))
        .with_context(|| format!("the test {} failed", scenario.name))
        .err();
    match &error {
        None => say("passed"),
        Some(error) => say(&format!("{error:#}")),
    }
    Outcome {
        scenario,
        time: started.elapsed(),
        boots: boots.load(Ordering::Relaxed),
        error,
    }
}

fn find_trees(args: &TestArgs) -> Result<Trees> {
    let options = debian::Options::kept_in(Some(&args.trees));
    if let Some(trees) = debian::load_trees(&options)? {
        return Ok(trees);
    }
    match debian::find_archive(&options.release)? {
        Availability::Answers(archive) => debian::ensure_trees(&options, &archive),
        Availability::Unavailable(why) => bail!("{why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_fit_into_processors_and_memory() {
        let gibibyte = 1 << 30;
        assert_eq!(jobs_on(4, 64 * gibibyte), 4);
        assert_eq!(jobs_on(4, 4 * gibibyte), 2);
        assert_eq!(jobs_on(4, gibibyte), 1, "one is tried all the same");
    }
}
