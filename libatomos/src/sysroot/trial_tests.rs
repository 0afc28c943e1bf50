//! The machine that boots, breaks and is upgraded at random, and the tables.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::digest::{CommitId, Digest};

const TRIES: u32 = 3;

fn id(name: u32) -> DeploymentId {
    DeploymentId {
        stateroot: "os".parse().unwrap(),
        commit: CommitId::new(Digest::of(&name.to_le_bytes())),
        serial: 0,
    }
}

fn deployment(name: u32) -> DeploymentState {
    DeploymentState {
        id: id(name),
        entry: 0,
        kargs: "quiet".to_owned(),
        bootcsum: String::new(),
        title: String::new(),
        version: name.to_string(),
        pinned: false,
        good: false,
        tries: None,
        fallback: None,
    }
}

fn with(names: &[u32]) -> State {
    let mut state = State::default();
    for name in names {
        state.put_first(deployment(*name));
        state.begin_trial(&id(*name), TRIES);
    }
    state
}

#[test]
fn what_got_furthest_is_stayed_on() {
    use Stage::{Checks, Kernel, PrepareRoot, UserSpace};
    for (candidates, expected) in [
        (vec![], None),
        (vec![(1, None)], Some(1)),
        (vec![(2, Some(Kernel)), (1, Some(Checks))], Some(1)),
        (vec![(2, Some(Checks)), (1, Some(UserSpace))], Some(2)),
        (
            vec![(3, Some(UserSpace)), (2, Some(PrepareRoot)), (1, Some(UserSpace))],
            Some(1),
        ),
        (vec![(2, Some(Kernel)), (1, None)], Some(2)),
        (vec![(2, None), (1, None)], Some(1)),
        (
            vec![(3, Some(PrepareRoot)), (2, Some(Kernel)), (1, Some(Kernel))],
            Some(3),
        ),
    ] {
        let listed = candidates.iter().map(|(entry, stage)| (*entry, *entry, *stage));
        assert_eq!(furthest(listed), expected, "{candidates:?}");
    }
}

#[test]
fn the_first_deployment_is_not_on_trial_and_the_next_one_is() {
    let mut state = with(&[1]);
    assert_eq!(state.deployments[0].tries, None);
    state.put_first(deployment(2));
    state.begin_trial(&id(2), TRIES);
    assert!(state.get(&id(2)).unwrap().is_on_trial());
    assert!(
        !state.get(&id(1)).unwrap().is_on_trial(),
        "what runs is left as it is"
    );
    // A bad one is nothing to go back to.
    let mut state = with(&[1, 2]);
    state.mark_bad(&id(2));
    state.deployments.retain(|deployment| deployment.id == id(2));
    state.put_first(deployment(3));
    state.begin_trial(&id(3), TRIES);
    assert_eq!(state.get(&id(3)).unwrap().tries, None);
}

#[test]
fn a_rollback_to_what_was_good_has_no_counter_and_one_to_what_was_bad_has_a_new_one() {
    let mut state = with(&[1, 2]);
    state.mark_good(&id(1));
    state.mark_bad(&id(2));
    let target = state.get(&id(1)).unwrap().clone();
    state.choose_again(target, TRIES);
    let first = &state.deployments[0];
    assert_eq!((first.id.clone(), first.good, first.tries), (id(1), true, None));
    let target = state.get(&id(2)).unwrap().clone();
    state.choose_again(target, TRIES);
    assert_eq!(state.deployments[0].tries, Some(TRIES));
}

