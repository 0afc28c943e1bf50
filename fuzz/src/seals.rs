//! What is read of seals: by whoever deploys, and by whoever boots.

use std::collections::BTreeMap;

use libatomos::composefs::{SEAL_KEY, SEAL_TYPE, Seal, VERITY_KEY};
use libatomos::digest::{Digest, DirTreeId};
use libatomos::format::{Commit, Metadata, MetadataValue};
use libatomos::sign::{Envelope, SecretKey, Signer};
use libatomos::verity::VerityDigest;

/// What an input is: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An envelope that nobody signs.
    Envelope,
    /// What is signed.
    Payload,
    /// An envelope, in which `@sig` is a good signature of whatever its payload is.
    Signed,
    /// What a commit has: its version, what it says of its image, its seal; with zeros between them. `#` in front makes a number of one.
    Commit,
    /// A public key.
    Key,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Envelope,
        Self::Payload,
        Self::Signed,
        Self::Commit,
        Self::Key,
    ];

    /// Takes an input apart.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = bytes.split_first()?;
        Some((Self::ALL[usize::from(*first) % Self::ALL.len()], rest))
    }
}

/// The key that the initramfs has.
pub fn key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

/// The tree that commits are of.
pub fn tree() -> DirTreeId {
    DirTreeId::new(Digest::of(b"tree"))
}

/// The image of every seal that was signed and is not made of an input.
pub fn image() -> VerityDigest {
    VerityDigest::of(b"image")
}

/// Returns a good seal.
pub fn seal(version: &str, signers: &[&dyn Signer]) -> Seal {
    Seal::sign(image(), tree(), version, signers).expect("keys in memory sign")
}

/// Signs a payload as a seal.
pub fn signed(payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope::sign(SEAL_TYPE, payload.to_vec(), &[&key()]).expect("a key in memory signs");
    envelope.encode().trim_ascii_end().to_vec()
}

/// Puts the signature into an envelope where `@sig` stands in it; returns it with the payload that was signed.
pub fn with_signature(envelope: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = std::str::from_utf8(envelope).ok()?;
    // The signature's own text does not matter to who reads the envelope for its payload.
    let unsigned = Envelope::decode(text.replace("@sig", "").as_bytes()).ok()?;
    let payload = unsigned.unverified_payload().to_vec();
    let again = signed(&payload);
    let (_, signature) = std::str::from_utf8(&again).ok()?.split_once("\"sig\":\"")?;
    let signature = signature.split('"').next()?;
    Some((text.replace("@sig", signature).into_bytes(), payload))
}

/// Makes a commit.
pub fn commit(bytes: &[u8]) -> Option<Commit> {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let version = String::from_utf8(parts.next()?.to_vec()).ok()?;
    let mut metadata = BTreeMap::new();
    for key in [VERITY_KEY, SEAL_KEY] {
        let Some(part) = parts.next() else { continue };
        let value = match part.strip_prefix(b"#") {
            Some(rest) => MetadataValue::Number(rest.len() as u64),
            None => MetadataValue::Text(String::from_utf8(part.to_vec()).ok()?),
        };
        metadata.insert(key.to_owned(), value);
    }
    Some(Commit {
        root: tree(),
        root_metadata: Metadata::with_mode(0o755),
        parent: None,
        time: 0,
        subject: String::new(),
        body: String::new(),
        version,
        metadata,
    })
}

/// Returns real inputs.
pub fn seeds() -> Vec<Vec<u8>> {
    let other = SecretKey::from_seed(&[2; 32]);
    let good = seal("13.1", &[&other, &key()]);
    let payload = serde_json::to_vec(&good.sealed).expect("digests are text");
    let placeholder = format!("{{\"keyid\":\"{}\",\"sig\":\"@sig\"}}", key().public().id());
    let envelope = String::from_utf8(good.encode()).expect("it is text");
    let (head, _) = envelope.split_once("\"signatures\":[").expect("it has some");
    let with_placeholder = format!("{head}\"signatures\":[{placeholder}]}}");
    let newer = String::from_utf8(payload.clone())
        .expect("it is text")
        .replace("\"format\":1", "\"format\":2");
    let of = |version: &str, image: &str, seal: &[u8]| {
        [version.as_bytes(), b"\0", image.as_bytes(), b"\0", seal].concat()
    };
    let image = image().to_string();
    let elsewhere = Seal::sign(VerityDigest::of(b"other"), tree(), "13.1", &[&key()]);
    let elsewhere = elsewhere.expect("a key in memory signs").encode();
    let lost = Seal::sign(
        VerityDigest::of(b"image"),
        DirTreeId::new(Digest::of(b"other")),
        "13.1",
        &[&key()],
    );
    let lost = lost.expect("a key in memory signs").encode();
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqIP3v1o3AtyMLWGb8mmO7RUXZFI9hvGZUpCmFVxf1F me@there\n";
    let inputs = [
        (Kind::Envelope, good.encode()),
        (Kind::Envelope, seal("", &[&other]).encode()),
        (Kind::Envelope, seal("", &[]).encode()),
        (Kind::Payload, payload),
        (Kind::Payload, newer.into_bytes()),
        (Kind::Signed, with_placeholder.into_bytes()),
        (Kind::Commit, of("13.1", &image, &good.encode())),
        (Kind::Commit, of("13.2", &image, &good.encode())),
        (Kind::Commit, of("13.1", &image, &elsewhere)),
        (Kind::Commit, of("13.1", &image, &lost)),
        (Kind::Commit, of("13.1", &image, b"#")),
        (Kind::Commit, of("13.1", "#", &good.encode())),
        (Kind::Commit, b"13.1".to_vec()),
        (Kind::Key, key().public().to_pem().into_bytes()),
        (Kind::Key, line.into()),
    ];
    let number = |kind: Kind| Kind::ALL.iter().position(|other| *other == kind);
    inputs
        .into_iter()
        .map(|(kind, bytes)| [&[number(kind).expect("all are there") as u8], &bytes[..]].concat())
        .collect()
}
