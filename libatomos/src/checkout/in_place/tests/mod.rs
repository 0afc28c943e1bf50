//! Whatever two trees are, an update leads from one to the other, from wherever it was interrupted, and loses nothing of anybody's.
#![allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.

mod names;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::checkout::{LinkMode, Ownership, checkout};
use crate::commit::{MtimePolicy, hash_directory};
use crate::progress::NoProgress;
use crate::testing::TestRepo;

/// What a name in a generated tree is.
#[derive(Debug, Clone, PartialEq)]
enum Thing {
    File(u8, u32),
    Link(u8),
    Dir(u32, Model),
}

type Model = BTreeMap<u8, Thing>;

fn model() -> impl Strategy<Value = Model> {
    let mode = prop_oneof![Just(0o644), Just(0o755), Just(0o600)];
    let leaf = prop_oneof![
        3 => (0..3u8, mode).prop_map(|(bytes, mode)| Thing::File(bytes, mode)),
        1 => (0..3u8).prop_map(Thing::Link),
    ];
    let thing = leaf.prop_recursive(3, 24, 4, |inner| {
        // One that its owner may not change can be removed by root alone.
        let shut = if rustix::process::geteuid().is_root() {
            0o500
        } else {
            0o700
        };
        let dir_mode = prop_oneof![Just(0o755), Just(shut)];
        (dir_mode, prop::collection::btree_map(0..4u8, inner, 0..4))
            .prop_map(|(mode, model)| Thing::Dir(mode, model))
    });
    prop::collection::btree_map(0..4u8, thing, 0..4)
}

