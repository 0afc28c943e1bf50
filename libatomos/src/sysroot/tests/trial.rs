//! Deployments on trial, with a loader that counts as systemd-boot does, as GRUB does, or not at all.

use super::*;
use crate::boot::name::{EntryName, Tries};
use crate::sysroot::FINALIZER;
use crate::sysroot::{Assessment, FailedCheck, Stage, Status};

/// What a loader took.
pub(super) struct Boot {
    n: u64,
    pub(super) kargs: String,
    pub(super) dir: String,
}

/// Who counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counts {
    ByRenaming,
    ByEnvironment,
    Not,
}

impl Machine {
    /// With a version that has checks, and is known to be good.
    pub(super) fn with_good() -> (Self, DeployReport) {
        let machine = Self::new();
        machine.commit_checked("1");
        let one = machine.deploy("os");
        let running = machine.run(&machine.loader(Counts::ByRenaming), 1);
        running.mark_good(&NoProgress).unwrap();
        (machine, one)
    }

    pub(super) fn commit_checked(&self, version: &str) -> CommitId {
        self.commit(version, |tree| {
            fs::create_dir_all(tree.join("usr/lib/atomos/health.d")).unwrap();
        })
    }

    pub(super) fn upgrade_to(&self, version: &str) -> DeployReport {
        self.commit_checked(version);
        self.deploy("os")
    }

    /// Takes an entry as a loader does, and counts.
    pub(super) fn loader(&self, counts: Counts) -> Boot {
        let dir = self.path("sysroot/boot/loader/entries");
        let env = self.path("sysroot/boot/grub/atomos.env");
        let by_grub = |n: u64| {
            let text = fs::read_to_string(&env).ok()?;
            let line = format!("atomos_left_{n}=");
            let value = text.lines().find_map(|found| found.strip_prefix(&line))?;
            Some(value.parse::<u32>().unwrap())
        };
        let mut names: Vec<(EntryName, Option<u32>)> = self
            .entries()
            .iter()
            .map(|name| name.parse::<EntryName>().unwrap())
            .map(|name| {
                let left = name
                    .tries
                    .map(|tries| by_grub(name.n).unwrap_or(tries.left).min(tries.left));
                (name, left)
            })
            .collect();
        names.sort_by_key(|(name, left)| (*left == Some(0), std::cmp::Reverse(name.n)));
        let (name, left) = &names[0];
        let text = fs::read_to_string(dir.join(name.to_string())).unwrap();
        if let Some(left) = left.filter(|left| *left > 0) {
            match counts {
                Counts::ByRenaming => {
                    let done = name.tries.and_then(|tries| tries.done).unwrap_or(0) + 1;
                    let renamed = EntryName {
                        tries: Some(Tries {
                            left: left - 1,
                            done: Some(done),
                        }),
                        ..name.clone()
                    };
                    fs::rename(dir.join(name.to_string()), dir.join(renamed.to_string())).unwrap();
                }
                Counts::ByEnvironment => {
                    let mut block =
                        format!("# GRUB Environment Block\natomos_left_{}={}\n", name.n, left - 1);
                    block.extend(std::iter::repeat_n('#', 1024 - block.len()));
                    fs::write(&env, block).unwrap();
                }
                Counts::Not => {}
            }
        }
        let kargs = text
            .lines()
            .find_map(|line| line.strip_prefix("options "))
            .unwrap();
        let dir = kargs.rsplit('/').next().unwrap().split(' ').next().unwrap();
        Boot {
            n: name.n,
            kargs: kargs.to_owned(),
            dir: dir.to_owned(),
        }
    }

    fn root_of_boot(&self, boot: &Boot) -> PathBuf {
        self.path("sysroot/atomos/deploy/os/deploy").join(&boot.dir)
    }

    /// The sysroot as user space of this boot sees it.
    pub(super) fn run(&self, boot: &Boot, id: u32) -> Sysroot {
        let root = self.root_of_boot(boot);
        fs::create_dir_all(root.join("proc/sys/kernel/random")).unwrap();
        fs::write(root.join("proc/sys/kernel/random/boot_id"), uuid(id)).unwrap();
        fs::write(
            root.join("proc/cmdline"),
            format!("BOOT_IMAGE=/vmlinuz {}\n", boot.kargs),
        )
        .unwrap();
        let options = SysrootOptions {
            host_root: root,
            ..SysrootOptions::default()
        };
        Sysroot::open(&self.path("sysroot"), &options).unwrap()
    }

