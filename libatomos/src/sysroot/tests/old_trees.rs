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
    let cleanup = || {
        let options = CleanupOptions::default();
        machine.sysroot().cleanup(&options, &NoProgress, &Cancel::new())
    };
    let unwanted = machine.commit("5", |_| ());
    let back = RefUpdate {
        name: "os".parse().unwrap(),
        expected: None,
        new: Some(later[2].deployment.commit),
    };
    machine.sysroot().repo().update_refs(&[back]).unwrap();
    cleanup().unwrap_err();
    let gone = machine.sysroot().repo().load_commit(&unwanted);
    assert!(gone.is_err(), "what nobody wants went all the same");
    mount(&["umount"]);
    cleanup().unwrap();
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

/// File systems that keep no blocks back for root.
#[test]
fn a_full_disk_keeps_nobody_from_going_back_or_making_room() {
    for (kind, megabytes) in [("xfs", 320), ("btrfs", 320)] {
        let Some(full) = crate::testing::LoopFs::new(kind, megabytes) else {
            continue;
        };
        let machine = Machine::in_directory(tempfile::tempdir_in(full.path()).unwrap());
        let deploy = |version: &str| {
            machine.commit(version, |tree| {
                fs::create_dir_all(tree.join("usr/lib/atomos/health.d")).unwrap();
                fs::write(tree.join("usr/own"), vec![1; 4 << 20]).unwrap();
            });
            machine.deploy("os")
        };
        let (one, two) = (deploy("1"), deploy("2"));
        assert!(machine.path("sysroot/atomos/reserve").exists(), "{kind}");
        fill(&full.path().join("fill"));
        let running = machine.booted_into(&two);
        running
            .rollback(None, &NoProgress)
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(running.state().unwrap().deployments[0].id, one.deployment);
        let is_counted = || machine.entries().iter().any(|name| name.contains('+'));
        assert!(is_counted());
        running.mark_good(&NoProgress).unwrap();
        assert!(!is_counted(), "{kind}: /boot did not follow");
        machine
            .booted_into(&one)
            .undeploy(&two.deployment.to_string(), &NoProgress)
            .unwrap();
        assert!(!machine.root_of(&two).exists());
        fs::remove_file(full.path().join("fill")).unwrap();
        machine.sysroot().atomos.sync_fs().unwrap();
        deploy("3");
        assert!(machine.path("sysroot/atomos/reserve").exists(), "{kind}");
    }
}

/// Takes all the room there is.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        if file
            .write_all(&vec![1; size])
            .and_then(|()| file.sync_data())
            .is_err()
        {
            size /= 2;
        }
    }
}
