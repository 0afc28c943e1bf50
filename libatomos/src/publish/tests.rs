//! What publishing refuses, and what it says of a site, where that takes another time than now.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use std::path::PathBuf;

use super::*;
use crate::cancel::Cancel;
use crate::progress::NoProgress;
use crate::sign::{Envelope, KEYS_TYPE, KeySet, Role, SecretKey};
use crate::testing::{TestRepo, small_tree};

const NOW: i64 = 1_700_000_000;

/// Seconds in a day.
const DAY: i64 = 24 * 3600;

/// A repository with the ref `os`, and a key.
struct World {
    repo: TestRepo,
    key: SecretKey,
}

impl World {
    fn new() -> Self {
        let repo = TestRepo::with_mode(crate::repo::RepoMode::BareUser);
        let tree = repo.scratch().join("tree");
        small_tree(&tree, 3, 20);
        let _ = repo.commit("os", &tree);
        let key = SecretKey::from_seed(&[1; 32]);
        Self { repo, key }
    }

    fn site(&self) -> PathBuf {
        self.repo.scratch().join("site")
    }

    fn publish(
        &self,
        time: i64,
        change: impl Fn(&mut PublishOptions<'_>),
    ) -> Result<PublishReport, PublishError> {
        let mut options = PublishOptions {
            signers: vec![&self.key],
            time: Some(time),
            ..PublishOptions::default()
        };
        change(&mut options);
        publish(
            self.repo.repo(),
            &self.site(),
            &options,
            &NoProgress,
            &Cancel::new(),
        )
    }

    /// Returns key set 1, which has the key in every role.
    fn key_set(&self, expires: i64) -> Vec<u8> {
        self.key_set_of(1, expires)
    }

    fn key_set_of(&self, number: u64, expires: i64) -> Vec<u8> {
        let role = Role {
            keys: [self.key.public().id()].into(),
            threshold: 1,
        };
        let set = KeySet {
            repository: self.repo.repo().config().id.clone(),
            number,
            time: NOW,
            expires: Some(expires),
            keys: [(self.key.public().id(), self.key.public())].into(),
            root: role.clone(),
            record: role,
            release: None,
        };
        Envelope::sign(KEYS_TYPE, set.to_payload(), &[&self.key])
            .unwrap()
            .encode()
    }

    fn record(&self) -> crate::site::Record {
        let bytes = std::fs::read(self.site().join("refs/os")).unwrap();
        let envelope = Envelope::decode(&bytes).unwrap();
        crate::site::Record::from_payload(envelope.unverified_payload()).unwrap()
    }
}

#[test]
fn no_record_outlives_its_key_set_and_an_expired_set_signs_none() {
    let world = World::new();
    world.publish(NOW, |_| {}).unwrap();
    let set = world.key_set(NOW + 40 * DAY);
    let report = world
        .publish(NOW, |options| options.key_set = Some(set.clone()))
        .unwrap();
    assert_eq!(report.key_set_expires, Some(NOW + 40 * DAY));
    assert_eq!(world.record().expires, NOW + 30 * DAY);
    world
        .publish(NOW + 20 * DAY, |options| options.renew = true)
        .unwrap();
    assert_eq!(world.record().expires, NOW + 40 * DAY);
    let before = std::fs::read(world.site().join("refs/os")).unwrap();
    for renew in [true, false] {
        let error = world
            .publish(NOW + 40 * DAY, |options| options.renew = renew)
            .unwrap_err();
        assert!(
            matches!(error, PublishError::KeySetExpired { number: 1, .. }),
            "{error}"
        );
    }
    assert_eq!(std::fs::read(world.site().join("refs/os")).unwrap(), before);
    let os = "os".parse().unwrap();
    let error = withdraw(
        &world.site(),
        &os,
        "1",
        "why",
        &[&world.key],
        &[],
        Some(NOW + 41 * DAY),
    );
    assert!(
        matches!(error, Err(PublishError::KeySetExpired { .. })),
        "{error:?}"
    );
}

#[test]
fn a_look_at_a_site_tells_of_what_has_expired() {
    let world = World::new();
    // Long ago.
    world.publish(NOW, |_| {}).unwrap();
    let set = world.key_set(NOW + 20 * DAY);
    world
        .publish(NOW, |options| options.key_set = Some(set.clone()))
        .unwrap();
    let site = SiteDir::open(&world.site()).unwrap();
    let report = site.fsck(None, &NoProgress, &Cancel::new()).unwrap();
    assert_eq!(report.findings, []);
    let files: Vec<&str> = report.warnings.iter().map(|one| one.file.as_str()).collect();
    assert_eq!(files, ["keys/1", "refs/os"]);
}

#[test]
fn pruning_keeps_what_was_withdrawn_within_the_grace() {
    let world = World::new();
    world.publish(NOW, |_| {}).unwrap();
    let tree = world.repo.scratch().join("tree");
    std::fs::write(tree.join("more"), [7; 5000]).unwrap();
    let _ = world.repo.commit("os", &tree);
    let report = world.publish(NOW, |_| {}).unwrap();
    let second = report.refs[0].commit.to_string();
    let images = || {
        let entries = std::fs::read_dir(world.site().join("images")).unwrap();
        entries.count()
    };
    assert_eq!(images(), 2);
    // All files are older than the grace. That the newest release is named no more is new.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let os = "os".parse().unwrap();
    withdraw(&world.site(), &os, &second, "why", &[&world.key], &[], None).unwrap();
    let prune = |grace| {
        let options = SitePruneOptions {
            keep: 1,
            grace,
            ..SitePruneOptions::default()
        };
        prune_site(&world.site(), &options, &Cancel::new()).unwrap()
    };
    assert_eq!(prune(2).removed, Vec::<String>::new());
    prune(0);
    assert_eq!(images(), 1);
}

#[test]
fn another_of_several_keys_does_not_begin_anew_what_the_first_has_signed() {
    let world = World::new();
    world.publish(NOW, |_| {}).unwrap();
    let record = world.site().join("refs/os");
    let bytes = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    let other = SecretKey::from_seed(&[2; 32]);
    let by_the_other = || {
        let options = PublishOptions {
            signers: vec![&other],
            pinned: vec![world.key.public()],
            time: Some(NOW + 1),
            renew: true,
            ..PublishOptions::default()
        };
        let cancel = Cancel::new();
        publish(world.repo.repo(), &world.site(), &options, &NoProgress, &cancel)
    };
    let error = by_the_other().unwrap_err();
    assert!(
        matches!(error, PublishError::RecordLost { number: 1, .. }),
        "{error}"
    );
    std::fs::write(&record, bytes).unwrap();
    assert_eq!(by_the_other().unwrap().refs[0].sequence, 2);
}

#[test]
fn directories_that_are_left_of_a_ref_keep_no_name_from_another() {
    let world = World::new();
    let tree = world.repo.scratch().join("tree");
    world.publish(NOW, |_| {}).unwrap();
    let left = world.site().join("refs/a/b");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join(".c.new"), "a record that was not to be").unwrap();
    std::fs::write(left.join(".other"), "of somebody else").unwrap();
    let _ = world.repo.commit("a", &tree);
    world.publish(NOW, |_| {}).unwrap_err();
    assert!(left.join(".other").exists());
    std::fs::remove_file(left.join(".other")).unwrap();
    let report = world.publish(NOW, |_| {}).unwrap();
    assert_eq!(report.refs.len(), 2);
    assert!(world.site().join("refs/a").is_file());
}