    /// As `atomos-prepare-root` does.
    fn prepare_root(&self, boot: &Boot, id: u32) {
        let mark = self
            .path("sysroot/atomos/deploy/os/deploy")
            .join(format!("{}.trial", boot.dir));
        let mut text = fs::read_to_string(&mark).unwrap();
        text.push_str(&uuid(id));
        fs::write(mark, text).unwrap();
    }

    fn dir(report: &DeployReport) -> String {
        report.deployment.dir_name()
    }
}

fn uuid(id: u32) -> String {
    format!("{id:08x}-0000-4000-8000-000000000000\n")
}

fn journal(id: u32) -> String {
    uuid(id).trim().replace('-', "")
}

pub(super) fn failed(check: &str) -> Vec<FailedCheck> {
    vec![FailedCheck {
        check: check.to_owned(),
        ended: "exit code 1".to_owned(),
        output: "it is broken".to_owned(),
    }]
}

fn assessments(status: &Status) -> Vec<Assessment> {
    status
        .deployments
        .iter()
        .map(|deployment| deployment.assessment)
        .collect()
}

#[test]
fn a_version_that_fails_three_times_is_left_and_says_how_far_it_got_each_time() {
    for counts in [Counts::ByRenaming, Counts::ByEnvironment] {
        let (machine, one) = Machine::with_good();
        if counts == Counts::ByEnvironment {
            fs::create_dir_all(machine.path("sysroot/boot/grub")).unwrap();
            fs::write(machine.path("sysroot/boot/grub/atomos.enabled"), "").unwrap();
        }
        let two = machine.upgrade_to("2");
        assert!(
            machine.entries()[1].ends_with("+3.conf"),
            "{:?}",
            machine.entries()
        );
        // The kernel panics.
        assert_eq!(machine.loader(counts).dir, Machine::dir(&two));
        // The root is found, and init never runs.
        let second = machine.loader(counts);
        machine.prepare_root(&second, 2);
        // Everything runs, and a check fails.
        let third = machine.loader(counts);
        machine.prepare_root(&third, 3);
        let running = machine.run(&third, 3);
        let report = running.record_boot(1000, &NoProgress).unwrap();
        assert_eq!(
            (report.on_trial, report.tries_left, report.counted_here),
            (true, Some(0), false)
        );
        let status = running.status().unwrap();
        assert_eq!(assessments(&status), [Assessment::OnTrial, Assessment::Good]);
        assert_eq!(status.deployments[0].tries_left, Some(0));
        let verdict = running
            .finish_checks(&failed("20-net"), true, 1060, &NoProgress)
            .unwrap();
        assert!(verdict.reboot_helps && !verdict.passed && !verdict.good);
        assert!(!machine.sysroot().status().unwrap().deployments[0].booted);

        let fourth = machine.loader(counts);
        assert_eq!(fourth.dir, Machine::dir(&one), "{counts:?}: out of tries");
        let running = machine.run(&fourth, 4);
        let report = running.record_boot(2000, &NoProgress).unwrap();
        assert_eq!(report.failed.len(), 1);
        let again = running.record_boot(2001, &NoProgress).unwrap();
        assert_eq!(again.failed, [], "said once");
        let status = running.status().unwrap();
        assert_eq!(assessments(&status), [Assessment::Bad, Assessment::Good]);
        assert_eq!(status.rolled_back_from.as_ref(), Some(&two.deployment));
        let rejected = &status.rejected[0];
        assert_eq!(rejected.deployment, two.deployment);
        let stages: Vec<_> = rejected.attempts.iter().map(|attempt| attempt.stage).collect();
        assert_eq!(
            stages,
            [Stage::Kernel, Stage::PrepareRoot, Stage::Checks],
            "{counts:?}"
        );
        let ids: Vec<_> = rejected
            .attempts
            .iter()
            .map(|attempt| attempt.boot_id.clone())
            .collect();
        assert_eq!(ids, [None, Some(journal(2)), Some(journal(3))]);
        assert_eq!(rejected.last_check().unwrap().0.check, "20-net");
        let bad_mark = machine.root_of(&two).with_extension("0.bad");
        assert!(bad_mark.exists(), "the initramfs does not take it by itself");
        assert_eq!(machine.loader(counts).dir, Machine::dir(&one));
        machine.assert_bootable();

        // Whatever is lost of /boot, the bad one does not come back.
        fs::remove_dir_all(machine.path("sysroot/boot/loader")).unwrap();
        machine.sysroot().recover_boot(&NoProgress).unwrap();
        assert_eq!(machine.loader(counts).dir, Machine::dir(&one));
        assert!(machine.sysroot().recover_boot(&NoProgress).unwrap().is_empty());
    }
}

