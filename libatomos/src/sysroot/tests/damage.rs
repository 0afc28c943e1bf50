//! What a disk has damaged does not get to where it is booted from.

use std::fs;

use super::Machine;
use crate::cancel::Cancel;
use crate::error::ErrorKind;
use crate::progress::NoProgress;
use crate::sysroot::{DeployOptions, KargsChange, UpgradeOptions};

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
