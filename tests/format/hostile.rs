//! Whatever a site sends, spoiled: the laws that `fuzz/` checks for hours, here for seconds.

use libatomos::testing::decode;
use libatomos::testing::laws::{Laws, Parser};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::generate::{Spoil, spoil};

/// Spoils real inputs of a parser `cases` times and checks its laws.
fn spoil_all(laws: &Laws, parser: Parser, cases: u32) {
    let seeds = laws.seeds(parser);
    spoil_seeds(&format!("{parser:?}"), &seeds, cases, |bytes| {
        laws.check(parser, bytes)
    });
}

/// Gives `check` the `seeds`, and `cases` spoiled ones.
fn spoil_seeds(name: &str, seeds: &[Vec<u8>], cases: u32, check: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for seed in seeds {
        check(seed);
    }
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let strategy = (0..seeds.len(), vec(spoil(), 1..4));
    TestRunner::new(config)
        .run(&strategy, |(seed, spoils): (usize, Vec<Spoil>)| {
            let bytes = spoils
                .iter()
                .fold(seeds[seed].clone(), |bytes, spoil| spoil.apply(bytes));
            check(&bytes);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn an_input_means_the_same_to_every_process() {
    let (laws, again) = (Laws::new(), Laws::new());
    for (parser, name) in Parser::ALL {
        assert!(laws.seeds(parser) == again.seeds(parser), "{name}");
    }
}

#[test]
fn spoiled_parts_of_a_site_are_refused_or_keep_the_laws() {
    let laws = Laws::new();
    for (parser, _) in Parser::ALL {
        let cases = match parser {
            Parser::Pull | Parser::Frame => continue,
            Parser::Manifest | Parser::Bundle => 300,
            _ => 1000,
        };
        spoil_all(&laws, parser, cases);
    }
}

#[test]
fn a_pull_of_spoiled_frames_blames_the_frame_and_nothing_else() {
    spoil_all(&Laws::new(), Parser::Frame, 300);
}

#[test]
fn a_pull_from_a_spoiled_site_fails_or_brings_exactly_what_was_signed() {
    spoil_all(&Laws::new(), Parser::Pull, 150);
}

#[test]
fn spoiled_archives_images_and_ostree_repositories_are_refused_or_keep_the_laws() {
    let archive = |bytes: &[u8]| {
        if let Some((first, archive)) = bytes.split_first() {
            decode::check_archive(&decode::with_checksums(archive), first % 2 == 1);
        }
    };
    spoil_seeds("archives", &decode::archive_seeds(), 1000, archive);
    spoil_seeds("images", &decode::layout_seeds(), 300, decode::check_layout);
    spoil_seeds("OSTree", &decode::ostree_seeds(), 300, decode::check_ostree);
    spoil_seeds(
        "stat caches",
        &decode::stat_cache_seeds(),
        1000,
        decode::check_stat_cache,
    );
}