#[test]
fn a_version_that_failed_is_not_installed_again_unless_that_is_asked_for() {
    let (machine, one) = Machine::with_good();
    let two = machine.upgrade_to("2");
    machine.sysroot().mark_bad("default", 5, &NoProgress).unwrap();
    let booted = machine.booted_into(&one);
    // What is bad is no default, so there is nothing to go back from, nor to.
    let error = booted.rollback(None, &NoProgress).unwrap_err();
    assert!(matches!(error, SysrootError::NothingToRollBackTo), "{error}");
    let upgrade = |options: &UpgradeOptions| booted.upgrade(options, &NoProgress, &Cancel::new()).unwrap();
    let outcome = upgrade(&UpgradeOptions::default());
    let UpgradeOutcome::Rejected { commit, failed, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        (commit, failed.deployment),
        (two.deployment.commit, two.deployment.clone())
    );
    let check = UpgradeOptions {
        check: true,
        ..UpgradeOptions::default()
    };
    assert!(matches!(upgrade(&check), UpgradeOutcome::Rejected { .. }));
    let allowed = UpgradeOptions {
        allow_rejected: true,
        ..UpgradeOptions::default()
    };
    let UpgradeOutcome::Deployed(again) = upgrade(&allowed) else {
        panic!("it was asked for");
    };
    assert!(again.deployment.serial > 0);
    assert!(!machine.root_of(&again).with_extension("1.bad").exists());
    machine.sysroot().mark_bad("default", 6, &NoProgress).unwrap();
    let prefix = two.deployment.commit.to_string()[..8].to_owned();
    assert_eq!(
        booted.forget_failed(Some(&prefix)).unwrap(),
        [two.deployment.commit]
    );
    assert!(matches!(
        upgrade(&UpgradeOptions::default()),
        UpgradeOutcome::Deployed(_)
    ));
    // And a newer one is never in question.
    let (machine, one) = Machine::with_good();
    machine.upgrade_to("2");
    machine.sysroot().mark_bad("default", 5, &NoProgress).unwrap();
    machine.commit_checked("3");
    let outcome = machine
        .booted_into(&one)
        .upgrade(&UpgradeOptions::default(), &NoProgress, &Cancel::new());
    assert!(matches!(outcome.unwrap(), UpgradeOutcome::Deployed(_)));
}

#[test]
fn a_version_that_passes_loses_its_counter_and_is_what_is_gone_back_to() {
    let (machine, _one) = Machine::with_good();
    let two = machine.upgrade_to("2");
    let boot = machine.loader(Counts::ByRenaming);
    let running = machine.run(&boot, 7);
    running.record_boot(1, &NoProgress).unwrap();
    let verdict = running.finish_checks(&[], false, 2, &NoProgress).unwrap();
    assert!(verdict.passed && !verdict.good, "the boot is not complete yet");
    let expired = running.expire_boot(3, &NoProgress).unwrap();
    assert!(!expired.passed && expired.reboot_helps);
    assert_eq!(
        running.mark_good(&NoProgress).unwrap(),
        (two.deployment.clone(), true)
    );
    assert_eq!(
        running.mark_good(&NoProgress).unwrap(),
        (two.deployment.clone(), false)
    );
    assert!(running.expire_boot(4, &NoProgress).unwrap().passed);
    assert!(!machine.entries()[1].contains('+'), "{:?}", machine.entries());
    let mark = machine.root_of(&two).with_extension("0.trial");
    assert!(!mark.exists());
    assert_eq!(running.boot_log().unwrap().trials, []);
    machine.assert_bootable();
    // A failing check of what is known to be good leads nowhere, and is told.
    let verdict = running.finish_checks(&failed("x"), true, 5, &NoProgress).unwrap();
    assert!(!verdict.reboot_helps && verdict.good);
    assert_eq!(
        running.status().unwrap().last_failure.unwrap().attempt.failed,
        failed("x")
    );
    running.finish_checks(&[], true, 6, &NoProgress).unwrap();
    assert!(running.status().unwrap().last_failure.is_none());
}

