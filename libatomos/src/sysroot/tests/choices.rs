//! What a person chose, or what has worked, is not undone or removed by what comes next.

use std::sync::Once;

use super::trial::{Counts, failed};
use super::*;
use crate::progress::{Event, Progress};
use crate::sysroot::{DeploymentId, Finish};

impl Machine {
    /// Version `version` runs, and that is recorded.
    fn boots(&self, id: u32) -> Sysroot {
        let running = self.run(&self.loader(Counts::ByRenaming), id);
        running.record_boot(1, &NoProgress).unwrap();
        running
    }

    fn has(&self, report: &DeployReport) -> bool {
        self.sysroot().state().unwrap().get(&report.deployment).is_some()
    }

    fn default(&self) -> DeploymentId {
        let state = self.sysroot().state().unwrap();
        state.default_deployment().unwrap().id.clone()
    }
}

fn upgrade(running: &Sysroot) -> UpgradeOutcome {
    let options = UpgradeOptions::default();
    running.upgrade(&options, &NoProgress, &Cancel::new()).unwrap()
}

#[test]
fn an_upgrade_before_the_reboot_leaves_a_rollback_as_it_is() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.boots(1);
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    let running = machine.boots(2);
    running.rollback(None, &NoProgress).unwrap();
    let is_left = |running: &Sysroot| {
        let outcome = upgrade(running);
        let UpgradeOutcome::GoneBack {
            deployment, commit, ..
        } = &outcome
        else {
            panic!("{outcome:?}");
        };
        (deployment, commit) == (&one.deployment, &two.deployment.commit)
    };
    assert!(is_left(&running));
    // Whatever became of the record of boots.
    fs::write(machine.path("sysroot/atomos/boots.json"), "{").unwrap();
    assert!(is_left(&running));
    fs::remove_file(machine.path("sysroot/atomos/boots.json")).unwrap();
    assert_eq!(machine.default(), one.deployment);
    // What is newer than both comes, and takes the place of neither.
    machine.commit("3", |_| ());
    assert!(matches!(upgrade(&running), UpgradeOutcome::Deployed(_)));
    assert!(machine.has(&one) && machine.has(&two));
    // A version that never ran is no rollback.
    machine.commit("4", |_| ());
    assert!(matches!(upgrade(&running), UpgradeOutcome::Deployed(_)));
    assert!(machine.has(&two) && machine.sysroot().state().unwrap().deployments.len() == 2);
    machine.assert_clean();
}

#[test]
fn a_rollback_of_what_was_not_booted_yet_is_left_as_it_is() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let running = machine.boots(1);
    machine.commit("2", |_| ());
    machine.deploy("os");
    running.rollback(None, &NoProgress).unwrap();
    assert!(matches!(upgrade(&running), UpgradeOutcome::GoneBack { .. }));
    assert_eq!(machine.default(), one.deployment);
    // With the next boot the machine follows its ref again.
    assert!(matches!(upgrade(&machine.boots(2)), UpgradeOutcome::Deployed(_)));
}

/// A person, or a loader, takes the older version from the menu: nobody chose that for good.
#[test]
fn a_version_that_its_publisher_takes_back_is_left_whoever_has_run_it() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    let from_menu = machine.loader(Counts::ByRenaming);
    machine.commit("2", |_| ());
    machine.deploy("os");
    machine.boots(1);
    let running = machine.run(&from_menu, 2);
    running.record_boot(1, &NoProgress).unwrap();
    running
        .repo()
        .update_refs(&[RefUpdate {
            name: "os".parse().unwrap(),
            expected: None,
            new: Some(one.deployment.commit),
        }])
        .unwrap();
    assert!(matches!(upgrade(&running), UpgradeOutcome::Deployed(_)));
    assert_eq!(machine.default().commit, one.deployment.commit);
}

#[test]
fn a_version_that_was_taken_back_before_anybody_ran_it_is_left() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.boots(1);
    let first = one.deployment.commit;
    machine.commit("2", |_| ());
    machine.deploy("os");
    let running = machine.booted_into(&one);
    running
        .repo()
        .update_refs(&[RefUpdate {
            name: "os".parse().unwrap(),
            expected: None,
            new: Some(first),
        }])
        .unwrap();
    assert!(matches!(upgrade(&running), UpgradeOutcome::Deployed(_)));
    assert_eq!(machine.default().commit, first);
}

/// Does something once, when the first of an operation is heard.
struct Meanwhile<F: Fn()>(Once, F);

impl<F: Fn() + Send + Sync> Progress for Meanwhile<F> {
    fn report(&self, _: Event<'_>) {
        self.0.call_once(&self.1);
    }
}

