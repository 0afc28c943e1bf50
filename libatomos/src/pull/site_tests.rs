//! Looking after a site, seen from a machine that pulls from it.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use super::tests::{NOW, World};
use super::*;
use crate::cancel::Cancel;
use crate::progress::NoProgress;
use crate::publish::{RefOutcome, SiteDir, SitePruneOptions, prune_site, withdraw};
use crate::sign::{Signer, TrustedKeys};
use crate::site::Artifact;

fn fsck(world: &World) -> crate::publish::SiteFsckReport {
    let keys = TrustedKeys::pinned([world.key.public()]).unwrap();
    SiteDir::open(&world.site())
        .unwrap()
        .fsck(Some(&keys), &NoProgress, &Cancel::new())
        .unwrap()
}

fn files(world: &World, kind: &str) -> Vec<std::path::PathBuf> {
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
fn what_a_site_has_lost_is_made_anew() {
    let mut world = World::new();
    world.write("usr/share/large", &super::tests::noise(7, 300_000));
    world.release("1");
    let mut program = super::tests::noise(1000, 200_000);
    program[1000..1100].fill(0);
    world.write("usr/bin/program", &program);
    let commit = world.release("2");
    let mut number = 2;
    for kind in ["packs", "patches", "images", "manifests", "releases"] {
        for how in ["gone", "short"] {
            for file in files(&world, kind) {
                match how {
                    "short" => std::fs::File::options()
                        .write(true)
                        .open(&file)
                        .unwrap()
                        .set_len(9)
                        .unwrap(),
                    _ => std::fs::remove_file(&file).unwrap(),
                }
            }
            let report = world.publish_with(|_| {});
            number += 1;
            assert_eq!(report.refs[0].outcome, RefOutcome::Released, "{kind} {how}");
            assert_eq!((report.refs[0].commit, report.refs[0].number), (commit, number));
            assert!(
                report.lost[0].files.iter().all(|file| file.starts_with(kind)),
                "{:?}",
                report.lost
            );
            // Everything comes from the site, and the next release can be pulled as well.
            world.start_over();
            world.pull();
            world.assert_same_as_tree();
            let again = world.publish_with(|_| {});
            assert_eq!(again.refs[0].outcome, RefOutcome::Unchanged, "{kind} {how}");
            assert_eq!(again.lost, []);
        }
    }
    world.write("usr/bin/program", b"a third");
    world.release("3");
    world.pull();
    world.assert_same_as_tree();
    // Who has the keys of records only can renew, and is told.
    for file in files(&world, "packs") {
        std::fs::remove_file(&file).unwrap();
    }
    let report = world.publish_with(|options| options.renew = true);
    assert_eq!(report.refs[0].outcome, RefOutcome::Renewed);
    assert!(!report.lost.is_empty());
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
    // The repository still names it; publishing it again is refused.
    let error = crate::publish::publish(
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
    .unwrap_err();
    assert!(error.to_string().contains("does not boot"), "{error}");
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
fn a_first_publication_that_stops_at_any_step_can_be_repeated() {
    let world = World::new();
    world.write("usr/share/large", &super::tests::noise(2000, 50_000));
    let commit = world.commit("1");
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
    for step in 0.. {
        let _ = std::fs::remove_dir_all(world.site());
        let stopped = crate::failpoint::stop_at(step, run).is_err();
        let report = run().unwrap_or_else(|error| panic!("after {step}: {error}"));
        assert_eq!((report.refs[0].commit, report.refs[0].number), (commit, 1));
        if !stopped {
            assert!(step > 3, "{step}");
            return;
        }
    }
}

#[test]
fn a_mirror_serves_what_the_site_serves_and_fetches_nothing_twice() {
    let world = World::new();
    world.release("1");
    world.write("usr/bin/program", b"2");
    world.release("2");
    let copy = world.scratch.path().join("copy");
    let mirror = || {
        let options = world.session(|_| {});
        let (progress, cancel) = (NoProgress, Cancel::new());
        let mut session =
            Session::open(&world.client, &super::tests::name(), &options, &progress, &cancel).unwrap();
        session
            .mirror(&["os".parse().unwrap()], &copy, &MirrorOptions::default())
            .unwrap()
    };
    let first = mirror();
    assert!(first.files > 4);
    let second = mirror();
    assert_eq!((second.files, second.present), (0, first.files));
    world.remote(|config| config.urls = vec![copy.to_str().unwrap().to_owned()]);
    world.pull();
    world.assert_same_as_tree();
    let keys = TrustedKeys::pinned([world.key.public()]).unwrap();
    let report = SiteDir::open(&copy)
        .unwrap()
        .fsck(Some(&keys), &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn a_mirror_trusts_its_own_files_after_a_run_that_ended_and_no_older_record() {
    let world = World::new();
    world.release("1");
    let copy = world.scratch.path().join("copy");
    let mirror = |verify: bool| {
        let options = world.session(|_| {});
        let (progress, cancel) = (NoProgress, Cancel::new());
        let mut session =
            Session::open(&world.client, &super::tests::name(), &options, &progress, &cancel).unwrap();
        session.mirror(&[super::tests::os()], &copy, &MirrorOptions { verify })
    };
    mirror(false).unwrap();
    let flip = || {
        for kind in ["packs", "images", "manifests", "releases"] {
            let file = std::fs::read_dir(copy.join(kind))
                .unwrap()
                .next()
                .unwrap()
                .unwrap();
            let mut bytes = std::fs::read(file.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file.path(), bytes).unwrap();
        }
    };
    let findings = || {
        let site = SiteDir::open(&copy).unwrap();
        let keys = TrustedKeys::pinned([world.key.public()]).unwrap();
        site.fsck(Some(&keys), &NoProgress, &Cancel::new())
            .unwrap()
            .findings
    };
    flip();
    assert_eq!(mirror(false).unwrap().files, 0);
    assert_ne!(findings(), []);
    assert_eq!(mirror(true).unwrap().files, 4);
    assert_eq!(findings(), []);
    // What a run has left that was cut off, with the power perhaps.
    flip();
    std::fs::write(copy.join(".mirror/unfinished"), "").unwrap();
    assert_eq!(mirror(false).unwrap().files, 4);
    assert_eq!(findings(), []);
    assert_eq!(mirror(false).unwrap().files, 0);
    // A source that is behind, for somebody who has not seen better.
    let old = std::fs::read(world.site().join("refs/os")).unwrap();
    world.write("usr/bin/program", b"2");
    world.release("2");
    mirror(false).unwrap();
    let new = std::fs::read(copy.join("refs/os")).unwrap();
    std::fs::write(world.site().join("refs/os"), old).unwrap();
    std::fs::remove_file(world.client.dir().path().join("remotes/origin.state")).unwrap();
    let error = mirror(false).unwrap_err();
    assert!(matches!(error, PullError::OlderThanCopy { .. }), "{error}");
    assert_eq!(std::fs::read(copy.join("refs/os")).unwrap(), new);
    // What is no record is no reason to keep a record away.
    std::fs::write(copy.join("refs/os"), "rubbish").unwrap();
    mirror(false).unwrap();
}

#[test]
fn two_mirrors_into_one_directory_take_turns() {
    let world = World::new();
    world.release("1");
    let copy = world.scratch.path().join("copy");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let options = world.session(|_| {});
                let (progress, cancel) = (NoProgress, Cancel::new());
                Session::open(&world.client, &super::tests::name(), &options, &progress, &cancel)
                    .unwrap()
                    .mirror(&[super::tests::os()], &copy, &MirrorOptions::default())
                    .unwrap();
            });
        }
    });
    let report = SiteDir::open(&copy)
        .unwrap()
        .fsck(None, &NoProgress, &Cancel::new())
        .unwrap();
    assert_eq!(report.findings, []);
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

#[test]
fn a_bundle_serves_whoever_has_one_of_the_releases_that_it_can_be_for() {
    let mut world = World::new();
    let mut program = super::tests::noise(1000, 200_000);
    for version in 1..=4u8 {
        program[usize::from(version) * 1000] ^= version;
        world.write("usr/bin/program", &program);
        world.write("usr/share/of", &super::tests::noise(u64::from(version), 9000));
        world.release(&version.to_string());
    }
    let site = SiteDir::open(&world.site()).unwrap();
    let newest = site
        .read_published(&super::tests::os())
        .unwrap()
        .unwrap()
        .1
        .commit;
    let file = world.scratch.path().join("update");
    // Releases that the machine has, and which one the bundle begins at.
    for (have, from) in [
        (&[][..], None),
        (&["1"], None),
        (&["3"], None),
        (&["1"], Some("1")),
        (&["1", "3"], Some("1")),
        (&["1", "2", "3"], Some("2")),
    ] {
        world.start_over();
        for version in have {
            world
                .pull_with(
                    Selector::Version((*version).to_owned()),
                    &world.session(|_| {}),
                    &PullOptions::default(),
                )
                .unwrap();
        }
        let mut out = std::fs::File::create(&file).unwrap();
        create_bundle(&site, &super::tests::os(), from, &mut out).unwrap();
        let options = world.session(|_| {});
        let (progress, cancel) = (NoProgress, Cancel::new());
        let bundle = crate::transport::BundleTransport::open(&file).unwrap();
        let wanted = [Wanted {
            reference: super::tests::os(),
            selector: Selector::Newest,
        }];
        let report = Session::open_with(
            &world.client,
            &super::tests::name(),
            vec![Box::new(bundle)],
            &options,
            &progress,
            &cancel,
        )
        .unwrap()
        .pull(&wanted, &PullOptions::default())
        .unwrap_or_else(|error| panic!("{have:?} {from:?}: {error}"));
        assert_eq!(report.refs[0].commit, newest);
        world.assert_same_as_tree();
    }
}

#[test]
fn a_manifest_for_one_release_that_is_gone_or_damaged_is_made_up_for_by_the_whole_one() {
    let mut world = World::new();
    world.release("1");
    world.write("usr/bin/program", b"2");
    world.release("2");
    let site = SiteDir::open(&world.site()).unwrap();
    let release = site.read_published(&super::tests::os()).unwrap().unwrap().1;
    let relative = world
        .site()
        .join(Artifact::Manifest.path(&release.manifests[0].file.digest));
    for damage in [&b"gone"[..], b"other bytes"] {
        world.start_over();
        world
            .pull_with(
                Selector::Version("1".to_owned()),
                &world.session(|_| {}),
                &PullOptions::default(),
            )
            .unwrap();
        match damage {
            b"gone" => std::fs::remove_file(&relative).unwrap(),
            bytes => std::fs::write(&relative, bytes).unwrap(),
        }
        world.pull();
        world.assert_same_as_tree();
    }
}

#[test]
fn a_machine_whose_pack_is_gone_takes_the_image() {
    let mut world = World::new();
    world.release("1");
    world.write("usr/share/new", &super::tests::noise(77, 50_000));
    world.release("2");
    let mut packs = files(&world, "packs");
    packs.sort_by_key(|file| std::fs::metadata(file).unwrap().len());
    world.start_over();
    world
        .pull_with(
            Selector::Version("1".to_owned()),
            &world.session(|_| {}),
            &PullOptions::default(),
        )
        .unwrap();
    // That of the second release, and every patch.
    std::fs::remove_file(&packs[0]).unwrap();
    for file in files(&world, "patches") {
        std::fs::remove_file(file).unwrap();
    }
    world.pull();
    world.assert_same_as_tree();
}

#[test]
fn a_bundle_brings_an_update_without_a_network() {
    let world = World::new();
    world.release("1");
    world.pull();
    let mut program = super::tests::noise(1000, 200_000);
    program[7] ^= 1;
    world.write("usr/bin/program", &program);
    world.write("usr/bin/new", &super::tests::noise(9, 4000));
    let second = world.release("2");
    let site = SiteDir::open(&world.site()).unwrap();
    let file = world.scratch.path().join("update");
    let mut out = std::fs::File::create(&file).unwrap();
    let report = create_bundle(&site, &"os".parse().unwrap(), Some("1"), &mut out).unwrap();
    assert_eq!((report.commit, report.blobs), (second, 2));
    assert!(std::fs::metadata(&file).unwrap().len() < 20_000);
    let apply = |change: &dyn Fn(&mut SessionOptions)| {
        let options = world.session(change);
        let (progress, cancel) = (NoProgress, Cancel::new());
        let bundle = crate::transport::BundleTransport::open(&file).unwrap();
        let wanted = [Wanted {
            reference: "os".parse().unwrap(),
            selector: Selector::Newest,
        }];
        Session::open_with(
            &world.client,
            &super::tests::name(),
            vec![Box::new(bundle)],
            &options,
            &progress,
            &cancel,
        )
        .unwrap()
        .pull(&wanted, &PullOptions::default())
    };
    let late = |options: &mut SessionOptions| options.now = Some(NOW + 40 * 24 * 3600);
    assert!(matches!(apply(&late).unwrap_err(), PullError::Expired { .. }));
    // The last byte is of a patch or of a blob.
    let good = std::fs::read(&file).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bad).unwrap();
    let error = apply(&|_| {}).unwrap_err();
    assert!(
        matches!(error, PullError::BadObject { .. } | PullError::Transport(_))
            || error.kind() == crate::ErrorKind::Corrupt,
        "{error}"
    );
    std::fs::write(&file, &good).unwrap();
    let report = apply(&|options| {
        late(options);
        options.accept_expired = true;
    })
    .unwrap();
    assert_eq!(report.refs[0].commit, second);
    world.assert_same_as_tree();
    std::fs::write(&file, &good[..10]).unwrap();
    assert!(crate::transport::BundleTransport::open(&file).is_err());
}
