//! The seal of a commit: somebody's word for the image that its tree makes.
//!
//! A tree that records the fs-verity digest of each file makes an image which has them, too, and the kernel compares them whenever a file
//! is opened. So the image's own fs-verity digest stands for every name, every owner and mode, and every byte. It is in the commit's
//! metadata; and signed, so that whoever boots the image need not believe whoever has written to the disk.
//!
//! What is signed says besides which tree and which version it is of. A seal that was moved to another commit is seen by that where it is
//! deployed; what boots compares the image alone, which no other commit with another tree has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::DirTreeId;
use crate::format::{Commit, MetadataValue, Node};
use crate::repo::{Located, ObjectKind, Repo, RepoError, object_path};
use crate::sign::{Envelope, PublicKey, Signer};
use crate::verity::VerityDigest;

use super::ComposefsError;

/// The key of a commit's metadata that has the fs-verity digest of the image, as text.
pub const VERITY_KEY: &str = "atomos.composefs.verity";

/// The key of a commit's metadata that has the seal, an envelope as text.
pub const SEAL_KEY: &str = "atomos.composefs.seal";

/// The payload type of a seal.
pub const SEAL_TYPE: &str = "application/vnd.atomos.seal+json";

/// The way in which images are made. Another way makes other images of the same trees.
const FORMAT: u32 = 1;

/// Bytes in a seal. One with 64 signatures and the longest version has fewer.
pub(crate) const MAX_SEAL: usize = 32 * 1024;

/// What is signed. Its fields are in this order, for whoever boots it reads the first two and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SealedImage {
    /// How the image is made: 1.
    pub format: u32,
    /// The image's fs-verity digest.
    pub image: VerityDigest,
    /// The tree that the image is made of.
    pub tree: DirTreeId,
    /// The version of the operating system in the tree; empty where it has none.
    pub version: String,
}

/// A commit's seal, which is of that commit. Whose it is has not been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// What is signed.
    pub sealed: SealedImage,
    envelope: Envelope,
}

/// Where a tree has the keys that the hooks take into its initramfs.
const KEYS: [&str; 2] = ["usr/lib/atomos/seal.d", "usr/etc/atomos/seal.d"];

/// How their names end.
const KEY: &[u8] = b".pub";

/// Bytes of one that are read.
const MAX_KEY: usize = 64 * 1024;

fn unfit(reason: impl ToString) -> ComposefsError {
    ComposefsError::Seal {
        reason: reason.to_string(),
    }
}

impl Seal {
    /// Seals an image of a tree.
    ///
    /// # Errors
    /// If a signer fails.
    pub fn sign(
        image: VerityDigest,
        tree: DirTreeId,
        version: &str,
        signers: &[&dyn Signer],
    ) -> Result<Self, ComposefsError> {
        let sealed = SealedImage {
            format: FORMAT,
            image,
            tree,
            version: version.to_owned(),
        };
        let payload = serde_json::to_vec(&sealed).expect("numbers and digests are text");
        Ok(Self {
            envelope: Envelope::sign(SEAL_TYPE, payload, signers)?,
            sealed,
        })
    }

