//! Invariant: bytes are refused, or they are exactly what encoding the value gives; no entry could leave its directory.
#![no_main]

use libatomos::digest::Digest;
use libatomos::format::DirTree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tree) = DirTree::decode(bytes) {
        let (id, again) = tree.encode().expect("what was decoded can be encoded");
        assert_eq!(again, bytes);
        assert_eq!(*id.digest(), Digest::of(bytes));
        for entry in tree.entries() {
            assert!(!entry.name.is_empty() && entry.name != b"." && entry.name != b"..");
            assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
            assert_eq!(tree.get(&entry.name), Some(entry));
            entry
                .metadata
                .variant_name()
                .expect("what was decoded has a variant's name");
        }
    }
});
