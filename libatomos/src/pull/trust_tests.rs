//! Attacks on trust, each tried. `docs/threat-model.md` names these tests.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use super::tests::{NOW, World, os};
use super::*;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::progress::NoProgress;
use crate::publish::{PublishError, PublishOptions, RefOutcome, SiteDir, publish};
use crate::remote::unverified_commits;
use crate::sign::{Envelope, KEYS_TYPE, KeySet, Role, SecretKey, Signer, TrustedKeys};
use crate::site::{RECORD_TYPE, RELEASE_TYPE, Record, Release, key_set_path};

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// Seconds in a day.
const DAY: i64 = 24 * 3600;

impl World {
    fn try_pull(&self, change: impl Fn(&mut SessionOptions)) -> Result<PullReport, PullError> {
        self.pull_with(Selector::Newest, &self.session(change), &PullOptions::default())
    }

    fn record_file(&self) -> std::path::PathBuf {
        self.site().join("refs/os")
    }

    /// Replaces the record by a changed one that `signer` signs.
    fn forge(&self, signer: &SecretKey, change: impl Fn(&mut Record)) {
        let bytes = std::fs::read(self.record_file()).unwrap();
        let envelope = Envelope::decode(&bytes).unwrap();
        let mut record = Record::from_payload(envelope.unverified_payload()).unwrap();
        change(&mut record);
        let envelope = Envelope::sign(RECORD_TYPE, record.to_payload(), &[signer]).unwrap();
        std::fs::write(self.record_file(), envelope.encode()).unwrap();
    }

    /// Publishes key set `number`, which has `new` in every role, signed by `signers`.
    fn rotate(&self, number: u64, new: &SecretKey, signers: &[&SecretKey]) {
        let role = Role {
            keys: [new.public().id()].into(),
            threshold: 1,
        };
        let set = KeySet {
            repository: self.publisher.config().id.clone(),
            number,
            time: NOW,
            expires: None,
            keys: [(new.public().id(), new.public())].into(),
            root: role.clone(),
            record: role,
            release: None,
        };
        let signers: Vec<&dyn Signer> = signers.iter().map(|key| *key as &dyn Signer).collect();
        let envelope = Envelope::sign(KEYS_TYPE, set.to_payload(), &signers).unwrap();
        let path = self.site().join(key_set_path(number));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, envelope.encode()).unwrap();
    }

    fn publish_by(&self, key: &SecretKey, time: i64) {
        self.publish_with(|options| {
            options.time = Some(time);
            options.renew = true;
            options.signers = vec![key_of(key)];
            options.pinned = vec![self::key(1).public()];
        });
    }
}

/// Keys live as long as the tests do.
fn key_of(key: &SecretKey) -> &'static dyn Signer {
    let seed_holder: &'static SecretKey = Box::leak(Box::new(SecretKey::parse(&key.to_pem()).unwrap()));
    seed_holder
}

#[test]
fn a_record_by_another_key_is_refused_and_nothing_changes() {
    let world = World::new();
    world.release("1");
    world.forge(&key(9), |_| {});
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Untrusted { .. }), "{error}");
    assert!(world.client.refs().unwrap().is_empty());
}

#[test]
fn a_commit_that_was_swapped_under_a_good_record_is_refused() {
    let world = World::new();
    world.release("1");
    // The release is another file than the record names.
    let releases = world.site().join("releases");
    let file = std::fs::read_dir(&releases)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(error.to_string().contains("not those of its name"), "{error}");
}

#[test]
fn an_older_record_is_a_lagging_mirror_and_not_a_new_version() {
    let world = World::new();
    world.release("1");
    let old = std::fs::read(world.record_file()).unwrap();
    world.pull();
    world.write("usr/bin/new", b"2");
    world.release("2");
    let report = world.pull();
    std::fs::write(world.record_file(), &old).unwrap();
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Older {
                seen: (0, 2),
                found: (0, 1),
                ..
            }
        ),
        "{error}"
    );
    // Not even a downgrade makes it the newest: `REF@VERSION` is how to ask for an old one.
    assert!(world.try_pull(|options| options.allow_downgrade = true).is_err());
    let local = world.client.ref_optional(&"origin:os".parse().unwrap()).unwrap();
    assert_eq!(local, Some(report.refs[0].commit));
}

