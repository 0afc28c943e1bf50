//! decode(encode(x)) = x; encode(decode(b)) = b for every accepted b; no bytes make a decoder panic.

use libatomos::digest::Digest;
use libatomos::format::{Commit, DirTree};
use libatomos::testing::decode;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{Spoil, commit, dirtree, metadata, spoil};

/// Asserts that whatever a decoder accepts is what the encoder writes, for every decoder there is.
fn assert_canonical(bytes: &[u8]) {
    if let Ok(tree) = DirTree::decode(bytes) {
        assert_eq!(tree.encode().unwrap().1, bytes);
    }
    if let Ok(commit) = Commit::decode(bytes) {
        assert_eq!(commit.encode().unwrap().1, bytes);
    }
    if let Ok(refs) = decode::refs(bytes) {
        assert_eq!(decode::encode_refs(&refs), bytes);
    }
    // Of these two many spellings are one value, so the law is weaker.
    if let Ok(config) = decode::config(bytes) {
        assert_eq!(decode::config(&decode::encode_config(&config)).unwrap(), config);
    }
    if let Ok(record) = decode::root_record(bytes) {
        let again = serde_json::to_vec(&record).unwrap();
        assert_eq!(decode::root_record(&again).unwrap(), record);
    }
}

fn spoiled(bytes: Vec<u8>, spoils: &[Spoil]) -> Vec<u8> {
    spoils.iter().fold(bytes, |bytes, spoil| spoil.apply(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dirtree_decodes_to_what_was_encoded(tree in dirtree()) {
        let (id, bytes) = tree.encode().unwrap();
        prop_assert_eq!(&DirTree::decode(&bytes).unwrap(), &tree);
        prop_assert_eq!(*id.digest(), Digest::of(&bytes));
        prop_assert!(Commit::decode(&bytes).is_err());
        for entry in tree.entries() {
            prop_assert_eq!(tree.get(&entry.name), Some(entry));
        }
    }

    #[test]
    fn a_commit_decodes_to_what_was_encoded(commit in commit()) {
        let (id, bytes) = commit.encode().unwrap();
        prop_assert_eq!(&Commit::decode(&bytes).unwrap(), &commit);
        prop_assert_eq!(*id.digest(), Digest::of(&bytes));
        prop_assert!(DirTree::decode(&bytes).is_err());
    }

    #[test]
    fn different_metadata_has_different_bytes(a in metadata(), b in metadata()) {
        prop_assert_eq!(a == b, a.encode().unwrap() == b.encode().unwrap());
        prop_assert_eq!(a == b, a.variant_name().unwrap() == b.variant_name().unwrap());
    }

    #[test]
    fn a_flipped_bit_is_refused_or_is_another_value(tree in dirtree(), commit in commit(), at: u16, bit in 0..8u8) {
        let spoil = Spoil::Flip(usize::from(at), bit);
        let bytes = spoil.apply(tree.encode().unwrap().1);
        assert_canonical(&bytes);
        prop_assert!(DirTree::decode(&bytes).map_or(true, |other| other != tree));
        let bytes = spoil.apply(commit.encode().unwrap().1);
        assert_canonical(&bytes);
        prop_assert!(Commit::decode(&bytes).map_or(true, |other| other != commit));
    }

    #[test]
    fn spoiled_encodings_are_refused_or_canonical(tree in dirtree(), commit in commit(), spoils in vec(spoil(), 1..4)) {
        assert_canonical(&spoiled(tree.encode().unwrap().1, &spoils));
        assert_canonical(&spoiled(commit.encode().unwrap().1, &spoils));
    }

    #[test]
    fn spoiled_repository_files_are_refused_or_canonical(spoils in vec(spoil(), 1..4)) {
        let hex = Digest::of(b"x").to_hex();
        let refs = format!("{hex} a\n{hex} b/c\n{hex} origin:os\n");
        let config = format!("format = 1\nmode = \"bare\"\nid = \"{}\"\n[features]\nincompatible = []\n", &hex[..32]);
        let root = format!("{{\"commits\": [\"{hex}\"], \"blobs\": [\"{hex}\"]}}");
        for seed in [refs, config, root] {
            assert_canonical(&spoiled(seed.into_bytes(), &spoils));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_canonical(bytes in vec(any::<u8>(), 0..400), kind in 0..2usize) {
        assert_canonical(&bytes);
        assert_canonical(&[[b"atomosT\x01", b"atomosC\x01"][kind], &bytes[..]].concat());
        // A small number of entries, so that the entries themselves are reached.
        assert_canonical(&[b"atomosT\x01\x01\0\0\0", &bytes[..]].concat());
    }

    #[test]
    fn arbitrary_text_is_refused_or_canonical(text in any::<String>()) {
        assert_canonical(text.as_bytes());
    }
}

proptest! {
    // Each case tries every length.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_encoding_cut_short_or_made_longer_is_refused(tree in dirtree(), commit in commit(), more in 0..=255u8) {
        let bytes = tree.encode().unwrap().1;
        for len in 0..bytes.len() {
            prop_assert!(DirTree::decode(&bytes[..len]).is_err(), "{} of {}", len, bytes.len());
        }
        prop_assert!(DirTree::decode(&[&bytes[..], &[more]].concat()).is_err());
        let bytes = commit.encode().unwrap().1;
        for len in 0..bytes.len() {
            prop_assert!(Commit::decode(&bytes[..len]).is_err(), "{} of {}", len, bytes.len());
        }
        prop_assert!(Commit::decode(&[&bytes[..], &[more]].concat()).is_err());
    }
}
