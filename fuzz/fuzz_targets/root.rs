//! Invariant: a root's record is refused or read, without a panic.
#![no_main]

use libatomos::testing::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode::root_record(bytes);
});
