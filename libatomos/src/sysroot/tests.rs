//! A sysroot in a temporary directory: the whole path, and every point at which it can be interrupted.
#![allow(clippy::disallowed_methods)] // Tests arrange by path.

use std::fs;
use std::path::{Path, PathBuf};

use crate::boot::{BootDir, BootOptions, KernelFiles};
use crate::cancel::Cancel;
use crate::commit::{CommitOptions, commit};
use crate::digest::CommitId;
use crate::failpoint;
use crate::fs::Dir;
use crate::progress::NoProgress;
use crate::repo::{FsckOptions, PruneOptions, RefUpdate, RepoMode};

use super::{
    CleanupOptions, DeployOptions, DeployReport, KargsChange, Role, Sysroot, SysrootError, SysrootOptions,
    UpgradeOptions, UpgradeOutcome,
};

mod choices;
mod damage;
mod image_care;
mod images;
mod old_trees;
mod sealing;
mod staging;
mod trial;

struct Machine {
    scratch: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        // In memory where that can be: these tests sync a file system some thousand times.
        Self::in_directory(
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
        )
    }

    fn in_directory(scratch: tempfile::TempDir) -> Self {
        let machine = Self { scratch };
        let mode = if rustix::process::geteuid().is_root() {
            RepoMode::Bare
        } else {
            RepoMode::BareUser
        };
        let options = SysrootOptions::default();
        let sysroot = Sysroot::init(&machine.path("sysroot"), mode, &options).unwrap();
        sysroot.init_stateroot(&"os".parse().unwrap()).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn sysroot(&self) -> Sysroot {
        Sysroot::open(&self.path("sysroot"), &SysrootOptions::default()).unwrap()
    }

    /// The sysroot as it is seen when `deployment` is running.
    fn booted_into(&self, report: &DeployReport) -> Sysroot {
        let options = SysrootOptions {
            host_root: self.root_of(report),
            ..SysrootOptions::default()
        };
        Sysroot::open(&self.path("sysroot"), &options).unwrap()
    }

    fn root_of(&self, report: &DeployReport) -> PathBuf {
        let id = &report.deployment;
        self.path("sysroot/atomos/deploy")
            .join(id.stateroot.as_str())
            .join("deploy")
            .join(id.dir_name())
    }

    fn commit(&self, version: &str, change: impl Fn(&Path)) -> CommitId {
        let tree = self.path(&format!("tree-{version}"));
        for dir in [
            "usr/etc/app.d",
            "usr/lib/modules/6.1",
            "usr/share/factory/var/lib/app",
            "var",
            "boot",
            "dev",
            "proc",
            "run",
            "sys",
            "sysroot",
            "tmp",
        ] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        let write = |path: &str, text: &str| fs::write(tree.join(path), text).unwrap();
        write("usr/lib/modules/6.1/vmlinuz", &format!("kernel of {version}"));
        write("usr/lib/modules/6.1/initramfs.img", "initramfs");
        write("usr/lib/os-release", &format!("PRETTY_NAME=\"Test {version}\"\n"));
        write("usr/etc/hostname", "default\n");
        write("usr/etc/app.d/app.conf", &format!("made by {version}\n"));
        write("usr/share/factory/var/lib/app/data", "seed\n");
        change(&tree);
        let options = CommitOptions {
            reference: Some("os".parse().unwrap()),
            version: version.to_owned(),
            ..CommitOptions::default()
        };
        let source = Dir::open_ambient(&tree).unwrap();
        commit(
            self.sysroot().repo(),
            source,
            &options,
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap()
        .commit
    }

    fn deploy(&self, rev: &str) -> DeployReport {
        let options = DeployOptions {
            kargs: vec![KargsChange::AppendIfMissing("root=LABEL=root".to_owned())],
            ..DeployOptions::default()
        };
        self.sysroot()
            .deploy(rev, &options, &NoProgress, &Cancel::new())
            .unwrap()
    }

    fn entries(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path("sysroot/boot/loader/entries"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".conf"))
            .collect();
        names.sort();
        names
    }

    /// What a loader and an initramfs need: every entry's kernel is whole, and its deployment is complete. Returns
    /// the commits that can be booted, the one that the loader takes last.
    fn assert_bootable(&self) -> Vec<String> {
        let root = Dir::open_ambient(self.path("sysroot")).unwrap();
        let boot = BootDir::open_in(&root, &root, BootOptions::default()).unwrap();
        let mut entries = boot.list_entries().unwrap();
        entries.sort_by_key(|entry| entry.name.as_ref().map(|name| name.n));
        let mut commits = Vec::new();
        for found in entries {
            let entry = found.entry.unwrap();
            if !entry.is_bootable() {
                continue;
            }
            let kernel = root
                .open_dir(Path::new("boot/atomos").join(found_dir(&entry)))
                .unwrap();
            let digest = KernelFiles::open(kernel).unwrap().digest().unwrap();
            assert!(
                found_dir(&entry).ends_with(&digest.to_string()),
                "{}",
                found.file_name
            );
            let options = entry.options();
            let target = options
                .split(' ')
                .find_map(|arg| arg.strip_prefix("atomos="))
                .unwrap();
            let (stateroot, name) = target.split_once('/').unwrap();
            let deployments = self.path("sysroot/atomos/deploy").join(stateroot).join("deploy");
            assert!(
                deployments.join(format!("{name}.complete")).exists(),
                "{target} has no marker"
            );
            let etc = fs::read_to_string(deployments.join(name).join("etc/hostname")).unwrap();
            assert!(!etc.is_empty(), "{target} has an empty /etc/hostname");
            commits.push(name.split('.').next().unwrap().to_owned());
        }
        commits
    }

    fn assert_clean(&self) {
        let sysroot = self.sysroot();
        let report = sysroot
            .repo()
            .fsck(&FsckOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(sysroot.status().unwrap().warnings, [""; 0]);
    }
}

fn found_dir(entry: &crate::boot::bls::BlsEntry) -> String {
    let linux = Path::new(entry.linux().unwrap());
    linux
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn an_upgrade_keeps_what_was_changed_here_and_a_rollback_brings_back_the_old_etc() {
    let machine = Machine::new();
    let first = machine.commit("1", |_| ());
    let one = machine.deploy("os");
    assert_eq!(one.deployment.commit, first);
    fs::write(machine.root_of(&one).join("etc/hostname"), "mine\n").unwrap();
    let booted = machine.booted_into(&one);
    assert_eq!(booted.booted().unwrap().as_ref(), Some(&one.deployment));

    let second = machine.commit("2", |_| ());
    let outcome = booted
        .upgrade(&UpgradeOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    let UpgradeOutcome::Deployed(two) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(two.deployment.commit, second);
    let etc = |report: &DeployReport, path: &str| {
        fs::read_to_string(machine.root_of(report).join("etc").join(path)).unwrap()
    };
    assert_eq!(etc(&two, "hostname"), "mine\n");
    assert_eq!(etc(&two, "app.d/app.conf"), "made by 2\n");
    let status = booted.status().unwrap();
    let roles: Vec<Role> = status
        .deployments
        .iter()
        .map(|deployment| deployment.role)
        .collect();
    assert_eq!(roles, [Role::Pending, Role::Booted]);
    assert_eq!(machine.assert_bootable(), [first.to_string(), second.to_string()]);

    let again = booted
        .upgrade(&UpgradeOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert!(matches!(again, UpgradeOutcome::Unchanged { .. }), "{again:?}");

    let after = machine.booted_into(&two);
    let report = after.rollback(None, &NoProgress).unwrap();
    assert_eq!((&report.default, report.changed), (&one.deployment, true));
    assert_eq!(machine.assert_bootable(), [second.to_string(), first.to_string()]);
    assert_eq!(etc(&one, "app.d/app.conf"), "made by 1\n");
    machine.assert_clean();
}

#[test]
fn var_is_seeded_once_and_never_overwritten() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    let data = machine.path("sysroot/atomos/deploy/os/var/lib/app/data");
    assert_eq!(fs::read_to_string(&data).unwrap(), "seed\n");
    fs::write(&data, "used\n").unwrap();
    machine.commit("2", |tree| {
        fs::write(tree.join("usr/share/factory/var/lib/app/more"), "new\n").unwrap()
    });
    machine.deploy("os");
    assert_eq!(fs::read_to_string(&data).unwrap(), "used\n");
    assert_eq!(fs::read_to_string(data.with_file_name("more")).unwrap(), "new\n");
}

#[test]
fn a_number_is_a_position_and_where_there_is_none_a_version() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.commit("40", |_| ());
    let forty = machine.deploy("os");
    let pinned = |selector: &str| machine.sysroot().set_pinned(selector, true).unwrap().0;
    assert_eq!(pinned("40"), forty.deployment);
    assert_eq!(pinned("1"), one.deployment, "the second in the list");
    assert_eq!(pinned("0"), forty.deployment);
    machine.sysroot().set_pinned("41", true).unwrap_err();
}

#[test]
fn what_root_made_immutable_in_an_old_deployment_goes_with_it() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let held = machine.root_of(&one).join("etc/resolv.conf");
    fs::write(&held, "mine\n").unwrap();
    let hold = |flag: &str, path: &Path| {
        let status = std::process::Command::new("chattr").arg(flag).arg(path).output();
        status.is_ok_and(|output| output.status.success())
    };
    if !hold("+i", &held) || !hold("+a", held.parent().unwrap()) {
        println!("skipped: no file can be made immutable here");
        return;
    }
    for version in ["2", "3", "4"] {
        machine.commit(version, |_| ());
        machine.deploy("os");
    }
    assert!(!machine.root_of(&one).exists());
    machine.assert_clean();
}

#[test]
fn a_machine_whose_truth_is_gone_is_no_new_one() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.commit("2", |_| ());
    machine.deploy("os");
    let (entries, truth) = (machine.entries(), machine.path("sysroot/atomos/deployments.json"));
    let kept = fs::read(&truth).unwrap();
    fs::remove_file(&truth).unwrap();
    let (booted, options) = (machine.booted_into(&one), DeployOptions::default());
    for error in [
        booted
            .deploy("os", &options, &NoProgress, &Cancel::new())
            .unwrap_err(),
        booted
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap_err(),
        booted.rollback(None, &NoProgress).unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("deployments.json")
                && matches!(error, SysrootError::DamagedState { .. }),
            "{error}"
        );
    }
    assert_eq!(machine.entries(), entries);
    fs::write(&truth, kept).unwrap();
    machine.assert_clean();
}

