//! Invariant: a text is refused, or it is a name that prints as it was read and cannot leave a directory.
#![no_main]

use libatomos::digest::Digest;
use libatomos::names::{RefName, StaterootName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<RefName>() {
        assert_eq!(name.as_str(), text);
        assert!(
            text.split(['/', ':'])
                .all(|part| !part.is_empty() && !part.starts_with('.'))
        );
    }
    if let Ok(name) = text.parse::<StaterootName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains('/') && !text.starts_with('.'));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_hex(), text);
    }
});