#[test]
fn what_is_chosen_while_an_upgrade_is_on_its_way_stays() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.boots(1);
    machine.commit("2", |_| ());
    machine.deploy("os");
    let running = machine.boots(2);
    let elsewhere = crate::repo::Repo::init(&machine.path("elsewhere"), RepoMode::Bare).unwrap();
    let source = Dir::open_ambient(machine.path("tree-1")).unwrap();
    let options = CommitOptions {
        reference: Some("os".parse().unwrap()),
        version: "3".to_owned(),
        ..CommitOptions::default()
    };
    commit(&elsewhere, source, &options, &NoProgress, &Cancel::new()).unwrap();
    let switch = UpgradeOptions {
        switch_to: Some("os".parse().unwrap()),
        pull_from: Some(machine.path("elsewhere")),
        deploy: DeployOptions {
            finish: Finish::Now,
            ..DeployOptions::default()
        },
        ..UpgradeOptions::default()
    };
    let progress = Meanwhile(Once::new(), || {
        machine
            .booted_into(&one)
            .rollback(Some(&one.deployment.to_string()), &NoProgress)
            .unwrap();
    });
    let error = running.upgrade(&switch, &progress, &Cancel::new()).unwrap_err();
    assert!(
        matches!(&error, SysrootError::ChangedMeanwhile { now, .. } if **now == one.deployment),
        "{error}"
    );
    assert_eq!(machine.default(), one.deployment);
    assert!(running.upgrade(&switch, &NoProgress, &Cancel::new()).is_ok());
}

#[test]
fn what_worked_without_checks_is_kept_while_the_first_version_with_checks_is_on_trial() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.boots(1);
    let two = machine.upgrade_to("2");
    let running = machine.boots(2);
    machine.commit_checked("3");
    assert!(matches!(upgrade(&running), UpgradeOutcome::Deployed(_)));
    assert!(machine.has(&one), "it alone is known to come up");
    assert!(machine.has(&two), "it runs");
}

#[test]
fn arguments_that_do_not_boot_can_be_taken_back_where_nothing_is_counted() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    let running = machine.boots(1);
    let typo = [KargsChange::Replace("root=LABEL=typo".to_owned())];
    running.edit_kargs(None, &typo, &NoProgress).unwrap();
    assert_eq!(
        machine.entries().len(),
        2,
        "a person finds the old one in the menu"
    );
    assert!(!machine.entries().iter().any(|name| name.contains('+')));
    machine.assert_bootable();
    let report = running.rollback(None, &NoProgress).unwrap();
    assert_eq!(report.kargs.as_deref(), Some("root=LABEL=root"));
    assert_eq!(machine.entries().len(), 1);
    assert!(machine.loader(Counts::ByRenaming).kargs.contains("LABEL=root"));
    let error = running.rollback(None, &NoProgress).unwrap_err();
    assert!(matches!(error, SysrootError::NothingToRollBackTo), "{error}");

    // Once they are known to boot, the old ones go.
    let quiet = [KargsChange::Append("quiet".to_owned())];
    running.edit_kargs(None, &quiet, &NoProgress).unwrap();
    assert_eq!(machine.entries().len(), 2);
    let (_, news) = machine.boots(2).mark_good(&NoProgress).unwrap();
    assert!(news && machine.entries().len() == 1);
    machine.assert_clean();
}

#[test]
fn an_upgrade_and_a_rollback_start_from_the_arguments_that_were_taken_from_the_menu() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    let from_menu = machine.loader(Counts::ByRenaming);
    let typo = [KargsChange::Replace("root=LABEL=typo".to_owned())];
    let running = machine.boots(1);
    running.edit_kargs(None, &typo, &NoProgress).unwrap();
    let running = machine.run(&from_menu, 2);
    machine.commit("3", |_| ());
    let UpgradeOutcome::Deployed(three) = upgrade(&running) else {
        panic!("there is something newer");
    };
    let state = machine.sysroot().state().unwrap();
    assert_eq!(state.get(&three.deployment).unwrap().kargs, "root=LABEL=root");

    machine
        .sysroot()
        .undeploy(&three.deployment.to_string(), &NoProgress)
        .unwrap();
    let report = running.rollback(None, &NoProgress).unwrap();
    assert_eq!(report.kargs.as_deref(), Some("root=LABEL=root"));
    assert_eq!(report.default, two.deployment);
}

#[test]
fn a_rollback_takes_no_arguments_back_where_it_goes_nowhere() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    let disk = [KargsChange::Append("disk=new".to_owned())];
    machine.boots(1).edit_kargs(None, &disk, &NoProgress).unwrap();
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    let running = machine.boots(2);
    running.mark_bad("booted", 5, &NoProgress).unwrap();
    let error = running.rollback(None, &NoProgress).unwrap_err();
    assert!(matches!(error, SysrootError::NothingToRollBackTo), "{error}");
    let state = machine.sysroot().state().unwrap();
    assert_eq!(
        state
            .deployments
            .iter()
            .filter(|found| found.kargs.contains("disk=new"))
            .count(),
        2
    );
    assert_eq!(running.status().unwrap().rejected.len(), 1, "{two:?}");
}

