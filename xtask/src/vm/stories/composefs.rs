//! A machine goes over to versions whose root is an image, from one to the next, and back to one of files. One image is damaged before it is
//! booted for the first time: the machine comes back from it by itself.

use anyhow::{Context, Result, ensure};

use crate::vm::guest::{
    EDITS_ARE_KEPT, JOIN_NETWORK, booted_deployment, check_health, check_mounts, check_version, json, status,
};
use crate::vm::lab::Stage;
use crate::vm::machine::Machine;
use crate::vm::stories::http::{EDIT_AFTER_STAGING, EDIT_AFTER_STAGING_IS_KEPT, REMOTE, follow_site};
use crate::vm::versions::{COMPOSEFS, COMPOSEFS_NEXT, V1};

/// How many times a version is tried.
const TRIES: u32 = 3;

/// Destroys the image of what is staged, as a failing disk might. `/sysroot` is writable for nobody else.
const DAMAGE_STAGED: &str = r#"set -e
name=$(atomos status --json | tr ',{' '\n\n' | sed -n 's/^ *"id": *"debian\/\([0-9a-f.]*\)".*/\1/p' | head -n 1)
export image=/sysroot/atomos/deploy/debian/deploy/$name.image
test -f "$image"
unshare --mount sh -euc 'mount -o remount,bind,rw /sysroot
dd if=/dev/zero of="$image" bs=4096 count=1 conv=notrunc,fsync status=none'
"#;

/// What a person tries on the machine itself: a `/usr` that can be written to, over an image.
const TRY_IN_USR: &str = "set -e
atomos usr-overlay
echo tried >/usr/bin/atomos-vm-test-tried
test \"$(cat /usr/bin/atomos-vm-test-tried)\" = tried
echo changed >>/usr/lib/os-release
atomos status --json | grep -q '\"usr-overlay\": *true'
";

/// Any tree of the machine's repository can be mounted beside.
const MOUNT_ANOTHER: &str = "set -e
mkdir /run/another
atomos mount \"$(atomos status --json | sed -n 's/.*\"commit\": *\"\\([0-9a-f]*\\)\".*/\\1/p' | head -n 1)\" /run/another
test -x /run/another/usr/bin/atomos
atomos umount /run/another
";

/// Plays it.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn composefs(mut stage: Stage<'_>) -> Result<()> {
    let v1 = stage.commit(&V1)?;
    let (one, two) = (stage.commit(&COMPOSEFS)?, stage.commit(&COMPOSEFS_NEXT)?);
    stage.publish(&COMPOSEFS)?;
    let mut machine = stage.installed()?;
    machine.ask("atomos pin booted")?;
    stage.say("upgrading to a version whose root is an image");
    follow_site(&mut stage, &mut machine)?;
    // The first image would have every file read back, which takes an emulated processor minutes.
    machine.ask(&format!(
        "atomos switch --no-read-back {REMOTE}:{}",
        stage.site_ref()
    ))?;
    machine.reboot()?;
    stage.say("it is up");
    look_at(&mut stage, &mut machine, true)?;
    check_version(&mut machine, &COMPOSEFS, &one)?;
    machine.ask(TRY_IN_USR).context("/usr over an image")?;
    machine.ask(MOUNT_ANOTHER).context("mounting a tree beside")?;

    stage.say("staging the next one, and destroying its image");
    stage.publish(&COMPOSEFS_NEXT)?;
    machine.ask(JOIN_NETWORK)?;
    machine.ask("atomos upgrade")?;
    machine.ask(DAMAGE_STAGED)?;
    machine.begin_reboot()?;
    let (_, others) = machine.wait_for_version(COMPOSEFS.name, TRIES)?;
    ensure!(others.is_empty(), "these came up: {others:?}");
    stage.say("the machine came back by itself");
    look_at(&mut stage, &mut machine, true)?;
    check_version(&mut machine, &COMPOSEFS, &one)?;
    machine
        .ask("test ! -e /usr/bin/atomos-vm-test-tried")
        .context("what was tried in /usr is still there")?;
    let found = status(&mut machine)?;
    ensure!(
        found["rolled-back-from"]
            .as_str()
            .is_some_and(|id| id.contains(&two)),
        "the machine does not say what it went back from: {found}"
    );

    stage.say("upgrading once more");
    machine.ask(JOIN_NETWORK)?;
    machine.ask("atomos upgrade --allow-rejected")?;
    machine.ask(EDIT_AFTER_STAGING)?;
    machine.reboot()?;
    stage.say("the next image is up");
    look_at(&mut stage, &mut machine, true)?;
    check_version(&mut machine, &COMPOSEFS_NEXT, &two)?;
    machine
        .ask(EDIT_AFTER_STAGING_IS_KEPT)
        .context("an edit made after staging was lost")?;

    stage.say("going back to files");
    machine.ask(&format!("atomos rollback --to {}", V1.name))?;
    machine.reboot()?;
    stage.say("v1 is up");
    look_at(&mut stage, &mut machine, false)?;
    check_version(&mut machine, &V1, &v1)?;
    stage.finish(machine, &[])
}

/// The root is an image, or files; all else is as on any machine, and its owner's edits are there.
fn look_at(stage: &mut Stage<'_>, machine: &mut Machine, is_image: bool) -> Result<()> {
    let root = machine.ask("findmnt --noheadings --output FSTYPE,SOURCE /")?;
    let words: Vec<&str> = root.split_whitespace().collect();
    ensure!(
        (words == ["overlay", "atomos"]) == is_image,
        "the root is {words:?}"
    );
    let booted = json(&machine.ask("cat /run/atomos/booted")?)?;
    ensure!(
        booted["composefs"] == is_image,
        "/run/atomos/booted says {booted}"
    );
    let found = status(machine)?;
    let deployment = booted_deployment(&found)?;
    let kind = if is_image { "image" } else { "files" };
    ensure!(
        deployment["root"] == kind && deployment["image-booted"] == is_image,
        "`atomos status` says {deployment}"
    );
    check_mounts(machine, stage.disk.kind())?;
    check_health(machine)?;
    machine.ask(EDITS_ARE_KEPT).context("an edit was lost")?;
    Ok(())
}
