//! What is done to a repository while something goes wrong, and what must be true when it is done.

#[path = "site.rs"]
mod site;

use std::path::Path;

use libatomos::cancel::Cancel;
use libatomos::checkout::{CheckoutOptions, LinkMode, UpdateOptions, checkout, update};
use libatomos::commit::commit;
use libatomos::digest::CommitId;
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{
    LocalPullOptions, ObjectKind, PruneOptions, RefUpdate, RepairOptions, RepairSource, RepoMode, RepoSource,
};
use libatomos::testing::{TestRepo, small_tree, touch_up};

pub use site::Site;
use site::{fetch, has, nothing_is_left};

const FILES: usize = 8;

/// A repository with two versions of a tree, and another with the first.
pub struct World {
    pub repo: TestRepo,
    pub other: TestRepo,
    first: CommitId,
}

impl World {
    pub fn new(mode: RepoMode) -> Self {
        let (repo, other) = (TestRepo::with_mode(mode), TestRepo::with_mode(mode));
        let source = repo.scratch().join("source");
        small_tree(&source, 1, FILES);
        let first = repo.commit("os", &source).commit;
        let _ = other.commit("os", &source);
        touch_up(&source, 2, FILES);
        Self { repo, other, first }
    }

    /// Opens the repositories that another process has made in these directories.
    #[allow(
        dead_code,
        reason = "one of the programs that share this has no other process"
    )]
    pub fn of_another_process(repo: &Path, other: &Path) -> Self {
        let [repo, other] = [repo, other].map(TestRepo::of_another_process);
        let first = repo.repo().resolve_commit("os").unwrap();
        Self { repo, other, first }
    }

    pub fn source(&self) -> std::path::PathBuf {
        self.repo.scratch().join("source")
    }

    pub fn names(&self, name: &str) -> Option<CommitId> {
        self.repo.reopen().ref_optional(&name.parse().unwrap()).unwrap()
    }
}

pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Something that is done to a repository.
pub struct Work {
    pub name: &'static str,
    pub prepare: fn(&World),
    pub work: fn(&World) -> Outcome,
    /// What must be true once it is done.
    pub done: fn(&World),
    /// Whether fsck finds nothing wrong before it.
    pub clean_before: bool,
}

fn do_commit(world: &World) -> Outcome {
    let mut options = TestRepo::options("os");
    options.threads = Some(1);
    let dir = Dir::open_ambient(world.source())?;
    commit(world.repo.repo(), dir, &options, &NoProgress, &Cancel::new())?;
    Ok(())
}

fn do_pull(world: &World) -> Outcome {
    let mut options = LocalPullOptions::default();
    options.threads = Some(1);
    world.other.repo().pull_local(
        world.repo.repo(),
        &["os".parse()?],
        &options,
        &NoProgress,
        &Cancel::new(),
    )?;
    Ok(())
}

fn pull_from_site(world: &World, reference: &str, version: &str, subpath: Option<&str>) -> Outcome {
    fetch(world.other.repo(), reference, version, subpath)?;
    Ok(())
}

fn check_out(world: &World, link: LinkMode) -> Outcome {
    let mut options = CheckoutOptions::default();
    options.link = link;
    options.threads = Some(1);
    let out = world.repo.scratch().join("out");
    if out.exists() {
        // The failure came after the visible step.
        std::fs::remove_dir_all(&out)?;
    }
    checkout(
        world.repo.repo(),
        "os",
        &out,
        &options,
        &NoProgress,
        &Cancel::new(),
    )?;
    Ok(())
}

fn do_adopt(world: &World) -> Outcome {
    let mut options = TestRepo::options("os");
    options.threads = Some(1);
    options.adopt = true;
    let dir = Dir::open_ambient(world.source())?;
    commit(world.repo.repo(), dir, &options, &NoProgress, &Cancel::new())?;
    Ok(())
}

fn do_update(world: &World) -> Outcome {
    let mut options = CheckoutOptions::default();
    options.threads = Some(1);
    options.remember = true;
    update(
        world.repo.repo(),
        "os",
        &world.repo.scratch().join("out"),
        &options,
        &UpdateOptions::default(),
        &NoProgress,
        &Cancel::new(),
    )?;
    Ok(())
}

/// What is checked out is the tree that `os` names.
fn out_is_os(world: &World) {
    let again = TestRepo::with_mode(world.repo.repo().mode());
    let tree = again.commit("os", &world.repo.scratch().join("out")).root;
    let commit = world.names("os").unwrap();
    assert_eq!(tree, world.repo.repo().load_commit(&commit).unwrap().root);
}

fn do_prune(world: &World) -> Outcome {
    world
        .repo
        .repo()
        .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())?;
    Ok(())
}

