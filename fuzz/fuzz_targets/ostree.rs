//! Invariant: bytes are refused, or they are an object with values that such an object can have.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| libatomos::testing::decode::check_ostree(bytes));
