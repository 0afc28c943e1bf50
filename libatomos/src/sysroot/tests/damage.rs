//! What a disk has damaged does not get to where it is booted from.

use std::fs;

use super::Machine;
use crate::cancel::Cancel;
use crate::error::ErrorKind;
use crate::progress::NoProgress;
use crate::sysroot::{DeployOptions, DeployReport, KargsChange, UpgradeOptions};

/// Flips a bit in the kernel or the initramfs of a deployment, which is the store's: in place, as a disk does.
fn damage(machine: &Machine, root: &std::path::Path, name: &str) {
    let file = root.join("usr/lib/modules/6.1").join(name);
    let mut bytes = fs::read(&file).unwrap();
    bytes[3] ^= 0x20;
    fs::write(&file, bytes).unwrap();
    assert!(machine.path("sysroot").exists());
}

#[test]
fn a_damaged_kernel_is_not_copied_to_where_the_loader_finds_it() {
    if !rustix::process::geteuid().is_root() {
        println!(
            "skipped: as an ordinary user a deployment's files are copies, which takes root to be otherwise"
        );
        return;
    }
    for name in ["vmlinuz", "initramfs.img"] {
        let machine = Machine::new();
        let same = |tree: &std::path::Path| {
            fs::write(tree.join("usr/lib/modules/6.1/vmlinuz"), "one kernel for both").unwrap();
        };
        let first = machine.commit("1", same);
        let one = machine.deploy("os");
        damage(&machine, &machine.root_of(&one), name);
        machine.commit("2", same);
        // Neither offline nor on the running machine, which has the same kernel in its own version.
        let options = DeployOptions {
            kargs: vec![KargsChange::AppendIfMissing("root=LABEL=root".to_owned())],
            ..DeployOptions::default()
        };
        let error = machine
            .sysroot()
            .deploy("os", &options, &NoProgress, &Cancel::new())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(name), "{error}");
        let error = machine
            .booted_into(&one)
            .upgrade(&UpgradeOptions::default(), &NoProgress, &Cancel::new())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(machine.assert_bootable(), [first.to_string()]);
        assert_eq!(
            fs::read_dir(machine.path("sysroot/boot/atomos")).unwrap().count(),
            1
        );
    }
}

fn with_two_versions() -> (Machine, DeployReport) {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    (machine, two)
}

#[test]
fn a_list_of_deployments_that_is_lost_or_damaged_is_made_anew_from_what_boots() {
    let (machine, two) = with_two_versions();
    let sysroot = machine.sysroot();
    let quiet = [KargsChange::Append("dyndbg=\"file x +p\"".to_owned())];
    sysroot.edit_kargs(None, &quiet, &NoProgress).unwrap();
    let before = sysroot.state().unwrap();
    assert!(before.deployments[0].fallback.is_some());
    let entries = machine.entries();
    let error = sysroot.rebuild_state(&NoProgress).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Conflict,
        "the truth is not replaced by less"
    );

    let path = machine.path("sysroot/atomos/deployments.json");
    for damage in [None, Some(&b""[..]), Some(b"{\"version\":1,")] {
        match damage {
            None => fs::remove_file(&path).unwrap(),
            Some(bytes) => fs::write(&path, bytes).unwrap(),
        }
        let found = sysroot.rebuild_state(&NoProgress).unwrap();
        assert_eq!(found[0], two.deployment);
        assert_eq!(sysroot.state().unwrap(), before);
        assert!(sysroot.recover_boot(&NoProgress).unwrap().is_empty());
        assert_eq!(machine.entries(), entries);
    }
    // One that leads nowhere is not in it.
    fs::remove_file(&path).unwrap();
    fs::remove_file(
        machine
            .root_of(&two)
            .with_file_name(format!("{}.complete", two.deployment.dir_name())),
    )
    .unwrap();
    let missing: Vec<_> = sysroot
        .boot_status()
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.finding)
        .collect();
    let gone = Some(crate::boot::EntryFinding::DeploymentMissing);
    assert_eq!(missing, [None, gone, gone]);
    let found = sysroot.rebuild_state(&NoProgress).unwrap();
    assert_eq!(found.len(), 1);
}

/// A rename that is cut short on FAT leaves an entry two names, and a file name can say anything.
#[test]
fn a_list_is_made_of_what_means_something_or_not_at_all() {
    let (machine, two) = with_two_versions();
    let sysroot = machine.sysroot();
    let before = sysroot.state().unwrap();
    let entries = machine.path("sysroot/boot/loader/entries");
    let newest = entries.join(machine.entries().pop().unwrap());
    let text = fs::read_to_string(&newest).unwrap();
    let name = newest.file_stem().unwrap().to_str().unwrap().to_owned();
    fs::write(entries.join(format!("{name}+2-1.conf")), &text).unwrap();
    let largest = name.replacen("atomos-2-", &format!("atomos-{}-", u64::MAX), 1);
    fs::write(entries.join(format!("{largest}.conf")), &text).unwrap();
    let path = machine.path("sysroot/atomos/deployments.json");
    for damage in ["first", "second"] {
        fs::write(&path, damage).unwrap();
        sysroot.rebuild_state(&NoProgress).unwrap();
        let state = sysroot.state().unwrap();
        assert_eq!(state.next_entry, before.next_entry);
        assert_eq!(state.deployments[0].tries, Some(2));
        assert_eq!(state.deployments.len(), 2);
    }
    let aside = fs::read_to_string(machine.path("sysroot/atomos/deployments.json.damaged")).unwrap();
    assert_eq!(aside, "first", "what was there first may be wanted");

    // A marker alone is no deployment.
    fs::write(&path, "").unwrap();
    fs::rename(machine.root_of(&two), machine.path("aside")).unwrap();
    assert_eq!(sysroot.rebuild_state(&NoProgress).unwrap().len(), 1);
    let newer = fs::read_to_string(&path)
        .unwrap()
        .replacen("\"version\": 1", "\"version\": 2", 1);
    fs::write(&path, newer).unwrap();
    let error = sysroot.rebuild_state(&NoProgress).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn mount_points_are_those_of_what_mounts() {
    let source = include_str!("../../../../atomos-prepare-root/src/mounts.rs");
    let list = source.split("const MOUNT_POINTS").nth(1).unwrap();
    let list = list.split(';').nth(1).unwrap();
    let names: Vec<&str> = list
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|name| *name != "etc")
        .collect();
    assert_eq!(names, crate::sysroot::decide::MOUNT_POINTS);
}
