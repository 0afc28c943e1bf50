//! What becomes of deployments that are let go of.

use super::*;
use crate::sysroot::layout;

#[test]
fn a_tree_that_cannot_be_removed_keeps_its_objects_and_no_other_tree() {
    if !crate::testing::is_root_or_skip("a mount in an old deployment") {
        return;
    }
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let held = machine.root_of(&one).join("etc/app.d");
    let mount = |args: &[&str]| {
        let mut mount = std::process::Command::new(args[0]);
        let status = mount.args(&args[1..]).arg(&held).status().unwrap();
        assert!(status.success(), "{args:?}");
    };
    mount(&["mount", "-t", "tmpfs", "tmpfs"]);
    let mut later = Vec::new();
    for version in ["2", "3", "4"] {
        machine.commit(version, |_| ());
        later.push(machine.deploy("os"));
    }
    let is_rooted = |report: &DeployReport| {
        let roots = machine.sysroot().repo().list_roots().unwrap();
        let owners = roots.iter().filter_map(|(name, _)| layout::root_owner(name));
        owners.into_iter().any(|owner| owner == report.deployment)
    };
    assert!(machine.root_of(&one).exists() && is_rooted(&one));
    assert!(!machine.root_of(&later[0]).exists() && !is_rooted(&later[0]));
    mount(&["umount"]);
    machine
        .sysroot()
        .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert!(!machine.root_of(&one).exists() && !is_rooted(&one));
}

#[test]
fn a_subvolume_that_somebody_made_in_etc_comes_along_and_goes_with_the_old_tree() {
    let Some(btrfs) = crate::testing::LoopFs::new("btrfs", 192) else {
        return;
    };
    let machine = Machine::in_directory(tempfile::tempdir_in(btrfs.path()).unwrap());
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let made = std::process::Command::new("btrfs")
        .args(["--quiet", "subvolume", "create"])
        .arg(machine.root_of(&one).join("etc/sub"))
        .status()
        .unwrap();
    assert!(made.success());
    fs::write(machine.root_of(&one).join("etc/sub/data"), "precious").unwrap();
    machine.commit("2", |_| ());
    machine.deploy("os");
    machine.commit("3", |_| ());
    let three = machine.deploy("os");
    let data = fs::read_to_string(machine.root_of(&three).join("etc/sub/data")).unwrap();
    assert_eq!(data, "precious");
    assert!(!machine.root_of(&one).exists());
}