#[test]
fn who_took_the_counter_off_is_not_contradicted() {
    let (machine, _) = Machine::with_good();
    machine.upgrade_to("2");
    let boot = machine.loader(Counts::ByRenaming);
    let running = machine.run(&boot, 7);
    running.record_boot(1, &NoProgress).unwrap();
    // As systemd-bless-boot does.
    let entries = machine.path("sysroot/boot/loader/entries");
    let name = machine.entries()[1].clone();
    let blessed = name.split('+').next().unwrap().to_owned() + ".conf";
    fs::rename(entries.join(&name), entries.join(&blessed)).unwrap();
    running.mark_good(&NoProgress).unwrap();
    assert_eq!(machine.entries()[1], blessed);
    machine.assert_clean();
}

#[test]
fn where_the_loader_does_not_count_a_boot_that_gets_to_user_space_is_counted() {
    let (machine, one) = Machine::with_good();
    let two = machine.upgrade_to("2");
    for id in 1..=3 {
        let boot = machine.loader(Counts::Not);
        assert_eq!(boot.dir, Machine::dir(&two));
        let running = machine.run(&boot, id);
        for _ in 0..2 {
            // Twice in one boot is once.
            running.record_boot(1, &NoProgress).unwrap();
        }
        assert_eq!(running.boot_log().unwrap().trials[0].left, 3 - id);
    }
    let boot = machine.loader(Counts::Not);
    assert_eq!(boot.dir, Machine::dir(&one));
    machine.run(&boot, 4).record_boot(1, &NoProgress).unwrap();
    assert_eq!(
        assessments(&machine.sysroot().status().unwrap())[0],
        Assessment::Bad
    );
}

#[test]
fn new_kernel_arguments_are_on_trial_and_the_old_ones_come_back() {
    let (machine, one) = Machine::with_good();
    let booted = machine.booted_into(&one);
    let change = [KargsChange::Append("broken".to_owned())];
    booted.edit_kargs(None, &change, &NoProgress).unwrap();
    assert_eq!(
        machine.entries().len(),
        2,
        "the old arguments stay beside the new ones"
    );
    machine.assert_bootable();
    let old = booted.state().unwrap().deployments[0].fallback.clone().unwrap();
    for id in 1..=3 {
        let boot = machine.loader(Counts::ByRenaming);
        assert!(
            boot.kargs.contains("broken") && boot.kargs.contains("atomos.entry="),
            "{}",
            boot.kargs
        );
        if id == 2 {
            machine
                .run(&boot, id)
                .finish_checks(&failed("x"), true, 5, &NoProgress)
                .unwrap();
        }
    }
    let boot = machine.loader(Counts::ByRenaming);
    assert_eq!(boot.n, old.entry);
    assert!(!boot.kargs.contains("broken"));
    let running = machine.run(&boot, 4);
    let (id, news) = running.mark_good(&NoProgress).unwrap();
    assert_eq!(
        (&id, news),
        (&one.deployment, false),
        "the old entry has nothing to lose"
    );
    let report = running.record_boot(9, &NoProgress).unwrap();
    assert_eq!(report.failed[0].kargs.as_deref(), Some("root=LABEL=root broken"));
    let state = running.state().unwrap();
    let now = &state.deployments[0];
    assert_eq!((now.entry, now.good, now.tries), (old.entry, true, None));
    assert_eq!(now.kargs, "root=LABEL=root");
    assert_eq!(machine.entries().len(), 1);
    let status = running.status().unwrap();
    assert_eq!(status.rejected.len(), 0, "it was not the version");
    assert_eq!(status.failures.len(), 1);
    machine.assert_clean();

    // And when they are good.
    booted
        .edit_kargs(None, &[KargsChange::Append("quiet".to_owned())], &NoProgress)
        .unwrap();
    let boot = machine.loader(Counts::ByRenaming);
    assert!(
        machine
            .run(&boot, 5)
            .finish_checks(&[], true, 9, &NoProgress)
            .unwrap()
            .good
    );
    assert_eq!(machine.entries().len(), 1);
    let boot = machine.loader(Counts::ByRenaming);
    assert!(boot.kargs.contains("quiet"), "{}", boot.kargs);
}