#[test]
fn arguments_on_trial_leave_the_old_entry_and_come_back_to_it() {
    let mut state = with(&[1]);
    state.mark_good(&id(1));
    let good = state.get(&id(1)).unwrap().clone();
    state.change_kargs(good.clone(), "debug".to_owned(), TRIES);
    let tried = state.get(&id(1)).unwrap().clone();
    assert_eq!((tried.good, tried.tries), (false, Some(TRIES)));
    let fallback = tried.fallback.clone().unwrap();
    assert_eq!(
        (fallback.entry, fallback.kargs.as_str(), fallback.good),
        (good.entry, "quiet", true)
    );
    // Again, before anybody knows: the good ones stay.
    state.change_kargs(tried, "verbose".to_owned(), TRIES);
    assert_eq!(state.get(&id(1)).unwrap().fallback, Some(fallback));
    let mut failed = state.clone();
    assert_eq!(failed.mark_bad(&id(1)).as_deref(), Some("verbose"));
    assert_eq!(failed.get(&id(1)), Some(&good), "as it was, under its old number");
    let mut passed = state.clone();
    assert!(passed.mark_good(&id(1)));
    let now = passed.get(&id(1)).unwrap();
    assert_eq!(
        (now.kargs.as_str(), now.good, now.fallback.as_ref()),
        ("verbose", true, None)
    );
    // Taken back by hand.
    let tried = state.get(&id(1)).unwrap().clone();
    state.change_kargs(tried, "quiet".to_owned(), TRIES);
    let now = state.get(&id(1)).unwrap();
    assert_eq!((now.good, now.tries, now.fallback.as_ref()), (true, None, None));
}

#[test]
fn the_last_that_is_not_bad_is_stayed_on_unless_another_got_further() {
    use Stage::{Checks, Kernel, UserSpace};
    // The second has failed; the first runs, and is on trial.
    for (other, mine, left, expected) in [
        (Some(Kernel), UserSpace, 2, Some(1)),
        (Some(UserSpace), UserSpace, 2, Some(1)),
        (None, UserSpace, 0, Some(1)),
        (Some(Checks), UserSpace, 1, None),
        (Some(Checks), UserSpace, 0, Some(2)),
        (Some(Checks), Checks, 0, Some(1)),
    ] {
        let mut state = with(&[1, 2]);
        for deployment in &mut state.deployments {
            deployment.tries = Some(if deployment.id == id(1) { 1 } else { 0 });
        }
        let got = |deployment: &DeploymentId| if *deployment == id(1) { Some(mine) } else { other };
        let case = format!("{other:?} {mine:?} {left}");
        assert_eq!(state.end_game(&id(1), left, got), expected.map(id), "{case}");
        if let Some(expected) = expected {
            assert_eq!(state.get(&id(expected)).unwrap().tries, None, "{case}");
        }
        // What is good after all is better than what was stayed on.
        state.mark_good(&id(1));
        state.unsettle(&id(1), |other| *other == id(2));
        assert!(state.get(&id(2)).unwrap().is_bad(), "{case}");
    }
    let mut state = with(&[1, 2]);
    assert_eq!(
        state.end_game(&id(2), 0, |_| Some(Checks)),
        None,
        "there is another"
    );
}

#[test]
fn without_checks_nothing_is_put_on_trial() {
    let mut state = State::default();
    for name in [1, 2] {
        state.put_first(deployment(name));
        state.begin_trial(&id(name), 0);
    }
    let target = state.get(&id(2)).unwrap().clone();
    state.change_kargs(target, "debug".to_owned(), 0);
    assert!(
        state
            .deployments
            .iter()
            .all(|deployment| deployment.tries.is_none())
    );
    let kept: Vec<_> = state
        .deployments
        .iter()
        .map(|found| found.fallback.is_some())
        .collect();
    assert_eq!(kept, [true, false], "the old arguments are there for people");
}

#[test]
fn the_last_good_one_is_found_below_those_on_trial() {
    let mut state = with(&[1, 2, 3]);
    let stateroot = "os".parse().unwrap();
    assert_eq!(state.last_good(&stateroot, &id(3)), None);
    state.mark_good(&id(1));
    assert_eq!(state.last_good(&stateroot, &id(3)).unwrap().id, id(1));
    assert_eq!(state.last_good(&"other".parse().unwrap(), &id(3)), None);
}

