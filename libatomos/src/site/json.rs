//! The signed texts: `atomos.json`, records, releases. JSON, because people read them when something is wrong.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::digest::{CommitId, Digest, DirTreeId};
use crate::names::RefName;
use crate::repo::Features;

use super::{SiteError, limits};

/// The format of sites that this library writes and reads.
pub const FORMAT: u32 = 1;

/// The DSSE payload type of a [`Record`].
pub const RECORD_TYPE: &str = "application/vnd.atomos.record+json";

/// The DSSE payload type of a [`Release`].
pub const RELEASE_TYPE: &str = "application/vnd.atomos.release+json";

/// `atomos.json`: says what the site is. Nothing is believed because it stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SiteInfo {
    /// [`FORMAT`].
    pub format: u32,
    /// The repository's id, 32 hexadecimal digits.
    pub repository: String,
    /// What a client must know.
    #[serde(default)]
    pub features: Features,
}

/// A file of the site: its name and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileRef {
    /// The digest of its bytes, which is its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// A version that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Withdrawn {
    /// The release's number. It is not used again.
    pub number: u64,
    /// Its commit.
    pub commit: CommitId,
    /// Its version, for people.
    pub version: String,
    /// Why.
    pub reason: String,
}

/// What a ref is now: the only thing that changes. Signed, small, short-lived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    /// The repository's id.
    pub repository: String,
    /// The ref. A record of another ref is not this one's.
    #[serde(rename = "ref")]
    pub reference: RefName,
    /// The number of the key set that it is signed by.
    pub keys: u64,
    /// Grows with every record of this ref that is signed by this key set. Order is (keys, sequence).
    pub sequence: u64,
    /// When it was signed, in seconds since 1970.
    pub time: i64,
    /// Until when it is to be believed.
    pub expires: i64,
    /// The release's digest.
    pub release: Digest,
    /// The release's bytes.
    pub release_size: u64,
    /// The release's number.
    pub number: u64,
    /// The release's commit.
    pub commit: CommitId,
    /// The release's version, for people.
    pub version: String,
    /// Which machines it is for; everybody where empty.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Whoever runs an earlier release must take this one's barrier first: release `min_from`.
    #[serde(default)]
    pub min_from: u64,
    /// Versions that were taken back.
    #[serde(default)]
    pub withdrawn: Vec<Withdrawn>,
    /// What later versions of the format add.
    #[serde(default)]
    pub extensions: BTreeMap<String, serde_json::Value>,
    /// Extensions without which the record must not be used.
    #[serde(default)]
    pub critical: Vec<String>,
}

/// One earlier release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HistoryEntry {
    /// Its number.
    pub number: u64,
    /// Its version.
    pub version: String,
    /// Its commit.
    pub commit: CommitId,
    /// Its file in `releases/`.
    pub release: FileRef,
    /// When it was published.
    pub time: i64,
    /// Its barrier.
    #[serde(default)]
    pub min_from: u64,
}

/// A manifest for whoever has a certain commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RelativeManifest {
    /// The commit that one must have.
    pub base: CommitId,
    /// The manifest.
    pub file: FileRef,
}

/// How large a version is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Totals {
    /// Files, as paths.
    pub files: u64,
    /// Different blobs that are not empty.
    pub blobs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Different directories.
    pub dirtrees: u64,
}

/// What a version consists of, and what came before it. Immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Release {
    /// The repository's id.
    pub repository: String,
    /// The ref.
    #[serde(rename = "ref")]
    pub reference: RefName,
    /// Grows with every release of the ref.
    pub number: u64,
    /// When it was published, in seconds since 1970.
    pub time: i64,
    /// The commit.
    pub commit: CommitId,
    /// Its root dirtree.
    pub root: DirTreeId,
    /// Its version.
    pub version: String,
    /// Its subject.
    pub subject: String,
    /// Which machines it is for; everybody where empty.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// The release that one must have had before, by number; 0 where there is none.
    #[serde(default)]
    pub min_from: u64,
    /// How large it is.
    pub totals: Totals,
    /// Bytes of kernel, initramfs and device trees that a deployment puts into `/boot`.
    #[serde(default)]
    pub boot_bytes: u64,
    /// The whole manifest.
    pub manifest: FileRef,
    /// Manifests for those who have a certain commit, the newest first.
    #[serde(default)]
    pub manifests: Vec<RelativeManifest>,
    /// Earlier releases, the newest first, at most [`limits::HISTORY`]; older ones stand in the last one's.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
}

impl Record {
    /// Reads a payload whose signature was verified. Refuses critical extensions: this version knows none.
    pub fn from_payload(payload: &[u8]) -> Result<Self, SiteError> {
        let record: Self = parse("a record", payload)?;
        if let Some(name) = record.critical.first() {
            return Err(SiteError::UnknownFeature {
                what: "the record",
                name: name.chars().take(80).collect(),
            });
        }
        Ok(record)
    }

    /// Returns the payload to be signed.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record's fields are text and numbers")
    }

    /// Returns what orders records of a ref: the key set, then the sequence. Never a clock.
    #[must_use]
    pub const fn order(&self) -> (u64, u64) {
        (self.keys, self.sequence)
    }
}

impl Release {
    /// Reads a payload whose signature, or digest, was verified.
    pub fn from_payload(payload: &[u8]) -> Result<Self, SiteError> {
        let release: Self = parse("a release", payload)?;
        let manifests = release.manifests.iter().map(|relative| &relative.file);
        if let Some(file) = manifests
            .chain([&release.manifest])
            .find(|file| file.size > limits::MAX_MANIFEST as u64)
        {
            return Err(SiteError::Text {
                what: "a release",
                reason: format!(
                    "it names a manifest of {} bytes, and 256 MiB are allowed",
                    file.size
                ),
            });
        }
        let descending = |pair: &[HistoryEntry]| pair[0].number > pair[1].number;
        if release.history.len() > limits::HISTORY
            || !release.history.windows(2).all(descending)
            || release
                .history
                .first()
                .is_some_and(|entry| entry.number >= release.number)
        {
            return Err(SiteError::Text {
                what: "a release",
                reason: "its history is not in order".to_owned(),
            });
        }
        Ok(release)
    }

    /// Returns the payload to be signed.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release's fields are text and numbers")
    }
}

impl SiteInfo {
    /// Reads `atomos.json`. A newer format or a feature that this program lacks is said as such.
    pub fn parse(bytes: &[u8]) -> Result<Self, SiteError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = parse("atomos.json", bytes)?;
        if version.format != FORMAT {
            return Err(SiteError::UnknownFeature {
                what: "the site",
                name: format!("format {}", version.format),
            });
        }
        let info: Self = parse("atomos.json", bytes)?;
        if let Some(name) = info.features.incompatible.first() {
            return Err(SiteError::UnknownFeature {
                what: "the site",
                name: name.chars().take(80).collect(),
            });
        }
        Ok(info)
    }

    /// Returns the bytes of `atomos.json`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("its fields are text and numbers");
        bytes.push(b'\n');
        bytes
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, SiteError> {
    serde_json::from_slice(bytes).map_err(|error| SiteError::Text {
        what,
        reason: error.to_string(),
    })
}
