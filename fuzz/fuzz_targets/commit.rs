//! Invariant: bytes are refused, or they are exactly what encoding the value gives.
#![no_main]

use libatomos::format::Commit;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(commit) = Commit::decode(bytes) {
        let (_, again) = commit.encode().expect("what was decoded can be encoded");
        assert_eq!(again, bytes);
        assert!(!commit.subject.contains('\n'));
    }
});