/// What happens to a machine.
#[derive(Debug, Clone)]
enum Step {
    Upgrade,
    /// The loader takes what it takes; that gets so far, and no further.
    Boot(Stage),
    /// The loader takes what it takes, and its checks pass.
    GoodBoot,
    Rollback(usize),
    Kargs(u8),
    GiveUp(usize),
    /// The oldest that may go goes.
    Retire,
}

fn step() -> impl Strategy<Value = Step> {
    use Stage::{Checks, Kernel, PrepareRoot, UserSpace};
    prop_oneof![
        2 => Just(Step::Upgrade),
        6 => prop::sample::select(vec![Kernel, PrepareRoot, UserSpace, Checks]).prop_map(Step::Boot),
        2 => Just(Step::GoodBoot),
        1 => (0usize..4).prop_map(Step::Rollback),
        1 => (0u8..3).prop_map(Step::Kargs),
        1 => (0usize..4).prop_map(Step::GiveUp),
        1 => Just(Step::Retire),
    ]
}

/// A machine: the truth, and what a loader has made of the entries.
struct Machine {
    state: State,
    /// Tries left in `/boot`, by the number of the entry.
    left: BTreeMap<u64, u32>,
    stages: BTreeMap<DeploymentId, Stage>,
    used: BTreeSet<u64>,
    made: u32,
}

impl Machine {
    /// `/boot` follows the truth: a count that is there stays, unless it is to be lower.
    fn follow(&mut self) {
        let mut left = BTreeMap::new();
        for deployment in &self.state.deployments {
            if let Some(tries) = deployment.tries {
                let there = self.left.get(&deployment.entry).copied().unwrap_or(tries);
                left.insert(deployment.entry, there.min(tries));
            }
        }
        self.left = left;
    }

    /// The entries, the one that a loader takes first.
    fn order(&self) -> Vec<(u64, DeploymentId, bool)> {
        let mut all = Vec::new();
        for deployment in &self.state.deployments {
            let out = self.left.get(&deployment.entry) == Some(&0);
            all.push((deployment.entry, deployment.id.clone(), out));
            all.extend(
                deployment
                    .fallback
                    .iter()
                    .map(|entry| (entry.entry, deployment.id.clone(), false)),
            );
        }
        all.sort_by_key(|(entry, _, out)| (*out, std::cmp::Reverse(*entry)));
        all
    }

    /// As `Sysroot::record_boot`, when entry `running` reached user space.
    fn record(&mut self, running: u64) {
        let before = self.state.clone();
        for deployment in before
            .deployments
            .iter()
            .filter(|deployment| deployment.is_on_trial())
        {
            let left = self.left[&deployment.entry];
            if left == 0 && deployment.entry != running {
                self.state.mark_bad(&deployment.id);
            } else {
                self.state.spend(&deployment.id, left);
            }
        }
        let stages = self.stages.clone();
        self.state.settle(|id| stages.get(id).copied());
        let order = self.order();
        if let Some((_, id, _)) = order.iter().find(|(entry, ..)| *entry == running)
            && let Some(left) = self.left.get(&running)
        {
            self.state.end_game(id, *left, |id| stages.get(id).copied());
        }
        self.follow();
    }

