//! A machine goes over to versions whose root is verified, from one to the next. Whoever has its disk tampers with it: with the bytes of a
//! file, with a file of the store, with a seal, with an image. None of that is ever read or booted; each time the machine goes on with what
//! is verified.

use anyhow::{Context, Result, ensure};

use crate::vm::guest::{
    EDITS_ARE_KEPT, JOIN_NETWORK, booted_deployment, check_health, check_mounts, check_version, json, status,
};
use crate::vm::lab::Stage;
use crate::vm::machine::Machine;
use crate::vm::stories::http::{REMOTE, follow_site};
use crate::vm::versions::{SEALED, SEALED_NEXT, V1, VICTIMS};

/// How many times a version is tried.
const TRIES: u32 = 3;

/// `in_store PATH` prints which file of the store has the bytes of a file of the running system, `writable SCRIPT` runs one where `/sysroot` can
/// be written to, which is nowhere else. `staged EXTENSION` prints what lies beside what is staged.
const TOOLS: &str = r#"set -eu
export D=/sysroot/atomos/deploy/debian/deploy O=/sysroot/atomos/repo/objects
in_store() {
    commit=$(sed 's/.*"deployment":"\([0-9a-f]*\)\..*/\1/' /run/atomos/booted)
    blob=$(atomos ls --json "$commit" "/$1" | tr ',' '\n' | sed -n 's/.*"blob": *"\([0-9a-f]*\)".*/\1/p')
    echo "$O/$(echo "$blob" | cut -c 1-2)/$(echo "$blob" | cut -c 3-)"
}
writable() { unshare --mount sh -euc "mount -o remount,bind,rw /sysroot; $1"; }
staged() {
    name=$(atomos status --json | tr ',{' '\n\n' | sed -n 's/^ *"id": *"debian\/\([0-9a-f.]*\)".*/\1/p' | head -n 1)
    test -f "$D/$name.$1"
    echo "$D/$name.$1"
}
forget() { sync; echo 3 >/proc/sys/vm/drop_caches; }
refuses() { if cat "$1" >/dev/null 2>/run/said; then echo "$1 can be read"; exit 1; fi; grep -q 'Input/output error' /run/said; }
"#;

/// The first block of a file on the disk has another byte than was sealed, and has it no more.
const FLIP: &str = r#"
file=$(in_store VICTIM)
cat "/VICTIM" >/dev/null
disk=$(findmnt --noheadings --output SOURCE /sysroot)
block=$(filefrag -b4096 -v "$file" | sed -n 's/^ *0: *0\.\. *[0-9]*: *\([0-9]*\)\.\..*/\1/p')
place() { dd of="$disk" bs=1 seek="$((block * 4096))" count=1 conv=notrunc,fsync status=none; }
printf X | place
forget
refuses "/VICTIM"
refuses "$file"
printf o | place
forget
cat "/VICTIM" >/dev/null
# While the machine runs, too, nobody writes to it.
export file
if writable 'printf X >>"$file"' 2>/run/said; then echo "$file can be written to"; exit 1; fi
grep -q 'Operation not permitted' /run/said
"#;

/// A file of the store is another one. What comes back in its place is as it was.
const REPLACE: &str = r#"
file=$(in_store VICTIM); export file
writable 'cp -a "$file" "$file.other"; echo tampered >"$file.new"; mv "$file.new" "$file"'
forget
refuses "/VICTIM"
# The same bytes, which the kernel does not verify.
writable 'mv "$file.other" "$file"'
forget
refuses "/VICTIM"
"#;

/// A deploy has had the kernel verify the file that came back.
const READS_AGAIN: &str = "forget\ngrep -q 'in the place of' /VICTIM\n";

/// The seal of what is staged has another signature.
const SPOIL_SEAL: &str = r#"
seal=$(staged seal); export seal
writable 'sed "s/\"sig\":\"..../\"sig\":\"AAAA/" "$seal" >"$seal.new"; ! cmp -s "$seal" "$seal.new"; mv "$seal.new" "$seal"; sync'
"#;

/// The image of what is staged is another one, with the same seal beside it: here the same bytes, which are not verified.
const REPLACE_IMAGE: &str = r#"
image=$(staged image); export image
writable 'cp "$image" "$image.new"; mv "$image.new" "$image"; sync'
"#;

