//! Whatever a site sends, spoiled: the laws that `fuzz/` checks for hours, here for seconds.

use libatomos::testing::laws::{Laws, Parser};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::generate::{Spoil, spoil};

/// Spoils real inputs of a parser `cases` times and checks its laws.
fn spoil_all(laws: &Laws, parser: Parser, cases: u32) {
    let seeds = laws.seeds(parser);
    assert!(!seeds.is_empty(), "{parser:?} has no seeds");
    for seed in &seeds {
        laws.check(parser, seed);
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
            laws.check(parser, &bytes);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{parser:?}: {error}"));
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
