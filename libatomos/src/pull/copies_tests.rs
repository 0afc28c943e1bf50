//! Copies of a site: mirrors and bundles, seen from a machine that pulls from them.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use super::tests::{NOW, World};
use super::*;
use crate::cancel::Cancel;
use crate::progress::NoProgress;
use crate::publish::SiteDir;
use crate::sign::{Signer as _, TrustedKeys};

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
            world.pull_version(version);
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

#[test]
fn no_bundle_is_made_of_what_is_damaged() {
    let world = World::new();
    world.release("1");
    world.write("usr/bin/new", &super::tests::noise(9, 4000));
    world.release("2");
    let site = SiteDir::open(&world.site()).unwrap();
    let create = |from| create_bundle(&site, &super::tests::os(), from, &mut Vec::new());
    create(Some("1")).unwrap();
    let release = site.read_published(&super::tests::os()).unwrap().unwrap().1;
    let relative = crate::site::Artifact::Manifest.path(&release.manifests[0].file.digest);
    let flip = |file: &std::path::Path| {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).unwrap();
    };
    let all = ["packs", "images", "patches"].map(|kind| super::site_tests::files(&world, kind));
    let all = all.concat();
    for (files, from, named) in [
        (&all[..], None, "/"),
        (&all[..], Some("1"), "/"),
        (&[world.site().join(&relative)][..], Some("1"), relative.as_str()),
    ] {
        files.iter().for_each(|file| flip(file));
        let error = create(from).unwrap_err();
        assert!(
            matches!(error, crate::publish::PublishError::Damaged { .. }),
            "{from:?}: {error}"
        );
        assert!(error.to_string().contains(named), "{error}");
        files.iter().for_each(|file| flip(file));
        create(from).unwrap();
    }
}
