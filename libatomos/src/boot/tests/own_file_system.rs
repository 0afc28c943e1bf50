//! A `/boot` that is a small file system of its own: freezing, and no space.

use super::*;
use crate::fs::loop_mount::LoopMount;

/// `/boot` as a small ext4 of its own.
fn small_boot(size: u64) -> Option<(LoopMount, Machine)> {
    let mount = LoopMount::ext4(size)?;
    let machine = machine_on(&mount);
    Some((mount, machine))
}

pub(super) fn machine_on(mount: &LoopMount) -> Machine {
    let machine = Machine::new(BootFsKind::Posix);
    let boot = machine.scratch.path().join("boot");
    fs::remove_dir(&boot).unwrap();
    std::os::unix::fs::symlink(mount.path(), boot).unwrap();
    machine
}

#[test]
fn a_boot_of_its_own_is_frozen_and_thawed_and_one_that_is_not_is_not() {
    let machine = Machine::new(BootFsKind::Posix);
    let outcome = machine.reconcile(&[machine.deployment(1, "a")]).unwrap();
    assert_eq!(outcome.flushed, FlushMethod::Synced);
    let Some((_mount, machine)) = small_boot(8 << 20) else {
        return;
    };
    let outcome = machine.reconcile(&[machine.deployment(1, "a")]).unwrap();
    assert_eq!(outcome.flushed, FlushMethod::FrozenAndThawed);
    assert_eq!(machine.booted_number(), Some(1));
}

#[test]
fn a_full_boot_is_found_out_before_and_survived_after() {
    let Some((_mount, machine)) = small_boot(12 << 20) else {
        return;
    };
    let kernel = |byte: char| byte.to_string().repeat(4 << 20);
    let old = machine.deployment(1, &kernel('a'));
    machine.recover(std::slice::from_ref(&old));
    let before = machine.snapshot();
    let new = machine.deployment(2, &kernel('b'));
    let boot = machine.boot();

    let sizes = |desired: &DesiredEntry| {
        let files = KernelFiles::find(&Dir::open_ambient(machine.tree(desired.commit)).unwrap()).unwrap();
        NeededKernel {
            stateroot: desired.stateroot.clone(),
            bootcsum: Some(desired.bootcsum),
            sizes: files.sizes().collect(),
        }
    };
    let removable = RemovableKernel {
        deployment: old.deployment(),
        stateroot: old.stateroot.clone(),
        bootcsum: old.bootcsum,
    };
    assert_eq!(
        check_space(&boot, &[sizes(&old)], &[]).unwrap().needed,
        0,
        "it is there already"
    );
    let error = check_space(&boot, &[sizes(&new)], std::slice::from_ref(&removable)).unwrap_err();
    let BootError::NoSpace {
        needed,
        available,
        droppable,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(*needed > 8 << 20 && *available < 4 << 20, "{error}");
    assert!(
        matches!(droppable.as_slice(), [(name, freed)] if *name == old.deployment() && *freed >= 8 << 20)
    );
    assert!(error.to_string().contains(&old.deployment()));
    assert_eq!(error.kind(), crate::error::ErrorKind::NoSpace);

    let error = machine.reconcile(&[old.clone(), new.clone()]).unwrap_err();
    assert_eq!(error.kind(), crate::error::ErrorKind::NoSpace, "{error}");
    assert_eq!(
        machine.snapshot(),
        before,
        "what could not be finished does not fill the disk"
    );
    assert_eq!(machine.booted_number(), Some(1));
    // Two steps: the caller drops the old kernel, then there is room.
    assert!(
        matches!(machine.reconcile(std::slice::from_ref(&new)), Err(error) if error.kind() == crate::error::ErrorKind::NoSpace)
    );
    let options = ReconcileOptions {
        allow_leaving_nothing_to_boot: true,
        ..ReconcileOptions::default()
    };
    let nothing = plan_reconcile(&boot, &[], &options).unwrap();
    nothing
        .apply(&boot, &|_| unreachable!("nothing is installed"), &NoProgress)
        .unwrap();
    check_space(&boot, &[sizes(&new)], &[]).unwrap();
    machine.recover(std::slice::from_ref(&new));
    assert_eq!(machine.booted_number(), Some(2));
}

/// What is on the disk, not what this kernel remembers: the image is copied while it is mounted, and the copy mounted.
#[test]
fn a_power_cut_anywhere_leaves_what_boots_to_a_loader_that_replays_the_journal_and_to_one_that_does_not() {
    // Larger than what the kernel writes at once, so that a missing sync shows.
    let kernel = |byte: char| byte.to_string().repeat(512 << 10);
    let start = || {
        let (mount, machine) = small_boot(16 << 20)?;
        let old = machine.deployment(1, &kernel('a'));
        let new = machine.deployment(2, &kernel('b'));
        machine.recover(std::slice::from_ref(&old));
        Some((mount, machine, new))
    };
    let booted = |mount: &LoopMount| {
        let read_as = |options| machine_on(&mount.after_power_cut(options)).booted_number();
        let at_once = ["rw", "ro,noload"].map(read_as);
        // Somebody else's fsync commits the journal, and with it every name, but no data of ours.
        let other = fs::File::create(mount.path().join("other")).unwrap();
        other.sync_all().unwrap();
        let after_commit = ["rw", "ro,noload"].map(read_as);
        [at_once, after_commit].concat()
    };
    let Some((mount, machine, new)) = start() else {
        return;
    };
    let (points, result) = failpoint::trace(|| machine.reconcile(std::slice::from_ref(&new)));
    result.unwrap();
    assert_eq!(
        booted(&mount),
        [Some(2); 4],
        "what is done is durable, wherever it is read"
    );
    drop((mount, machine));
    for (index, point) in points.iter().enumerate() {
        let (mount, machine, new) = start().expect("it could be made before");
        failpoint::stop_at(index, || machine.reconcile(std::slice::from_ref(&new))).unwrap_err();
        let booted = booted(&mount);
        assert!(
            booted.iter().all(|n| matches!(n, Some(1 | 2))),
            "at {point}: {booted:?}"
        );
    }
}
