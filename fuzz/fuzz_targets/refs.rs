//! Invariant: bytes are refused, or they are exactly what writing the refs gives; no ref lies within another.
#![no_main]

use libatomos::testing::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(refs) = decode::refs(bytes) {
        assert_eq!(decode::encode_refs(&refs), bytes);
        let names: Vec<_> = refs.keys().collect();
        for pair in names.windows(2) {
            assert!(!pair[0].collides_with(pair[1]));
        }
    }
});
