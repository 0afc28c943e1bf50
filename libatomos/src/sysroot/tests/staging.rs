//! Staging and finishing: what is edited in between is kept, and every point at which either can be interrupted.

use super::*;
use crate::sysroot::{FINALIZER, FinalizeOptions, FinalizeOutcome, Finish, Status};

/// A machine that runs `one`, whose `/etc/hostname` is a person's, with version 2 committed.
struct Running {
    machine: Machine,
    one: DeployReport,
    second: CommitId,
}

impl Running {
    fn new() -> Self {
        let machine = Machine::new();
        machine.commit("1", |_| ());
        let one = machine.deploy("os");
        let root = machine.root_of(&one);
        fs::write(root.join("etc/hostname"), "mine\n").unwrap();
        fs::create_dir_all(root.join("run/atomos")).unwrap();
        fs::write(root.join(FINALIZER), "").unwrap();
        let second = machine.commit("2", |_| ());
        Self { machine, one, second }
    }

    fn sysroot(&self) -> Sysroot {
        self.machine.booted_into(&self.one)
    }

    fn deploy(&self, rev: &str) -> Result<DeployReport, SysrootError> {
        self.sysroot()
            .deploy(rev, &DeployOptions::default(), &NoProgress, &Cancel::new())
    }

    fn stage(&self) -> DeployReport {
        let report = self.deploy("os").unwrap();
        assert!(report.staged);
        report
    }

    fn upgrade(&self, options: &UpgradeOptions) -> UpgradeOutcome {
        self.sysroot()
            .upgrade(options, &NoProgress, &Cancel::new())
            .unwrap()
    }

    fn finalize(&self, at_shutdown: bool) -> Result<FinalizeOutcome, SysrootError> {
        self.sysroot()
            .finalize(&FinalizeOptions { at_shutdown }, &NoProgress, &Cancel::new())
    }

