//! Invariant: the documents of a layout are refused, or lead to layers whose digests are digests. The parts of the input are
//! `index.json`, a manifest and a configuration, with a zero between them; their digests are made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| libatomos::testing::decode::check_layout(bytes));
