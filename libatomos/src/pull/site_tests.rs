//! Looking after a site, seen from a machine that pulls from it.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use super::tests::{NOW, World};
use super::*;
use crate::cancel::Cancel;
use crate::progress::NoProgress;
use crate::publish::{RefOutcome, SiteDir, SitePruneOptions, prune_site, withdraw};
use crate::sign::{Signer, TrustedKeys};

fn fsck(world: &World) -> crate::publish::SiteFsckReport {
    let keys = TrustedKeys::pinned([world.key.public()]).unwrap();
    SiteDir::open(&world.site())
        .unwrap()
        .fsck(Some(&keys), &NoProgress, &Cancel::new())
        .unwrap()
}

pub(super) fn files(world: &World, kind: &str) -> Vec<std::path::PathBuf> {
    let dir = world.site().join(kind);
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn a_site_is_whole_until_a_bit_flips_in_any_of_its_files() {
    let world = World::new();
    world.release("1");
    world.write("usr/bin/program", b"another");
    world.release("2");
    let report = fsck(&world);
    assert_eq!(report.findings, []);
    assert_eq!((report.refs, report.releases), (1, 2));
    assert_eq!(report.blobs, 84, "each from its pack and from the image");
    for kind in ["packs", "images", "manifests", "releases", "refs"] {
        for file in files(&world, kind) {
            let good = std::fs::read(&file).unwrap();
            let mut bad = good.clone();
            bad[good.len() / 3] ^= 4;
            std::fs::write(&file, bad).unwrap();
            assert!(!fsck(&world).findings.is_empty(), "{}", file.display());
            std::fs::write(&file, good).unwrap();
        }
    }
    assert_eq!(fsck(&world).findings, []);
}

#[test]
fn pruning_keeps_what_the_newest_releases_need_and_what_is_young() {
    let world = World::new();
    for version in ["1", "2", "3", "4"] {
        world.write("usr/bin/program", version.as_bytes());
        world.write(
            "usr/share/large",
            &super::tests::noise(version.len() as u64 + version.as_bytes()[0] as u64, 30_000),
        );
        world.commit(version);
        // Long ago.
        world.publish_with(|options| {
            options.time = Some(1_700_000_000);
            options.lifetime = Some(i64::from(u32::MAX));
        });
    }
    let images = files(&world, "images").len();
    assert_eq!(images, 4);
    let mut options = SitePruneOptions {
        keep: 1,
        ..SitePruneOptions::default()
    };
    let report = prune_site(&world.site(), &options, &Cancel::new()).unwrap();
    assert_eq!(report.removed, Vec::<String>::new(), "everything is young");
    options.grace = 0;
    options.dry_run = true;
    // The second in which a file was placed must have passed.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let planned = prune_site(&world.site(), &options, &Cancel::new()).unwrap();
    assert_eq!(files(&world, "images").len(), 4);
    options.dry_run = false;
    let report = prune_site(&world.site(), &options, &Cancel::new()).unwrap();
    assert_eq!(report, planned);
    assert_eq!(files(&world, "images").len(), 1);
    world.pull();
    world.assert_same_as_tree();
    // What is published next finds its way although old manifests are gone.
    world.write("usr/bin/program", b"5");
    world.release("5");
    world.pull();
    world.assert_same_as_tree();
}

#[test]
fn pruning_keeps_what_was_the_newest_a_moment_ago_however_long_its_files_have_been_there() {
    let world = World::new();
    // The second release is replaced after the pruning at the earliest, the first one was long ago.
    for (version, time) in [("1", 1_700_000_000), ("2", 1_700_000_001), ("3", 4_000_000_000)] {
        world.write("usr/bin/program", version.as_bytes());
        world.write(
            "usr/share/large",
            &super::tests::noise(u64::from(version.as_bytes()[0]), 30_000),
        );
        world.commit(version);
        world.publish_with(|options| {
            options.time = Some(time);
            options.lifetime = Some(i64::from(u32::MAX));
        });
    }
    // The second in which a file was placed must have passed.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let options = SitePruneOptions {
        keep: 1,
        grace: 0,
        ..SitePruneOptions::default()
    };
    let report = prune_site(&world.site(), &options, &Cancel::new()).unwrap();
    assert!(!report.removed.is_empty());
    let earlier = |version: &str| {
        let selector = Selector::Version(version.to_owned());
        world.pull_with(selector, &world.session(|_| {}), &PullOptions::default())
    };
    assert!(matches!(earlier("1").unwrap_err(), PullError::Gone { .. }));
    assert_eq!(earlier("2").unwrap().refs[0].number, 2);
}

