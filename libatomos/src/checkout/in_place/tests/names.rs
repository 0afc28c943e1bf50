//! How names come to what they lead to, and what else is made or not made on the way.

use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode};

use super::*;
use crate::checkout::in_place::apply::Apply;
use crate::checkout::in_place::plan::{Others, Plan};
use crate::checkout::in_place::survey::Survey;
use crate::repo::{ObjectKind, RepoMode};

fn scene(make: impl Fn(&Path, &str)) -> Scene {
    let scene = Scene::new(&Model::new(), &Model::new());
    for version in ["old", "new"] {
        let tree = scene.repo.scratch().join(format!("{version}-tree"));
        fs::create_dir(&tree).unwrap();
        make(&tree, version);
        let _ = scene.repo.commit(version, &tree);
    }
    scene.check_out();
    scene
}

fn age(path: &Path, seconds: u64) {
    let times = crate::fs::mtime_only(i64::try_from(seconds).unwrap());
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn many_names_of_one_directory_change_on_all_threads() {
    let mut scene = scene(|tree, version| {
        for dir in ["a", "b"] {
            let dir = tree.join(dir);
            fs::create_dir(&dir).unwrap();
            for number in 0..300 {
                let (is_old, name) = (version == "old", format!("file-{number}"));
                let text = match number % 4 {
                    0 => format!("{version} {number}"),
                    1 if is_old => continue,
                    2 if !is_old => continue,
                    _ => number.to_string(),
                };
                fs::write(dir.join(name), text).unwrap();
                age(&dir.join(format!("file-{number}")), 1000);
            }
            age(&dir, 1000);
        }
        age(tree, 1000);
    });
    scene.options.threads = Some(4);
    let report = scene.update().unwrap();
    assert_eq!((report.added, report.changed, report.removed), (150, 150, 150));
    assert_eq!(report.made.hardlinked + report.made.copied, 300);
    assert_eq!(scene.found(), scene.wanted("new"));
    scene.repo.assert_clean();
}

#[test]
fn what_gets_another_time_alone_is_not_made_anew() {
    let mut scene = scene(|tree, version| {
        fs::write(tree.join("full"), "full").unwrap();
        fs::write(tree.join("empty"), "").unwrap();
        symlink("full", tree.join("link")).unwrap();
        symlink("full", tree.join("twice")).unwrap();
        let time = if version == "old" { 1000 } else { 2000 };
        for name in ["full", "empty", "link", "twice"] {
            age(&tree.join(name), time);
        }
        age(tree, 1000);
    });
    for link in [LinkMode::Auto, LinkMode::Copy] {
        scene.options.link = link;
        scene.check_out();
        let other = scene.repo.scratch().join("other");
        let _ = fs::remove_file(&other);
        fs::hard_link(scene.dest.join("twice"), &other).unwrap();
        let inodes = || {
            ["full", "empty", "link", "twice"]
                .map(|name| fs::symlink_metadata(scene.dest.join(name)).unwrap().ino())
        };
        let before = inodes();
        let report = scene.update().unwrap();
        assert_eq!((report.added, report.changed, report.removed), (0, 4, 0));
        assert_eq!(scene.found(), scene.wanted("new"));
        let after = inodes();
        assert_eq!(after[1..3], before[1..3]);
        // The store's inode has one time, and what has two names is somebody's, too.
        let is_linked = link == LinkMode::Auto && scene.options.ownership == Ownership::Exact;
        assert_eq!(after[0] != before[0], is_linked);
        assert_ne!(after[3], before[3]);
        let kept = fs::symlink_metadata(&other).unwrap().modified().unwrap();
        assert_eq!(kept, UNIX_EPOCH + Duration::from_secs(1000));
    }
}

#[test]
fn an_update_that_gives_times_is_taken_up_wherever_it_stopped() {
    let mut scene = scene(|tree, version| {
        for name in ["a", "b", "c"] {
            symlink("somewhere", tree.join(name)).unwrap();
            age(&tree.join(name), if version == "old" { 1000 } else { 2000 });
        }
        age(tree, 1000);
    });
    scene.options.threads = Some(1);
    let (points, result) = crate::failpoint::trace(|| scene.update());
    result.unwrap();
    let retimed = points.iter().filter(|name| **name == "checkout.update-retimed");
    assert_eq!(retimed.count(), 3);
    for stop in 0..points.len() {
        scene.check_out();
        crate::failpoint::stop_at(stop, || scene.update()).unwrap_err();
        scene.update().unwrap();
        assert_eq!(scene.found(), scene.wanted("new"), "after point {stop}");
    }
}

#[test]
fn nothing_is_begun_where_the_store_lacks_what_is_to_come() {
    let scene = scene(|tree, version| fs::write(tree.join("file"), version).unwrap());
    if scene.options.ownership == Ownership::User {
        return crate::testing::skip("a store that lacks an inode", "an ordinary user gets copies");
    }
    let blob = crate::digest::Digest::of(b"new");
    fs::remove_file(scene.repo.object(ObjectKind::Blob, &blob)).unwrap();
    let before = scene.found();
    let error = scene.update().unwrap_err();
    assert!(
        matches!(error, CheckoutError::Repo(RepoError::ObjectMissing { .. })),
        "{error}"
    );
    assert_eq!(scene.found(), before);
    // It has not begun: another update may.
    let _ = scene.repo.plant(ObjectKind::Blob, b"new");
    let empty = scene.repo.scratch().join("empty");
    fs::create_dir(&empty).unwrap();
    let _ = scene.repo.commit("new", &empty);
    scene.update().unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
}

#[test]
fn a_file_that_becomes_a_device_is_gone_for_a_user() {
    let may_make = std::cell::Cell::new(true);
    let mut scene = scene(|tree, version| {
        let path = tree.join("null");
        match version {
            "old" => fs::write(path, "file").unwrap(),
            _ => {
                let device = rustix::fs::makedev(1, 3);
                let made = rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, device);
                may_make.set(made.is_ok());
            }
        }
    });
    if !may_make.get() {
        return crate::testing::skip("devices", "none can be made here");
    }
    scene.options.ownership = Ownership::User;
    scene.check_out();
    scene.update().unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
    assert!(!scene.dest.join("null").exists());
}