#[test]
fn what_is_given_up_is_what_the_list_shows_there_and_a_damaged_record_of_failures_stops_no_upgrade() {
    let (machine, one) = Machine::with_good();
    let two = machine.upgrade_to("2");
    let booted = machine.booted_into(&two);
    fs::create_dir_all(machine.root_of(&two).join("run/atomos")).unwrap();
    fs::write(machine.root_of(&two).join(FINALIZER), "").unwrap();
    fs::write(machine.path("sysroot/atomos/boots.json"), "{").unwrap();
    machine.commit_checked("3");
    let upgrade = booted.upgrade(&UpgradeOptions::default(), &NoProgress, &Cancel::new());
    let UpgradeOutcome::Deployed(report) = upgrade.unwrap() else {
        panic!("there is something newer");
    };
    assert!(report.staged);
    // 0 is what is staged.
    let error = booted.mark_bad("0", 5, &NoProgress).unwrap_err();
    assert!(matches!(error, SysrootError::NotFinished { .. }), "{error}");
    assert_eq!(
        booted.mark_bad("1", 5, &NoProgress).unwrap().deployment,
        two.deployment
    );
    assert_eq!(machine.loader(Counts::ByRenaming).dir, Machine::dir(&one));
}

#[test]
fn what_is_good_stays_so_when_it_gets_another_entry_while_it_runs() {
    let (machine, one) = Machine::with_good();
    machine.upgrade_to("2");
    let second = machine.run(&machine.loader(Counts::ByRenaming), 2);
    second.mark_good(&NoProgress).unwrap();
    second.rollback(None, &NoProgress).unwrap();
    second.rollback(None, &NoProgress).unwrap();
    let verdict = second.finish_checks(&[], false, 9, &NoProgress).unwrap();
    assert!(verdict.good && !verdict.on_trial, "{verdict:?}");
    assert_ne!(machine.loader(Counts::ByRenaming).dir, Machine::dir(&one));
}

#[test]
fn an_entry_from_before_entries_said_their_number_is_left_as_it_is() {
    let (machine, one) = Machine::with_good();
    let entry = machine
        .path("sysroot/boot/loader/entries")
        .join(&machine.entries()[0]);
    let text = fs::read_to_string(&entry).unwrap();
    let older = text.replace(" atomos.entry=1", "");
    assert_ne!(text, older);
    fs::write(&entry, &older).unwrap();
    let booted = machine.run(&machine.loader(Counts::ByRenaming), 3);
    assert!(!booted.boot_status().unwrap().is_behind);
    assert_eq!(booted.mark_good(&NoProgress).unwrap(), (one.deployment, false));
    booted.recover_boot(&NoProgress).unwrap();
    assert_eq!(fs::read_to_string(&entry).unwrap(), older);
    // Another number is another entry's.
    fs::write(&entry, text.replace("atomos.entry=1", "atomos.entry=7")).unwrap();
    assert!(booted.boot_status().unwrap().is_behind);
    booted.recover_boot(&NoProgress).unwrap();
    assert_eq!(fs::read_to_string(&entry).unwrap(), text);
}

