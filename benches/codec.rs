//! How long it takes to encode, decode and name what an operating system tree is made of.
//!
//! `cargo bench -p libatomos --bench codec`. The whole commands are measured by `cargo xtask bench`, beside their peers.
#![allow(missing_docs)] // Criterion's macros make public functions.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use libatomos::digest::{BlobId, Digest};
use libatomos::format::{DirTree, Entry, Metadata, Node};
use std::hint::black_box;

/// Entries in the sample: as many as a large directory of a distribution has.
const ENTRIES: usize = 1000;

fn sample() -> DirTree {
    let entry = |index: usize| {
        let bytes = index.to_le_bytes();
        let node = Node::File {
            size: 8,
            blob: BlobId::new(Digest::of(&bytes)),
            verity: None,
        };
        Entry {
            name: format!("file-{index:05}").into_bytes(),
            metadata: Metadata::with_mode(0o644),
            node,
        }
    };
    DirTree::new((0..ENTRIES).map(entry).collect()).expect("the names differ")
}

fn codec(criterion: &mut Criterion) {
    let tree = sample();
    let (_, bytes) = tree.encode().expect("the sample is valid");
    let mut group = criterion.benchmark_group("dirtree of 1000 files");
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function("encode and digest", |bench| {
        bench.iter(|| black_box(&tree).encode())
    });
    group.bench_function("decode", |bench| {
        bench.iter(|| DirTree::decode(black_box(&bytes)))
    });
    group.bench_function("sort and check", |bench| {
        bench.iter_batched(
            || tree.clone().into_entries(),
            DirTree::new,
            BatchSize::SmallInput,
        );
    });
    group.finish();
    let metadata = Metadata::with_mode(0o644);
    criterion.bench_function("name of an inode variant", |bench| {
        bench.iter(|| black_box(&metadata).variant_name())
    });
}

criterion_group!(benches, codec);
criterion_main!(benches);
