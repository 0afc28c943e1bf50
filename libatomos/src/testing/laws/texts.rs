//! Envelopes, key sets, records, releases: JSON, so one value has many spellings, and the law is that a value is written and
//! read as itself. What a signature vouches for is what was signed, and nothing else.

use crate::sign::{Envelope, KEYS_TYPE, KeySet, Signer, TrustedKeys};
use crate::site::{RECORD_TYPE, RELEASE_TYPE, Record, Release, SiteInfo, Withdrawn, limits};

use super::files::Files;
use super::world::World;

pub(super) fn envelopes(files: &Files) -> Vec<Vec<u8>> {
    let signed = files.records.iter().chain(&files.releases);
    let mut envelopes: Vec<_> = signed.map(|(_, envelope)| envelope.clone()).collect();
    envelopes.push(files.key_set_envelope.clone());
    envelopes
}

pub(super) fn envelope(world: &World, files: &Files, bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(bytes) else {
        return;
    };
    let written = envelope.encode();
    let again = Envelope::decode(&written).unwrap();
    assert_eq!(again, envelope);
    assert_eq!(again.encode(), written);
    let key = world.key.public();
    let known: [(&str, Vec<&Vec<u8>>); 3] = [
        (
            RECORD_TYPE,
            files.records.iter().map(|(payload, _)| payload).collect(),
        ),
        (
            RELEASE_TYPE,
            files.releases.iter().map(|(payload, _)| payload).collect(),
        ),
        (KEYS_TYPE, vec![&files.key_set]),
    ];
    for (kind, payloads) in &known {
        if let Ok(payload) = envelope.verify(kind, [&key], 1) {
            assert!(payloads.iter().any(|known| *known == payload), "{kind}: forged");
        }
        assert!(
            envelope.verify(kind, [&key, &key], 2).is_err(),
            "one key counts once"
        );
        assert!(envelope.verify(kind, [], 0).is_err(), "nobody's signature counts");
    }
    let pinned = TrustedKeys::pinned([key]).unwrap();
    if let Ok(next) = pinned.advance(bytes) {
        assert_eq!(next.set().to_payload(), files.key_set);
    }
}

pub(super) fn keys(payload: &[u8]) {
    let Ok(set) = KeySet::from_payload(payload) else {
        return;
    };
    assert_eq!(KeySet::from_payload(&set.to_payload()).unwrap(), set);
    for role in [&set.root, &set.record].into_iter().chain(&set.release) {
        assert!(role.threshold >= 1 && role.threshold <= role.keys.len());
        for id in &role.keys {
            assert_eq!(set.keys[id].id(), *id);
        }
    }
    let nobody = Envelope::unsigned(KEYS_TYPE, payload.to_vec());
    let trusted = TrustedKeys::given(set);
    assert!(trusted.advance(&nobody.encode()).is_err());
    assert!(trusted.verify_record(&nobody, KEYS_TYPE).is_err());
    assert!(trusted.verify_release(&nobody, KEYS_TYPE).is_err());
}

/// Records of a site, and one that uses all that a record can say.
pub(super) fn records(files: &Files) -> Vec<Vec<u8>> {
    let mut full = files.record.clone();
    full.compatible = vec!["board-a".to_owned(), "board-b".to_owned()];
    full.min_from = 1;
    full.withdrawn = vec![Withdrawn {
        number: 2,
        commit: files.record.commit,
        version: "2".to_owned(),
        reason: "does \"not\" boot \u{1f980}".to_owned(),
    }];
    let extension = serde_json::json!({"share": 0.1, "list": [null, -7, true, {"deep": 1e-300}]});
    full.extensions.insert("rollout".to_owned(), extension);
    let mut records: Vec<_> = files.records.iter().map(|(payload, _)| payload.clone()).collect();
    records.push(full.to_payload());
    records
}

pub(super) fn record(payload: &[u8]) {
    if let Ok(record) = Record::from_payload(payload) {
        assert_eq!(Record::from_payload(&record.to_payload()).unwrap(), record);
        assert!(record.critical.is_empty());
        assert_eq!(record.order(), (record.keys, record.sequence));
    }
}

pub(super) fn release(payload: &[u8]) {
    if let Ok(release) = Release::from_payload(payload) {
        assert_eq!(Release::from_payload(&release.to_payload()).unwrap(), release);
        assert!(release.history.len() <= limits::HISTORY);
        let mut last = release.number;
        for entry in &release.history {
            assert!(entry.number < last, "an earlier release comes later");
            last = entry.number;
        }
        let manifests = release.manifests.iter().map(|relative| relative.file);
        for file in manifests.chain([release.manifest]) {
            assert!(file.size <= limits::MAX_MANIFEST as u64);
        }
    }
}

pub(super) fn info(bytes: &[u8]) {
    if let Ok(info) = SiteInfo::parse(bytes) {
        assert_eq!(info.format, crate::site::FORMAT);
        assert!(info.features.incompatible.is_empty());
        assert_eq!(SiteInfo::parse(&info.to_bytes()).unwrap(), info);
    }
}
