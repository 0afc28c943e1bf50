//! Ed25519 keys (RFC 8032), in the formats that `openssl` and `ssh-keygen` write.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes,
};
use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, hex};

use super::SignError;

/// Bytes of a public key, and of a secret one's seed.
const KEY_LEN: usize = 32;

/// Names a public key: the first 16 bytes of its BLAKE3, as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = SignError;

    fn from_str(text: &str) -> Result<Self, SignError> {
        // A digest's text is twice as long, so the parser of one reads both halves.
        let whole: Digest =
            format!("{text}{}", "0".repeat(32))
                .parse()
                .map_err(|_| SignError::InvalidKey {
                    what: "public",
                    reason: "a key's id takes 32 lower-case hexadecimal digits".to_owned(),
                })?;
        let mut id = [0; 16];
        id.copy_from_slice(&whole.as_bytes()[..16]);
        Ok(Self(id))
    }
}

impl TryFrom<String> for KeyId {
    type Error = SignError;

    fn try_from(text: String) -> Result<Self, SignError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// Verifies signatures. As text (serde): base64 of its 32 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

fn invalid(what: &'static str, reason: impl fmt::Display) -> SignError {
    SignError::InvalidKey {
        what,
        reason: reason.to_string(),
    }
}

impl PublicKey {
    /// Returns the key's name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(self.0.as_bytes()).as_bytes()[..16]);
        KeyId(id)
    }

    /// Takes the 32 bytes of RFC 8032.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignError> {
        let bytes: [u8; KEY_LEN] = bytes
            .try_into()
            .map_err(|_| invalid("public", "it takes 32 bytes"))?;
        let key =
            VerifyingKey::from_bytes(&bytes).map_err(|_| invalid("public", "it is no point of the curve"))?;
        if key.is_weak() {
            return Err(invalid("public", "anybody can sign for it"));
        }
        Ok(Self(key))
    }

    /// Returns the 32 bytes of RFC 8032.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        self.0.as_bytes()
    }

    /// Reads PEM as `openssl pkey -pubout` writes it, or a line as `ssh-keygen` does.
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let text = text.trim();
        if text.starts_with("-----BEGIN PUBLIC KEY-----") {
            let key = VerifyingKey::from_public_key_pem(text)
                .map_err(|error| invalid("public", format!("it is no ed25519 key in PEM: {error}")))?;
            return Self::from_bytes(key.as_bytes());
        }
        if text.contains("PRIVATE KEY-----") {
            return Err(invalid("public", "this is a secret key"));
        }
        let mut words = text.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("ssh-ed25519"), Some(data)) => {
                let blob = STANDARD.decode(data).map_err(|error| invalid("public", error))?;
                let mut wire = Wire(&blob);
                if wire.string() != Some(b"ssh-ed25519") {
                    return Err(invalid("public", "it is no ssh-ed25519 key"));
                }
                let key = wire.string().filter(|_| wire.0.is_empty());
                Self::from_bytes(key.ok_or_else(|| invalid("public", "its bytes end early, or late"))?)
            }
            (Some(kind), Some(_)) if kind.starts_with("ssh-") || kind.starts_with("ecdsa-") => Err(invalid(
                "public",
                format!("it is of type {kind}, and ed25519 is needed"),
            )),
            _ => Err(invalid("public", "it is neither PEM nor a line of ssh-keygen")),
        }
    }

    /// Returns the key as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0
            .to_public_key_pem(LineEnding::LF)
            .expect("a public key has an encoding")
    }

    /// Returns whether `signature` is this key's of `message`. Strict: one message has one valid signature.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = SignError;

    fn try_from(text: String) -> Result<Self, SignError> {
        let bytes = STANDARD.decode(text).map_err(|error| invalid("public", error))?;
        Self::from_bytes(&bytes)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        STANDARD.encode(key.as_bytes())
    }
}