#[test]
fn retention_keeps_the_running_one_and_pinned_ones() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.sysroot().set_pinned("7", true).unwrap_err();
    machine
        .sysroot()
        .set_pinned(&one.deployment.to_string(), true)
        .unwrap();
    for version in ["2", "3", "4"] {
        machine.commit(version, |_| ());
        machine.deploy("os");
    }
    let versions = |sysroot: &Sysroot| -> Vec<String> {
        sysroot
            .state()
            .unwrap()
            .deployments
            .into_iter()
            .map(|deployment| deployment.version)
            .collect()
    };
    assert_eq!(versions(&machine.sysroot()), ["4", "3", "1"]);
    let booted = machine.booted_into(&one);
    booted.set_pinned(&one.deployment.to_string(), false).unwrap();
    machine.commit("5", |_| ());
    booted
        .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(
        versions(&booted),
        ["5", "1"],
        "what never ran goes before what runs"
    );
    let error = booted.undeploy("booted", &NoProgress).unwrap_err();
    assert!(matches!(error, SysrootError::InUse { .. }), "{error}");
    booted
        .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    machine.assert_clean();
    assert_eq!(machine.entries().len(), 2);
}

#[test]
fn kernel_arguments_keep_their_quotes_and_make_one_new_entry_above_the_old() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    let sysroot = machine.sysroot();
    let append = [KargsChange::Append("dyndbg=\"file x +p\"".to_owned())];
    let report = sysroot.edit_kargs(None, &append, &NoProgress).unwrap();
    assert!(report.changed);
    assert_eq!(report.kargs.to_string(), "root=LABEL=root dyndbg=\"file x +p\"");
    let entries = machine.entries();
    assert_eq!(entries.len(), 2);
    assert!(entries[1].starts_with("atomos-2-"), "{entries:?}");
    let text = fs::read_to_string(machine.path("sysroot/boot/loader/entries").join(&entries[1])).unwrap();
    assert!(text.contains("dyndbg=\"file x +p\""), "{text}");
}