/// Plays it.
///
/// # Errors
/// If a step fails; for a machine that does not come up, with the end of its console.
pub fn sealed(mut stage: Stage<'_>) -> Result<()> {
    let v1 = stage.commit(&V1)?;
    let (one, two) = (stage.commit(&SEALED)?, stage.commit(&SEALED_NEXT)?);
    stage.publish(&SEALED)?;
    let mut machine = stage.installed()?;
    machine.ask("atomos pin booted")?;
    stage.say("going over to a version that is verified");
    follow_site(&mut stage, &mut machine)?;
    let switch = format!("atomos switch --no-read-back {REMOTE}:{}", stage.site_ref());
    give_the_feature(&mut machine, &switch)?;
    machine.ask(&switch)?;
    machine.reboot()?;
    stage.say("it is up");
    look_at(&mut stage, &mut machine, false)?;
    check_version(&mut machine, &SEALED, &one)?;

    stage.say("tampering with files");
    for (script, victim) in [(FLIP, VICTIMS[0]), (REPLACE, VICTIMS[1])] {
        let script = format!("{TOOLS}{}", script.replace("VICTIM", victim));
        machine
            .ask(&script)
            .with_context(|| format!("tampering with {victim}"))?;
    }

    stage.say("staging it once more, and spoiling the seal");
    machine.ask(&format!("atomos deploy --no-read-back {one}"))?;
    machine
        .ask(&format!("{TOOLS}{}", READS_AGAIN.replace("VICTIM", VICTIMS[1])))
        .context("a deploy did not have the file verified again")?;
    machine.ask(&format!("{TOOLS}{SPOIL_SEAL}"))?;
    machine.reboot()?;
    stage.say("it gave way to the one before, in the same boot");
    look_at(&mut stage, &mut machine, true)?;
    machine.ask("atomos undeploy 0")?;

    stage.say("staging the next one, and replacing its image");
    stage.publish(&SEALED_NEXT)?;
    machine.ask(JOIN_NETWORK)?;
    machine.ask("atomos upgrade --no-read-back")?;
    machine.ask(&format!("{TOOLS}{REPLACE_IMAGE}"))?;
    machine.begin_reboot()?;
    let (_, others) = machine.wait_for_version(SEALED.name, TRIES)?;
    ensure!(others.is_empty(), "these came up: {others:?}");
    stage.say("the machine came back by itself");
    look_at(&mut stage, &mut machine, false)?;
    check_version(&mut machine, &SEALED, &one)?;
    let found = status(&mut machine)?;
    ensure!(
        found["rolled-back-from"]
            .as_str()
            .is_some_and(|id| id.contains(&two)),
        "the machine does not say what it went back from: {found}"
    );

    stage.say("upgrading once more");
    machine.ask(JOIN_NETWORK)?;
    machine.ask("atomos upgrade --no-read-back --allow-rejected")?;
    machine.reboot()?;
    stage.say("the next one is up");
    look_at(&mut stage, &mut machine, false)?;
    check_version(&mut machine, &SEALED_NEXT, &two)?;

    stage.say("going back to files, by an initramfs without a key");
    machine.ask(&format!("atomos rollback --to {}", V1.name))?;
    machine.reboot()?;
    stage.say("v1 is up");
    check_version(&mut machine, &V1, &v1)?;
    check_health(&mut machine)?;
    stage.finish_with_verity(machine)
}

/// The disk was made without the feature: nothing is made of the deployment, and what is missing is said, with the command.
fn give_the_feature(machine: &mut Machine, switch: &str) -> Result<()> {
    let answer = machine.script(switch)?;
    let command = answer
        .text
        .lines()
        .find_map(|line| line.split_once("tune2fs "))
        .map(|(_, rest)| format!("tune2fs {}", rest.trim()));
    let command = match (answer.status, command) {
        (0, _) => anyhow::bail!("an ext4 without the feature was taken"),
        (_, Some(command)) => command,
        _ => anyhow::bail!("the machine does not say what is missing: {}", answer.text),
    };
    let staged = status(machine)?;
    ensure!(staged["staged"].is_null(), "something is staged: {staged}");
    machine.ask(&command).map(drop)
}

/// The root is verified, and all else is as on any machine. `is_substitute` is whether another deployment was asked for.
fn look_at(stage: &mut Stage<'_>, machine: &mut Machine, is_substitute: bool) -> Result<()> {
    let root = machine.ask("findmnt --noheadings --output FSTYPE,OPTIONS /")?;
    ensure!(
        root.starts_with("overlay ") && root.contains("verity=require"),
        "the root is {root:?}"
    );
    let booted = json(&machine.ask("cat /run/atomos/booted")?)?;
    ensure!(
        (booted["requested"] != booted["deployment"]) == is_substitute,
        "/run/atomos/booted says {booted}"
    );
    let found = status(machine)?;
    let deployment = booted_deployment(&found)?;
    let sealed_by = deployment["sealed-by"].as_array();
    ensure!(
        deployment["root"] == "verified-image"
            && sealed_by.is_some_and(|keys| keys.contains(&deployment["verified-by"])),
        "`atomos status` says {deployment}"
    );
    check_mounts(machine, stage.disk.kind())?;
    check_health(machine)?;
    machine.ask(EDITS_ARE_KEPT).context("an edit was lost")?;
    Ok(())
}
