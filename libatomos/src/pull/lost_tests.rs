//! What a site has lost, seen from a machine that pulls from it.
#![allow(clippy::disallowed_methods, reason = "tests are programs, not the library")]

use std::path::PathBuf;

use super::site_tests::files;
use super::tests::{NOW, World};
use super::{PullError, PullOptions, Selector};
use crate::cancel::Cancel;
use crate::progress::NoProgress;
use crate::publish::{RefOutcome, SiteDir};
use crate::site::Artifact;

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
        world.pull_version("1");
        match damage {
            b"gone" => std::fs::remove_file(&relative).unwrap(),
            bytes => std::fs::write(&relative, bytes).unwrap(),
        }
        world.pull();
        world.assert_same_as_tree();
    }
}

/// A machine with the first of two releases, and the pack of the second.
fn behind_by_one() -> (World, PathBuf) {
    let mut world = World::new();
    world.release("1");
    world.write("usr/share/new", &super::tests::noise(77, 50_000));
    world.release("2");
    let mut packs = files(&world, "packs");
    packs.sort_by_key(|file| std::fs::metadata(file).unwrap().len());
    world.start_over();
    world.pull_version("1");
    (world, packs.swap_remove(0))
}

#[test]
fn a_machine_whose_pack_is_gone_takes_the_image() {
    let (world, new_pack) = behind_by_one();
    std::fs::remove_file(&new_pack).unwrap();
    for file in files(&world, "patches") {
        std::fs::remove_file(file).unwrap();
    }
    world.pull();
    world.assert_same_as_tree();
}

#[test]
fn a_file_of_a_stick_that_cannot_be_opened_is_as_one_that_is_gone() {
    let (world, new_pack) = behind_by_one();
    let moved = world.scratch.path().join("moved");
    for file in files(&world, "patches").iter().chain([&new_pack]) {
        std::fs::rename(file, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, file).unwrap();
    }
    world.pull();
    world.assert_same_as_tree();
}

/// What a machine has lost comes again although the ref is where it should be.
#[test]
fn what_is_gone_from_a_repository_comes_with_the_next_pull() {
    use crate::repo::{ObjectKind, object_path};
    let world = World::new();
    let commit = world.release("1");
    world.pull();
    let path = world.client.dir().path().to_owned();
    let large = crate::digest::Digest::of(&super::tests::noise(2000, 10_000_000));
    let root = world.client.load_commit(&commit).unwrap().root;
    std::fs::create_dir(path.join("damaged")).unwrap();
    for (kind, digest, is_set_aside) in [
        (ObjectKind::Commit, commit.digest(), false),
        (ObjectKind::Commit, commit.digest(), true),
        (ObjectKind::DirTree, root.digest(), false),
        (ObjectKind::DirTree, root.digest(), true),
        (ObjectKind::Blob, &large, true),
    ] {
        let file = path.join(kind.dir()).join(object_path(digest));
        match is_set_aside {
            true => std::fs::rename(&file, path.join(format!("damaged/{kind}-{digest}"))).unwrap(),
            false => std::fs::remove_file(&file).unwrap(),
        }
        let report = world.pull();
        assert!(!report.unchanged, "{kind}");
        world.assert_same_as_tree();
        let again = world.pull();
        assert!(again.unchanged, "{kind}");
        assert_eq!(again.traffic.requests, 1);
    }
    // What another commit lacks does not come from here.
    let other = crate::digest::Digest::of(b"of another commit");
    for kind in ObjectKind::ALL {
        std::fs::write(path.join(format!("damaged/{kind}-{other}")), "").unwrap();
        let again = world.pull();
        assert!(again.unchanged, "{kind}");
        assert_eq!(again.traffic.requests, 1);
    }
}

#[test]
fn a_ref_that_could_not_have_its_name_is_refused_before_anything_comes() {
    use crate::repo::{RefUpdate, RepoError};
    let world = World::new();
    let commit = world.release("1");
    world.pull();
    let update = |name: &str, new| RefUpdate {
        name: name.parse().unwrap(),
        expected: None,
        new,
    };
    let updates = [update("origin:os", None), update("origin:os/edge", Some(commit))];
    world.client.update_refs(&updates).unwrap();
    world.write("usr/bin/new", b"2");
    world.release("2");
    for dry_run in [true, false] {
        let options = PullOptions {
            dry_run,
            ..PullOptions::default()
        };
        let error = world
            .pull_with(Selector::Newest, &world.session(|_| {}), &options)
            .unwrap_err();
        assert!(
            matches!(error, PullError::Repo(RepoError::RefCollision { .. })),
            "{error}"
        );
        let tmp = world.client.dir().path().join("tmp");
        let staged = std::fs::read_dir(tmp).map_or(0, Iterator::count);
        assert_eq!(staged, 0, "nothing was begun");
    }
}
