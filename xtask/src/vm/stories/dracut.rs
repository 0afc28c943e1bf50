//! A machine goes over to a version whose initramfs is made by dracut.

use anyhow::{Context, Result};

use crate::vm::guest::{EDITS_ARE_KEPT, check_health, check_mounts, check_version};
use crate::vm::lab::Stage;
use crate::vm::stories::http::{REMOTE, follow_site};
use crate::vm::versions::DRACUT;

/// Plays it.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn dracut(mut stage: Stage<'_>) -> Result<()> {
    let kind = stage.disk.kind();
    let commit = stage.commit(&DRACUT)?;
    stage.publish(&DRACUT)?;
    let mut machine = stage.installed()?;
    stage.say("upgrading to the version with dracut's initramfs");
    follow_site(&mut stage, &mut machine)?;
    machine.ask(&format!("atomos switch {REMOTE}:{}", stage.site_ref()))?;

    stage.say("booting it");
    machine.reboot()?;
    stage.say("it is up");
    machine
        .ask("journalctl --boot --output cat | grep -q 'Running in initrd'")
        .context("this is not dracut's initramfs")?;
    check_version(&mut machine, &DRACUT, &commit)?;
    check_mounts(&mut machine, kind)?;
    check_health(&mut machine)?;
    machine
        .ask(EDITS_ARE_KEPT)
        .context("an edit did not survive the upgrade")?;
    stage.finish(machine, &[])
}