#[test]
fn what_a_person_gives_up_that_is_not_on_trial_is_the_version() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.commit("2", |_| ());
    let two = machine.deploy("os");
    let running = machine.boots(1);
    let quiet = [KargsChange::Append("quiet".to_owned())];
    running.edit_kargs(None, &quiet, &NoProgress).unwrap();
    let failed = running.mark_bad("booted", 5, &NoProgress).unwrap();
    assert_eq!((failed.deployment, failed.kargs), (two.deployment, None));
    assert_eq!(machine.loader(Counts::ByRenaming).dir, one.deployment.dir_name());
}

#[test]
fn a_version_is_not_rejected_for_arguments_that_were_given_while_it_was_on_trial() {
    let (machine, _) = Machine::with_good();
    let two = machine.upgrade_to("2");
    let bad = [KargsChange::Append("broken".to_owned())];
    machine.boots(2).edit_kargs(None, &bad, &NoProgress).unwrap();
    let fails = |version: &DeploymentId, from: u32| {
        for id in from..from + 3 {
            let boot = machine.loader(Counts::ByRenaming);
            assert_eq!(boot.dir, version.dir_name());
            let running = machine.run(&boot, id);
            running.record_boot(1, &NoProgress).unwrap();
            running.finish_checks(&failed("x"), true, 5, &NoProgress).unwrap();
        }
        machine.boots(from + 3)
    };
    let running = fails(&two.deployment, 10);
    assert_eq!(running.status().unwrap().rejected.len(), 0);
    // It comes again, with the arguments that are known to boot; and when it fails with these, it is the version.
    let UpgradeOutcome::Deployed(again) = upgrade(&running) else {
        panic!("it was rejected");
    };
    let state = machine.sysroot().state().unwrap();
    assert_eq!(state.get(&again.deployment).unwrap().kargs, "root=LABEL=root");
    let running = fails(&again.deployment, 20);
    assert_eq!(running.status().unwrap().rejected.len(), 1);
    assert!(matches!(upgrade(&running), UpgradeOutcome::Rejected { .. }));
}

#[test]
fn a_name_that_cannot_be_read_stops_no_upgrade_and_a_link_is_followed() {
    let machine = Machine::new();
    let link = |target: &'static str| {
        move |tree: &Path| {
            let release = tree.join("usr/lib/os-release");
            fs::create_dir_all(tree.join("usr/lib/os.release.d")).unwrap();
            fs::rename(&release, tree.join("usr/lib/os.release.d/server")).unwrap();
            std::os::unix::fs::symlink(target, release).unwrap();
        }
    };
    let title = |report: &DeployReport| {
        let state = machine.sysroot().state().unwrap();
        state.get(&report.deployment).unwrap().title.clone()
    };
    machine.commit("1", link("os.release.d/server"));
    assert_eq!(title(&machine.deploy("os")), "Test 1");
    machine.commit("2", link("os-release"));
    assert_eq!(title(&machine.deploy("os")), "atomos");
}

/// What a version on trial that cannot mount `/boot` does with its deadline: as many reboots as there were tries, and no more.
#[test]
fn where_nobody_sees_the_loader_s_count_each_try_is_one_reboot() {
    use std::cell::Cell;
    for (seen, tries) in [(0, 3), (1, 3), (0, 9)] {
        let machine = Machine::new();
        machine.commit_checked("1");
        machine.deploy("os");
        machine.boots(1).mark_good(&NoProgress).unwrap();
        machine.commit_checked("2");
        let options = DeployOptions {
            tries: Some(tries),
            ..DeployOptions::default()
        };
        let sysroot = machine.sysroot();
        sysroot
            .deploy("os", &options, &NoProgress, &Cancel::new())
            .unwrap();
        for id in 0..seen {
            machine.boots(10 + id);
        }
        // Mounted no more.
        let boot = machine.loader(Counts::Not);
        fs::write(machine.path("sysroot/atomos/boot-is-mounted"), "").unwrap();
        let reboots = Cell::new(0);
        for id in 20..40 {
            let running = machine.run(&boot, id);
            let verdict = running.expire_boot(5, &NoProgress).unwrap();
            let again = running.expire_boot(6, &NoProgress).unwrap();
            assert_eq!(verdict.reboot_helps, again.reboot_helps);
            assert!(verdict.on_trial && !verdict.passed);
            reboots.set(reboots.get() + u32::from(verdict.reboot_helps));
        }
        assert_eq!(reboots.get(), tries - seen, "{seen} of {tries}");
    }
}

#[test]
fn what_is_bad_goes_before_what_may_be_good() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    let one = machine.deploy("os");
    machine.commit("2", |_| ());
    machine.deploy("os");
    machine.sysroot().mark_bad("default", 5, &NoProgress).unwrap();
    machine.commit("3", |_| ());
    let three = machine.deploy("os");
    let state = machine.sysroot().state().unwrap();
    let left: Vec<_> = state.deployments.iter().map(|found| &found.id).collect();
    assert_eq!(left, [&three.deployment, &one.deployment]);
}
