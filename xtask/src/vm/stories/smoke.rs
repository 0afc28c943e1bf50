//! A machine boots what atomos deployed, upgrades itself from its own repository, and goes back.

use anyhow::{Context, Result, ensure};

use crate::vm::guest::{EDIT, EDITS_ARE_KEPT, check_health, check_mounts, check_version};
use crate::vm::lab::Stage;
use crate::vm::versions::{V1, V2};

/// Plays it.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn smoke(mut stage: Stage<'_>) -> Result<()> {
    let kind = stage.disk.kind();
    let (v1, v2) = (stage.commit(&V1)?, stage.commit(&V2)?);
    stage.put_in_repository(&V2)?;

    stage.say("first boot: v1");
    let mut machine = stage.start(&stage.hardware())?;
    machine.wait_for_boot()?;
    stage.say("v1 is up");
    check_version(&mut machine, &V1, &v1)?;
    check_mounts(&mut machine, kind)?;
    check_health(&mut machine)?;
    machine.ask(EDIT)?;
    let packages_v1 = machine.ask("dpkg-query -W")?;
    stage.say("upgrading from the machine's own repository");
    machine.ask("atomos upgrade --now")?;
    check_version(&mut machine, &V1, &v1).context("an upgrade changed the running system")?;
    check_mounts(&mut machine, kind).context("an upgrade left something writable")?;

    stage.say("second boot: v2");
    machine.reboot()?;
    stage.say("v2 is up");
    check_version(&mut machine, &V2, &v2)?;
    check_mounts(&mut machine, kind)?;
    check_health(&mut machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("an edit did not survive the upgrade")?;
    ensure!(
        machine.ask("dpkg-query -W")? != packages_v1,
        "dpkg lists the same packages in both versions"
    );
    machine.ask("echo later >/etc/atomos-vm-test/only-in-v2")?;
    stage.say("rolling back");
    machine.ask("atomos rollback")?;

    stage.say("third boot: v1 again");
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
    stage.finish(machine, &[])
}
