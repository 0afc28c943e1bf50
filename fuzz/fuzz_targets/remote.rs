//! Invariant: a text is refused, or writing the remote's configuration and reading it gives the configuration again, which
//! names its keys or says that there are none.
#![no_main]

use libatomos::remote::RemoteConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = RemoteConfig::parse(text) {
        let written = config.to_text().expect("what was accepted can be written");
        let again = RemoteConfig::parse(&written);
        assert_eq!(again.expect("what was written can be read"), config);
        assert!(!config.urls.is_empty());
        assert_eq!(config.keys.is_empty(), config.no_verify);
        assert!(config.without_secrets().check().is_ok());
    }
});
