//! `atomos boot check`, `mark-good`, `mark-bad`, `forget` and `record`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use libatomos::error::ErrorKind;
use libatomos::health::{self, HealthOptions, HealthReport};
use libatomos::sysroot::{BootVerdict, FailedCheck, Sysroot};
use serde::Serialize;

use super::RunResult;
use crate::context::Context;
use crate::exit_code::Outcome;
use crate::output::trial::{write_check, write_failed};
use crate::output::{json, text};
use crate::report::CliError;

/// Run the health checks, and mark this boot good when they pass
///
/// Runs every executable in /usr/lib/atomos/health.d and /etc/atomos/health.d at the same time, each with a time limit, and records
/// what failed, with the end of its output. A file in /etc takes the place of one with the same name in /usr/lib; what is in wanted.d below
/// these is reported and decides nothing. A machine without checks is well.
///
/// When all pass, the running deployment is known to be good: the boot loader counts its boots no more. It is for the init system
/// to run this when everything is up, and to reboot the machine when it exits with 20: docs/health.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos boot check
  atomos boot check --no-mark --timeout 300     `atomos boot mark-good` comes later
  atomos boot check --json | jq '.checks[] | select(.code != 0)'")]
pub struct CheckArgs {
    /// Seconds that each check may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86400))]
    timeout: u32,

    /// Record the result, and leave it to `atomos boot mark-good` to mark the boot good
    #[arg(long)]
    no_mark: bool,

    /// Run nothing: this boot was not found good in time, and counts as failed where it is on trial
    #[arg(long, conflicts_with_all = ["timeout", "no_mark"])]
    deadline: bool,
}

/// Mark the running deployment as good
///
/// Its boot entry loses its counter, and what was kept to go back from new kernel arguments is removed. `atomos boot check` does this
/// when all checks pass.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos boot mark-good")]
pub struct MarkGoodArgs {}

/// Give a deployment up
///
/// Its boot entry becomes the last that a boot loader takes, and `atomos upgrade` does not install its version again. For boot loaders
/// that say afterwards that they took another entry, and for people. Where its kernel arguments are on trial, these are given up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos boot mark-bad default
  atomos boot mark-bad 49a8b7dac5cc.0")]
pub struct MarkBadArgs {
    /// Which: default, booted, a position, a version, or the start of a digest
    id: String,
}

/// Forget that a version failed here, so that upgrade installs it again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  atomos boot forget 49a8b7dac5cc
  atomos boot forget --all")]
pub struct ForgetArgs {
    /// The start of its commit's digest, or its version
    #[arg(
        value_name = "COMMIT",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    commit: Option<String>,

    /// All that failed here
    #[arg(long)]
    all: bool,
}

/// Record that this boot reached user space
///
/// For the init system, early in each boot: finds out what became of earlier boots from the boot loader's counter, gives up what ran
/// out of tries, and says so. Where the boot loader does not count, this boot is counted here.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  atomos boot record")]
pub struct RecordArgs {}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CheckModel<'a> {
    #[serde(flatten)]
    health: &'a HealthReport,
    #[serde(flatten)]
    verdict: &'a BootVerdict,
}

/// Runs `boot check`.
pub fn check(context: &Context, args: &CheckArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let ui = context.ui();
    let mut report = HealthReport::default();
    let verdict = if args.deadline {
        sysroot.expire_boot(now(), context.progress())?
    } else {
        let mut options = HealthOptions::default();
        options.timeout = Duration::from_secs(args.timeout.into());
        options.variables = variables(&sysroot)?;
        report = health::run(&context.sysroot_options().host_root, &options, context.cancel())?;
        let failed: Vec<FailedCheck> = report.failed().map(FailedCheck::from).collect();
        sysroot.finish_checks(&failed, !args.no_mark, now(), context.progress())?
    };
    ui.result(|out| {
        if context.json() {
            return json::write(
                out,
                &CheckModel {
                    health: &report,
                    verdict: &verdict,
                },
            );
        }
        report.checks.iter().try_for_each(|check| write_check(out, check))
    })?;
    for path in &report.not_run {
        ui.warning(format_args!(
            "{} was not run: it is not executable, its name is that of a copy, or it is no directory of checks",
            text::escape_path(path)
        ));
    }
    say_verdict(context, &verdict, args, report.checks.len());
    Ok(match verdict.passed {
        true => Outcome::Done,
        false => Outcome::Unhealthy {
            reboot_helps: verdict.reboot_helps,
        },
    })
}

