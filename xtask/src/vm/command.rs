//! `cargo xtask vm-test`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::lab::Lab;
use super::programs::{build_programs, check_requirements};
use super::results::{self, Outcome};
use super::scenario::{self, Level, Scenario};
use super::store::Store;
use super::{Options, enter_namespace};
use crate::debian::{self, Availability, Trees};
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

impl TestArgs {
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
    let mut lab = Lab::new(work.clone(), store, &programs, &options);
    let started = Instant::now();
    let outcomes: Vec<Outcome> = scenarios
        .iter()
        .map(|scenario| run_one(&mut lab, scenario))
        .collect();
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
        results::write(&document, &mut lab, &outcomes, started.elapsed())?;
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

fn run_one(lab: &mut Lab, scenario: &'static Scenario) -> Outcome {
    lab.steps
        .say(&format!("== {}: {}", scenario.name, scenario.shows));
    let started = Instant::now();
    let boots = lab.boots();
    let error = lab
        .stage(scenario.name, scenario.kind)
        .and_then(scenario.story)
        .with_context(|| format!("the test {} failed", scenario.name))
        .err();
    match &error {
        None => lab.steps.say("passed"),
        Some(error) => lab.steps.say(&format!("{error:#}")),
    }
    Outcome {
        scenario,
        time: started.elapsed(),
        boots: lab.boots() - boots,
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
