//! Signed envelopes: DSSE version 1 (<https://github.com/secure-systems-lab/dsse>), so that other tools can check them.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{KeyId, PublicKey, SignError, Signer};

/// The payload type of a key set.
pub const KEYS_TYPE: &str = "application/vnd.atomos.keys+json";

/// Signatures in one envelope.
const MAX_SIGNATURES: usize = 64;

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Whose it says to be.
    pub key: KeyId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A payload with its type and signatures. Nothing in it is believed before [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text {
    payload_type: String,
    payload: String,
    signatures: Vec<TextSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextSignature {
    keyid: KeyId,
    sig: String,
}

fn invalid(reason: impl ToString) -> SignError {
    SignError::InvalidEnvelope {
        reason: reason.to_string(),
    }
}

impl Envelope {
    /// Wraps a payload that nobody has signed yet.
    #[must_use]
    pub fn unsigned(payload_type: &str, payload: Vec<u8>) -> Self {
        Self {
            payload_type: payload_type.to_owned(),
            payload,
            signatures: Vec::new(),
        }
    }

    /// Wraps a payload and has every one of `signers` sign it.
    pub fn sign(payload_type: &str, payload: Vec<u8>, signers: &[&dyn Signer]) -> Result<Self, SignError> {
        let mut envelope = Self::unsigned(payload_type, payload);
        for signer in signers {
            envelope.add_signature(*signer)?;
        }
        Ok(envelope)
    }

    /// Adds a signature, or replaces the one that the same key has there. It is verified first.
    pub fn add_signature(&mut self, signer: &dyn Signer) -> Result<(), SignError> {
        let public = signer.public();
        let message = self.signed_bytes();
        let bytes = signer.sign(&message)?;
        if !public.verifies(&message, &bytes) {
            return Err(SignError::Signing {
                key: public.id(),
                reason: "what came back is not this key's signature".to_owned(),
            });
        }
        self.signatures.retain(|signature| signature.key != public.id());
        self.signatures.push(Signature {
            key: public.id(),
            bytes,
        });
        Ok(())
    }

    /// Adds the signatures that `copy`, an envelope of the same payload, has besides. Where `known` knows the key a
    /// signature must be valid. Returns the keys whose signature is new.
    pub(super) fn add_signatures_of<'k>(
        &mut self,
        copy: &Self,
        known: impl Fn(&KeyId) -> Option<&'k PublicKey>,
    ) -> Result<Vec<KeyId>, SignError> {
        let message = self.signed_bytes();
        let mut added = Vec::new();
        for signature in &copy.signatures {
            if self.signatures.contains(signature) {
                continue;
            }
            if known(&signature.key).is_some_and(|key| !key.verifies(&message, &signature.bytes)) {
                return Err(invalid(format!(
                    "what stands there as the signature of {} is none",
                    signature.key
                )));
            }
            self.signatures.push(signature.clone());
            added.push(signature.key);
        }
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(invalid("it has more than 64 signatures"));
        }
        Ok(added)
    }

    /// Returns whether `key` signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let message = self.signed_bytes();
        let id = key.id();
        self.signatures
            .iter()
            .any(|signature| signature.key == id && key.verifies(&message, &signature.bytes))
    }

    /// Returns the bytes that are signed: DSSE's pre-authentication encoding of type and payload.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut out = format!(
            "DSSEv1 {} {} {} ",
            self.payload_type.len(),
            self.payload_type,
            self.payload.len()
        )
        .into_bytes();
        out.extend_from_slice(&self.payload);
        out
    }

    /// Reads an envelope. The caller bounds the size of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, SignError> {
        let text: Text = serde_json::from_slice(bytes).map_err(invalid)?;
        if text.signatures.len() > MAX_SIGNATURES {
            return Err(invalid("it has more than 64 signatures"));
        }
        let decode = |text: &str| STANDARD.decode(text).map_err(invalid);
        let signatures = text
            .signatures
            .iter()
            .map(|signature| {
                Ok(Signature {
                    key: signature.keyid,
                    bytes: decode(&signature.sig)?,
                })
            })
            .collect::<Result<Vec<_>, SignError>>()?;
        Ok(Self {
            payload: decode(&text.payload)?,
            payload_type: text.payload_type,
            signatures,
        })
    }

    /// Returns the bytes of the envelope.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = Text {
            payload_type: self.payload_type.clone(),
            payload: STANDARD.encode(&self.payload),
            signatures: self
                .signatures
                .iter()
                .map(|signature| TextSignature {
                    keyid: signature.key,
                    sig: STANDARD.encode(&signature.bytes),
                })
                .collect(),
        };
        let mut bytes = serde_json::to_vec(&text).expect("an envelope is text");
        bytes.push(b'\n');
        bytes
    }

    /// Returns who says to have signed.
    pub fn signers(&self) -> impl Iterator<Item = KeyId> {
        self.signatures.iter().map(|signature| signature.key)
    }

    /// Returns the payload without verifying anything. For hints, such as which keys to look for, and for people who
    /// said that they want no verification.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the payload if it says to be of `payload_type`. Its signatures are not looked at.
    pub(crate) fn payload_of_type(&self, payload_type: &'static str) -> Result<&[u8], SignError> {
        if self.payload_type != payload_type {
            return Err(SignError::OtherType {
                expected: payload_type,
                found: self.payload_type.chars().take(80).collect(),
            });
        }
        Ok(&self.payload)
    }

    /// Returns the payload if it is of `payload_type` and at least `threshold` different ones of `keys` signed it.
    pub fn verify<'k>(
        &self,
        payload_type: &'static str,
        keys: impl IntoIterator<Item = &'k PublicKey>,
        threshold: usize,
    ) -> Result<&[u8], SignError> {
        let payload = self.payload_of_type(payload_type)?;
        let message = self.signed_bytes();
        let mut known = Vec::new();
        let mut valid = HashSet::new();
        for key in keys {
            let id = key.id();
            known.push(id);
            let signed = self
                .signatures
                .iter()
                .any(|signature| signature.key == id && key.verifies(&message, &signature.bytes));
            if signed {
                valid.insert(id);
            }
        }
        if valid.len() < threshold.max(1) {
            return Err(SignError::TooFewSignatures {
                valid: valid.len(),
                threshold: threshold.max(1),
                keys: known,
            });
        }
        Ok(payload)
    }
}
