use super::*;
use std::collections::BTreeMap;

const TYPE: &str = "application/vnd.atomos.record+json";

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn role(keys: &[&SecretKey], threshold: usize) -> Role {
    Role {
        keys: keys.iter().map(|key| key.public().id()).collect(),
        threshold,
    }
}

fn set(number: u64, root: Role, record: Role, keys: &[&SecretKey]) -> KeySet {
    KeySet {
        repository: "0".repeat(32),
        number,
        time: 0,
        expires: None,
        keys: keys
            .iter()
            .map(|key| (key.public().id(), key.public()))
            .collect::<BTreeMap<_, _>>(),
        root,
        record,
        release: None,
    }
}

fn signed(set: &KeySet, signers: &[&SecretKey]) -> Vec<u8> {
    let signers: Vec<&dyn Signer> = signers.iter().map(|key| *key as &dyn Signer).collect();
    Envelope::sign(KEYS_TYPE, set.to_payload(), &signers)
        .unwrap()
        .encode()
}

#[test]
fn signatures_are_those_of_rfc_8032() {
    // Section 7.1, TEST 2.
    let seed = [
        0x4c, 0xcd, 0x08, 0x9b, 0x28, 0xff, 0x96, 0xda, 0x9d, 0xb6, 0xc3, 0x46, 0xec, 0x11, 0x4e, 0x0f, 0x5b,
        0x8a, 0x31, 0x9f, 0x35, 0xab, 0xa6, 0x24, 0xda, 0x8c, 0xf6, 0xed, 0x4f, 0xb8, 0xa6, 0xfb,
    ];
    let key = SecretKey::from_seed(&seed);
    assert_eq!(
        crate::digest::hex(key.public().as_bytes()),
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    );
    assert_eq!(
        crate::digest::hex(&key.sign(&[0x72]).unwrap()),
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    );
}

#[test]
fn keys_come_back_from_their_texts() {
    let secret = key(1);
    assert_eq!(
        SecretKey::parse(&secret.to_pem()).unwrap().public(),
        secret.public()
    );
    assert_eq!(
        PublicKey::parse(&secret.public().to_pem()).unwrap(),
        secret.public()
    );
    let error = PublicKey::parse(&secret.to_pem()).unwrap_err();
    assert!(error.to_string().contains("secret key"), "{error}");
    assert!(!format!("{secret:?}").contains(&crate::digest::hex(&[1; 32])));
}

#[test]
fn an_envelope_counts_only_for_its_type_its_payload_and_different_keys() {
    let (a, b) = (key(1), key(2));
    let envelope = Envelope::sign(TYPE, b"{}".to_vec(), &[&a]).unwrap();
    let read = Envelope::decode(&envelope.encode()).unwrap();
    assert_eq!(read, envelope);
    let keys = [a.public(), b.public()];
    assert_eq!(read.verify(TYPE, &keys, 1).unwrap(), b"{}");
    assert!(matches!(
        read.verify(KEYS_TYPE, &keys, 1),
        Err(SignError::OtherType { .. })
    ));
    // The same key twice is one key.
    assert!(read.verify(TYPE, [&keys[0], &keys[0]], 2).is_err());
    assert!(read.verify(TYPE, &[b.public()], 1).is_err());
    let text = String::from_utf8(envelope.encode()).unwrap();
    let other = text.replace("\"e30=\"", "\"e3g=\"");
    assert!(
        Envelope::decode(other.as_bytes())
            .unwrap()
            .verify(TYPE, &keys, 1)
            .is_err()
    );
    assert!(Envelope::decode(text.replace("payloadType", "payloadtype").as_bytes()).is_err());
    assert!(Envelope::decode(format!("{text}x").as_bytes()).is_err());
    let extra = text.replacen('{', "{\"more\":1,", 1);
    assert!(Envelope::decode(extra.as_bytes()).is_err());
}