#[test]
fn a_tree_that_cannot_boot_is_refused_before_anything_is_written() {
    let machine = Machine::new();
    machine.commit("1", |tree| {
        fs::remove_file(tree.join("usr/lib/modules/6.1/vmlinuz")).unwrap()
    });
    let error = machine
        .sysroot()
        .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())
        .unwrap_err();
    assert!(error.to_string().contains("it has no kernel"), "{error}");
    for (change, wrong) in [
        (
            (|tree| fs::remove_dir(tree.join("proc")).unwrap()) as fn(&Path),
            "it has no directory /proc",
        ),
        (
            |tree| fs::write(tree.join("usr/lib/modules/6.1/vmlinuz"), "").unwrap(),
            "its kernel is an empty file",
        ),
    ] {
        machine.commit("2", change);
        let error = machine
            .sysroot()
            .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())
            .unwrap_err();
        assert!(error.to_string().contains(wrong), "{error}");
    }
    assert_eq!(
        fs::read_dir(machine.path("sysroot/atomos/deploy/os/deploy"))
            .unwrap()
            .count(),
        0
    );
    assert!(machine.sysroot().repo().list_roots().unwrap().is_empty());
}

#[test]
fn boot_can_be_written_again_from_the_truth() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    machine.commit("2", |_| ());
    machine.deploy("os");
    let before = machine.entries();
    fs::remove_dir_all(machine.path("sysroot/boot")).unwrap();
    fs::create_dir(machine.path("sysroot/boot")).unwrap();
    assert!(!machine.sysroot().status().unwrap().warnings.is_empty());
    machine.sysroot().recover_boot(&NoProgress).unwrap();
    assert_eq!(machine.entries(), before);
    machine.assert_bootable();
    assert!(
        machine.sysroot().recover_boot(&NoProgress).unwrap().is_empty(),
        "a second time there is nothing to do"
    );
}