#[test]
fn arguments_that_never_booted_are_not_found_good_with_the_version_that_runs() {
    let (machine, one) = Machine::with_good();
    let two = machine.upgrade_to("2");
    let running = machine.run(&machine.loader(Counts::ByRenaming), 2);
    running.record_boot(1000, &NoProgress).unwrap();
    // The version is on trial itself, so no entry of it is good enough to be kept.
    let change = [KargsChange::Append("init=/broken".to_owned())];
    running.edit_kargs(None, &change, &NoProgress).unwrap();
    assert!(running.state().unwrap().deployments[0].fallback.is_none());
    let tries = || running.state().unwrap().deployments[0].tries;
    assert_eq!(tries(), Some(3));
    let verdict = running.finish_checks(&[], false, 1060, &NoProgress).unwrap();
    assert!(
        verdict.passed && !verdict.on_trial && !verdict.good,
        "{verdict:?}"
    );
    running.record_boot(1061, &NoProgress).unwrap();
    assert_eq!(
        running.mark_good(&NoProgress).unwrap(),
        (two.deployment.clone(), false)
    );
    assert_eq!(tries(), Some(3), "this boot was none of its entry's");
    // The version is no better for that: where its checks fail, it is left.
    let verdict = running
        .finish_checks(&failed("20-net"), false, 1070, &NoProgress)
        .unwrap();
    assert!(verdict.reboot_helps && !verdict.good, "{verdict:?}");
    assert!(
        machine.entries()[1].ends_with("+3.conf"),
        "{:?}",
        machine.entries()
    );
    // It does not boot, and the machine goes back.
    for _ in 0..3 {
        let boot = machine.loader(Counts::ByRenaming);
        assert!(boot.kargs.contains("init=/broken"), "{}", boot.kargs);
    }
    assert_eq!(machine.loader(Counts::ByRenaming).dir, Machine::dir(&one));
}

#[test]
fn where_everything_fails_the_machine_stays_on_what_got_furthest() {
    let machine = Machine::new();
    machine.upgrade_to("1");
    let two = machine.upgrade_to("2");
    let three = machine.upgrade_to("3");
    // The first is not there any more: two versions are left, and neither was ever good.
    assert_eq!(machine.entries().len(), 2);
    let mut boots = 0;
    let mut taken = |machine: &Machine| {
        boots += 1;
        let boot = machine.loader(Counts::ByRenaming);
        if boot.dir == Machine::dir(&two) {
            let running = machine.run(&boot, boots);
            running.record_boot(1, &NoProgress).unwrap();
            running.finish_checks(&failed("x"), true, 2, &NoProgress).unwrap();
        }
        boot.dir
    };
    for _ in 0..3 {
        assert_eq!(taken(&machine), Machine::dir(&three));
    }
    for _ in 0..8 {
        assert_eq!(taken(&machine), Machine::dir(&two));
    }
    let state = machine.sysroot().state().unwrap();
    assert!(state.get(&three.deployment).unwrap().is_bad());
    machine.assert_bootable();
}

#[test]
fn what_was_good_is_kept_while_what_is_newer_is_on_trial() {
    let (machine, one) = Machine::with_good();
    for version in ["2", "3", "4"] {
        machine.upgrade_to(version);
        let state = machine.sysroot().state().unwrap();
        assert!(state.get(&one.deployment).is_some(), "after {version}");
        assert!(state.deployments.len() <= 3);
    }
}

#[test]
fn a_tree_without_checks_is_not_counted_and_neither_is_the_first_of_a_machine() {
    let machine = Machine::new();
    machine.commit("1", |_| ());
    machine.deploy("os");
    machine.commit("2", |_| ());
    machine.deploy("os");
    assert!(!machine.entries().iter().any(|name| name.contains('+')));
    let machine = Machine::new();
    machine.upgrade_to("1");
    assert!(!machine.entries()[0].contains('+'));
    machine.commit_checked("2");
    let options = DeployOptions {
        tries: Some(0),
        ..DeployOptions::default()
    };
    machine
        .sysroot()
        .deploy("os", &options, &NoProgress, &Cancel::new())
        .unwrap();
    assert!(
        !machine.entries().iter().any(|name| name.contains('+')),
        "nobody wants it counted"
    );
}

#[test]
fn a_record_that_cannot_be_read_is_put_aside_and_told() {
    let (machine, _) = Machine::with_good();
    fs::write(machine.path("sysroot/atomos/boots.json"), "{\"version\":7}").unwrap();
    let status = machine.sysroot().status().unwrap();
    assert!(
        status
            .warnings
            .iter()
            .any(|warning| warning.contains("boots.json")),
        "{:?}",
        status.warnings
    );
    let boot = machine.loader(Counts::ByRenaming);
    machine.run(&boot, 1).record_boot(1, &NoProgress).unwrap();
    assert!(machine.path("sysroot/atomos/boots.json.damaged").exists());
    machine.assert_clean();
}