    fn boot(&mut self, stage: Stage, good: bool) {
        let (entry, id, _) = self.order()[0].clone();
        if let Some(left) = self.left.get_mut(&entry) {
            *left = left.saturating_sub(1);
        }
        let best = self.stages.entry(id.clone()).or_insert(stage);
        *best = stage.max(*best);
        if stage >= Stage::UserSpace {
            self.record(entry);
            let newest = self.state.get(&id).is_some_and(|found| found.entry == entry);
            if good && newest {
                self.state.mark_good(&id);
                self.follow();
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Upgrade => {
                self.made += 1;
                self.state.put_first(deployment(self.made));
                self.state.begin_trial(&id(self.made), TRIES);
            }
            Step::Boot(stage) => self.boot(*stage, false),
            Step::GoodBoot => self.boot(Stage::Checks, true),
            Step::Rollback(index) => {
                if let Some(target) = self.state.deployments.get(*index).cloned() {
                    self.state.choose_again(target, TRIES);
                }
            }
            Step::Kargs(kargs) => {
                let target = self.state.deployments[0].clone();
                let kargs = format!("quiet {kargs}");
                if kargs != target.kargs {
                    self.state.change_kargs(target, kargs, TRIES);
                }
            }
            Step::GiveUp(index) => {
                // As `Sysroot::mark_bad`, which refuses where nothing else would boot.
                if let Some(target) = self.state.deployments.get(*index) {
                    let target = target.clone();
                    let other = self
                        .state
                        .deployments
                        .iter()
                        .any(|other| other.id != target.id && !other.is_bad());
                    if other || target.fallback.is_some() {
                        self.state.mark_bad(&target.id);
                    }
                }
            }
            Step::Retire => {
                let newest = self.state.deployments[0].id.clone();
                let good = self
                    .state
                    .last_good(&newest.stateroot, &newest)
                    .map(|found| found.id.clone());
                let goes = self.state.deployments.iter().rposition(|found| {
                    found.id != newest && Some(&found.id) != good.as_ref() && found.is_bad()
                });
                if let Some(position) = goes {
                    self.state.deployments.remove(position);
                }
            }
        }
        self.follow();
    }
}

proptest! {
    #[test]
    fn whatever_happens_there_is_something_to_boot_and_what_is_bad_comes_last(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut machine = Machine {
            state: with(&[1]), left: BTreeMap::new(), stages: BTreeMap::new(), used: [1].into(), made: 1,
        };
        machine.follow();
        for step in &steps {
            let next = machine.state.next_entry;
            machine.take(step);
            let state = &machine.state;
            prop_assert!(state.next_entry >= next);
            for deployment in &state.deployments {
                // A number that was not there before is a new one.
                prop_assert!(deployment.entry >= next || machine.used.contains(&deployment.entry), "{step:?}");
            }
            for entry in state.deployments.iter().map(|deployment| deployment.entry) {
                machine.used.insert(entry);
            }
            prop_assert!(state.deployments.is_sorted_by(|a, b| a.entry > b.entry));
            let order = machine.order();
            prop_assert!(!order.is_empty());
            let sound = state.deployments.iter().any(|deployment| !deployment.is_bad());
            prop_assert!(sound, "{step:?}: everything is bad, and nothing was settled on");
            // A loader never takes one that is known to be bad: it is out of tries, and another is not.
            let (entry, id, out) = &order[0];
            if !out {
                let found = state.get(id).unwrap();
                prop_assert!(!(found.is_bad() && found.entry == *entry), "{step:?}");
            } else {
                // Only those whose last try nobody has judged yet are left.
                prop_assert!(state.deployments.iter().all(|found| found.tries.is_some()));
            }
            for deployment in &state.deployments {
                prop_assert!(!(deployment.good && deployment.tries.is_some()));
                if let Some(fallback) = &deployment.fallback {
                    prop_assert!(fallback.entry < deployment.entry);
                    prop_assert!(deployment.tries.is_some());
                }
            }
        }
    }

    /// The promise itself: a version that never gets good is left after its tries, for one that was good.
    #[test]
    fn a_version_that_fails_is_left_for_the_one_that_was_good(
        stages in proptest::collection::vec(
            prop::sample::select(vec![Stage::Kernel, Stage::PrepareRoot, Stage::UserSpace, Stage::Checks]), 3),
    ) {
        let mut machine = Machine {
            state: with(&[1]), left: BTreeMap::new(), stages: BTreeMap::new(), used: BTreeSet::new(), made: 1,
        };
        machine.take(&Step::GoodBoot);
        machine.take(&Step::Upgrade);
        for stage in stages {
            prop_assert_eq!(&machine.order()[0].1, &id(2));
            machine.take(&Step::Boot(stage));
        }
        prop_assert_eq!(&machine.order()[0].1, &id(1));
        machine.take(&Step::GoodBoot);
        prop_assert!(machine.state.get(&id(2)).unwrap().is_bad());
        prop_assert_eq!(&machine.order()[0].1, &id(1));
    }
}