#[test]
fn what_runs_is_merged_from_even_when_the_truth_has_let_go_of_it() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    // An upgrade of the first, which runs, lets the second go, and is cut off before /boot hears of it.
    machine.commit("3", |_| ());
    let booted = machine.booted_into(&one);
    let deploy =
        |sysroot: &Sysroot| sysroot.deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new());
    let (points, _) = failpoint::trace(|| {
        let other = Machine::new();
        other.commit("1", |_| ());
        other.deploy("os")
    });
    let cut = points
        .iter()
        .position(|point| *point == "sysroot.state.durable")
        .unwrap();
    failpoint::stop_at(cut, || deploy(&booted)).unwrap_err();
    assert!(booted.state().unwrap().get(&two.deployment).is_none());
    // The loader takes the second all the same, and somebody edits its /etc.
    fs::write(machine.root_of(&two).join("etc/hostname"), "edited\n").unwrap();
    let running = machine.booted_into(&two);
    assert_eq!(running.booted().unwrap().as_ref(), Some(&two.deployment));
    let four = deploy(&running).unwrap();
    assert_eq!(four.merge_from.as_ref(), Some(&two.deployment));
    assert_eq!(
        fs::read_to_string(machine.root_of(&four).join("etc/hostname")).unwrap(),
        "edited\n"
    );
    assert!(machine.root_of(&two).exists(), "what runs is not removed");
    machine.assert_bootable();
}

#[test]
fn an_entry_that_outlived_its_sysroot_does_not_come_before_ours() {
    let machine = Machine::new();
    let entries = machine.path("sysroot/boot/loader/entries");
    fs::create_dir_all(&entries).unwrap();
    let old = format!("atomos-41-other-{}.0.conf", "ab".repeat(6));
    fs::write(
        entries.join(&old),
        "title Old\nlinux /vmlinuz\nx-atomos-sysroot another\n",
    )
    .unwrap();
    machine.commit("1", |_| ());
    machine.deploy("os");
    assert!(
        machine
            .entries()
            .iter()
            .any(|name| name.starts_with("atomos-42-os-")),
        "{:?}",
        machine.entries()
    );
}

/// Interrupts `operation` at each of its points on a fresh machine, and checks that the machine boots what it booted
/// before or what it should boot afterwards, and that doing it again succeeds.
fn survives_every_interruption(operation: impl Fn(&Machine) -> Result<(), SysrootError>) {
    survives_every_interruption_of(|_| (), |_| (), 4, operation);
}