#[test]
fn a_mirror_that_lags_is_passed_over_for_one_that_does_not() {
    let world = World::new();
    world.release("1");
    let lagging = world.scratch.path().join("lagging");
    copy(&world.site(), &lagging);
    world.write("usr/bin/new", b"2");
    world.release("2");
    world.pull();
    world.remote(|config| config.urls.insert(0, lagging.to_str().unwrap().to_owned()));
    world.write("usr/bin/new", b"3");
    let third = world.release("3");
    let report = world.pull();
    assert_eq!(report.refs[0].commit, third);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn two_truths_of_one_sequence_are_refused() {
    let world = World::new();
    world.release("1");
    world.pull();
    world.write("usr/bin/new", b"2");
    world.release("2");
    world.forge(&key(1), |record| record.sequence = 1);
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(
        matches!(error, PullError::Equivocation { sequence: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_record_that_nobody_renewed_is_refused_until_the_publisher_signs_again() {
    let world = World::new();
    let first = world.release("1");
    let late = NOW + 31 * DAY;
    let error = world.try_pull(|options| options.now = Some(late)).unwrap_err();
    assert!(matches!(error, PullError::Expired { .. }), "{error}");
    // The publisher slept past the expiry, and signs again: the same release.
    world.publish_by(&key(1), late);
    let report = world.try_pull(|options| options.now = Some(late)).unwrap();
    assert_eq!((report.refs[0].commit, report.refs[0].number), (first, 1));
    // What is here is no less good for that: it can be deployed whatever the clock says.
    assert!(world.client.resolve_commit("origin:os").is_ok());
}

#[test]
fn a_clock_of_1970_believes_what_it_can_and_cannot_be_used_to_revive_the_past() {
    let world = World::new();
    world.release("1");
    // A machine without a clock takes it: nothing is expired in 1970.
    world.try_pull(|options| options.now = Some(0)).unwrap();
    world.write("usr/bin/new", b"2");
    world.commit("2");
    world.publish_by(&key(1), NOW + 60 * DAY);
    world.try_pull(|options| options.now = Some(0)).unwrap();
    // Now it knows that it is later than that, so a record which had expired by then is refused in 1970, too.
    world.forge(&key(1), |record| {
        record.sequence += 1;
        record.expires = NOW + 50 * DAY;
    });
    let error = world.try_pull(|options| options.now = Some(0)).unwrap_err();
    assert!(
        matches!(error, PullError::Expired { now, .. } if now == NOW + 60 * DAY),
        "{error}"
    );
    // And a machine whose system was built later knows it from the first.
    let fresh = World::new();
    fresh.release("1");
    let error = fresh
        .try_pull(|options| {
            options.now = Some(0);
            options.not_before = NOW + 31 * DAY;
        })
        .unwrap_err();
    assert!(matches!(error, PullError::Expired { .. }), "{error}");
}

#[test]
fn two_years_offline_across_three_rotations_and_the_machine_finds_its_way() {
    let world = World::new();
    world.release("1");
    world.pull();
    let later = NOW + 730 * DAY;
    for number in 1..=3u8 {
        world.rotate(
            u64::from(number),
            &key(number + 10),
            &[&key(if number == 1 { 1 } else { number + 9 }), &key(number + 10)],
        );
    }
    world.write("usr/bin/new", b"2");
    let second = world.commit("2");
    world.publish_by(&key(13), later);
    let report = world.try_pull(|options| options.now = Some(later + 1)).unwrap();
    assert_eq!(report.refs[0].commit, second);
    // The first key is worth nothing any more, whatever it signs.
    world.forge(&key(1), |record| {
        record.keys = 0;
        record.sequence = 1_000_000;
    });
    let error = world
        .try_pull(|options| options.now = Some(later + 2))
        .unwrap_err();
    assert!(matches!(error, PullError::Older { .. }), "{error}");
    world.forge(&key(1), |record| record.keys = 3);
    let error = world
        .try_pull(|options| options.now = Some(later + 2))
        .unwrap_err();
    assert!(matches!(error, PullError::Untrusted { .. }), "{error}");
}

/// Whoever can write to a site's directory, and has no key, does not get the publisher's signature by naming another key set.
#[test]
fn nothing_is_signed_anew_that_no_key_of_the_publisher_signed() {
    let world = World::new();
    world.release("1");
    let renew = || {
        let options = PublishOptions {
            signers: vec![key_of(&key(11))],
            pinned: vec![key(1).public()],
            renew: true,
            time: Some(NOW),
            ..PublishOptions::default()
        };
        publish(
            &world.publisher,
            &world.site(),
            &options,
            &NoProgress,
            &Cancel::new(),
        )
    };
    world.rotate(1, &key(11), &[&key(1), &key(11)]);
    // Of before the rotation, and honest.
    renew().unwrap();
    let good = std::fs::read(world.record_file()).unwrap();
    let given = TrustedKeys::pinned([key(1).public()]).unwrap();
    let site = SiteDir::open(&world.site()).unwrap();
    let findings = || {
        site.fsck(Some(&given), &NoProgress, &Cancel::new())
            .unwrap()
            .findings
    };
    assert!(findings().is_empty());
    for number in [0, 1, 2, u64::MAX] {
        world.forge(&key(66), |record| record.keys = number);
        let forged = std::fs::read(world.record_file()).unwrap();
        renew().unwrap_err();
        assert_eq!(std::fs::read(world.record_file()).unwrap(), forged, "{number}");
        assert!(!findings().is_empty(), "{number}");
        std::fs::write(world.record_file(), &good).unwrap();
    }
    renew().unwrap();
}

#[test]
fn a_key_set_that_the_last_one_did_not_sign_is_refused() {
    let world = World::new();
    world.release("1");
    world.pull();
    world.rotate(1, &key(11), &[&key(11)]);
    world.forge(&key(11), |record| {
        record.keys = 1;
        record.sequence = 1;
    });
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Untrusted { .. }), "{error}");
}

#[test]
fn a_counter_that_somebody_ran_forward_is_repaired_by_a_rotation() {
    let world = World::new();
    world.release("1");
    // Whoever stole the key once signed the last sequence that there is.
    world.forge(&key(1), |record| record.sequence = u64::MAX);
    world.pull();
    world.forge(&key(1), |record| record.sequence = 2);
    assert!(matches!(
        world.try_pull(|_| {}).unwrap_err(),
        PullError::Older { .. }
    ));
    world.rotate(1, &key(11), &[&key(1), &key(11)]);
    world.write("usr/bin/new", b"2");
    let second = world.commit("2");
    world.publish_by(&key(11), NOW);
    assert_eq!(world.pull().refs[0].commit, second);
}

#[test]
fn a_clock_that_somebody_ran_forward_is_repaired_by_a_rotation() {
    let world = World::new();
    world.release("1");
    // Whoever stole the key, or a publisher whose clock is wrong, signs a record of another century.
    world.forge(&key(1), |record| {
        record.sequence += 1;
        record.time = NOW + 36500 * DAY;
        record.expires = record.time + DAY;
    });
    world.pull();
    world.forge(&key(1), |record| {
        record.sequence += 1;
        record.time = NOW;
        record.expires = NOW + 30 * DAY;
    });
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Expired { .. }), "{error}");
    world.rotate(1, &key(11), &[&key(1), &key(11)]);
    world.write("usr/bin/new", b"2");
    let second = world.commit("2");
    world.publish_by(&key(11), NOW + DAY);
    assert_eq!(world.pull().refs[0].commit, second);
    // From here on the new set's records say how late it is.
    world.forge(&key(11), |record| {
        record.sequence += 1;
        record.expires = NOW + DAY - 1;
    });
    let error = world.try_pull(|options| options.now = Some(0)).unwrap_err();
    assert!(
        matches!(error, PullError::Expired { now, .. } if now == NOW + DAY),
        "{error}"
    );
}

#[test]
fn a_key_set_that_has_expired_is_told_from_a_record_that_has() {
    let world = World::new();
    world.release("1");
    let later = |days: i64| {
        world
            .try_pull(|options| options.now = Some(NOW + days * DAY))
            .unwrap_err()
    };
    let error = later(31);
    assert!(
        matches!(error, PullError::Expired { key_set: None, .. }),
        "{error}"
    );
    world.rotate(1, &key(11), &[&key(1), &key(11)]);
    let path = world.site().join(key_set_path(1));
    let envelope = Envelope::decode(&std::fs::read(&path).unwrap()).unwrap();
    let mut set = KeySet::from_payload(envelope.unverified_payload()).unwrap();
    set.expires = Some(NOW + 10 * DAY);
    let envelope = Envelope::sign(KEYS_TYPE, set.to_payload(), &[&key(1), &key(11)]).unwrap();
    std::fs::write(&path, envelope.encode()).unwrap();
    world.publish_by(&key(11), NOW);
    let error = later(11);
    assert!(
        matches!(&error, PullError::Expired { key_set: Some(1), expires, .. } if *expires == NOW + 10 * DAY),
        "{error}"
    );
    assert!(
        error.to_string().starts_with("key set 1, which verifies "),
        "{error}"
    );
}

#[test]
fn nothing_is_signed_that_machines_would_take_for_expired() {
    let world = World::new();
    let attempt = |time: i64, key: &SecretKey| {
        let options = PublishOptions {
            signers: vec![key],
            time: Some(time),
            renew: true,
            ..PublishOptions::default()
        };
        publish(
            &world.publisher,
            &world.site(),
            &options,
            &NoProgress,
            &Cancel::new(),
        )
    };
    // The system is of a later time than the end of what is signed: whoever runs it would believe nothing any more.
    let made = world.commit("1");
    let made = world.publisher.load_commit(&made).unwrap().time;
    let error = attempt(made - 31 * DAY, &key(1)).unwrap_err();
    assert!(
        matches!(error, PublishError::Clock { what: "commit", time, .. } if time == made),
        "{error}"
    );
    attempt(made - 29 * DAY, &key(1)).unwrap();
    // And so is the last record.
    attempt(NOW + 31 * DAY, &key(1)).unwrap();
    let before = std::fs::read(world.record_file()).unwrap();
    let error = attempt(NOW, &key(1)).unwrap_err();
    assert!(
        matches!(
            error,
            PublishError::Clock {
                what: "last record",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read(world.record_file()).unwrap(), before);
    attempt(NOW + 2 * DAY, &key(1)).unwrap();
}

#[test]
fn a_counter_at_its_end_is_not_counted_on() {
    let world = World::new();
    world.release("1");
    world.forge(&key(1), |record| record.sequence = u64::MAX);
    let options = PublishOptions {
        signers: vec![&world.key],
        time: Some(NOW),
        renew: true,
        ..PublishOptions::default()
    };
    let error = publish(
        &world.publisher,
        &world.site(),
        &options,
        &NoProgress,
        &Cancel::new(),
    )
    .unwrap_err();
    assert!(matches!(error, PublishError::LastSequence { .. }), "{error}");
}

#[test]
fn what_took_the_place_of_a_withdrawn_release_is_renewed_and_goes_over_to_new_keys() {
    let world = World::new();
    let first = world.release("1");
    world.write("usr/bin/new", b"2");
    world.release("2");
    let withdraw = |time| {
        crate::publish::withdraw(
            &world.site(),
            &os(),
            "2",
            "it is bad",
            &[&world.key],
            &[],
            Some(time),
        )
    };
    let error = withdraw(NOW - 31 * DAY).unwrap_err();
    assert!(matches!(error, PublishError::Clock { .. }), "{error}");
    withdraw(NOW).unwrap();
    let attempt = |renew, time| {
        let options = PublishOptions {
            signers: vec![&world.key],
            time: Some(time),
            renew,
            ..PublishOptions::default()
        };
        publish(
            &world.publisher,
            &world.site(),
            &options,
            &NoProgress,
            &Cancel::new(),
        )
    };
    let report = attempt(false, NOW).unwrap();
    let published = &report.refs[0];
    assert_eq!(
        (published.commit, published.outcome),
        (first, RefOutcome::Unchanged)
    );
    assert_eq!(report.withdrawn[0].version, "2");
    // When it is due it is renewed as any other.
    let report = attempt(false, NOW + 25 * DAY).unwrap();
    assert_eq!(report.refs[0].outcome, RefOutcome::Renewed);
    let late = NOW + 40 * DAY;
    let report = attempt(true, late).unwrap();
    assert_eq!((report.refs[0].commit, report.refs[0].number), (first, 1));
    let report = world.try_pull(|options| options.now = Some(late)).unwrap();
    assert_eq!(report.refs[0].commit, first);
    let error = world
        .pull_with(
            Selector::Version("2".to_owned()),
            &world.session(|options| options.now = Some(late)),
            &PullOptions::default(),
        )
        .unwrap_err();
    assert!(matches!(error, PullError::Withdrawn { .. }), "{error}");
}

#[test]
fn a_release_number_that_somebody_ran_forward_is_repaired_by_a_rotation() {
    let world = World::new();
    world.release("1");
    world.pull();
    let honest = world.scratch.path().join("honest");
    copy(&world.site(), &honest);
    // Whoever stole the key makes a release of their own, with the last number there is.
    world.write("usr/bin/evil", b"evil");
    let evil = world.release("evil");
    world.forge(&key(1), |record| {
        let releases = world.site().join("releases");
        let bytes = std::fs::read(releases.join(record.release.to_string())).unwrap();
        let envelope = Envelope::decode(&bytes).unwrap();
        let mut release = Release::from_payload(envelope.unverified_payload()).unwrap();
        release.number = u64::MAX;
        let bytes = Envelope::sign(RELEASE_TYPE, release.to_payload(), &[&key(1)])
            .unwrap()
            .encode();
        record.number = u64::MAX;
        record.sequence = u64::MAX;
        record.release = Digest::of(&bytes);
        record.release_size = bytes.len() as u64;
        std::fs::write(releases.join(record.release.to_string()), bytes).unwrap();
    });
    assert_eq!(world.pull().refs[0].number, u64::MAX);
    // The publisher has a new key, and the next release has the next number.
    std::fs::remove_dir_all(world.site()).unwrap();
    copy(&honest, &world.site());
    world.rotate(1, &key(11), &[&key(1), &key(11)]);
    std::fs::remove_file(world.tree().join("usr/bin/evil")).unwrap();
    let second = world.commit("2");
    world.publish_by(&key(11), NOW);
    let report = world.pull();
    assert_eq!((report.refs[0].commit, report.refs[0].number), (second, 2));
    assert_ne!(second, evil);
}

#[test]
fn the_record_of_another_ref_or_repository_is_refused_although_the_key_is_right() {
    let world = World::new();
    world.release("1");
    world.forge(&key(1), |record| record.reference = "staging".parse().unwrap());
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(
        matches!(error, PullError::OtherRecord { what: "ref", .. }),
        "{error}"
    );

    let world = World::new();
    world.release("1");
    world.pull();
    // Staging signs with the same key, and somebody serves its site as production's.
    let staging = World::new();
    staging.write("usr/bin/new", b"staging");
    staging.release("2");
    staging.forge(&key(1), |record| record.sequence = 50);
    std::fs::remove_dir_all(world.site()).unwrap();
    copy(&staging.site(), &world.site());
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            PullError::OtherRecord {
                what: "repository",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_version_for_other_machines_is_refused() {
    let world = World::new();
    world.commit("1");
    world.publish_with(|options| options.compatible = vec!["board-a".to_owned(), "board-b".to_owned()]);
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Incompatible { .. }), "{error}");
    world.remote(|config| config.compatible = vec!["board-b".to_owned()]);
    world.pull();
}

#[test]
fn a_barrier_is_passed_before_what_lies_behind_it() {
    let world = World::new();
    world.release("1");
    world.pull();
    world.write("usr/bin/new", b"2");
    let barrier = world.release("2");
    world.write("usr/bin/new", b"3");
    let third = world.commit("3");
    world.publish_with(|options| options.min_from = Some(2));
    assert_eq!(world.pull().refs[0].commit, barrier);
    assert_eq!(world.pull().refs[0].commit, third);
    // Whoever has nothing yet has nothing to bring past it.
    let error = world.pull_with(
        Selector::Newest,
        &world.session(|_| {}),
        &PullOptions {
            from: Some(crate::digest::CommitId::new(crate::digest::Digest::of(
                b"who knows",
            ))),
            ..PullOptions::default()
        },
    );
    assert!(error.is_ok(), "nothing is new, so nothing is to be judged");
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let world = World::new();
    world.release("1");
    world.forge(&key(1), |record| record.critical = vec!["rollout".to_owned()]);
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Site { .. }), "{error}");
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
}

#[test]
fn without_verification_everything_comes_and_is_remembered_as_such() {
    let world = World::new();
    let commit = world.release("1");
    world.forge(&key(9), |_| {});
    world.remote(|config| {
        config.keys.clear();
        config.no_verify = true;
    });
    world.try_pull(|_| {}).unwrap();
    assert!(unverified_commits(&world.client).unwrap().contains(&commit));
    // The same remote with a key: what is here is looked at again, and only then known.
    world.remote(|_| {});
    world.try_pull(|_| {}).unwrap_err();
    assert!(unverified_commits(&world.client).unwrap().contains(&commit));
    world.forge(&key(1), |_| {});
    assert!(!world.pull().unchanged);
    assert_eq!(unverified_commits(&world.client).unwrap(), [].into());
    assert!(world.pull().unchanged);
}

#[test]
fn what_nobody_vouched_for_is_marked_before_a_ref_names_it_whatever_stops_the_pull() {
    let world = World::new();
    let commit = world.release("1");
    world.remote(|config| {
        config.keys.clear();
        config.no_verify = true;
    });
    let mut stopped = 0;
    for step in 0.. {
        let result = crate::failpoint::stop_at(step, || world.try_pull(|_| {}));
        let named = !world.client.refs().unwrap().is_empty();
        let marked = unverified_commits(&world.client).unwrap().contains(&commit);
        assert!(marked || !named, "step {step}");
        if result.is_ok() {
            assert!(named);
            break;
        }
        stopped += 1;
    }
    assert!(stopped >= 3, "{stopped} steps");
    // And the mark goes when somebody vouches, whatever stops that.
    world.remote(|_| {});
    for step in 0.. {
        let result = crate::failpoint::stop_at(step, || world.try_pull(|_| {}));
        if result.is_ok() {
            break;
        }
    }
    assert_eq!(unverified_commits(&world.client).unwrap(), [].into());
}

#[test]
fn a_key_that_is_taken_out_of_the_file_counts_no_more() {
    let world = World::new();
    world.release("1");
    world.remote(|config| config.keys.push(key(2).public().to_pem()));
    world.pull();
    // The stolen key says that there is a newer version, and runs the counter forward.
    world.forge(&key(2), |record| record.sequence = u64::MAX);
    world.try_pull(|_| {}).unwrap();
    world.remote(|_| {});
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Untrusted { .. }), "{error}");
    world.forge(&key(1), |record| record.sequence = 2);
    world.try_pull(|_| {}).unwrap();
}