    fn finished(&self, at_shutdown: bool) -> DeployReport {
        match self.finalize(at_shutdown).unwrap() {
            FinalizeOutcome::Finished(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    fn status(&self) -> Status {
        self.sysroot().status().unwrap()
    }

    fn edit(&self, path: &str, text: &str) {
        fs::write(self.machine.root_of(&self.one).join("etc").join(path), text).unwrap();
    }

    fn etc(&self, report: &DeployReport, path: &str) -> String {
        fs::read_to_string(self.machine.root_of(report).join("etc").join(path)).unwrap()
    }

    fn default(&self) -> String {
        self.machine.assert_bootable().pop().unwrap()
    }

    fn kernels(&self) -> usize {
        let dir = self.machine.path("sysroot/boot/atomos");
        fs::read_dir(dir).unwrap().count()
    }
}

fn roles(status: &Status) -> Vec<Role> {
    status
        .deployments
        .iter()
        .map(|deployment| deployment.role)
        .collect()
}

#[test]
fn what_is_edited_between_staging_and_shutdown_is_in_the_new_version() {
    let running = Running::new();
    let staged = running.stage();
    assert_eq!(running.default(), running.one.deployment.commit.to_string());
    assert_eq!(running.kernels(), 2, "the kernel is in /boot already");
    assert_eq!(roles(&running.status()), [Role::Staged, Role::Booted]);
    assert!(!running.machine.root_of(&staged).join("etc").exists());

    running.edit("hostname", "edited later\n");
    running.edit("app.d/added", "after staging\n");
    fs::remove_file(running.machine.root_of(&running.one).join("etc/app.d/app.conf")).unwrap();
    let two = running.finished(true);
    assert_eq!(two.deployment, staged.deployment);
    assert_eq!(running.etc(&two, "hostname"), "edited later\n");
    assert_eq!(running.etc(&two, "app.d/added"), "after staging\n");
    assert_eq!(running.default(), running.second.to_string());
    let after = running.machine.booted_into(&two);
    assert_eq!(roles(&after.status().unwrap()), [Role::Booted, Role::Rollback]);
    running.machine.assert_clean();
    let again = running.finalize(true).unwrap();
    assert!(matches!(again, FinalizeOutcome::NothingStaged), "{again:?}");
}

/// The trial's result must not count as a person's edit: a default that changed twice would stay at the first.
#[test]
fn what_was_merged_for_trial_is_never_taken_for_mine() {
    let running = Running::new();
    running.stage();
    running.machine.commit("3", |_| ());
    running.stage();
    let three = running.finished(true);
    assert_eq!(running.etc(&three, "app.d/app.conf"), "made by 3\n");
    assert_eq!(running.etc(&three, "hostname"), "mine\n");
}

#[test]
fn a_conflict_is_known_when_it_is_staged_and_kept_when_it_is_finished() {
    let running = Running::new();
    running.edit("app.d/app.conf", "mine\n");
    let staged = running.stage();
    assert_eq!(staged.etc.unwrap().counts.conflicts, 1);
    assert_eq!(running.status().deployments[0].etc_conflicts, 1);
    // Undone before the shutdown: there is none to keep.
    running.edit("app.d/app.conf", "made by 1\n");
    let two = running.finished(true);
    assert_eq!(
        running.machine.booted_into(&two).status().unwrap().deployments[0].etc_conflicts,
        0
    );

    let running = Running::new();
    running.stage();
    running.edit("app.d/app.conf", "mine, later\n");
    let two = running.finished(true);
    assert_eq!(running.etc(&two, "app.d/app.conf"), "mine, later\n");
    let status = running.machine.booted_into(&two).status().unwrap();
    assert_eq!(status.deployments[0].etc_conflicts, 1);
    running.machine.assert_clean();
}

#[test]
fn staging_again_takes_the_place_of_what_was_staged() {
    let running = Running::new();
    let two = running.stage();
    let third = running.machine.commit("3", |_| ());
    let three = running.stage();
    assert_eq!(three.discarded.as_ref(), Some(&two.deployment));
    assert!(!running.machine.root_of(&two).exists());
    assert_eq!(running.kernels(), 2, "the kernel of the second is gone");
    assert_eq!(roles(&running.status()), [Role::Staged, Role::Booted]);
    running.finished(false);
    assert_eq!(running.default(), third.to_string());
    running.machine.assert_clean();
}

#[test]
fn a_clean_up_and_a_pruner_leave_what_is_staged_alone() {
    let running = Running::new();
    let staged = running.stage();
    let sysroot = running.sysroot();
    let gone = crate::repo::RefUpdate {
        name: "os".parse().unwrap(),
        expected: None,
        new: None,
    };
    sysroot.repo().update_refs(&[gone]).unwrap();
    for dry_run in [true, false] {
        let report = sysroot
            .cleanup(&CleanupOptions { dry_run }, &NoProgress, &Cancel::new())
            .unwrap();
        assert_eq!((report.orphans, report.boot), (Vec::new(), Vec::new()));
    }
    sysroot.recover_boot(&NoProgress).unwrap();
    assert_eq!(running.kernels(), 2);
    assert_eq!(running.finished(true).deployment, staged.deployment);
    running.machine.assert_clean();
}

#[test]
fn a_rollback_and_undeploy_give_up_what_is_staged_and_leave_nothing_of_it() {
    for selector in [None, Some("staged"), Some("its name"), Some("0")] {
        let running = Running::new();
        let staged = running.stage();
        let sysroot = running.sysroot();
        let name = staged.deployment.short();
        let selector = selector.map(|selector| {
            if selector == "its name" {
                name.as_str()
            } else {
                selector
            }
        });
        match selector {
            None => {
                let report = sysroot.rollback(None, &NoProgress).unwrap();
                assert_eq!(report.discarded.as_ref(), Some(&staged.deployment));
                assert_eq!((&report.default, report.changed), (&running.one.deployment, true));
            }
            Some(selector) => {
                let report = sysroot.undeploy(selector, &NoProgress).unwrap();
                assert_eq!(report.deployment.as_ref(), Some(&staged.deployment));
            }
        }
        assert_eq!(roles(&running.status()), [Role::Booted]);
        assert!(!running.machine.root_of(&staged).exists());
        assert_eq!(running.kernels(), 1);
        assert_eq!(sysroot.repo().list_roots().unwrap().len(), 1);
        assert!(matches!(
            running.finalize(true).unwrap(),
            FinalizeOutcome::NothingStaged
        ));
        running.machine.assert_clean();
    }
}

#[test]
fn what_becomes_the_default_by_name_is_not_replaced_by_what_was_staged() {
    let running = Running::new();
    let staged = running.stage();
    let sysroot = running.sysroot();
    let quiet = [KargsChange::Append("quiet".to_owned())];
    let report = sysroot.edit_kargs(Some("booted"), &quiet, &NoProgress).unwrap();
    assert_eq!(report.discarded.as_ref(), Some(&staged.deployment));
    assert!(matches!(
        running.finalize(true).unwrap(),
        FinalizeOutcome::NothingStaged
    ));

    running.stage();
    let third = running.machine.commit("3", |_| ());
    let now = DeployOptions {
        finish: Finish::Now,
        ..DeployOptions::default()
    };
    let report = sysroot.deploy("os", &now, &NoProgress, &Cancel::new()).unwrap();
    assert!(report.discarded.is_some() && !report.staged);
    assert!(matches!(
        running.finalize(true).unwrap(),
        FinalizeOutcome::NothingStaged
    ));
    assert_eq!(running.default(), third.to_string());
    running.machine.assert_clean();
}

#[test]
fn kernel_arguments_go_to_what_the_next_boot_takes() {
    let running = Running::new();
    running.stage();
    let sysroot = running.sysroot();
    let quiet = [KargsChange::Append("quiet".to_owned())];
    let report = sysroot.edit_kargs(None, &quiet, &NoProgress).unwrap();
    assert!(report.staged && report.changed && report.discarded.is_none());
    assert_eq!(
        sysroot.kargs(Some("booted")).unwrap().kargs.to_string(),
        "root=LABEL=root"
    );
    // What is staged next starts from what would run next.
    running.machine.commit("3", |_| ());
    running.stage();
    running.finished(true);
    let state = sysroot.state().unwrap();
    assert_eq!(state.deployments[0].kargs, "root=LABEL=root quiet");
    assert_eq!(state.deployments[1].kargs, "root=LABEL=root");
}

#[test]
fn now_finishes_what_is_staged_and_does_not_make_it_again() {
    let running = Running::new();
    let staged = running.stage();
    let again = running.upgrade(&UpgradeOptions::default());
    assert!(
        matches!(&again, UpgradeOutcome::Unchanged { deployment, .. } if *deployment == staged.deployment),
        "{again:?}"
    );
    let now = UpgradeOptions {
        deploy: DeployOptions {
            finish: Finish::Now,
            ..DeployOptions::default()
        },
        ..UpgradeOptions::default()
    };
    let UpgradeOutcome::Deployed(report) = running.upgrade(&now) else {
        panic!("nothing was deployed")
    };
    assert_eq!(report.deployment, staged.deployment);
    assert!(!report.staged && report.checkout.is_none());
    assert_eq!(running.default(), running.second.to_string());
    assert!(matches!(running.upgrade(&now), UpgradeOutcome::Unchanged { .. }));
    running.machine.assert_clean();
}

#[test]
fn an_update_is_finished_at_once_where_nobody_would_finish_it_at_shutdown() {
    let running = Running::new();
    fs::remove_file(running.machine.root_of(&running.one).join(FINALIZER)).unwrap();
    let report = running.deploy("os").unwrap();
    assert!(!report.staged);
    assert_eq!(running.default(), running.second.to_string());
    let running = Running::new();
    let elsewhere = running
        .machine
        .sysroot()
        .deploy("os", &DeployOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    assert!(
        !elsewhere.staged,
        "a sysroot that is not running takes it at once"
    );
}

#[test]
fn what_runs_when_it_is_finished_is_what_is_merged_from() {
    let running = Running::new();
    let staged = running.stage();
    // A hard reset, and the machine comes up in something else: the second, say, that a person has deployed by hand.
    let third = running.machine.commit("3", |_| ());
    let sysroot = running.sysroot();
    let pinned = running.one.deployment.to_string();
    sysroot.set_pinned(&pinned, true).unwrap();
    drop(sysroot);
    // Not booted, a deploy is finished at once. It gives up what is staged, so the record is put back.
    let record = running.machine.path("sysroot/atomos/staged.json");
    let saved = fs::read(&record).unwrap();
    let roots = running.machine.sysroot().repo().list_roots().unwrap();
    let kept = format!("deployment.{}.os", staged.deployment.dir_name());
    let (name, root) = roots.iter().find(|(name, _)| name.to_string() == kept).unwrap();
    let tree = running.machine.root_of(&staged);
    let aside = running.machine.path("aside");
    fs::rename(&tree, &aside).unwrap();
    let three = running.machine.deploy("os");
    assert_eq!(three.deployment.commit, third);
    fs::rename(&aside, &tree).unwrap();
    running.machine.sysroot().repo().set_root(name, root).unwrap();
    fs::write(&record, saved).unwrap();

    fs::write(
        running.machine.root_of(&three).join("etc/hostname"),
        "of the third\n",
    )
    .unwrap();
    let booted = running.machine.booted_into(&three);
    let outcome = booted
        .finalize(&FinalizeOptions::default(), &NoProgress, &Cancel::new())
        .unwrap();
    let FinalizeOutcome::Finished(two) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(two.merge_from.as_ref(), Some(&three.deployment));
    assert_eq!(running.etc(&two, "hostname"), "of the third\n");
    running.machine.assert_bootable();
    running.machine.assert_clean();
}

/// Makes the merge fail: the policy refuses a conflict that came after the staging.
fn let_it_fail(running: &Running) {
    let policies = running
        .machine
        .root_of(&running.one)
        .join("etc/atomos/etc-merge.d");
    fs::create_dir_all(&policies).unwrap();
    fs::write(
        policies.join("fail.conf"),
        "[[rule]]\npath = \"app.d/app.conf\"\npolicy = \"fail\"\n",
    )
    .unwrap();
    running.edit("app.d/app.conf", "in conflict\n");
}

#[test]
fn a_failed_finish_leaves_the_old_system_says_why_and_is_not_tried_for_ever() {
    let running = Running::new();
    let staged = running.stage();
    let_it_fail(&running);
    let before = running.machine.entries();
    for _ in 0..3 {
        let error = running.finalize(true).unwrap_err();
        assert!(error.to_string().contains("refused by policy"), "{error}");
        assert_eq!(running.machine.entries(), before);
        let status = running.status();
        assert_eq!(roles(&status), [Role::Staged, Role::Booted]);
        let told = status.last_error.unwrap();
        assert_eq!(told.deployment, staged.deployment);
        assert!(told.reason.contains("app.d/app.conf"), "{}", told.reason);
    }
    let outcome = running.finalize(true).unwrap();
    assert!(matches!(outcome, FinalizeOutcome::GivenUp { .. }), "{outcome:?}");
    assert!(
        running.status().warnings[0].contains("3 times"),
        "{:?}",
        running.status().warnings
    );
    let again = running.upgrade(&UpgradeOptions::default());
    assert!(matches!(again, UpgradeOutcome::Unchanged { .. }), "{again:?}");
    assert_eq!(running.default(), running.one.deployment.commit.to_string());

    running.edit("app.d/app.conf", "made by 1\n");
    let two = running.finished(false);
    assert_eq!(running.default(), two.deployment.commit.to_string());
    assert!(running.status().last_error.is_none(), "it is over");
    running.machine.assert_clean();
}

#[test]
fn a_finish_that_fails_gives_back_the_room_that_it_took() {
    let running = Running::new();
    let staged = running.stage();
    let var = running.machine.path("sysroot/atomos/deploy/os/var");
    let aside = var.with_file_name("aside");
    fs::rename(&var, &aside).unwrap();
    running.finalize(true).unwrap_err();
    let etc = running.machine.root_of(&staged).join("etc");
    assert!(!etc.exists(), "/etc had been merged when /var was not there");
    assert!(running.status().last_error.is_some());
    fs::rename(&aside, &var).unwrap();
    running.finished(true);
    assert_eq!(running.etc(&staged, "hostname"), "mine\n");
    running.machine.assert_clean();
}

#[test]
fn what_another_one_has_done_meanwhile_is_not_done_twice() {
    let running = Running::new();
    let staged = running.stage();
    let sysroot = running.sysroot();
    let again = |done: &DeployReport| {
        let is_done = |state: &crate::sysroot::State| {
            let newest = state.deployments.first().map(|newest| newest.id.clone());
            Ok(newest.filter(|newest| *newest == done.deployment))
        };
        sysroot
            .deploy_unless(
                &is_done,
                "os",
                &DeployOptions::default(),
                &NoProgress,
                &Cancel::new(),
            )
            .unwrap()
    };
    assert!(again(&staged).is_ok(), "it is staged, and no more");
    let report = running.finished(true);
    assert_eq!(again(&report).unwrap_err(), report.deployment);
    running.machine.assert_clean();
}

#[test]
fn what_is_staged_and_lost_its_tree_is_staged_again() {
    let running = Running::new();
    let staged = running.stage();
    fs::remove_dir_all(running.machine.root_of(&staged)).unwrap();
    let UpgradeOutcome::Deployed(again) = running.upgrade(&UpgradeOptions::default()) else {
        panic!("what is staged cannot be finished");
    };
    assert!(again.staged);
    running.finished(true);
    assert_eq!(running.default(), running.second.to_string());
    running.machine.assert_clean();
}

#[test]
fn what_takes_the_name_of_what_was_staged_and_lost_is_not_taken_for_it_when_it_is_half_done() {
    let running = Running::new();
    let staged = running.stage();
    fs::remove_dir_all(running.machine.root_of(&staged)).unwrap();
    let other = Running::new();
    let (points, result) = failpoint::trace(|| other.deploy("os"));
    result.unwrap();
    let half = points
        .iter()
        .position(|point| *point == "deploy.checked-out")
        .unwrap();
    // What was recorded goes first, at three more points.
    failpoint::stop_at(half + 3, || running.deploy("os")).unwrap_err();
    assert!(
        running.machine.root_of(&staged).exists(),
        "its name is taken again"
    );
    // It has the same name, and is no staged deployment that shutdown could finish.
    let outcome = running.finalize(true).unwrap();
    assert!(matches!(outcome, FinalizeOutcome::NothingStaged), "{outcome:?}");
    let UpgradeOutcome::Deployed(again) = running.upgrade(&UpgradeOptions::default()) else {
        panic!("nothing is staged");
    };
    assert!(again.staged);
    running.finished(true);
    assert_eq!(running.default(), running.second.to_string());
    running.machine.assert_clean();

    // At once, too.
    let running = Running::new();
    let staged = running.stage();
    fs::remove_dir_all(running.machine.root_of(&staged)).unwrap();
    let mut options = UpgradeOptions::default();
    options.deploy.finish = Finish::Now;
    running.upgrade(&options);
    assert_eq!(running.default(), running.second.to_string());
    running.machine.assert_clean();
}

#[test]
fn a_refused_merge_is_known_when_it_is_staged() {
    let running = Running::new();
    let_it_fail(&running);
    let before = fs::read_dir(running.machine.path("sysroot/atomos/deploy/os/deploy"))
        .unwrap()
        .count();
    running.deploy("os").unwrap_err();
    let after = fs::read_dir(running.machine.path("sysroot/atomos/deploy/os/deploy"))
        .unwrap()
        .count();
    assert_eq!(before, after, "nothing of it is left");
    assert_eq!(roles(&running.status()), [Role::Booted]);
}

#[test]
fn a_record_that_cannot_be_read_is_told_of_and_stops_nobody() {
    for damage in ["", "{}", "{\"version\": 9}", "\u{1}"] {
        let running = Running::new();
        running.stage();
        let record = running.machine.path("sysroot/atomos/staged.json");
        fs::write(&record, damage).unwrap();
        assert!(running.status().warnings[0].contains("undeploy staged"));
        running.finalize(true).unwrap_err();
        running.sysroot().undeploy("staged", &NoProgress).unwrap();
        assert!(!record.exists());
        running.stage();
        fs::write(&record, damage).unwrap();
        running.stage();
        assert_eq!(running.finished(true).version, "2");
        running.machine.assert_clean();
    }
}

#[test]
fn an_interrupted_staging_leaves_what_was_staged_before_or_the_new_one() {
    let prepare = || {
        let running = Running::new();
        running.stage();
        running.machine.commit("3", |_| ());
        running
    };
    let running = prepare();
    let (points, result) = failpoint::trace(|| running.deploy("os"));
    result.unwrap();
    assert!(
        points.contains(&"staged.durable") && points.len() > 8,
        "{points:?}"
    );
    for (index, point) in points.iter().enumerate() {
        let running = prepare();
        failpoint::stop_at(index, || running.deploy("os")).expect_err(point);
        assert_eq!(
            running.default(),
            running.one.deployment.commit.to_string(),
            "at {point}"
        );
        let status = running.status();
        assert_eq!(roles(&status), [Role::Staged, Role::Booted], "at {point}");
        // What is staged can be finished as it was found, whichever it is.
        let copy = status.deployments[0].version.clone();
        assert_eq!(running.finished(true).version, copy, "at {point}");
        running.machine.assert_bootable();
        running
            .deploy("os")
            .unwrap_or_else(|error| panic!("again after {point}: {error}"));
        running.finished(false);
        running
            .sysroot()
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        running.machine.assert_clean();
        let state = running.sysroot().state().unwrap();
        assert_eq!(running.kernels(), state.deployments.len(), "after {point}");
    }
}

#[test]
fn an_interrupted_finish_leaves_the_old_system_or_the_new_and_is_done_again() {
    let prepare = || {
        let running = Running::new();
        running.stage();
        running
    };
    let running = prepare();
    let (points, result) = failpoint::trace(|| running.finalize(true).map(drop));
    result.unwrap();
    assert!(
        points.contains(&"finish.switched") && points.len() > 12,
        "{points:?}"
    );
    for (index, point) in points.iter().enumerate() {
        let running = prepare();
        let staged = running.status().staged.unwrap();
        failpoint::stop_at(index, || running.finalize(true)).expect_err(point);
        let default = running.default();
        let is_new = default == running.second.to_string();
        assert!(
            is_new || default == running.one.deployment.commit.to_string(),
            "at {point}: {default}"
        );
        // The old one runs on after a reset, somebody edits, and it is shut down properly.
        running.edit("hostname", "after the reset\n");
        match running
            .finalize(true)
            .unwrap_or_else(|error| panic!("again after {point}: {error}"))
        {
            FinalizeOutcome::Finished(two) => {
                assert_eq!(
                    running.etc(&two, "hostname"),
                    "after the reset\n",
                    "after {point}"
                );
            }
            FinalizeOutcome::AlreadyDone { .. } | FinalizeOutcome::NothingStaged => {
                assert!(is_new, "after {point}");
            }
            other => panic!("after {point}: {other:?}"),
        }
        assert_eq!(running.default(), running.second.to_string(), "after {point}");
        let state = running.sysroot().state().unwrap();
        assert_eq!(state.deployments[0].id, staged, "after {point}");
        running
            .sysroot()
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        running.machine.assert_bootable();
        running.machine.assert_clean();
        assert_eq!(running.machine.entries().len(), 2, "after {point}");
        assert!(
            !running.machine.path("sysroot/atomos/staged.json").exists(),
            "after {point}"
        );
    }
}

/// The loader may take the new one after an interruption whose record is still there.
#[test]
fn a_finish_that_was_interrupted_after_its_switch_is_over_when_the_new_system_runs() {
    let running = Running::new();
    running.stage();
    let (points, _) = {
        let running = Running::new();
        running.stage();
        failpoint::trace(|| running.finalize(true).map(drop))
    };
    let cut = points
        .iter()
        .position(|point| *point == "finish.switched")
        .unwrap();
    failpoint::stop_at(cut, || running.finalize(true)).unwrap_err();
    let id = running.sysroot().state().unwrap().deployments[0].id.clone();
    let two = DeployReport {
        deployment: id,
        ..running.one
    };
    let booted = running.machine.booted_into(&two);
    assert_eq!(roles(&booted.status().unwrap()), [Role::Booted, Role::Rollback]);
    fs::write(
        running.machine.root_of(&two).join("etc/hostname"),
        "of the second\n",
    )
    .unwrap();
    let options = FinalizeOptions { at_shutdown: true };
    let outcome = booted.finalize(&options, &NoProgress, &Cancel::new()).unwrap();
    assert!(
        matches!(outcome, FinalizeOutcome::AlreadyDone { .. }),
        "{outcome:?}"
    );
    let hostname = fs::read_to_string(running.machine.root_of(&two).join("etc/hostname")).unwrap();
    assert_eq!(hostname, "of the second\n");
    running.machine.assert_clean();
}

#[test]
fn giving_up_what_is_staged_can_be_interrupted_anywhere() {
    let prepare = || {
        let running = Running::new();
        running.stage();
        running
    };
    let running = prepare();
    let give_up = |running: &Running| running.sysroot().rollback(None, &NoProgress).map(drop);
    let (points, result) = failpoint::trace(|| give_up(&running));
    result.unwrap();
    assert!(points.contains(&"staged.discarded"), "{points:?}");
    for (index, point) in points.iter().enumerate() {
        let running = prepare();
        failpoint::stop_at(index, || give_up(&running)).expect_err(point);
        assert_eq!(
            running.default(),
            running.one.deployment.commit.to_string(),
            "at {point}"
        );
        if running.status().staged.is_some() {
            give_up(&running).unwrap_or_else(|error| panic!("again after {point}: {error}"));
        }
        running
            .sysroot()
            .cleanup(&CleanupOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        assert_eq!(running.kernels(), 1, "after {point}");
        running.machine.assert_clean();
    }
}

/// GRUB reads a menu of ours, and not the entries: until the menu is replaced the old system boots, and people go on working there.
#[test]
fn a_finish_that_grub_has_not_heard_of_is_done_again_with_what_was_edited_since() {
    let prepare = || {
        let running = Running::new();
        let grub = running.machine.path("sysroot/boot/grub");
        fs::create_dir_all(&grub).unwrap();
        fs::write(grub.join("atomos.enabled"), "").unwrap();
        running.sysroot().recover_boot(&NoProgress).unwrap();
        running.stage();
        running
    };
    let (points, _) = {
        let running = prepare();
        failpoint::trace(|| running.finalize(true).map(drop))
    };
    let shown = points.iter().rposition(|point| *point == "boot.entry.written");
    let menu = points.iter().position(|point| *point == "boot.menu.written");
    assert!(shown < menu, "{points:?}");
    let running = prepare();
    failpoint::stop_at(shown.unwrap(), || running.finalize(true)).unwrap_err();
    let old = running.machine.root_of(&running.one);
    fs::write(old.join("etc/hostname"), "after the reset\n").unwrap();
    let two = running.finished(true);
    assert_eq!(running.etc(&two, "hostname"), "after the reset\n");
    running.machine.assert_bootable();
    running.machine.assert_clean();
}

#[test]
fn arguments_that_would_not_fit_beside_our_own_are_refused_before_shutdown_finds_out() {
    let running = Running::new();
    running.stage();
    let before = running.status();
    // Alone they fit.
    let long = [KargsChange::Append(
        "x".repeat(crate::boot::kargs::MAX_COMMAND_LINE - 40),
    )];
    running
        .sysroot()
        .edit_kargs(None, &long, &NoProgress)
        .unwrap_err();
    assert_eq!(running.status().deployments[0].kargs, before.deployments[0].kargs);
    running.finished(true);
}