#[test]
fn a_signature_stands_for_the_key_that_made_it_and_not_for_the_name_it_bears() {
    let (a, b) = (key(1), key(2));
    let envelope = Envelope::sign(TYPE, b"{}".to_vec(), &[&a]).unwrap();
    let text = String::from_utf8(envelope.encode()).unwrap();
    let renamed = text.replace(&a.public().id().to_string(), &b.public().id().to_string());
    let read = Envelope::decode(renamed.as_bytes()).unwrap();
    assert!(read.verify(TYPE, &[a.public(), b.public()], 1).is_err());
}

#[test]
fn a_chain_of_three_rotations_is_followed_and_nothing_else() {
    let keys: Vec<SecretKey> = (1..=4).map(key).collect();
    let mut trusted = TrustedKeys::pinned([keys[0].public()]).unwrap();
    for number in 1..=3 {
        let (old, new) = (&keys[number - 1], &keys[number]);
        let next = set(number as u64, role(&[new], 1), role(&[new], 1), &[new]);
        assert!(
            trusted.advance(&signed(&next, &[new])).is_err(),
            "only by the new key"
        );
        assert!(
            trusted.advance(&signed(&next, &[old])).is_err(),
            "only by the old key"
        );
        let skipped = KeySet {
            number: next.number + 1,
            ..next.clone()
        };
        assert!(
            trusted.advance(&signed(&skipped, &[old, new])).is_err(),
            "a number left out"
        );
        if number > 1 {
            let other = KeySet {
                repository: "1".repeat(32),
                ..next.clone()
            };
            assert!(
                trusted.advance(&signed(&other, &[old, new])).is_err(),
                "another repository"
            );
        }
        trusted = trusted.advance(&signed(&next, &[old, new])).unwrap();
    }
    let record = Envelope::sign(TYPE, b"{}".to_vec(), &[&keys[0]]).unwrap();
    assert!(
        trusted.verify_record(&record, TYPE).is_err(),
        "the first key is out"
    );
    let record = Envelope::sign(TYPE, b"{}".to_vec(), &[&keys[3]]).unwrap();
    assert!(trusted.verify_record(&record, TYPE).is_ok());
}

#[test]
fn thresholds_hold_and_a_release_takes_its_own_keys() {
    let (a, b, c) = (key(1), key(2), key(3));
    let mut next = set(1, role(&[&a, &b, &c], 2), role(&[&b], 1), &[&a, &b, &c]);
    next.release = Some(role(&[&c], 1));
    let pinned = TrustedKeys::pinned([a.public()]).unwrap();
    assert!(pinned.advance(&signed(&next, &[&a])).is_err());
    let trusted = pinned.advance(&signed(&next, &[&a, &c])).unwrap();
    let by = |key: &SecretKey| Envelope::sign(TYPE, b"{}".to_vec(), &[key]).unwrap();
    assert!(trusted.verify_record(&by(&b), TYPE).is_ok());
    assert!(trusted.verify_record(&by(&c), TYPE).is_err());
    assert!(trusted.verify_release(&by(&c), TYPE).is_ok());
    assert!(trusted.verify_release(&by(&b), TYPE).is_err());
    let text = serde_json::to_string(&trusted).unwrap();
    assert_eq!(serde_json::from_str::<TrustedKeys>(&text).unwrap(), trusted);
}

#[test]
fn key_sets_that_cannot_work_are_refused() {
    let (a, b) = (key(1), key(2));
    let good = set(1, role(&[&a], 1), role(&[&a], 1), &[&a]);
    good.check().unwrap();
    let bad = [
        KeySet {
            root: role(&[&a], 0),
            ..good.clone()
        },
        KeySet {
            root: role(&[&a], 2),
            ..good.clone()
        },
        KeySet {
            record: role(&[&b], 1),
            ..good.clone()
        },
        KeySet {
            keys: [(b.public().id(), a.public())].into(),
            ..good.clone()
        },
    ];
    for set in bad {
        assert!(set.check().is_err(), "{set:?}");
    }
    assert!(TrustedKeys::pinned([]).is_err());
}