/// Signs for one key: a key in memory, or a program that has it elsewhere.
pub trait Signer: Send + Sync {
    /// Returns the key that verifies what this signs.
    fn public(&self) -> PublicKey;

    /// Returns the 64 bytes of the signature of `message`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A secret key in memory, wiped when dropped.
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

impl SecretKey {
    /// Makes a new one of the kernel's random bytes.
    pub fn generate() -> std::io::Result<Self> {
        let mut seed = [0u8; KEY_LEN];
        let mut filled = 0;
        while filled < seed.len() {
            filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Takes the 32 bytes of the seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; KEY_LEN]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads PEM as `openssl genpkey -algorithm ed25519` writes it, or as `ssh-keygen -t ed25519` does without a
    /// passphrase.
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let text = text.trim();
        if text.starts_with("-----BEGIN PRIVATE KEY-----") {
            let key = SigningKey::from_pkcs8_pem(text)
                .map_err(|error| invalid("secret", format!("it is no ed25519 key in PEM: {error}")))?;
            return Ok(Self(key));
        }
        if text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            return Err(SignError::EncryptedKey { format: "PEM" });
        }
        const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
        const END: &str = "-----END OPENSSH PRIVATE KEY-----";
        match text.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)) {
            Some(body) => Self::parse_openssh(body),
            None if PublicKey::parse(text).is_ok() => Err(invalid("secret", "this is a public key")),
            None => Err(invalid("secret", "it is neither PEM nor of ssh-keygen")),
        }
    }

    /// The format is OpenSSH's PROTOCOL.key.
    fn parse_openssh(body: &str) -> Result<Self, SignError> {
        let compact: String = body.split_ascii_whitespace().collect();
        let bytes = STANDARD
            .decode(compact)
            .map_err(|error| invalid("secret", error))?;
        let damaged = || invalid("secret", "its bytes are not as ssh-keygen writes them");
        let mut wire = Wire(bytes.strip_prefix(b"openssh-key-v1\0").ok_or_else(damaged)?);
        let cipher = wire.string().ok_or_else(damaged)?;
        if cipher != b"none" {
            return Err(SignError::EncryptedKey { format: "OpenSSH" });
        }
        let _kdf = wire.string().ok_or_else(damaged)?;
        let _kdf_options = wire.string().ok_or_else(damaged)?;
        if wire.u32() != Some(1) {
            return Err(damaged());
        }
        let _public = wire.string().ok_or_else(damaged)?;
        let mut inner = Wire(wire.string().ok_or_else(damaged)?);
        let checks = (inner.u32(), inner.u32());
        if checks.0.is_none() || checks.0 != checks.1 {
            return Err(damaged());
        }
        if inner.string().ok_or_else(damaged)? != b"ssh-ed25519" {
            return Err(invalid("secret", "it is not of type ed25519"));
        }
        let public = inner.string().ok_or_else(damaged)?;
        let pair: &[u8; 2 * KEY_LEN] = inner
            .string()
            .and_then(|pair| pair.try_into().ok())
            .ok_or_else(damaged)?;
        let key = SigningKey::from_keypair_bytes(pair).map_err(|_| damaged())?;
        if key.verifying_key().as_bytes() != public {
            return Err(damaged());
        }
        Ok(Self(key))
    }

    /// Returns the key as PEM. Whoever has this text can sign.
    #[must_use]
    pub fn to_pem(&self) -> String {
        // Without the public key beside it, which OpenSSL does not write, and before 3.2 does not read.
        let key = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        key.to_pkcs8_pem(LineEnding::LF)
            .expect("a secret key has an encoding")
            .to_string()
    }
}

impl Signer for SecretKey {
    fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        use ed25519_dalek::Signer as _;
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

/// The strings of RFC 4251: a length, big endian, and bytes.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        #[expect(clippy::big_endian_bytes, reason = "another program's format")]
        Some(u32::from_be_bytes(*bytes))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}
