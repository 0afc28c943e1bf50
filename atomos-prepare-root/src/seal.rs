//! Who vouches for a deployment's image.
//!
//! Beside an image that was sealed lies `<commit>.<serial>.seal`: a DSSE envelope with the image's fs-verity digest, signed by ed25519. The
//! public keys are in the initramfs, in `/etc/atomos/seal.d`. Where there is a key, nothing is booted that no key vouches for, whatever the
//! disk or the kernel command line say: a person who has put keys there has meant it.
//!
//! The envelope is read as `atomos` writes it, byte for byte, and nothing of it before a signature was found good.

use std::fmt;
use std::fs::File;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};

use crate::error::{Error, Result};
use crate::log::{Level, say};
use crate::verity::DIGEST_LEN;

/// Where the initramfs has keys.
pub(crate) const KEYS: &str = "/etc/atomos/seal.d";

/// Bytes of an envelope. One with the longest version and 64 signatures has fewer.
pub(crate) const MAX_LEN: u64 = 32 * 1024;

/// The type of what is signed, which is signed with it.
const TYPE: &str = "application/vnd.atomos.seal+json";

/// Signatures of an envelope, as `atomos` counts them: each is tried with each key.
const MAX_SIGNATURES: usize = 64;

/// Bytes of a file with a key, and how many there may be.
const MAX_KEY: u64 = 64 * 1024;
const MAX_KEYS: usize = 64;

/// What stands before the key in its DER (RFC 8410), and in ssh-keygen's encoding.
const DER: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const SSH: [u8; 19] = *b"\0\0\0\x0bssh-ed25519\0\0\0\x20";

/// The keys of the initramfs.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    keys: Vec<VerifyingKey>,
    /// Whether there were files of keys at all.
    is_demand: bool,
}

/// An image that somebody has vouched for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sealed {
    /// The image's fs-verity digest.
    pub(crate) image: [u8; DIGEST_LEN],
    /// The public key of who did.
    pub(crate) key: [u8; 32],
}

/// Bytes in hexadecimal.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Keys {
    /// Reads the keys in the directory `path`. One that cannot be read is said, and demands all the same.
    pub(crate) fn load(path: &str) -> Self {
        let mut names: Vec<_> = match std::fs::read_dir(path) {
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "pub"))
                .collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                say(Level::Warning, &format!("reading {path}: {error}"));
                return Self {
                    keys: Vec::new(),
                    is_demand: true,
                };
            }
        };
        names.sort();
        let is_demand = !names.is_empty();
        let mut keys = Vec::new();
        for path in names.iter().take(MAX_KEYS) {
            let mut text = String::new();
            let read = File::open(path).and_then(|file| file.take(MAX_KEY).read_to_string(&mut text));
            match read.ok().and_then(|_| parse_key(&text)) {
                Some(key) => keys.push(key),
                None => say(
                    Level::Warning,
                    &format!("{} is no ed25519 public key, and is passed over", path.display()),
                ),
            }
        }
        Self { keys, is_demand }
    }

    /// Whether nothing may be booted that they do not vouch for.
    pub(crate) fn is_demand(&self) -> bool {
        self.is_demand
    }

    /// Returns what an envelope says, if one of the keys has signed it.
    pub(crate) fn verify(&self, envelope: &[u8]) -> Result<Sealed> {
        if self.keys.is_empty() {
            return Err(Error::new(format!("the initramfs has no key in {KEYS}")));
        }
        let damaged = || Error::new("its seal is damaged");
        let text = std::str::from_utf8(envelope).map_err(|_| damaged())?;
        let Envelope { payload, signatures } = parse(text.trim_ascii_end()).ok_or_else(damaged)?;
        let message = [
            format!("DSSEv1 {} {TYPE} {} ", TYPE.len(), payload.len()).as_bytes(),
            &payload,
        ]
        .concat();
        let signed = self.keys.iter().find(|key| {
            signatures
                .iter()
                .any(|signature| key.verify_strict(&message, signature).is_ok())
        });
        let key = signed.ok_or_else(|| Error::new("no key of the initramfs has sealed it"))?;
        let image = image_of(&payload).ok_or_else(|| {
            Error::new(
                "its seal says something that this program does not understand; is it of a newer atomos",
            )
        })?;
        Ok(Sealed {
            image,
            key: key.to_bytes(),
        })
    }
}

