//! From a repository to a site in a directory, and from there to another repository.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use std::path::{Path, PathBuf};

use super::*;
use crate::cancel::Cancel;
use crate::checkout::{CheckoutOptions, Ownership, checkout};
use crate::commit::{CommitOptions, commit};
use crate::digest::CommitId;
use crate::fs::Dir;
use crate::names::RefName;
use crate::progress::{NoProgress, Phase};
use crate::publish::{Profile, PublishOptions, publish};
use crate::remote::{RemoteConfig, RemoteName};
use crate::repo::{FsckOptions, Repo, RepoMode};
use crate::sign::{SecretKey, Signer};
use crate::testing::RecordingProgress;

pub(super) const NOW: i64 = 1_800_000_000;

pub(super) struct World {
    pub(super) scratch: tempfile::TempDir,
    pub(super) publisher: Repo,
    pub(super) client: Repo,
    pub(super) key: SecretKey,
}

pub(super) fn name() -> RemoteName {
    "origin".parse().unwrap()
}

pub(super) fn os() -> RefName {
    "os".parse().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

impl World {
    pub(super) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let init = |name: &str| Repo::init(&scratch.path().join(name), RepoMode::BareUser).unwrap();
        let (publisher, client) = (init("publisher"), init("client"));
        let key = SecretKey::from_seed(&[1; 32]);
        let world = Self {
            scratch,
            publisher,
            client,
            key,
        };
        world.remote(|_| {});
        let tree = world.tree();
        std::fs::create_dir_all(tree.join("usr/lib/modules/6.1.0-1")).unwrap();
        for number in 0..40u64 {
            world.write(
                &format!("usr/lib/modules/6.1.0-1/m{number}.ko"),
                &noise(number, 3000 + number as usize * 500),
            );
        }
        world.write("usr/bin/program", &noise(1000, 200_000));
        world.write("usr/share/large", &noise(2000, 10_000_000));
        world.write("usr/share/empty", b"");
        world
    }

    /// A machine that has nothing yet.
    pub(super) fn start_over(&mut self) {
        let path = self.client.dir().path().to_owned();
        std::fs::remove_dir_all(&path).unwrap();
        self.client = Repo::init(&path, RepoMode::BareUser).unwrap();
        self.remote(|_| {});
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.scratch.path().join("tree")
    }

    pub(super) fn site(&self) -> PathBuf {
        self.scratch.path().join("site")
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.tree().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(super) fn remote(&self, change: impl Fn(&mut RemoteConfig)) {
        let mut config = RemoteConfig {
            urls: vec![self.site().to_str().unwrap().to_owned()],
            keys: vec![self.key.public().to_pem()],
            ..RemoteConfig::default()
        };
        change(&mut config);
        config.save(&self.client, &name()).unwrap();
    }

    pub(super) fn commit(&self, version: &str) -> CommitId {
        let options = CommitOptions {
            reference: Some(os()),
            version: version.to_owned(),
            ..CommitOptions::default()
        };
        let tree = Dir::open_ambient(self.tree()).unwrap();
        commit(&self.publisher, tree, &options, &NoProgress, &Cancel::new())
            .unwrap()
            .commit
    }

    pub(super) fn publish_with(
        &self,
        change: impl Fn(&mut PublishOptions<'_>),
    ) -> crate::publish::PublishReport {
        let mut options = PublishOptions {
            signers: vec![&self.key],
            time: Some(NOW),
            ..PublishOptions::default()
        };
        change(&mut options);
        publish(
            &self.publisher,
            &self.site(),
            &options,
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap()
    }

    pub(super) fn release(&self, version: &str) -> CommitId {
        let commit = self.commit(version);
        self.publish_with(|_| {});
        commit
    }

    pub(super) fn session(&self, change: impl Fn(&mut SessionOptions)) -> SessionOptions {
        let mut options = SessionOptions {
            now: Some(NOW + 100),
            backoff: Some(std::time::Duration::from_millis(1)),
            ..SessionOptions::default()
        };
        change(&mut options);
        options
    }

    pub(super) fn pull_with(
        &self,
        wanted: Selector,
        session: &SessionOptions,
        options: &PullOptions,
    ) -> Result<PullReport, PullError> {
        let wanted = [Wanted {
            reference: os(),
            selector: wanted,
        }];
        pull(
            &self.client,
            &name(),
            &wanted,
            session,
            options,
            &NoProgress,
            &Cancel::new(),
        )
    }

    pub(super) fn pull(&self) -> PullReport {
        self.pull_with(Selector::Newest, &self.session(|_| {}), &PullOptions::default())
            .unwrap()
    }

    /// Pulls an older version, or the newest by its name.
    pub(super) fn pull_version(&self, version: &str) -> PullReport {
        let wanted = Selector::Version(version.to_owned());
        self.pull_with(wanted, &self.session(|_| {}), &PullOptions::default())
            .unwrap()
    }

    /// The client's ref, checked out, is the publisher's tree.
    pub(super) fn assert_same_as_tree(&self) {
        let to = self.scratch.path().join("out");
        let _ = std::fs::remove_dir_all(&to);
        let options = CheckoutOptions {
            ownership: Ownership::User,
            ..CheckoutOptions::default()
        };
        checkout(
            &self.client,
            "origin:os",
            &to,
            &options,
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap();
        assert_same(&self.tree(), &to);
        let report = self
            .client
            .fsck(&FsckOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

fn assert_same(a: &Path, b: &Path) {
    let names = |path: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        let (a, b) = (a.join(&name), b.join(&name));
        if a.is_dir() {
            assert_same(&a, &b);
        } else {
            assert!(
                std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(),
                "{}",
                a.display()
            );
        }
    }
}

#[test]
fn a_tree_comes_whole_and_then_only_what_changed() {
    let world = World::new();
    let first = world.release("1");
    let report = world.pull();
    assert_eq!(report.refs[0].commit, first);
    assert_eq!(report.missing_blobs, 42);
    assert_eq!(
        report.traffic.bytes,
        std::fs::metadata(world.site().join("refs/os")).unwrap().len()
            + sizes(&world.site().join("releases"))
            + sizes(&world.site().join("manifests"))
            + report.planned_bytes
    );
    assert!(report.traffic.requests <= 24, "{report:?}");
    world.assert_same_as_tree();

    let again = world.pull();
    assert!(again.unchanged);
    assert_eq!(again.traffic.requests, 1);
    assert_eq!(again.traffic.bytes, 0);

    // A kernel of another version: every module moves and changes a little.
    let modules = world.tree().join("usr/lib/modules");
    std::fs::rename(modules.join("6.1.0-1"), modules.join("6.1.0-2")).unwrap();
    for number in 0..40u64 {
        let mut bytes = noise(number, 3000 + number as usize * 500);
        bytes[100..140].fill(number as u8);
        world.write(&format!("usr/lib/modules/6.1.0-2/m{number}.ko"), &bytes);
    }
    let mut large = noise(2000, 10_000_000);
    large.splice(5_000_000..5_000_000, b"a few new bytes".iter().copied());
    world.write("usr/share/large", &large);
    let second = world.release("2");
    let report = world.pull();
    assert_eq!((report.refs[0].old, report.refs[0].commit), (Some(first), second));
    assert_eq!((report.missing_blobs, report.patched_blobs), (41, 41));
    assert!(report.planned_bytes < 20_000, "{report:?}");
    assert!(report.traffic.requests <= 8, "{report:?}");
    assert!(report.saved_by_patches > 10_000_000, "{report:?}");
    world.assert_same_as_tree();
}

fn sizes(path: &Path) -> u64 {
    std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn thorough_patches_and_no_patches_bring_the_same() {
    for (profile, no_patches) in [(Profile::Thorough, false), (Profile::Fast, true)] {
        let world = World::new();
        world.write("usr/share/large", &noise(2000, 100_000));
        world.release("1");
        world.pull();
        let mut program = noise(1000, 200_000);
        program.splice(10..10, b"shifted".iter().copied());
        world.write("usr/bin/program", &program);
        world.write("usr/bin/new", &noise(77, 5000));
        world.commit("2");
        world.publish_with(|options| {
            options.profile = profile;
            options.no_patches = no_patches;
        });
        let report = world.pull();
        assert_eq!(report.missing_blobs, 2);
        assert_eq!(report.patched_blobs, u64::from(!no_patches));
        world.assert_same_as_tree();
    }
}

#[test]
fn a_machine_many_releases_behind_uses_the_patches_of_the_steps_between() {
    let world = World::new();
    world.release("0");
    world.pull();
    for version in 1..=6u64 {
        // Each release changes another file.
        let mut bytes = noise(version + 30, 3000 + (version as usize + 30) * 500);
        bytes[..8].copy_from_slice(&version.to_le_bytes());
        world.write(&format!("usr/lib/modules/6.1.0-1/m{}.ko", version + 30), &bytes);
        world.release(&version.to_string());
    }
    let report = world.pull();
    assert_eq!((report.missing_blobs, report.patched_blobs), (6, 6));
    assert!(report.planned_bytes < 2000, "{report:?}");
    world.assert_same_as_tree();
}

#[test]
fn publishing_what_is_published_changes_no_byte() {
    let world = World::new();
    world.release("1");
    let before = listing(&world.site());
    let report = world.publish_with(|_| {});
    assert_eq!(report.refs[0].outcome, crate::publish::RefOutcome::Unchanged);
    assert_eq!(listing(&world.site()), before);
    let report = world.publish_with(|options| options.renew = true);
    assert_eq!(report.refs[0].outcome, crate::publish::RefOutcome::Renewed);
    assert_eq!(report.refs[0].sequence, 2);
}

fn listing(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut stack = vec![path.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else {
                files.push((path.clone(), std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn limits_stop_a_pull_before_the_first_blob() {
    let world = World::new();
    world.release("1");
    let options = PullOptions {
        max_bytes: Some(1000),
        ..PullOptions::default()
    };
    let error = world
        .pull_with(Selector::Newest, &world.session(|_| {}), &options)
        .unwrap_err();
    assert!(
        matches!(error, PullError::TooManyBytes { allowed: 1000, .. }),
        "{error}"
    );
    let dry = PullOptions {
        dry_run: true,
        ..PullOptions::default()
    };
    let report = world
        .pull_with(Selector::Newest, &world.session(|_| {}), &dry)
        .unwrap();
    assert_eq!(report.missing_blobs, 42);
    assert!(world.client.refs().unwrap().is_empty());
}

#[test]
fn a_flipped_bit_in_a_pack_or_an_image_is_had_elsewhere_or_named() {
    let world = World::new();
    world.release("1");
    let flip = |kind: &str| {
        let file = std::fs::read_dir(world.site().join(kind))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    };
    // The image is good, and then the pack is.
    flip("images");
    world.pull();
    world.assert_same_as_tree();
    let world = World::new();
    world.release("1");
    let flip = |kind: &str| {
        let file = std::fs::read_dir(world.site().join(kind))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    };
    flip("images");
    flip("packs");
    let error = world
        .pull_with(Selector::Newest, &world.session(|_| {}), &PullOptions::default())
        .unwrap_err();
    assert!(matches!(error, PullError::BadObject { .. }), "{error}");
    assert!(world.client.refs().unwrap().is_empty());
}

#[test]
fn progress_counts_what_is_wanted_and_not_what_comes_along() {
    let world = World::new();
    let here = world.scratch.path().join("here");
    std::fs::create_dir(&here).unwrap();
    // More pieces than there may be requests.
    for number in 0..120u64 {
        let bytes = noise(3000 + number, 100_000);
        world.write(&format!("usr/share/{number}"), &bytes);
        if number % 2 == 0 {
            std::fs::write(here.join(number.to_string()), &bytes).unwrap();
        }
    }
    world.release("1");
    let local = CommitOptions {
        reference: Some("local".parse().unwrap()),
        ..CommitOptions::default()
    };
    let source = Dir::open_ambient(&here).unwrap();
    commit(&world.client, source, &local, &NoProgress, &Cancel::new()).unwrap();

    let progress = RecordingProgress::default();
    let wanted = [Wanted {
        reference: os(),
        selector: Selector::Newest,
    }];
    let (session, options) = (world.session(|_| {}), PullOptions::default());
    let report = pull(
        &world.client,
        &name(),
        &wanted,
        &session,
        &options,
        &progress,
        &Cancel::new(),
    )
    .unwrap();
    let done = progress.done(Phase::Pull);
    assert!(
        progress.began().contains(&(Phase::Pull, Some(done))),
        "{progress:?}"
    );
    assert!(done < report.planned_bytes, "nothing came along: {report:?}");
    world.assert_same_as_tree();
}
