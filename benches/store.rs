//! The store's verbs on a small tree in a temporary directory, without peers and without waiting for the disk's mercy:
//! for seeing what a change of the code does. `cargo bench -p libatomos --bench store`.
#![allow(missing_docs)] // Criterion's macros make public functions.
#![allow(clippy::disallowed_methods)] // The sample is arranged by path.

use std::path::Path;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use libatomos::cancel::Cancel;
use libatomos::checkout::{CheckoutOptions, checkout};
use libatomos::commit::{CommitOptions, commit};
use libatomos::fs::Dir;
use libatomos::progress::NoProgress;
use libatomos::repo::{FsckOptions, Repo, RepoMode};

/// 20 directories of 50 files of 4 kB.
fn make_tree(root: &Path) {
    for directory in 0..20 {
        let path = root.join(format!("dir-{directory}"));
        std::fs::create_dir_all(&path).expect("a temporary directory can be written");
        for file in 0..50 {
            let line = format!("{directory}/{file}\n");
            std::fs::write(path.join(format!("file-{file}")), line.repeat(4096 / line.len()))
                .expect("a temporary directory can be written");
        }
    }
}

fn store(criterion: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("there is a temporary directory");
    let tree = scratch.path().join("tree");
    make_tree(&tree);
    let mode = if rustix::process::geteuid().is_root() {
        RepoMode::Bare
    } else {
        RepoMode::BareUser
    };
    let repo = Repo::init(&scratch.path().join("repo"), mode).expect("the repository can be made");
    let mut options = CommitOptions::default();
    options.reference = Some("bench".parse().expect("the name is valid"));
    let run = |repo: &Repo| {
        let source = Dir::open_ambient(&tree).expect("the tree is there");
        commit(repo, source, &options, &NoProgress, &Cancel::new()).expect("the tree can be committed")
    };
    run(&repo);
    let mut group = criterion.benchmark_group("1000 files");
    group.sample_size(20);
    group.bench_function("commit, first", |bench| {
        let fresh = || {
            let dir = tempfile::tempdir().expect("there is a temporary directory");
            let repo = Repo::init(&dir.path().join("repo"), mode).expect("the repository can be made");
            (dir, repo)
        };
        bench.iter_batched(fresh, |(dir, repo)| (run(&repo), dir), BatchSize::PerIteration);
    });
    group.bench_function("commit, unchanged", |bench| bench.iter(|| run(&repo)));
    let mut number = 0;
    group.bench_function("checkout", |bench| {
        bench.iter(|| {
            number += 1;
            let target = scratch.path().join(format!("checkout-{number}"));
            checkout(
                &repo,
                "bench",
                &target,
                &CheckoutOptions::default(),
                &NoProgress,
                &Cancel::new(),
            )
            .expect("the tree can be checked out")
        });
    });
    group.bench_function("fsck", |bench| {
        bench.iter(|| {
            repo.fsck(&FsckOptions::default(), &NoProgress, &Cancel::new())
                .expect("the store can be read")
        });
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