fn do_repair(world: &World) -> Outcome {
    let mut options = RepairOptions::default();
    options.threads = Some(1);
    let source: Box<dyn RepairSource> = Box::new(RepoSource::new(world.other.reopen(), "other"));
    let report = world
        .repo
        .repo()
        .repair(&mut [source], &options, &NoProgress, &Cancel::new())?;
    // What the source could not give is reported, and is no error: another source may have it. The stray blob is in none.
    match report.lost.iter().all(|finding| finding.used_by.is_empty()) {
        true => Ok(()),
        false => Err(format!("{report:?}").into()),
    }
}

fn first_files(dir: &Path, count: usize) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.truncate(count);
    files
}

pub const WORKS: [Work; 12] = [
    Work {
        name: "commit",
        prepare: |_| (),
        work: do_commit,
        done: |world| {
            let now = world.names("os").unwrap();
            assert_ne!(now, world.first);
        },
        clean_before: true,
    },
    Work {
        name: "pull",
        prepare: |world| drop(world.repo.commit("os", &world.source())),
        work: do_pull,
        done: |world| {
            world.other.assert_clean();
            let there = world.other.reopen().ref_optional(&"os".parse().unwrap());
            assert_eq!(there.unwrap(), world.names("os"));
        },
        clean_before: true,
    },
    Work {
        name: "pull of what is new from a site",
        prepare: |world| Site::of_this_process().remember(world.other.repo()),
        work: |world| pull_from_site(world, "os", "1", None),
        done: |world| has(&world.other, "origin:os", Site::of_this_process().versions[0]),
        clean_before: true,
    },
    Work {
        name: "pull of an update from a site",
        prepare: |world| {
            Site::of_this_process().remember(world.other.repo());
            pull_from_site(world, "os", "1", None).unwrap();
        },
        work: |world| pull_from_site(world, "os", "2", None),
        done: |world| has(&world.other, "origin:os", Site::of_this_process().versions[1]),
        clean_before: true,
    },
    Work {
        name: "pull of a blob in parts from a site",
        prepare: |world| Site::of_this_process().remember(world.other.repo()),
        work: |world| pull_from_site(world, "large", "1", None),
        done: |world| has(&world.other, "origin:large", Site::of_this_process().large),
        clean_before: true,
    },
    Work {
        name: "pull of one path from a site",
        prepare: |world| Site::of_this_process().remember(world.other.repo()),
        work: |world| pull_from_site(world, "os", "2", Some("d1")),
        done: |world| {
            let here = world.other.reopen().partial_commits().unwrap();
            let commit = Site::of_this_process().versions[1];
            assert_eq!(here.keys().collect::<Vec<_>>(), [&commit]);
            nothing_is_left(&world.other);
        },
        clean_before: true,
    },
    Work {
        name: "checkout by hardlink where it can be",
        prepare: |_| (),
        work: |world| check_out(world, LinkMode::Auto),
        done: out_is_os,
        clean_before: true,
    },
    Work {
        name: "checkout by copying",
        prepare: |_| (),
        work: |world| check_out(world, LinkMode::Copy),
        done: out_is_os,
        clean_before: true,
    },
    Work {
        name: "checkout that is updated",
        prepare: |world| {
            let mut options = CheckoutOptions::default();
            options.remember = true;
            let out = world.repo.scratch().join("out");
            checkout(
                world.repo.repo(),
                "os",
                &out,
                &options,
                &NoProgress,
                &Cancel::new(),
            )
            .unwrap();
            let _ = world.repo.commit("os", &world.source());
        },
        work: do_update,
        done: out_is_os,
        clean_before: true,
    },
    Work {
        name: "adopt",
        prepare: |_| (),
        work: do_adopt,
        done: |world| {
            let now = world.names("os").unwrap();
            assert_ne!(now, world.first);
        },
        clean_before: true,
    },
    Work {
        name: "prune",
        prepare: |world| {
            let _ = world.repo.commit("dropped", &world.source());
            let update = RefUpdate {
                name: "dropped".parse().unwrap(),
                expected: None,
                new: None,
            };
            world.repo.repo().update_refs(&[update]).unwrap();
        },
        work: do_prune,
        done: |world| {
            let mut dry = PruneOptions::default();
            dry.dry_run = true;
            let left = world
                .repo
                .repo()
                .prune(&dry, &NoProgress, &Cancel::new())
                .unwrap();
            assert_eq!((left.commits_removed, left.blobs_removed), (0, 0));
        },
        clean_before: true,
    },
    Work {
        name: "repair",
        prepare: |world| {
            for kind in ["objects", "dirtrees"] {
                let files = first_files(&world.repo.path().join(kind), 2);
                std::fs::write(&files[0], b"damaged").unwrap();
                std::fs::remove_file(&files[1]).unwrap();
            }
            // Nobody has it, and nothing needs it.
            let stray = world.repo.plant(ObjectKind::Blob, b"stray");
            std::fs::write(world.repo.object(ObjectKind::Blob, &stray), b"astray").unwrap();
        },
        work: do_repair,
        done: |_| (),
        clean_before: false,
    },
];