    /// Reads one. Nothing in it is believed.
    ///
    /// # Errors
    /// If it is none, or not written as it would be here: what boots it reads nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ComposefsError> {
        if bytes.len() > MAX_SEAL {
            return Err(unfit(format!("it has more than {MAX_SEAL} bytes")));
        }
        let envelope = Envelope::decode(bytes)?;
        let payload = envelope.payload_of_type(SEAL_TYPE)?;
        let sealed: SealedImage = serde_json::from_slice(payload).map_err(unfit)?;
        let canonical = serde_json::to_vec(&sealed).is_ok_and(|again| again == payload);
        if !canonical || envelope.encode().trim_ascii_end() != bytes {
            return Err(unfit("it is not written as seals are"));
        }
        if sealed.format != FORMAT {
            return Err(unfit(format!(
                "it is of an image of format {}, and this program makes {FORMAT}",
                sealed.format
            )));
        }
        Ok(Self { sealed, envelope })
    }

    /// Returns its bytes, one line without its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.envelope.encode().trim_ascii_end().to_vec()
    }

    /// Returns which of `keys` has signed it, the first if several have.
    #[must_use]
    pub fn signer_among<'k>(&self, keys: impl IntoIterator<Item = &'k PublicKey>) -> Option<&'k PublicKey> {
        keys.into_iter().find(|key| self.envelope.is_signed_by(key))
    }

    /// Returns who says to have signed it.
    pub fn signers(&self) -> impl Iterator<Item = crate::sign::KeyId> {
        self.envelope.signers()
    }

    /// Returns the seal of a commit; `None` where it has none.
    ///
    /// # Errors
    /// If it is damaged, or another commit's.
    pub fn of_commit(commit: &Commit) -> Result<Option<Self>, ComposefsError> {
        let text = match commit.metadata.get(SEAL_KEY) {
            None => return Ok(None),
            Some(MetadataValue::Text(text)) => text,
            Some(_) => return Err(unfit("it is no text")),
        };
        let seal = Self::decode(text.as_bytes())?;
        if seal.sealed.tree != commit.root {
            return Err(unfit(format!(
                "it is of the tree {}, and the commit's is {}",
                seal.sealed.tree, commit.root
            )));
        }
        if seal.sealed.version != commit.version {
            return Err(unfit(format!(
                "it is of version {:?}, and the commit's is {:?}",
                seal.sealed.version, commit.version
            )));
        }
        match image_verity(commit)? {
            Some(image) if image == seal.sealed.image => Ok(Some(seal)),
            _ => Err(unfit("it is of another image than the commit names")),
        }
    }

    /// Returns why what boots the commit's tree would not believe the seal; `None` where it would. Where the tree has no keys, its initramfs may
    /// have them from elsewhere.
    pub(crate) fn why_not_of_tree(&self, repo: &Repo, commit: &Commit) -> Result<Option<String>, RepoError> {
        let Some(keys) = keys_in_tree(repo, commit)? else {
            return Ok(None);
        };
        if self.signer_among(&keys).is_some() {
            return Ok(None);
        }
        let signers: Vec<_> = self.signers().map(|id| id.to_string()).collect();
        let others = match keys.is_empty() {
            true => format!("nothing in its /{} is an ed25519 public key", KEYS[0]),
            false => format!("the keys in its /{} are others", KEYS[0]),
        };
        Ok(Some(format!(
            "it is sealed by {}, and {others}, so it would not boot",
            signers.join(", ")
        )))
    }

    /// Adds what a commit keeps of it, and of the image.
    pub(crate) fn add_to(&self, metadata: &mut BTreeMap<String, MetadataValue>) {
        let text = String::from_utf8(self.encode()).expect("an envelope is text");
        metadata.insert(SEAL_KEY.to_owned(), MetadataValue::Text(text));
        add_image(&self.sealed.image, metadata);
    }
}

/// Adds what a commit keeps of the image of its tree.
pub(crate) fn add_image(image: &VerityDigest, metadata: &mut BTreeMap<String, MetadataValue>) {
    metadata.insert(VERITY_KEY.to_owned(), MetadataValue::Text(image.to_string()));
}

/// Returns the fs-verity digest that the image of a commit's tree has, where the commit says it.
///
/// # Errors
/// If what it says is none.
pub fn image_verity(commit: &Commit) -> Result<Option<VerityDigest>, ComposefsError> {
    match commit.metadata.get(VERITY_KEY) {
        None => Ok(None),
        Some(MetadataValue::Text(text)) => text.parse().map(Some).map_err(unfit),
        Some(_) => Err(unfit("what the commit says of its image is no text")),
    }
}