fn say_verdict(context: &Context, verdict: &BootVerdict, args: &CheckArgs, checks: usize) {
    let ui = context.ui();
    let Some(booted) = &verdict.booted else {
        ui.warning("what is running is no deployment of this sysroot, so nothing was marked");
        return;
    };
    let id = booted.short();
    match (verdict.passed, verdict.good) {
        (true, true) => ui.status(format_args!("{id} is good")),
        (true, false) if args.deadline => ui.status(format_args!("{id} is not on trial")),
        (true, false) => ui.status(format_args!(
            "{} passed; `atomos boot mark-good` marks {id} good",
            text::count(checks as u64, "check", "checks")
        )),
        (false, _) if verdict.reboot_helps => ui.warning(format_args!(
            "{id} is on trial and failed; after a reboot it is tried again, or the version before is taken"
        )),
        (false, _) => ui.warning(format_args!(
            "{id} failed its checks and stays: it is not on trial, or there is nothing better to boot"
        )),
    }
}

/// What checks may want to know.
fn variables(sysroot: &Sysroot) -> Result<Vec<(String, String)>, crate::report::CliError> {
    let Some(booted) = sysroot.booted()? else {
        return Ok(Vec::new());
    };
    let state = sysroot.state()?;
    let found = state.get(&booted);
    let on_trial = found.is_some_and(libatomos::sysroot::DeploymentState::is_on_trial);
    Ok(vec![
        ("ATOMOS_DEPLOYMENT".to_owned(), booted.to_string()),
        (
            "ATOMOS_VERSION".to_owned(),
            found.map_or_else(String::new, |found| found.version.clone()),
        ),
        ("ATOMOS_ON_TRIAL".to_owned(), u8::from(on_trial).to_string()),
    ])
}

/// Runs `boot mark-good`.
pub fn mark_good(context: &Context, _args: &MarkGoodArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let (id, news) = sysroot.mark_good(context.progress())?;
    let is_good = sysroot.state()?.get(&id).is_some_and(|found| found.good);
    let id = id.short();
    context.ui().status(match (news, is_good) {
        (true, _) => format!("{id} is good"),
        (false, true) => format!("{id} was known to be good already"),
        (false, false) => format!(
            "{id} was not marked: it got other kernel arguments since this boot, and has to boot with them first"
        ),
    });
    Ok(Outcome::Done)
}

/// Runs `boot mark-bad`.
pub fn mark_bad(context: &Context, args: &MarkBadArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let failed = sysroot.mark_bad(&args.id, now(), context.progress())?;
    context.ui().result(|out| match context.json() {
        true => json::write(out, &failed),
        false => write_failed(out, &failed),
    })?;
    Ok(Outcome::Done)
}

/// Runs `boot forget`.
pub fn forget(context: &Context, args: &ForgetArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let forgotten = sysroot.forget_failed(args.commit.as_deref())?;
    context.ui().result(|out| match context.json() {
        true => json::write(out, &forgotten),
        false => forgotten.iter().try_for_each(|commit| writeln!(out, "{commit}")),
    })?;
    if let (true, Some(prefix)) = (forgotten.is_empty(), &args.commit) {
        let what = format!("no version {prefix}, and none whose commit begins with that, failed here");
        return Err(
            CliError::of_kind(ErrorKind::NotFound, what).with_hint("`atomos status` lists those that did")
        );
    }
    if forgotten.is_empty() {
        context.ui().status("Nothing failed here");
        return Ok(Outcome::Done);
    }
    context.ui().status(format_args!(
        "Forgot {}; `atomos upgrade` installs what is newest",
        text::count(
            forgotten.len() as u64,
            "version that failed",
            "versions that failed"
        )
    ));
    Ok(Outcome::Done)
}

/// Runs `boot record`.
pub fn record(context: &Context, _args: &RecordArgs) -> RunResult {
    let sysroot = context.open_sysroot_to_write()?;
    let report = sysroot.record_boot(now(), context.progress())?;
    let ui = context.ui();
    if context.json() {
        ui.result(|out| json::write(out, &report))?;
    }
    for failed in &report.failed {
        let mut message = Vec::new();
        write_failed(&mut message, failed)?;
        ui.warning(String::from_utf8_lossy(&message).trim_end());
    }
    if let Some(id) = &report.settled_on {
        ui.warning(format_args!(
            "every deployment is bad; the machine stays on {}, which got furthest",
            id.short()
        ));
    }
    if let (Some(booted), Some(left)) = (&report.booted, report.tries_left) {
        ui.status(format_args!(
            "{} is on trial, with {} left after this one",
            booted.short(),
            text::count(left.into(), "try", "tries")
        ));
    }
    if report.counted_here {
        ui.warning("the boot loader did not count this boot, so it was counted here: a boot that ends earlier is not counted");
    }
    Ok(Outcome::Done)
}

/// The machine's clock, in seconds since 1970. It may be wrong; it is for people.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}
