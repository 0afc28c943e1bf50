//! Every change, stopped at every point.

use super::*;

#[test]
fn every_interruption_of_every_change_boots_the_old_or_the_new_and_is_finished_by_recover() {
    type Change = fn(&Machine) -> (Vec<DesiredEntry>, Vec<DesiredEntry>);
    let changes: &[(&str, Change)] = &[
        ("the first deployment", |m| (vec![], vec![m.deployment(1, "a")])),
        ("an upgrade with a new kernel", |m| {
            let (old, new) = (m.deployment(1, "a"), m.deployment(2, "b"));
            (vec![old.clone()], vec![old, new])
        }),
        ("an upgrade with the same kernel that drops the oldest", |m| {
            let (oldest, old, new) = (m.deployment(1, "a"), m.deployment(2, "b"), m.deployment(3, "b"));
            (vec![oldest, old.clone()], vec![old, new])
        }),
        ("an upgrade that replaces all there is", |m| {
            (vec![m.deployment(1, "a")], vec![m.deployment(2, "b")])
        }),
        ("a rollback: the old deployment under a new number", |m| {
            let (old, new) = (m.deployment(1, "a"), m.deployment(2, "b"));
            let again = DesiredEntry { n: 3, ..old.clone() };
            (vec![old, new.clone()], vec![new, again])
        }),
        ("marking a deployment as good", |m| {
            let good = m.deployment(1, "a");
            let tried = DesiredEntry {
                tries: Some(3),
                ..good.clone()
            };
            (vec![tried], vec![good])
        }),
    ];
    let mut stops = 0;
    for kind in KINDS {
        for menu in [false, true] {
            for (what, change) in changes {
                let start = || {
                    let machine = Machine::new(kind);
                    if menu {
                        fs::create_dir(machine.path("grub")).unwrap();
                        fs::write(machine.path("grub/atomos.enabled"), "").unwrap();
                    }
                    let (before, after) = change(&machine);
                    machine.recover(&before);
                    (machine, before, after)
                };
                let (machine, before, after) = start();
                let (points, result) = failpoint::trace(|| machine.reconcile(&after));
                result.unwrap();
                let expected = machine.snapshot();
                let newest = |list: &[DesiredEntry]| list.iter().map(|desired| desired.n).max();
                assert_eq!(machine.booted_number(), newest(&after), "{what}");

                let mut switched = false;
                for (index, point) in points.iter().enumerate() {
                    let (machine, ..) = start();
                    let error = failpoint::stop_at(index, || machine.reconcile(&after)).unwrap_err();
                    assert!(matches!(error, BootError::Stopped(_)), "{what}: {error}");
                    let context = format!("{what}, {kind:?}, menu {menu}, stopped at {point}");
                    let booted = machine.booted_number();
                    assert!(
                        booted == newest(&before) || booted == newest(&after),
                        "{context}: boots {booted:?}"
                    );
                    assert!(
                        !switched || booted == newest(&after),
                        "{context}: what was switched does not switch back"
                    );
                    switched |= newest(&before) != newest(&after) && booted == newest(&after);
                    machine.recover(&after);
                    assert_eq!(machine.snapshot(), expected, "{context}");
                    stops += 1;
                }
            }
        }
    }
    println!("stopped {stops} times");
    assert!(stops > 200, "only {stops} interruptions");
}

#[test]
fn an_interrupted_change_can_be_taken_back_as_well_as_finished() {
    for kind in KINDS {
        let start = || {
            let machine = Machine::new(kind);
            let (old, new) = (machine.deployment(1, "a"), machine.deployment(2, "b"));
            machine.recover(std::slice::from_ref(&old));
            (machine, old, new)
        };
        let (machine, old, new) = start();
        let before = machine.snapshot();
        let (points, _) = failpoint::trace(|| machine.reconcile(&[old.clone(), new.clone()]));
        for (index, point) in points.iter().enumerate() {
            let (machine, ..) = start();
            failpoint::stop_at(index, || machine.reconcile(&[old.clone(), new.clone()])).unwrap_err();
            machine.recover(std::slice::from_ref(&old));
            assert_eq!(machine.snapshot(), before, "{kind:?}, stopped at {point}");
        }
    }
}