#[test]
fn a_version_is_not_taken_for_the_beginning_of_a_digest() {
    let world = World::new();
    world.release("1.0");
    world.write("usr/bin/new", b"2");
    let second = world.release("2.0");
    let digits = second.to_string();
    let site = SiteDir::open(&world.site()).unwrap();
    let by: Vec<&dyn Signer> = vec![&world.key];
    let take_back = |selector: &str| {
        withdraw(
            &world.site(),
            &super::tests::os(),
            selector,
            "why",
            &by,
            &[],
            Some(NOW),
        )
    };
    // A publisher who means version 1, or one of a date, does not get whatever begins like that.
    for short in [&digits[..1], &digits[..2], &digits[..8]] {
        let error = take_back(short).unwrap_err();
        assert!(
            matches!(error, crate::publish::PublishError::NoSuchRelease { .. }),
            "{error}"
        );
        let bundle = create_bundle(&site, &super::tests::os(), Some(short), &mut Vec::new());
        assert!(bundle.is_err());
        let selector = Selector::Commit(short.to_owned());
        let pulled = world.pull_with(selector, &world.session(|_| {}), &PullOptions::default());
        assert!(matches!(pulled.unwrap_err(), PullError::NoSuchRelease { .. }));
    }
    let bundle = create_bundle(&site, &super::tests::os(), Some(&digits[..12]), &mut Vec::new());
    assert_eq!(bundle.unwrap().blobs, 0);
    // And a version of many digits is one.
    world.write("usr/bin/new", b"3");
    let third = world.release("202701151200");
    let selector = Selector::Commit("202701151200".to_owned());
    let pulled = world.pull_with(selector, &world.session(|_| {}), &PullOptions::default());
    assert_eq!(pulled.unwrap().refs[0].commit, third);
    take_back(&digits[..12]).unwrap();
}

#[test]
fn a_withdrawn_release_is_left_by_those_who_have_it_and_taken_by_nobody() {
    let world = World::new();
    let first = world.release("1");
    world.write("usr/bin/program", b"broken");
    world.release("2");
    world.pull();
    let by: Vec<&dyn Signer> = vec![&world.key];
    let record = withdraw(
        &world.site(),
        &"os".parse().unwrap(),
        "2",
        "does not boot",
        &by,
        &[],
        Some(NOW),
    )
    .unwrap();
    assert_eq!((record.commit, record.number), (first, 1));
    assert_eq!(
        world.pull().refs[0].commit,
        first,
        "the way back needs no --allow-downgrade"
    );
    let error = world
        .pull_with(
            Selector::Version("2".to_owned()),
            &world.session(|_| {}),
            &PullOptions::default(),
        )
        .unwrap_err();
    assert!(
        error.to_string().contains("does not boot") || matches!(error, PullError::NoSuchRelease { .. }),
        "{error}"
    );
    // The repository still names it; it is not published again.
    let report = world.publish_with(|_| {});
    assert_eq!(
        (report.refs[0].commit, report.refs[0].outcome),
        (first, RefOutcome::Unchanged)
    );
    assert_eq!(report.withdrawn[0].reason, "does not boot");
    world.write("usr/bin/program", b"mended");
    let third = world.commit("3");
    let report = world.publish_with(|_| {});
    assert_eq!(
        (report.refs[0].number, report.refs[0].outcome),
        (3, RefOutcome::Released)
    );
    assert_eq!(world.pull().refs[0].commit, third);
    world.assert_same_as_tree();
}

#[test]
fn publishing_that_stops_at_any_step_leaves_the_old_release_or_the_new() {
    let world = World::new();
    let first = world.release("1");
    world.write("usr/bin/program", b"2");
    let second = world.commit("2");
    let run = || {
        crate::publish::publish(
            &world.publisher,
            &world.site(),
            &crate::publish::PublishOptions {
                signers: vec![&world.key],
                time: Some(NOW),
                ..Default::default()
            },
            &NoProgress,
            &Cancel::new(),
        )
    };
    let mut stopped = 0;
    for step in 0.. {
        let result = crate::failpoint::stop_at(step, run);
        let pulled = world.pull().refs[0].commit;
        assert!(pulled == first || pulled == second);
        world
            .client
            .fsck(&Default::default(), &NoProgress, &Cancel::new())
            .unwrap();
        if result.is_ok() {
            break;
        }
        stopped += 1;
    }
    assert!(stopped >= 8, "{stopped} steps");
    assert_eq!(world.pull().refs[0].commit, second);
    assert_eq!(fsck(&world).findings, []);
    let left: Vec<_> = std::fs::read_dir(world.site().join(".publish"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "the lock and nothing else");
}

#[test]
fn after_a_hundred_releases_a_tree_lies_in_few_packs() {
    let world = World::new();
    world.write("usr/share/large", &super::tests::noise(5, 50_000));
    world.release("0");
    world.pull();
    for version in 1..=100u64 {
        world.write(
            &format!("usr/lib/modules/6.1.0-1/m{}.ko", version % 40),
            &super::tests::noise(version + 100, 2000),
        );
        world.commit(&version.to_string());
        world.publish_with(|options| {
            options.no_image = true;
            options.no_patches = true;
        });
    }
    let keys = TrustedKeys::pinned([world.key.public()]).unwrap();
    let site = SiteDir::open(&world.site()).unwrap();
    let published = site
        .published(&"os".parse().unwrap(), &keys, &[])
        .unwrap()
        .unwrap();
    let manifest = site.manifest(&published.release).unwrap();
    assert!(
        manifest.index.packs.len() <= 12,
        "{} packs",
        manifest.index.packs.len()
    );
    let report = world.pull();
    assert!(report.traffic.requests <= 24, "{report:?}");
    world.assert_same_as_tree();
    let report = world.pull_with(
        Selector::Version("3".to_owned()),
        &world.session(|options| options.allow_downgrade = true),
        &PullOptions::default(),
    );
    assert_eq!(
        report.unwrap().refs[0].number,
        4,
        "the history leads there by way of older releases"
    );
}