/// The same, where `first` and `second` make the trees what they are, and a deployment is no more than `names`.
fn survives_every_interruption_of(
    first: fn(&Path),
    second: fn(&Path),
    names: usize,
    operation: impl Fn(&Machine) -> Result<(), SysrootError>,
) {
    let prepare = || {
        let machine = Machine::new();
        machine.commit("1", first);
        let report = machine.deploy("os");
        fs::write(machine.root_of(&report).join("etc/hostname"), "mine\n").unwrap();
        machine.commit("2", second);
        machine
    };
    let machine = prepare();
    let before = machine.assert_bootable();
    let (points, result) = failpoint::trace(|| operation(&machine));
    result.unwrap();
    let after = machine.assert_bootable();
    assert!(points.len() > 5, "{points:?}");
    for (index, point) in points.iter().enumerate() {
        let machine = prepare();
        failpoint::stop_at(index, || operation(&machine)).expect_err(point);
        let found = machine.assert_bootable();
        let default = found.last();
        // Commits differ between machines by their times, so the number of entries and the default's place tell.
        assert!(
            default.is_some()
                && (found.len() == before.len()
                    || found.len() == after.len()
                    || found.len() == after.len() + 1),
            "at {point}: {found:?}"
        );
        machine
            .sysroot()
            .recover_boot(&NoProgress)
            .unwrap_or_else(|error| panic!("at {point}: {error}"));
        machine.assert_bootable();
        operation(&machine).unwrap_or_else(|error| panic!("again after {point}: {error}"));
        machine
            .sysroot()
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        machine.assert_bootable();
        machine.assert_clean();
        let state = machine.sysroot().state().unwrap();
        let kept = state
            .deployments
            .iter()
            .filter(|found| found.fallback.is_some())
            .count();
        assert_eq!(
            machine.entries().len(),
            state.deployments.len() + kept,
            "after {point}"
        );
        let left = fs::read_dir(machine.path("sysroot/atomos/deploy/os/deploy"))
            .unwrap()
            .count();
        assert!(
            left <= state.deployments.len() * names,
            "rubbish is left after {point}"
        );
    }
}

#[test]
fn an_upgrade_interrupted_anywhere_leaves_the_old_version_or_the_new() {
    survives_every_interruption(|machine| {
        let report =
            machine
                .sysroot()
                .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())?;
        let hostname = fs::read_to_string(machine.root_of(&report).join("etc/hostname")).unwrap();
        assert_eq!(
            hostname, "mine\n",
            "what was changed here is there whenever a deploy succeeds"
        );
        Ok(())
    });
}

#[test]
fn a_change_of_kernel_arguments_interrupted_anywhere_leaves_the_old_or_the_new() {
    survives_every_interruption(|machine| {
        let quiet = [KargsChange::AppendIfMissing("quiet".to_owned())];
        machine
            .sysroot()
            .edit_kargs(None, &quiet, &NoProgress)
            .map(|_| ())
    });
}

#[test]
fn what_boot_still_offers_outlives_a_deploy_that_fails_after_an_interruption() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let booted = machine.booted_into(&one);
    let deploy = |rev: &str| booted.deploy(rev, &DeployOptions::default(), &NoProgress, &Cancel::new());
    let second = machine.commit("2", |_| ());
    deploy("os").unwrap();
    machine.commit("3", |_| ());
    // The third takes the second's place in the truth, and the power goes before /boot hears of it.
    for n in 0.. {
        match failpoint::stop_at(n, || deploy("os")).unwrap_err() {
            SysrootError::Failpoint(tripped) if tripped.name == "sysroot.state.durable" => break,
            _ => {}
        }
    }
    assert_eq!(machine.assert_bootable().last(), Some(&second.to_string()));

    deploy("no-such-ref").unwrap_err();
    assert_eq!(machine.assert_bootable().last(), Some(&second.to_string()));
    booted
        .repo()
        .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();

    booted
        .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(machine.assert_bootable().len(), 2);
    machine.assert_clean();
    let left = fs::read_dir(machine.path("sysroot/atomos/deploy/os/deploy")).unwrap();
    assert!(
        !left
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .any(|name| name.contains(&second.to_string())),
        "what nothing offers any more is removed"
    );
}