/// What is in an envelope, undone.
struct Envelope {
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

fn parse(text: &str) -> Option<Envelope> {
    let rest = text
        .strip_prefix("{\"payloadType\":\"")?
        .strip_prefix(TYPE)?
        .strip_prefix("\",\"payload\":\"")?;
    let (payload, mut rest) = rest.split_once("\",\"signatures\":[")?;
    let mut signatures = Vec::new();
    while rest != "]}" {
        if !signatures.is_empty() {
            rest = rest.strip_prefix(',')?;
        }
        let (_, after) = rest.strip_prefix("{\"keyid\":\"")?.split_once("\",\"sig\":\"")?;
        let (signature, after) = after.split_once("\"}")?;
        if signatures.len() == MAX_SIGNATURES {
            return None;
        }
        signatures.push(Signature::from_slice(&STANDARD.decode(signature).ok()?).ok()?);
        rest = after;
    }
    Some(Envelope {
        payload: STANDARD.decode(payload).ok()?,
        signatures,
    })
}

/// Returns the digest in what was signed: its first two fields are always the same.
fn image_of(payload: &[u8]) -> Option<[u8; DIGEST_LEN]> {
    let rest = payload.strip_prefix(b"{\"format\":1,\"image\":\"")?;
    let (hex, rest) = rest.split_at_checked(2 * DIGEST_LEN)?;
    rest.starts_with(b"\"").then_some(())?;
    let mut digest = [0; DIGEST_LEN];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

/// Reads PEM as openssl writes it, or a line of ssh-keygen's.
fn parse_key(text: &str) -> Option<VerifyingKey> {
    let text = text.trim();
    let pem = text
        .strip_prefix("-----BEGIN PUBLIC KEY-----")
        .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"));
    let (prefix, encoded): (&[u8], String) = match pem {
        Some(body) => (&DER, body.split_ascii_whitespace().collect()),
        None => {
            let mut words = text.split_ascii_whitespace();
            words.next().filter(|word| *word == "ssh-ed25519")?;
            (&SSH, words.next()?.to_owned())
        }
    };
    let bytes = STANDARD.decode(encoded).ok()?;
    let key = VerifyingKey::from_bytes(bytes.strip_prefix(prefix)?.try_into().ok()?).ok()?;
    (!key.is_weak()).then_some(key)
}

#[cfg(test)]
mod tests {
    use libatomos::composefs::{SEAL_TYPE, Seal};
    use libatomos::digest::{Digest, DirTreeId};
    use libatomos::sign::{Envelope, SecretKey, Signer};
    use libatomos::verity::VerityDigest;

    use super::*;

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn keys(secrets: &[&SecretKey]) -> Keys {
        let scratch = tempfile::tempdir().unwrap();
        for (number, secret) in secrets.iter().enumerate() {
            std::fs::write(
                scratch.path().join(format!("{number}.pub")),
                secret.public().to_pem(),
            )
            .unwrap();
        }
        Keys::load(scratch.path().to_str().unwrap())
    }

    fn seal(signers: &[&dyn Signer], version: &str) -> Vec<u8> {
        let tree = DirTreeId::new(Digest::of(b"tree"));
        Seal::sign(VerityDigest::of(b"image"), tree, version, signers)
            .unwrap()
            .encode()
    }

    #[test]
    fn what_atomos_seals_is_verified_by_any_of_the_keys() {
        let (one, two, three) = (secret(1), secret(2), secret(3));
        let expected = |key: &SecretKey| Sealed {
            image: *VerityDigest::of(b"image").as_bytes(),
            key: *key.public().as_bytes(),
        };
        for version in ["", "13.1", "a \"quoted\" \\ version", "größer"] {
            let envelope = seal(&[&one], version);
            assert_eq!(keys(&[&two, &one]).verify(&envelope).unwrap(), expected(&one));
            let envelope = seal(&[&three, &two], version);
            assert_eq!(keys(&[&one, &two]).verify(&envelope).unwrap(), expected(&two));
        }
        let with_end = [seal(&[&one], "13"), b"\n".to_vec()].concat();
        keys(&[&one]).verify(&with_end).unwrap();
    }

    #[test]
    fn what_no_key_has_signed_is_not_believed() {
        let (one, two) = (secret(1), secret(2));
        let envelope = seal(&[&one], "13");
        let refused = |keys: &Keys, envelope: &[u8]| keys.verify(envelope).unwrap_err().to_string();
        assert_eq!(
            refused(&keys(&[&two]), &envelope),
            "no key of the initramfs has sealed it"
        );
        assert!(refused(&keys(&[]), &envelope).contains("has no key in /etc/atomos/seal.d"));
        assert_eq!(
            refused(&keys(&[&one]), &seal(&[], "13")),
            "no key of the initramfs has sealed it"
        );
        // Any bit of it.
        let ours = keys(&[&one]);
        for at in 0..envelope.len() {
            let mut other = envelope.clone();
            other[at] ^= 1;
            // Whose it says to be is not looked at.
            let key_id = envelope
                .windows(8)
                .position(|part| part == b"\"keyid\":")
                .unwrap()
                + 9;
            if !(key_id..key_id + 32).contains(&at) {
                assert!(ours.verify(&other).is_err(), "{at}");
            }
        }
        for len in 0..envelope.len() {
            assert!(ours.verify(&envelope[..len]).is_err(), "{len}");
        }
        // More of them than would be read before it is deployed.
        let text = String::from_utf8(envelope.clone()).unwrap();
        let (head, signature) = text.split_once("\"signatures\":[").unwrap();
        let signature = signature.strip_suffix("]}").unwrap();
        let many = |count: usize| {
            let signatures = vec![signature; count].join(",");
            format!("{head}\"signatures\":[{signatures}]}}")
        };
        ours.verify(many(64).as_bytes()).unwrap();
        assert_eq!(refused(&ours, many(65).as_bytes()), "its seal is damaged");
        // A signature of another role.
        let payload = Envelope::decode(&envelope).unwrap().unverified_payload().to_vec();
        let other = Envelope::sign("application/vnd.atomos.keys+json", payload.clone(), &[&one]).unwrap();
        assert_eq!(refused(&ours, &other.encode()), "its seal is damaged");
        let same = Envelope::sign(SEAL_TYPE, payload, &[&one]).unwrap();
        ours.verify(&same.encode()).unwrap();
        // A format that is not known, though it is signed.
        let newer = br#"{"format":2,"image":"00"}"#.to_vec();
        let newer = Envelope::sign(SEAL_TYPE, newer, &[&one]).unwrap();
        assert!(refused(&ours, &newer.encode()).contains("newer atomos"));
    }

    #[test]
    fn keys_are_read_as_others_write_them() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().to_str().unwrap();
        assert!(!Keys::load(&format!("{path}/missing")).is_demand());
        assert!(!Keys::load(path).is_demand());
        std::fs::write(scratch.path().join("README"), "not a key").unwrap();
        assert!(!Keys::load(path).is_demand());
        std::fs::write(scratch.path().join("bad.pub"), "not a key").unwrap();
        let bad = Keys::load(path);
        assert!(
            bad.is_demand() && bad.keys.is_empty(),
            "a slip does not open the door"
        );
        // Of `ssh-keygen -t ed25519`.
        let line =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqIP3v1o3AtyMLWGb8mmO7RUXZFI9hvGZUpCmFVxf1F me@there\n";
        assert!(parse_key(line).is_some() == libatomos::sign::PublicKey::parse(line).is_ok());
        let pem = secret(1).public().to_pem();
        assert_eq!(
            parse_key(&pem).unwrap().to_bytes(),
            *secret(1).public().as_bytes()
        );
        for bad in ["", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 AAAA", &pem[..60]] {
            assert!(parse_key(bad).is_none(), "{bad}");
        }
    }
}