#[test]
fn keys_in_another_order_leave_what_was_seen() {
    let world = World::new();
    world.release("1");
    let old = std::fs::read(world.record_file()).unwrap();
    let others = [key(2), key(3)].map(|key| key.public().to_pem());
    world.remote(|config| config.keys.extend(others.clone()));
    world.write("usr/bin/new", b"2");
    world.release("2");
    world.pull();
    world.remote(|config| config.keys.splice(..0, others.clone()).for_each(drop));
    std::fs::write(world.record_file(), &old).unwrap();
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Older { .. }), "{error}");
}

/// A machine that has followed a site from one key to the next, and what is remembered of that, as programs wrote it that did not note
/// where the chain began.
fn followed_and_not_noted() -> (World, std::path::PathBuf, Vec<u8>) {
    let world = World::new();
    world.release("1");
    world.pull();
    world.rotate(1, &key(2), &[&key(1), &key(2)]);
    world.publish_by(&key(2), NOW + 1);
    world.pull();
    let file = world.client.dir().path().join("remotes/origin.state");
    let mut state: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(state.as_object_mut().unwrap().remove("pinned").is_some());
    let old = serde_json::to_vec(&state).unwrap();
    std::fs::write(&file, &old).unwrap();
    (world, file, old)
}

#[test]
fn a_chain_of_which_nobody_knows_where_it_began_is_followed_again() {
    let (world, file, old) = followed_and_not_noted();
    assert!(world.try_pull(|_| {}).unwrap().unchanged);
    let state = crate::remote::RemoteState::load(&world.client, &super::tests::name()).unwrap();
    assert_eq!(state.keys.unwrap().number(), 1);
    // From other keys it does not lead there.
    std::fs::write(&file, &old).unwrap();
    world.remote(|config| config.keys = vec![key(7).public().to_pem()]);
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Untrusted { .. }), "{error}");
}