#[test]
fn what_was_changed_since_this_boot_is_where_an_upgrade_starts() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let booted = machine.booted_into(&one);
    let update = |name: &str, commit| RefUpdate {
        name: name.parse().unwrap(),
        expected: None,
        new: Some(commit),
    };
    let second = machine.commit("2", |_| ());
    booted.repo().update_refs(&[update("other", second)]).unwrap();
    let upgrade = |options: &UpgradeOptions| booted.upgrade(options, &NoProgress, &Cancel::new()).unwrap();
    let outcome = upgrade(&UpgradeOptions {
        switch_to: Some("other".parse().unwrap()),
        ..UpgradeOptions::default()
    });
    assert!(matches!(outcome, UpgradeOutcome::Deployed(_)), "{outcome:?}");
    let quiet = [KargsChange::Append("quiet".to_owned())];
    booted.edit_kargs(None, &quiet, &NoProgress).unwrap();

    let outcome = upgrade(&UpgradeOptions::default());
    assert!(
        matches!(&outcome, UpgradeOutcome::Unchanged { reference, .. } if reference.as_str() == "other"),
        "the switch stays: {outcome:?}"
    );
    let third = machine.commit("3", |_| ());
    booted.repo().update_refs(&[update("other", third)]).unwrap();
    upgrade(&UpgradeOptions::default());
    let status = booted.status().unwrap();
    assert_eq!(status.deployments[0].commit, third);
    assert_eq!(status.deployments[0].kargs, "root=LABEL=root quiet");
}

#[test]
fn a_stateroot_whose_making_was_interrupted_stops_nobody() {
    let machine = Machine::new();
    let deploy = machine.path("sysroot/atomos/deploy");
    fs::create_dir(deploy.join("half")).unwrap();
    fs::write(deploy.join("note"), "").unwrap();
    machine.commit("1", |_| ());
    machine.deploy("os");
    machine
        .sysroot()
        .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    machine.assert_clean();
}

#[test]
fn an_incomplete_deployment_does_not_become_the_default_by_its_kernel_arguments() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    fs::remove_file(machine.root_of(&one).with_extension("0.complete")).unwrap();
    let quiet = [KargsChange::Append("quiet".to_owned())];
    let selector = one.deployment.to_string();
    machine
        .sysroot()
        .edit_kargs(Some(&selector), &quiet, &NoProgress)
        .unwrap_err();
    assert_eq!(
        machine.sysroot().state().unwrap().deployments[0].id,
        two.deployment
    );
}

#[test]
fn a_deploy_does_not_rely_on_objects_while_a_pruner_runs() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let sysroot = machine.sysroot();
    let pruner = sysroot.repo().lock_exclusive().unwrap();
    let options = SysrootOptions {
        lock_timeout: std::time::Duration::ZERO,
        ..SysrootOptions::default()
    };
    let impatient = Sysroot::open(&machine.path("sysroot"), &options).unwrap();
    let deploy = || impatient.deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new());
    deploy().unwrap_err();
    assert!(sysroot.repo().list_roots().unwrap().is_empty());
    drop(pruner);
    deploy().unwrap();
}

/// What the first interruption leaves must survive the second: the truth is ahead of `/boot` then, and the only
/// deployment that can be booted is one that the truth has let go.
#[test]
fn a_deploy_interrupted_anywhere_and_the_next_one_too_leaves_something_to_boot() {
    let operation = |machine: &Machine| {
        let options = DeployOptions {
            keep: Some(1),
            ..DeployOptions::default()
        };
        machine
            .sysroot()
            .deploy("os", &options, &NoProgress, &Cancel::new())
    };
    let prepare = || {
        let machine = Machine::new();
        machine.commit("1", |_| ());
        machine.deploy("os");
        machine.commit("2", |_| ());
        machine
    };
    let machine = prepare();
    let (points, result) = failpoint::trace(|| operation(&machine).map(drop));
    result.unwrap();
    let second = points
        .iter()
        .position(|point| *point == "deploy.checked-out")
        .unwrap();
    for (index, point) in points.iter().enumerate() {
        let machine = prepare();
        failpoint::stop_at(index, || operation(&machine)).expect_err(point);
        machine.commit("3", |_| ());
        failpoint::stop_at(second, || operation(&machine)).expect_err("the second deploy");
        assert!(!machine.assert_bootable().is_empty(), "after {point}, and again");
        operation(&machine).unwrap_or_else(|error| panic!("again after {point}: {error}"));
        assert_eq!(machine.assert_bootable().len(), 1, "after {point}");
        machine.assert_clean();
    }
}