impl Scene {
    /// Looks, has somebody do something, and then does what was found to be necessary.
    fn update_while(&self, meanwhile: impl FnOnce()) -> Result<InPlaceReport, CheckoutError> {
        let (repo, dir) = (self.repo.repo(), Dir::open_ambient(&self.dest).unwrap());
        let (old, new) = (
            repo.resolve_tree("old").unwrap(),
            repo.resolve_tree("new").unwrap(),
        );
        let ladder = ladder(repo, &dir, &self.options).unwrap();
        let cancel = Cancel::new();
        let survey = Survey {
            look: Look {
                repo,
                ownership: self.options.ownership,
                hash: false,
            },
            ladder: &ladder,
            cancel: &cancel,
            resuming: false,
            all: false,
            others: Others::default(),
        };
        let plan: Plan = survey.update(&dir, (&old.0, &new.0), new.1).unwrap();
        meanwhile();
        let apply = Apply {
            repo,
            dir: &dir,
            options: &self.options,
            ladder: &ladder,
            pool: &crate::parallel::pool(None),
            progress: &NoProgress,
        };
        apply.carry_out(plan, &cancel)
    }
}

#[test]
fn what_comes_after_the_look_is_neither_replaced_nor_removed() {
    let make = |tree: &Path, version: &str| match version {
        "old" => {
            fs::create_dir_all(tree.join("goes/below")).unwrap();
            fs::write(tree.join("goes/below/file"), "old").unwrap();
        }
        _ => {
            fs::write(tree.join("comes"), "new").unwrap();
            symlink("comes", tree.join("link")).unwrap();
        }
    };
    for name in ["comes", "link", "goes/below/mine"] {
        let scene = scene(make);
        let path = scene.dest.join(name);
        let error = scene
            .update_while(|| fs::write(&path, "mine").unwrap())
            .unwrap_err();
        assert!(matches!(error, CheckoutError::Fs(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine", "{name}");
    }
    let scene = scene(make);
    scene.update_while(|| ()).unwrap();
    assert_eq!(scene.found(), scene.wanted("new"));
}

#[test]
fn entries_that_differ_in_nothing_that_an_inode_has_stay_and_are_no_stumbling_block() {
    let mut scene = scene(|tree, version| {
        for number in 0..8 {
            fs::write(tree.join(format!("same-{number}")), number.to_string()).unwrap();
            age(&tree.join(format!("same-{number}")), 1000);
        }
        fs::write(tree.join("other"), version).unwrap();
        age(tree, 1000);
    });
    let mut options = TestRepo::options("new");
    options.verity = true;
    let source = Dir::open_ambient(scene.repo.scratch().join("new-tree")).unwrap();
    crate::commit::commit(scene.repo.repo(), source, &options, &NoProgress, &Cancel::new()).unwrap();
    scene.options.threads = Some(1);
    let inode = |name: &str| fs::metadata(scene.dest.join(name)).unwrap().ino();
    let before = inode("same-3");
    let report = scene.update().unwrap();
    assert_eq!((report.added, report.removed), (0, 0));
    if scene.repo.repo().mode() == RepoMode::Bare {
        assert_eq!((report.changed, report.made.hardlinked), (1, 1));
        assert_eq!(inode("same-3"), before);
    }
    let left: Vec<_> = fs::read_dir(&scene.dest).unwrap().collect();
    assert_eq!(left.len(), 9);
    assert_eq!(scene.found(), scene.wanted("new"));
}
