//! A machine follows a signed site that nginx serves, goes over to the version there, and goes back.

use anyhow::{Context, Result, ensure};

use crate::vm::guest::{
    EDITS_ARE_KEPT, JOIN_NETWORK, booted_deployment, check_health, check_mounts, check_version, status,
};
use crate::vm::lab::Stage;
use crate::vm::machine::Machine;
use crate::vm::stories::broken::{
    BOOT_IS_LOST, Broken, CHECK_FAILS, INIT_HANGS, KERNEL_PANICS, upgrade_and_come_back,
};
use crate::vm::versions::{V1, V2};

/// What the remote is called on the machine.
pub const REMOTE: &str = "origin";

/// A person goes on working between the upgrade and the reboot.
pub const EDIT_AFTER_STAGING: &str = "set -e
echo late >/etc/atomos-vm-test/after-staging
echo edited-again >>/etc/atomos-vm-test/edited
echo edited >>/etc/atomos-vm-test/edited
";

/// What was edited then is there.
pub const EDIT_AFTER_STAGING_IS_KEPT: &str = "set -e
test \"$(cat /etc/atomos-vm-test/after-staging)\" = late
grep -q edited-again /etc/atomos-vm-test/edited
";

/// Goes there and back, and in between there is a version whose kernel panics.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn http_and_panic(stage: Stage<'_>) -> Result<()> {
    play(stage, &[&KERNEL_PANICS])
}

/// The same, and in between there is every version that does not work.
///
/// # Errors
/// As of [`http_and_panic`].
pub fn http_and_all_that_fails(stage: Stage<'_>) -> Result<()> {
    play(stage, &[&KERNEL_PANICS, &INIT_HANGS, &CHECK_FAILS])
}

/// The same, and in between there is a version that cannot mount `/boot`.
///
/// # Errors
/// As of [`http_and_panic`].
pub fn http_and_emergency(stage: Stage<'_>) -> Result<()> {
    play(stage, &[&BOOT_IS_LOST])
}

fn play(mut stage: Stage<'_>, broken: &[&Broken]) -> Result<()> {
    let kind = stage.disk.kind();
    let (v1, v2) = (stage.commit(&V1)?, stage.commit(&V2)?);
    stage.say("publishing v2");
    stage.publish(&V2)?;
    let mut machine = stage.installed()?;
    let packages_v1 = machine.ask("dpkg-query -W")?;
    machine.ask("atomos pin booted")?;

    stage.say("upgrading from the site");
    follow_site(&mut stage, &mut machine)?;
    machine.ask(&format!("atomos switch {REMOTE}:{}", stage.site_ref()))?;
    let requests = stage.requests();
    ensure!(
        requests.iter().any(|request| request.target.contains("/refs/")),
        "the machine asked nothing of the site"
    );
    let bytes: u64 = requests.iter().map(|request| request.bytes).sum();
    stage.say(&format!(
        "the machine fetched {bytes} bytes in {} requests",
        requests.len()
    ));
    check_version(&mut machine, &V1, &v1).context("an upgrade changed the running system")?;
    check_mounts(&mut machine, kind).context("an upgrade left something writable")?;
    let staged = status(&mut machine)?;
    ensure!(
        staged["deployments"][0]["role"] == "staged" && staged["deployments"][1]["booted"] == true,
        "v2 is not staged: {staged}"
    );
    check_origin(&staged["deployments"][0], &v2)?;
    machine.ask(EDIT_AFTER_STAGING)?;

    stage.say("booting v2");
    machine.reboot()?;
    stage.say("v2 is up");
    check_version(&mut machine, &V2, &v2)?;
    check_mounts(&mut machine, kind)?;
    check_health(&mut machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("an edit did not survive the upgrade")?;
    machine
        .ask(EDIT_AFTER_STAGING_IS_KEPT)
        .context("an edit made after staging was lost")?;
    let status = status(&mut machine)?;
    check_origin(booted_deployment(&status)?, &v2)?;
    ensure!(
        status["staged"].is_null() && status["last-error"].is_null(),
        "shutdown did not finish what was staged: {status}"
    );
    ensure!(
        machine.ask("dpkg-query -W")? != packages_v1,
        "dpkg lists the same packages in both versions"
    );
    machine.ask(JOIN_NETWORK)?;
    let answer = machine.script("atomos upgrade --check --unchanged-exit-77")?;
    ensure!(answer.status == 77, "there is nothing newer, but: {answer:?}");
    for broken in broken {
        upgrade_and_come_back(&mut stage, &mut machine, broken)?;
    }
    machine.ask("echo later >/etc/atomos-vm-test/only-in-v2")?;
    stage.say("rolling back");
    machine.ask(&format!("atomos rollback --to {}", V1.name))?;

    stage.say("booting v1 again");
    machine.reboot()?;
    stage.say("v1 is up");
    check_version(&mut machine, &V1, &v1)?;
    check_mounts(&mut machine, kind)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("the /etc of v1 is not as it was left")?;
    machine
        .ask("test ! -e /etc/atomos-vm-test/only-in-v2")
        .context("an edit made in v2 shows in v1")?;
    ensure!(
        machine.ask("dpkg-query -W")? == packages_v1,
        "dpkg does not list v1's packages after the rollback"
    );
    let failing: Vec<&str> = broken
        .iter()
        .flat_map(|broken| broken.failing_units)
        .copied()
        .collect();
    stage.finish(machine, &failing)
}

/// Tells the machine of the site and who signs it.
pub fn follow_site(stage: &mut Stage<'_>, machine: &mut Machine) -> Result<()> {
    let url = stage.serve()?;
    let key = stage.public_key()?;
    machine.ask(&format!(
        "set -e
cat >/run/release-key.pub <<'end of key'
{}
end of key
atomos remote add {REMOTE} {url} --key /run/release-key.pub",
        key.trim_end()
    ))?;
    Ok(())
}

/// The deployment is this commit, from the site, and signed.
fn check_origin(deployment: &serde_json::Value, commit: &str) -> Result<()> {
    let signed = deployment["keys"].as_array().is_some_and(|keys| !keys.is_empty());
    ensure!(
        deployment["commit"] == commit && deployment["remote"] == REMOTE && signed,
        "not the site's signed version: {deployment}"
    );
    ensure!(
        deployment["unverified"].is_null(),
        "nobody vouches for {deployment}"
    );
    Ok(())
}
