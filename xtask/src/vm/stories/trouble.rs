//! A machine whose clock says 1970 and whose disks are full loses its network in the middle of an upgrade. Nothing of that changes
//! what it runs, and once the trouble is over, it upgrades.

use anyhow::{Context, Result, ensure};

use crate::vm::guest::{
    EDIT, EDITS_ARE_KEPT, JOIN_NETWORK, check_health, check_mounts, check_version, json, status,
};
use crate::vm::hardware::Hardware;
use crate::vm::lab::Stage;
use crate::vm::machine::Machine;
use crate::vm::stories::http::{REMOTE, follow_site};
use crate::vm::versions::{V1, V2};

/// "There is no space", among the documented exit codes.
const NO_SPACE: i32 = 9;

/// systemd starts a clock that is before its own release there; somebody sets it to what the hardware says.
const BACK_TO_1970: &str = "date --set '1970-01-02 00:00:00' && test \"$(date +%Y)\" = 1970";

/// Leaves a little less than a mebibyte on `/boot`.
const FILL_BOOT: &str = "mount -o remount,rw /boot
dd if=/dev/zero of=/boot/filler bs=1M 2>/dev/null
sync -f /boot
mount -o remount,ro /boot
df -B1K --output=avail /boot | tail -n 1";

const EMPTY_BOOT: &str = "set -e
mount -o remount,rw /boot
rm /boot/filler
mount -o remount,ro /boot";

/// Leaves some mebibytes on the root: far from enough for a kernel.
const FILL_ROOT: &str = "set -e
available=$(df -B1M --output=avail /var | tail -n 1)
fallocate -l $((available - 16))M /var/filler
sync -f /var
df -B1M --output=avail /var | tail -n 1";

/// Begins a download that takes a while, in the background.
const BEGIN_PULL: &str =
    "(atomos pull origin REF --limit-rate 1M >/run/pull.log 2>&1; echo $? >/run/pull.status) &";

/// Plays it.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn trouble(mut stage: Stage<'_>) -> Result<()> {
    let kind = stage.disk.kind();
    let (v1, v2) = (stage.commit(&V1)?, stage.commit(&V2)?);
    stage.publish(&V2)?;

    stage.say("first boot: v1, with a clock at 1970");
    stage.began_in_1970 = true;
    let mut machine = stage.start(&Hardware {
        network: true,
        clock: Some("1970-01-01T00:00:00"),
        ..stage.hardware()
    })?;
    machine.wait_for_boot()?;
    stage.say("v1 is up");
    check_version(&mut machine, &V1, &v1)?;
    machine.ask(BACK_TO_1970)?;
    machine.ask(EDIT)?;
    machine.ask(JOIN_NETWORK)?;
    let before = status(&mut machine)?;
    follow_site(&mut stage, &mut machine)?;
    let switch = format!("atomos switch {REMOTE}:{}", stage.site_ref());

    stage.say("/boot is full");
    machine.ask(FILL_BOOT)?;
    expect_no_space(&mut machine, &switch, "/boot")?;
    machine.ask(EMPTY_BOOT)?;
    stage.say("the disk is full");
    machine.ask(FILL_ROOT)?;
    expect_no_space(&mut machine, &switch, "repo")?;
    machine.ask("rm /var/filler && sync -f /var")?;
    ensure!(
        status(&mut machine)? == before,
        "what failed has changed the machine"
    );

    stage.say("the network goes away");
    lose_network(&stage, &mut machine)?;
    ensure!(
        status(&mut machine)? == before,
        "what failed has changed the machine"
    );
    check_version(&mut machine, &V1, &v1)?;
    check_mounts(&mut machine, kind)?;

    stage.say("upgrading, now that the trouble is over");
    machine.ask(&switch)?;
    machine
        .ask("test \"$(date +%Y)\" = 1970")
        .context("the clock was set meanwhile")?;
    stage.say("second boot: v2");
    machine.reboot()?;
    stage.say("v2 is up");
    check_version(&mut machine, &V2, &v2)?;
    check_mounts(&mut machine, kind)?;
    check_health(&mut machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("an edit did not survive the upgrade")?;
    stage.finish(machine, &[])
}

/// The command fails for want of space, and says where.
fn expect_no_space(machine: &mut Machine, command: &str, place: &str) -> Result<()> {
    let answer = machine.script(command)?;
    ensure!(
        answer.status == NO_SPACE && answer.text.contains(place),
        "there is no room in {place}, and `{command}` ended with {}:\n{}",
        answer.status,
        answer.text
    );
    Ok(())
}

/// Takes the cable out while a download runs, and puts it back once that has failed. The next one takes up what came.
fn lose_network(stage: &Stage<'_>, machine: &mut Machine) -> Result<()> {
    let reference = stage.site_ref();
    let whole = planned_bytes(machine, &reference, "--dry-run")?;
    let start = received(machine)?;
    machine.ask(&BEGIN_PULL.replace("REF", &reference))?;
    while received(machine)? < start + whole / 3 {
        let ended = machine.script("cat /run/pull.status /run/pull.log")?;
        ensure!(ended.status != 0, "the download ended too early: {}", ended.text);
    }
    machine.monitor("set_link nic off")?;
    // The program waits for the server as long as its own limits say, and no longer.
    machine.ask("while ! test -s /run/pull.status; do sleep 1; done")?;
    machine.monitor("set_link nic on")?;
    let answer = machine.ask("cat /run/pull.status /run/pull.log")?;
    ensure!(
        !answer.starts_with('0') && answer.contains("error: "),
        "the network was gone, and yet: {answer}"
    );
    // Only a pull that takes up what an interrupted one has left knows what that was; a dry run takes up nothing.
    let rest = planned_bytes(machine, &reference, "")?;
    ensure!(
        rest < whole,
        "a part of {whole} bytes came, and all of them were fetched again"
    );
    stage.say(&format!("of {whole} bytes, {rest} were fetched afterwards"));
    Ok(())
}

/// What a pull fetches, or would.
fn planned_bytes(machine: &mut Machine, reference: &str, option: &str) -> Result<u64> {
    let report = machine.ask(&format!(
        "atomos --json --quiet pull {REMOTE} {reference} {option}"
    ))?;
    json(&report)?["planned-bytes"]
        .as_u64()
        .with_context(|| format!("no number of bytes in {report}"))
}

/// How many bytes have come over the network.
fn received(machine: &mut Machine) -> Result<u64> {
    let text = machine.ask("cat /sys/class/net/e*/statistics/rx_bytes")?;
    text.parse().with_context(|| format!("{text:?} is no number"))
}