fn make(root: &Path, model: &Model) {
    fs::create_dir_all(root).unwrap();
    for (name, thing) in model {
        let path = root.join(format!("n{name}"));
        match thing {
            Thing::File(bytes, mode) => {
                fs::write(&path, vec![*bytes; usize::from(*bytes) * 10]).unwrap();
                fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Thing::Link(target) => symlink(format!("to-{target}"), &path).unwrap(),
            Thing::Dir(mode, model) => {
                make(&path, model);
                fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
            }
        }
    }
}

/// A repository with two versions of a tree, and a checkout of the first.
struct Scene {
    repo: TestRepo,
    dest: PathBuf,
    options: CheckoutOptions,
}

impl Scene {
    fn new(old: &Model, new: &Model) -> Self {
        let repo = TestRepo::new();
        for (name, model) in [("old", old), ("new", new)] {
            let tree = repo.scratch().join(name);
            make(&tree, model);
            let mut options = TestRepo::options(name);
            options.mtime = MtimePolicy::Zero;
            let source = Dir::open_ambient(&tree).unwrap();
            crate::commit::commit(repo.repo(), source, &options, &NoProgress, &Cancel::new()).unwrap();
        }
        let mut options = CheckoutOptions {
            remember: true,
            ..CheckoutOptions::default()
        };
        if !rustix::process::geteuid().is_root() {
            options.ownership = Ownership::User;
        }
        let dest = repo.scratch().join("dest");
        let scene = Self { repo, dest, options };
        scene.check_out();
        scene
    }

    fn check_out(&self) {
        let _ = fs::remove_dir_all(&self.dest);
        checkout(
            self.repo.repo(),
            "old",
            &self.dest,
            &self.options,
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap();
    }

    fn update(&self) -> Result<InPlaceReport, CheckoutError> {
        self.update_with(&UpdateOptions::default())
    }

    fn update_with(&self, how: &UpdateOptions) -> Result<InPlaceReport, CheckoutError> {
        update(
            self.repo.repo(),
            "new",
            &self.dest,
            &self.options,
            how,
            &NoProgress,
            &Cancel::new(),
        )
    }

    fn union(&self, rev: &str, how: Union) -> Result<InPlaceReport, CheckoutError> {
        union(
            self.repo.repo(),
            rev,
            &self.dest,
            &self.options,
            how,
            &NoProgress,
            &Cancel::new(),
        )
    }

    /// The digest of what is on disk.
    fn found(&self) -> DirTreeId {
        hash(&self.dest)
    }

    /// The digest of what a checkout of its own makes.
    fn wanted(&self, rev: &str) -> DirTreeId {
        let fresh = self.repo.scratch().join(format!("fresh-{rev}"));
        let _ = fs::remove_dir_all(&fresh);
        checkout(
            self.repo.repo(),
            rev,
            &fresh,
            &self.options,
            &NoProgress,
            &Cancel::new(),
        )
        .unwrap();
        hash(&fresh)
    }
}

fn hash(path: &Path) -> DirTreeId {
    let options = crate::commit::ScanOptions::default();
    hash_directory(
        Dir::open_ambient(path).unwrap(),
        &options,
        &NoProgress,
        &Cancel::new(),
    )
    .unwrap()
    .0
}

/// Two small trees that differ in every way at once.
fn busy() -> (Model, Model) {
    let file = |bytes| Thing::File(bytes, 0o644);
    let dir = |model: &[(u8, Thing)]| Thing::Dir(0o755, model.iter().cloned().collect());
    let old = [
        (0, file(1)),
        (1, dir(&[(0, file(1)), (1, file(2)), (2, dir(&[(0, file(1))]))])),
        (2, dir(&[(0, file(2))])),
        (3, file(2)),
        (4, Thing::Link(0)),
    ];
    let new = [
        (0, file(2)),
        (
            1,
            dir(&[
                (0, file(1)),
                (1, Thing::File(2, 0o755)),
                (3, dir(&[(0, file(0))])),
            ]),
        ),
        (2, file(1)),
        (3, dir(&[(0, file(1))])),
        (4, Thing::Link(1)),
        (5, file(2)),
    ];
    (old.into_iter().collect(), new.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_update_makes_what_a_checkout_makes(old in model(), new in model(), verify: bool) {
        let scene = Scene::new(&old, &new);
        let how = UpdateOptions { verify, ..UpdateOptions::default() };
        let report = scene.update_with(&how).unwrap();
        prop_assert_eq!(scene.found(), scene.wanted("new"));
        prop_assert_eq!(old == new, (report.added, report.changed, report.removed) == (0, 0, 0));
        // Done again, it has nothing to do.
        let report = scene.update_with(&how).unwrap();
        prop_assert_eq!((report.added, report.changed, report.removed), (0, 0, 0));
        prop_assert_eq!(scene.found(), scene.wanted("new"));
        scene.repo.assert_clean();
    }

    #[test]
    fn a_union_has_everything_of_both(old in model(), new in model()) {
        let scene = Scene::new(&old, &new);
        for how in [Union::Identical, Union::Add, Union::Replace] {
            scene.check_out();
            let before = scene.found();
            match scene.union("new", how) {
                Ok(_) => check_union(&scene.dest, &old, &new, how)?,
                Err(CheckoutError::NotOurs { count, .. }) => {
                    prop_assert!(count > 0 && how != Union::Add);
                    prop_assert_eq!(scene.found(), before);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn check_union(dest: &Path, old: &Model, new: &Model, how: Union) -> Result<(), TestCaseError> {
    for name in 0..8 {
        let path = dest.join(format!("n{name}"));
        let (first, second) = match how {
            Union::Replace => (new.get(&name), old.get(&name)),
            _ => (old.get(&name), new.get(&name)),
        };
        match (first, second) {
            (Some(Thing::Dir(mode, first)), Some(Thing::Dir(_, second))) => {
                prop_assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, *mode);
                let (old, new) = match how {
                    Union::Replace => (second, first),
                    _ => (first, second),
                };
                check_union(&path, old, new, how)?;
            }
            (Some(thing), _) | (None, Some(thing)) => prop_assert!(is(&path, thing), "{}", path.display()),
            (None, None) => prop_assert!(!path.exists()),
        }
    }
    Ok(())
}

fn is(path: &Path, thing: &Thing) -> bool {
    match thing {
        Thing::File(bytes, mode) => {
            fs::read(path).is_ok_and(|found| found == vec![*bytes; usize::from(*bytes) * 10])
                && fs::metadata(path).unwrap().mode() & 0o777 == *mode
        }
        Thing::Link(target) => {
            fs::read_link(path).is_ok_and(|found| found == Path::new(&format!("to-{target}")))
        }
        Thing::Dir(_, model) => model
            .iter()
            .all(|(name, thing)| is(&path.join(format!("n{name}")), thing)),
    }
}

#[test]
fn an_update_is_taken_up_wherever_it_stopped() {
    let (old, new) = busy();
    let mut scene = Scene::new(&old, &new);
    // Points are seen on the thread that asks.
    scene.options.threads = Some(1);
    let wanted = scene.wanted("new");
    let other = scene.repo.scratch().join("other");
    make(&other, &Model::new());
    let _ = scene.repo.commit("other", &other);
    let (points, result) = crate::failpoint::trace(|| scene.update());
    result.unwrap();
    assert!(
        points
            .iter()
            .filter(|name| **name == "checkout.update-moved")
            .count()
            >= 5
    );
    for (stop, point) in points.iter().enumerate() {
        scene.check_out();
        crate::failpoint::stop_at(stop, || scene.update()).unwrap_err();
        let there = |rev| {
            let how = UpdateOptions::default();
            update(
                scene.repo.repo(),
                rev,
                &scene.dest,
                &scene.options,
                &how,
                &NoProgress,
                &Cancel::new(),
            )
        };
        let error = there("other").unwrap_err();
        assert!(matches!(error, CheckoutError::Interrupted { .. }), "{error}");
        there("old").unwrap_or_else(|error| panic!("back from point {stop} ({}): {error}", point));
        assert_eq!(
            scene.found(),
            scene.wanted("old"),
            "back from point {stop} ({})",
            point
        );
        scene.check_out();
        crate::failpoint::stop_at(stop, || scene.update()).unwrap_err();
        scene
            .update()
            .unwrap_or_else(|error| panic!("after point {stop} ({}): {error}", point));
        assert_eq!(scene.found(), wanted, "after point {stop} ({})", point);
        assert!(fs::read_dir(&scene.dest).unwrap().all(|entry| {
            !entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with(".atomos")
        }));
    }
}

#[test]
fn what_somebody_changed_is_kept_and_named() {
    let (old, new) = busy();
    let scene = Scene::new(&old, &new);
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 6] = [
        ("n0", |dest| {
            fs::remove_file(dest.join("n0")).unwrap();
            fs::write(dest.join("n0"), "mine").unwrap();
        }),
        ("n0", |dest| fs::remove_file(dest.join("n0")).unwrap()),
        ("n2/mine", |dest| fs::write(dest.join("n2/mine"), "mine").unwrap()),
        ("n1/n2/mine", |dest| {
            fs::write(dest.join("n1/n2/mine"), "mine").unwrap()
        }),
        ("n1", |dest| {
            fs::set_permissions(dest.join("n1"), PermissionsExt::from_mode(0o711)).unwrap()
        }),
        ("n5", |dest| fs::write(dest.join("n5"), "in the way").unwrap()),
    ];
    for (name, change) in changes {
        scene.check_out();
        change(&scene.dest);
        let before = scene.found();
        let error = scene.update().unwrap_err();
        match &error {
            CheckoutError::NotOurs { first, count, .. } => {
                assert_eq!(
                    (first.as_slice(), *count),
                    ([PathBuf::from(name)].as_slice(), 1),
                    "{error}"
                );
            }
            _ => panic!("{error}"),
        }
        assert_eq!(scene.found(), before, "{name}");
    }
}

#[test]
fn what_the_update_does_not_touch_is_left_alone_unless_everything_is_verified() {
    let (old, mut new) = (busy().0, busy().0);
    new.insert(0, Thing::File(2, 0o644));
    let scene = Scene::new(&old, &new);
    let mine = scene.dest.join("n1/n2/n0");
    let time = fs::metadata(&mine).unwrap().modified().unwrap();
    fs::remove_file(&mine).unwrap();
    // Of the same size and time: only its bytes tell.
    fs::write(&mine, [9; 10]).unwrap();
    fs::File::options()
        .write(true)
        .open(&mine)
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::set_permissions(&mine, PermissionsExt::from_mode(0o644)).unwrap();
    let how = UpdateOptions {
        verify: true,
        ..UpdateOptions::default()
    };
    let error = scene.update_with(&how).unwrap_err();
    assert!(error.to_string().contains("n1/n2/n0"), "{error}");
    scene.update().unwrap();
    assert_eq!(fs::read(&mine).unwrap(), [9; 10]);
}

#[test]
fn a_directory_of_which_nothing_is_recorded_is_updated_from_what_is_said() {
    let (old, new) = busy();
    let scene = Scene::new(&old, &new);
    fs::remove_dir_all(scene.repo.path().join("cache")).unwrap();
    let error = scene.update().unwrap_err();
    assert!(matches!(error, CheckoutError::NotRecorded { .. }), "{error}");
    let how = UpdateOptions {
        from: Some("old".to_owned()),
        ..UpdateOptions::default()
    };
    scene.update_with(&how).unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
}

#[test]
fn a_renamed_checkout_is_known_and_another_of_its_name_is_not() {
    let (old, new) = busy();
    let mut scene = Scene::new(&old, &new);
    let elsewhere = scene.repo.scratch().join("elsewhere");
    fs::rename(&scene.dest, &elsewhere).unwrap();
    fs::create_dir(&scene.dest).unwrap();
    let error = scene.update().unwrap_err();
    assert!(matches!(error, CheckoutError::NotRecorded { .. }), "{error}");
    scene.dest = elsewhere;
    scene.update().unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
}

#[test]
fn a_link_is_not_followed_out_of_the_checkout() {
    let (old, new) = busy();
    let scene = Scene::new(&old, &new);
    let outside = scene.repo.scratch().join("outside");
    fs::rename(scene.dest.join("n1"), &outside).unwrap();
    symlink(&outside, scene.dest.join("n1")).unwrap();
    let before = hash(&outside);
    assert!(matches!(
        scene.update().unwrap_err(),
        CheckoutError::NotOurs { .. }
    ));
    let error = scene.union("new", Union::Replace).unwrap_err();
    assert!(error.to_string().contains("n1"), "{error}");
    assert_eq!(hash(&outside), before);
}

#[test]
fn copies_are_updated_as_links_are() {
    let (old, new) = busy();
    let mut scene = Scene::new(&old, &new);
    scene.options.link = LinkMode::Copy;
    scene.check_out();
    scene.update().unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
}

#[test]
fn an_attribute_is_looked_at_where_it_would_be_lost() {
    let (old, new) = (
        Model::from([(0, Thing::File(1, 0o644))]),
        Model::from([(0, Thing::File(2, 0o644))]),
    );
    let mut scene = Scene::new(&old, &new);
    let note = |scene: &Scene| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(scene.dest.join("n0"), "user.note", b"mine", flags).is_ok()
    };
    scene.options.link = LinkMode::Copy;
    scene.check_out();
    if !rustix::process::geteuid().is_root() || !note(&scene) {
        return crate::testing::skip("attributes of files", "they cannot be set here");
    }
    let error = scene.update().unwrap_err();
    assert!(
        matches!(error, CheckoutError::NotOurs { count: 1, .. }),
        "{error}"
    );

    scene.options.link = LinkMode::Hardlink;
    fs::remove_dir_all(&scene.dest).unwrap();
    scene.check_out();
    assert!(note(&scene));
    let verify = UpdateOptions {
        verify: true,
        ..UpdateOptions::default()
    };
    let error = scene.update_with(&verify).unwrap_err();
    assert!(
        matches!(error, CheckoutError::NotOurs { count: 1, .. }),
        "{error}"
    );
    scene.update().unwrap();
    assert_eq!(
        scene.found(),
        scene.wanted("new"),
        "the store's own file has kept it"
    );
}

#[test]
fn an_attribute_that_a_directory_no_longer_has_goes() {
    let set = |path: &Path| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "user.note", b"old", flags).is_ok()
    };
    let scene = Scene::new(&Model::new(), &Model::new());
    let tree = scene.repo.scratch().join("noted");
    fs::create_dir_all(tree.join("dir")).unwrap();
    if !rustix::process::geteuid().is_root() || !set(&tree.join("dir")) || !set(&tree) {
        return crate::testing::skip("attributes of directories", "they cannot be set here");
    }
    let _ = scene.repo.commit("old", &tree);
    scene.check_out();
    fs::remove_dir_all(&tree).unwrap();
    fs::create_dir_all(tree.join("dir")).unwrap();
    let _ = scene.repo.commit("new", &tree);
    scene.update().unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
    for path in [scene.dest.clone(), scene.dest.join("dir")] {
        let mut names = [0u8; 256];
        let len = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
        assert!(
            !String::from_utf8_lossy(&names[..len]).contains("user.note"),
            "{}",
            path.display()
        );
    }
}