#[test]
fn the_end_of_a_set_that_was_replaced_is_not_that_of_what_is_signed_by_the_next() {
    let world = World::new();
    let tree = world.repo.scratch().join("tree");
    let os = "os".parse().unwrap();
    world.publish(NOW, |_| {}).unwrap();
    std::fs::write(tree.join("more"), "2").unwrap();
    let _ = world.repo.commit("os", &tree);
    let report = world.publish(NOW, |_| {}).unwrap();
    let second = report.refs[0].commit.to_string();
    let first_set = world.key_set(NOW + DAY);
    world
        .publish(NOW, |options| options.key_set = Some(first_set.clone()))
        .unwrap();
    assert_eq!(world.record().expires, NOW + DAY);
    let _ = world.repo.commit("other", &tree);
    let next_set = world.key_set_of(2, NOW + 300 * DAY);
    world
        .publish(NOW, |options| {
            options.refs = vec!["other".parse().unwrap()];
            options.key_set = Some(next_set.clone());
        })
        .unwrap();
    let time = NOW + 100;
    withdraw(&world.site(), &os, &second, "why", &[&world.key], &[], Some(time)).unwrap();
    let record = world.record();
    assert_eq!((record.keys, record.expires), (2, time + 30 * DAY));
}

#[test]
fn long_reasons_of_long_ago_keep_nobody_from_publishing() {
    let world = World::new();
    world.publish(NOW, |_| {}).unwrap();
    let mut record = world.record();
    for (number, len) in [(7, 44_000), (8, 10)] {
        record.withdrawn.push(crate::site::Withdrawn {
            number,
            commit: CommitId::new(crate::digest::Digest::of(&[number as u8])),
            version: number.to_string(),
            reason: "x".repeat(len),
        });
    }
    let bytes = publisher::sign_record(&record, &[&world.key]).unwrap();
    std::fs::write(world.site().join("refs/os"), bytes).unwrap();
    let machines: Vec<String> = (0..40).map(|number| format!("{number:0200}")).collect();
    world
        .publish(NOW, |options| options.compatible.clone_from(&machines))
        .unwrap();
    let reasons: Vec<usize> = world
        .record()
        .withdrawn
        .iter()
        .map(|one| one.reason.len())
        .collect();
    assert_eq!(reasons, [0, 10]);
}