/// Returns the keys that the tree has for its initramfs; `None` where it has no file of keys. One that is no key does not count, and demands
/// a seal all the same, as it does when it boots.
fn keys_in_tree(repo: &Repo, commit: &Commit) -> Result<Option<Vec<PublicKey>>, RepoError> {
    let mut keys = None;
    for path in KEYS {
        let tree = match repo.locate("", commit.root, None, path.as_bytes()) {
            Ok(Located::Entry(entry)) => match entry.node {
                Node::Dir { tree } => tree,
                _ => continue,
            },
            Ok(Located::Root(..)) | Err(RepoError::PathInTree { .. }) => continue,
            Err(error) => return Err(error),
        };
        for entry in repo.load_dirtree(&tree)?.entries() {
            let Node::File { size, blob, .. } = &entry.node else {
                continue;
            };
            if !entry.name.ends_with(KEY) {
                continue;
            }
            let keys = keys.get_or_insert_with(Vec::new);
            if *size == 0 || *size > MAX_KEY as u64 {
                continue;
            }
            let path = object_path(blob.digest());
            let bytes = repo.kind_dir(ObjectKind::Blob).read(path, MAX_KEY)?;
            // What boots it takes no other bytes than text, either, be it in a comment.
            keys.extend(
                String::from_utf8(bytes)
                    .ok()
                    .and_then(|text| PublicKey::parse(&text).ok()),
            );
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::format::Metadata;
    use crate::sign::{KEYS_TYPE, SecretKey};

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn sealed_commit() -> Commit {
        let root = DirTreeId::new(Digest::of(b"tree"));
        let image = VerityDigest::of(b"image");
        let seal = Seal::sign(image, root, "13.1", &[&key(1)]).unwrap();
        let mut metadata = BTreeMap::new();
        seal.add_to(&mut metadata);
        Commit {
            root,
            root_metadata: Metadata::with_mode(0o755),
            parent: None,
            time: 0,
            subject: String::new(),
            body: String::new(),
            version: "13.1".to_owned(),
            metadata,
        }
    }

    fn refusal(commit: &Commit) -> String {
        Seal::of_commit(commit).unwrap_err().to_string()
    }

    #[test]
    fn a_seal_is_of_its_commit_and_by_its_key() {
        let commit = sealed_commit();
        let (_, bytes) = commit.encode().unwrap();
        let seal = Seal::of_commit(&Commit::decode(&bytes).unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(seal.sealed.image, VerityDigest::of(b"image"));
        let (ours, other) = (key(1).public(), key(2).public());
        assert_eq!(seal.signer_among([&other, &ours]), Some(&ours));
        assert_eq!(seal.signer_among([&other]), None);
        assert_eq!(Seal::decode(&seal.encode()).unwrap(), seal);
        let plain = Commit {
            metadata: BTreeMap::new(),
            ..commit
        };
        assert_eq!(Seal::of_commit(&plain).unwrap(), None);
        assert_eq!(image_verity(&plain).unwrap(), None);
    }

    #[test]
    fn a_seal_of_another_commit_is_refused() {
        let commit = sealed_commit();
        let other = Commit {
            root: DirTreeId::new(Digest::of(b"other")),
            ..commit.clone()
        };
        assert!(
            refusal(&other).contains("it is of the tree"),
            "{}",
            refusal(&other)
        );
        let other = Commit {
            version: "13.2".to_owned(),
            ..commit.clone()
        };
        assert!(refusal(&other).contains("it is of version \"13.1\""));
        let mut other = commit.clone();
        add_image(&VerityDigest::of(b"other"), &mut other.metadata);
        assert!(refusal(&other).contains("another image"));
        let mut other = commit;
        other.metadata.remove(VERITY_KEY);
        assert!(refusal(&other).contains("another image"));
    }

    #[test]
    fn what_is_not_written_as_a_seal_is_none() {
        let commit = sealed_commit();
        let good = Seal::of_commit(&commit).unwrap().unwrap();
        let payload = serde_json::to_string(&good.sealed).unwrap();
        let signed = |kind: &str, payload: &str| {
            let envelope = Envelope::sign(kind, payload.as_bytes().to_vec(), &[&key(1)]).unwrap();
            Seal::decode(envelope.encode().trim_ascii_end())
        };
        assert!(signed(SEAL_TYPE, &payload).is_ok());
        assert!(signed(KEYS_TYPE, &payload).is_err(), "another role");
        for (from, to) in [
            ("\"format\":1", "\"format\":2"),
            ("\"format\":1", "\"format\": 1"),
            ("\"version\"", "\"extra\":1,\"version\""),
            ("{\"format\":1,", "{"),
            ("13.1\"}", "13.1\"} "),
        ] {
            let other = payload.replace(from, to);
            assert_ne!(other, payload);
            assert!(signed(SEAL_TYPE, &other).is_err(), "{other}");
        }
        let with_blank = [b" ", good.encode().as_slice()].concat();
        assert!(Seal::decode(&with_blank).is_err());
        assert!(Seal::decode(&vec![b' '; MAX_SEAL + 1]).is_err());
        let mut number = commit;
        number
            .metadata
            .insert(SEAL_KEY.to_owned(), MetadataValue::Number(1));
        assert!(Seal::of_commit(&number).is_err());
    }
}