#[test]
fn keys_that_are_taken_back_while_a_pull_runs_move_no_ref() {
    let world = World::new();
    world.release("1");
    let options = world.session(|_| {});
    let cancel = Cancel::new();
    let mut session = Session::open(
        &world.client,
        &super::tests::name(),
        &options,
        &NoProgress,
        &cancel,
    )
    .unwrap();
    session.look(&os()).unwrap();
    let mut config = session.config().clone();
    config.keys = vec![key(7).public().to_pem()];
    assert!(config.replace(&world.client, &super::tests::name()).unwrap());
    let wanted = Wanted {
        reference: os(),
        selector: Selector::Newest,
    };
    let error = session.pull(&[wanted], &PullOptions::default()).unwrap_err();
    assert!(error.to_string().contains("other keys were given"), "{error}");
    assert!(world.client.refs().unwrap().is_empty());
    let file = world.client.dir().path().join("remotes/origin.state");
    assert!(!file.exists());
}

#[test]
fn a_mirror_takes_key_sets_that_lead_from_the_given_keys_to_those_in_use() {
    let mut world = World::new();
    world.release("1");
    world.rotate(1, &key(2), &[&key(1), &key(2)]);
    world.rotate(2, &key(3), &[&key(2), &key(3)]);
    world.publish_by(&key(3), NOW + 1);
    let copy = world.scratch.path().join("copy");
    let mirror = |world: &World| {
        let options = world.session(|_| {});
        let cancel = Cancel::new();
        Session::open(
            &world.client,
            &super::tests::name(),
            &options,
            &NoProgress,
            &cancel,
        )
        .unwrap()
        .mirror(&[os()], &copy, &MirrorOptions::default())
    };
    mirror(&world).unwrap();
    let good = [1, 2].map(|number| std::fs::read(world.site().join(key_set_path(number))).unwrap());
    let read = |dir: &std::path::Path, number| std::fs::read(dir.join(key_set_path(number))).unwrap();
    // What an earlier run took for a key set is judged as what comes.
    for bad in [b"<html>log in</html>".to_vec(), good[1].clone()] {
        std::fs::write(copy.join(key_set_path(1)), bad).unwrap();
        mirror(&world).unwrap();
        assert_eq!(read(&copy, 1), good[0]);
    }
    // From now on the machine is where the chain ends, and a page stands in the place of its beginning.
    std::fs::remove_dir_all(&copy).unwrap();
    std::fs::write(world.site().join(key_set_path(1)), "<html>log in</html>").unwrap();
    let error = mirror(&world).unwrap_err();
    assert!(error.to_string().contains("keys/1"), "{error}");
    assert!(!copy.join(key_set_path(1)).exists());
    assert!(!copy.join("refs/os").exists());
    // One who was given a later set has no way to verify an earlier one, and sees that it is none.
    let set = String::from_utf8(good[1].clone()).unwrap();
    world.start_over();
    world.remote(|config| {
        config.keys.clear();
        config.key_set = Some(set.clone());
    });
    mirror(&world).unwrap_err();
    std::fs::write(world.site().join(key_set_path(1)), &good[0]).unwrap();
    mirror(&world).unwrap();
    assert_eq!(read(&copy, 1), good[0]);
    assert_eq!(read(&copy, 2), good[1]);
}

