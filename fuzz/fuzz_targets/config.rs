//! Invariant: bytes are refused, or writing the value and reading it gives the value again.
#![no_main]

use libatomos::testing::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = decode::config(bytes) {
        let again = decode::config(&decode::encode_config(&config));
        assert_eq!(again.expect("what was written can be read"), config);
        assert!(config.features.incompatible.is_empty());
    }
});
