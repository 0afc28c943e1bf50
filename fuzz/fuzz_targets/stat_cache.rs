//! Invariant: a cache is refused, or it is exactly what writing it gives.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| libatomos::testing::decode::check_stat_cache(bytes));