#[test]
fn who_only_reads_looks_at_what_is_known_and_learns_nothing_new() {
    let world = World::new();
    world.release("1");
    world.pull();
    let config = world.client.dir().path().join("config");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "read-only-compatible = []",
        "read-only-compatible = [\"of-the-future\"]",
    );
    std::fs::write(&config, &text).unwrap();
    assert!(text.contains("of-the-future"), "{text}");
    let client = crate::repo::Repo::open(world.client.dir().path()).unwrap();
    // Two days later it comes again, and there is nobody to write that down.
    let options = world.session(|options| options.now = Some(NOW + 2 * DAY));
    let cancel = Cancel::new();
    let look = || {
        Session::open(&client, &super::tests::name(), &options, &NoProgress, &cancel)
            .unwrap()
            .look(&os())
    };
    look().unwrap();
    world.publish_by(&key(1), NOW + DAY);
    look().unwrap_err();
}

#[test]
fn a_key_that_was_replaced_is_not_believed_again_where_nobody_noted_the_beginning() {
    let (world, file, old) = followed_and_not_noted();
    let known = || {
        let state = crate::remote::RemoteState::load(&world.client, &super::tests::name()).unwrap();
        (state.keys.unwrap().number(), state.pinned.is_some())
    };
    // Whoever stole the key of the beginning makes another set by it.
    let good = std::fs::read(world.site().join(key_set_path(1))).unwrap();
    let record = std::fs::read(world.record_file()).unwrap();
    world.rotate(1, &key(66), &[&key(1), &key(66)]);
    world.forge(&key(66), |record| record.sequence += 1);
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(matches!(error, PullError::Untrusted { .. }), "{error}");
    assert_eq!(known(), (1, false));
    std::fs::write(world.record_file(), &record).unwrap();
    let error = world.try_pull(|_| {}).unwrap_err();
    assert!(error.to_string().contains("keys/1"), "{error}");
    std::fs::write(world.site().join(key_set_path(1)), good).unwrap();
    assert!(world.try_pull(|_| {}).unwrap().unchanged);
    assert_eq!(known(), (1, true));
    // A site that has lost the set keeps nobody out who knows it.
    std::fs::write(&file, &old).unwrap();
    std::fs::remove_file(world.site().join(key_set_path(1))).unwrap();
    assert!(world.try_pull(|_| {}).unwrap().unchanged);
    assert_eq!(known(), (1, true));
}
