//! Invariant: bytes are refused, or they are exactly what writing the aliases gives.
#![no_main]

use libatomos::testing::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(aliases) = decode::aliases(bytes) {
        assert_eq!(decode::encode_aliases(&aliases), bytes);
    }
});
