//! A machine takes a version that does not work, comes back by itself, says why, and does not take it again.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::vm::guest::{
    EDITS_ARE_KEPT, JOIN_NETWORK, booted_deployment, check_health, check_mounts, check_version, status,
};
use crate::vm::lab::Stage;
use crate::vm::machine::Machine;
use crate::vm::versions::{EMERGENCY, HANGS, PANICS, UNHEALTHY, V2, Version};

/// How many times a version is tried.
const TRIES: u32 = 3;

/// A version that does not work, and what is known of it afterwards.
#[derive(Debug)]
pub struct Broken {
    version: &'static Version,
    /// How far each boot got, as `atomos status` calls it.
    stage: &'static str,
    /// How many of its boots come up, as far as a test can tell.
    comes_up: u32,
    /// The health check that failed, and what it printed.
    check: Option<(&'static str, &'static str)>,
    /// Units that fail, and are meant to.
    pub failing_units: &'static [&'static str],
}

/// The kernel panics, before there is a root file system.
pub const KERNEL_PANICS: Broken = Broken {
    version: &PANICS,
    stage: "kernel",
    comes_up: 0,
    check: None,
    failing_units: &[],
};

/// The init hangs, and the watchdog resets the machine.
pub const INIT_HANGS: Broken = Broken {
    version: &HANGS,
    stage: "prepare-root",
    comes_up: 0,
    check: None,
    failing_units: &[],
};

/// A health check fails.
pub const CHECK_FAILS: Broken = Broken {
    version: &UNHEALTHY,
    stage: "checks",
    comes_up: TRIES,
    check: Some(("50-vm-test", "the pump does not answer")),
    failing_units: &["atomos-boot-check"],
};

/// `/boot` cannot be mounted, and the system waits for somebody at the console.
pub const BOOT_IS_LOST: Broken = Broken {
    version: &EMERGENCY,
    stage: "user-space",
    comes_up: 0,
    check: Some(("boot-complete", "")),
    // The checks run in emergency mode, too, and nobody can see there what the loader has counted.
    failing_units: &["boot.mount", "atomos-boot-check"],
};

/// Lets a machine that runs v2 and follows the site upgrade to the version, and waits until v2 is back.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn upgrade_and_come_back(stage: &mut Stage<'_>, machine: &mut Machine, broken: &Broken) -> Result<()> {
    let name = broken.version.name;
    let (v2, bad) = (stage.commit(&V2)?, stage.commit(broken.version)?);
    let before = status(machine)?;
    ensure!(
        booted_deployment(&before)?["assessment"] == "good",
        "the version to come back to is not known to be good: {before}"
    );
    stage.say(&format!("upgrading to a version that does not work: {name}"));
    stage.publish(broken.version)?;
    machine.ask("atomos upgrade")?;
    machine.begin_reboot()?;
    let (_, others) = machine.wait_for_version(V2.name, TRIES)?;
    stage.say("v2 is back");
    ensure!(
        others.len() == broken.comes_up as usize && others.iter().all(|boot| boot.version == name),
        "before it came back, these came up: {others:?}"
    );
    check_version(machine, &V2, &v2)?;
    check_mounts(machine, stage.disk.kind())?;
    check_health(machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("the /etc of v2 is not as it was left")?;
    let found = status(machine)?;
    check_reason(&found, broken, &bad).with_context(|| format!("`atomos status --json` says {found}"))?;

    stage.say("the machine does not take it again");
    machine.ask(JOIN_NETWORK)?;
    let answer = machine.ask("atomos upgrade")?;
    ensure!(
        answer.contains("is not installed again"),
        "`atomos upgrade` does not say that it leaves the version alone: {answer}"
    );
    let after = status(machine)?;
    ensure!(
        booted_deployment(&after)?["default"] == true && after["staged"].is_null(),
        "after another upgrade, the next boot does not take v2: {after}"
    );
    Ok(())
}

/// What is said of the version: that the machine went back from it, how far each of its boots got, and what failed.
fn check_reason(status: &Value, broken: &Broken, commit: &str) -> Result<()> {
    let is_bad = |id: &Value| id.as_str().is_some_and(|id| id.contains(commit));
    ensure!(
        is_bad(&status["rolled-back-from"]),
        "the machine went back from something else"
    );
    let rejected = status["rejected"]
        .as_array()
        .and_then(|all| all.iter().find(|failed| is_bad(&failed["deployment"])))
        .context("the version is not rejected")?;
    let attempts = rejected["attempts"].as_array().context("no list of attempts")?;
    ensure!(
        attempts.len() == TRIES as usize && attempts.iter().all(|attempt| attempt["stage"] == broken.stage),
        "not {TRIES} attempts that got as far as {}",
        broken.stage
    );
    if let Some((check, output)) = broken.check {
        for attempt in attempts {
            let failed = &attempt["failed"][0];
            ensure!(
                failed["check"].as_str().is_some_and(|name| name.contains(check))
                    && failed["output"].as_str().unwrap_or_default().contains(output),
                "the check is not named with its output: {attempt}"
            );
        }
    }
    Ok(())
}
