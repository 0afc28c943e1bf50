//! The site's files, and what is in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::digest::CommitId;
use crate::pull::laws::Frames;
use crate::repo::Repo;
use crate::sign::{Envelope, KeySet, Role, Signer};
use crate::site::{Artifact, BlobList, INFO, Manifest, PatchFrame, Record, Release, TreeTable, record_path};

use super::bytes::Pair;
use super::world::{NOW, World, reference};

#[derive(Debug)]
pub(super) struct Files {
    /// By path.
    pub(super) all: BTreeMap<String, Arc<[u8]>>,
    /// Payloads of records and releases with their envelopes, the newest first.
    pub(super) records: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) releases: Vec<(Vec<u8>, Vec<u8>)>,
    /// A key set's payload, and its envelope.
    pub(super) key_set: Vec<u8>,
    pub(super) key_set_envelope: Vec<u8>,
    pub(super) record: Record,
    pub(super) release: Release,
    /// Manifests of the newest release.
    pub(super) manifest: Arc<[u8]>,
    pub(super) relative: Arc<[u8]>,
    /// The same, decoded, and the sections of it.
    pub(super) decoded: Manifest,
    pub(super) table: Vec<u8>,
    pub(super) base_table: Vec<u8>,
    pub(super) index: Vec<u8>,
    pub(super) relative_index: Vec<u8>,
    pub(super) blobs: BlobList,
    pub(super) frames: Frames,
    pub(super) pairs: Vec<Pair>,
}

impl Files {
    pub(super) fn of(world: &World) -> Self {
        let mut all: BTreeMap<String, Arc<[u8]>> = BTreeMap::new();
        let site = world.site();
        for dir in ["", "refs", "releases", "manifests", "packs", "patches", "images"] {
            for entry in std::fs::read_dir(site.join(dir)).into_iter().flatten() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let name = entry.file_name().into_string().unwrap();
                    let path = if dir.is_empty() {
                        name
                    } else {
                        format!("{dir}/{name}")
                    };
                    all.insert(path, Arc::from(std::fs::read(entry.path()).unwrap()));
                }
            }
        }
        assert!(all.contains_key(INFO));
        let payload = |bytes: &[u8]| Envelope::decode(bytes).unwrap().unverified_payload().to_vec();
        let record_bytes = all[&record_path(&reference())].to_vec();
        let records = vec![(payload(&record_bytes), record_bytes)];
        let record = Record::from_payload(&records[0].0).unwrap();
        let mut releases: Vec<_> = all
            .iter()
            .filter(|(path, _)| path.starts_with("releases/"))
            .map(|(_, bytes)| (payload(bytes), bytes.to_vec()))
            .collect();
        releases
            .sort_by_key(|(payload, _)| std::cmp::Reverse(Release::from_payload(payload).unwrap().number));
        let release = Release::from_payload(&releases[0].0).unwrap();
        let table = |commit: &CommitId| encode_table(&world.publisher, commit);
        let base_table = table(&world.base);
        let manifest = Arc::clone(&all[&Artifact::Manifest.path(&release.manifest.digest)]);
        let relative = release
            .manifests
            .iter()
            .find(|one| one.base == world.base)
            .unwrap();
        let relative = Arc::clone(&all[&Artifact::Manifest.path(&relative.file.digest)]);
        let decoded = Manifest::decode(&manifest, &world.newest, &[]).unwrap();
        let decoded_relative = Manifest::decode(&relative, &world.newest, &base_table).unwrap();
        has_everything(&decoded);
        let id = world.key.public().id();
        let role = Role {
            keys: [id].into(),
            threshold: 1,
        };
        let key_set = KeySet {
            repository: release.repository.clone(),
            number: 1,
            time: NOW,
            expires: Some(NOW + 1_000_000),
            keys: [(id, world.key.public())].into(),
            root: role.clone(),
            record: role.clone(),
            release: Some(role),
        }
        .to_payload();
        let signed = Envelope::sign(crate::sign::KEYS_TYPE, key_set.clone(), &[&world.key]).unwrap();
        Self {
            records,
            releases,
            key_set,
            key_set_envelope: signed.encode(),
            record,
            release,
            manifest,
            relative,
            table: table(&world.newest),
            base_table,
            index: decoded.index.encode(),
            relative_index: decoded_relative.index.encode(),
            blobs: decoded.blobs.clone(),
            frames: Frames::of(&world.client, &decoded, &|path| Arc::clone(&all[path])),
            decoded,
            pairs: super::bytes::pairs(),
            all,
        }
    }
}

/// What the laws are about must be there, whatever the publisher came to think worth making.
fn has_everything(manifest: &Manifest) {
    let index = &manifest.index;
    assert!(
        index.places.iter().any(|place| place.frames.len() > 2),
        "no segments"
    );
    assert!(index.image.is_some(), "no image");
    let windows =
        |patch: &PatchFrame| matches!(patch, PatchFrame::Prefix { windows, .. } if windows.len() > 1);
    assert!(index.patches.iter().any(windows), "no windows");
    let group = |patch: &PatchFrame| matches!(patch, PatchFrame::Group { targets, .. } if targets.len() > 1);
    assert!(index.patches.iter().any(group), "no group");
}

fn encode_table(repo: &Repo, commit: &CommitId) -> Vec<u8> {
    TreeTable::encode(repo, commit).unwrap()
}