#[test]
fn a_truth_from_before_there_were_trials_is_read_and_puts_nothing_on_trial() {
    let machine = Machine::new();
    machine.upgrade_to("1");
    let path = machine.path("sysroot/atomos/deployments.json");
    let text = fs::read_to_string(&path).unwrap();
    for field in ["good", "tries", "fallback"] {
        assert!(!text.contains(&format!("\"{field}\"")), "{field}");
    }
    let boot = machine.loader(Counts::ByRenaming);
    machine.run(&boot, 1).record_boot(1, &NoProgress).unwrap();
    assert_eq!(
        assessments(&machine.sysroot().status().unwrap()),
        [Assessment::Unproven]
    );
    let verdict = machine
        .run(&boot, 1)
        .finish_checks(&failed("x"), true, 1, &NoProgress);
    assert!(!verdict.unwrap().reboot_helps);
}

#[test]
fn a_rollback_says_what_has_run_since() {
    let (machine, one) = Machine::with_good();
    let two = machine.upgrade_to("2");
    let before = machine.booted_into(&one);
    assert_eq!(
        before.rollback(None, &NoProgress).unwrap().ran_since,
        [],
        "it never ran"
    );
    let forward = before
        .rollback(Some(&two.deployment.to_string()), &NoProgress)
        .unwrap();
    assert_eq!(forward.ran_since, [], "nor has it since");
    let boot = machine.loader(Counts::ByRenaming);
    let running = machine.run(&boot, 2);
    running.record_boot(1, &NoProgress).unwrap();
    assert_eq!(
        running.rollback(None, &NoProgress).unwrap().ran_since,
        [two.deployment]
    );
}

#[test]
fn every_interruption_of_a_verdict_boots_and_is_finished_by_the_next_boot() {
    type Change = fn(&Sysroot) -> Result<(), SysrootError>;
    let prepare = |spent: u32, kargs: bool| {
        let (machine, one) = Machine::with_good();
        if kargs {
            let change = [KargsChange::Append("broken".to_owned())];
            machine
                .booted_into(&one)
                .edit_kargs(None, &change, &NoProgress)
                .unwrap();
        } else {
            machine.upgrade_to("2");
        }
        for _ in 0..spent {
            machine.loader(Counts::ByRenaming);
        }
        let boot = machine.loader(Counts::ByRenaming);
        (machine, boot)
    };
    let record: Change = |sysroot| sysroot.record_boot(1, &NoProgress).map(drop);
    let good: Change = |sysroot| sysroot.mark_good(&NoProgress).map(drop);
    let checks: Change = |sysroot| {
        sysroot
            .finish_checks(&failed("x"), true, 1, &NoProgress)
            .map(drop)
    };
    let bad: Change = |sysroot| sysroot.mark_bad("booted", 1, &NoProgress).map(drop);
    let mut stops = 0;
    for (what, spent, kargs, change) in [
        ("a boot on trial", 0, false, record),
        ("a boot after three that failed", 3, false, record),
        ("a boot after three that failed of new arguments", 3, true, record),
        ("a good boot", 0, false, good),
        ("a good boot of new arguments", 0, true, good),
        ("failed checks", 1, false, checks),
        ("giving up", 0, false, bad),
    ] {
        let (machine, boot) = prepare(spent, kargs);
        let sysroot = machine.run(&boot, 9);
        let (points, result) = failpoint::trace(|| change(&sysroot));
        result.unwrap();
        let expected = (
            machine.sysroot().state().unwrap().deployments.len(),
            machine.entries().len(),
        );
        assert!(points.len() > 1, "{what}: {points:?}");
        for (index, point) in points.iter().enumerate() {
            let (machine, boot) = prepare(spent, kargs);
            let sysroot = machine.run(&boot, 9);
            failpoint::stop_at(index, || change(&sysroot)).expect_err(point);
            assert!(
                !machine.assert_bootable().is_empty(),
                "{what}, stopped at {point}"
            );
            change(&machine.run(&boot, 9))
                .unwrap_or_else(|error| panic!("{what}, again after {point}: {error}"));
            machine.sysroot().recover_boot(&NoProgress).unwrap();
            machine.assert_bootable();
            let found = (
                machine.sysroot().state().unwrap().deployments.len(),
                machine.entries().len(),
            );
            assert_eq!(found, expected, "{what}, after {point}");
            stops += 1;
        }
    }
    println!("stopped {stops} times");
}
