//! A key set on its way from signer to signer.
//!
//! Whoever holds a root key keeps it where the others' are not. So the file of a new set travels, or copies of it do:
//! everybody adds a signature, the copies are merged, and when enough have signed it is published. A draft says what it
//! lacks; whether a machine will follow it is for [`TrustedKeys::advance`] alone to say.

use std::collections::BTreeSet;

use super::{Envelope, KEYS_TYPE, KeyId, KeySet, PublicKey, Role, SignError, Signer};

/// Who of a role has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Keys whose signature is valid.
    pub by: BTreeSet<KeyId>,
    /// Keys that could still sign.
    pub open: BTreeSet<KeyId>,
    /// How many it takes.
    pub threshold: usize,
}

impl Signed {
    /// Returns how many signatures are missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.threshold.saturating_sub(self.by.len())
    }
}

/// A key set that some have signed, and others may still have to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySetDraft {
    envelope: Envelope,
    set: KeySet,
}

impl KeySetDraft {
    /// Begins with a set that nobody has signed.
    pub fn new(set: KeySet) -> Result<Self, SignError> {
        set.check()?;
        if set.number == 0 || set.repository.is_empty() {
            return Err(SignError::InvalidKeySet {
                reason: "it takes a repository, and a number from 1 on".to_owned(),
            });
        }
        Ok(Self {
            envelope: Envelope::unsigned(KEYS_TYPE, set.to_payload()),
            set,
        })
    }

    /// Reads one. The caller bounds the size of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, SignError> {
        let envelope = Envelope::decode(bytes)?;
        let payload = envelope.payload_of_type(KEYS_TYPE)?;
        let set = KeySet::from_payload(payload)?;
        Ok(Self { envelope, set })
    }

    /// Returns its bytes, which are those of the published file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.envelope.encode()
    }

    /// Returns the set.
    #[must_use]
    pub const fn set(&self) -> &KeySet {
        &self.set
    }

    /// Returns who says to have signed.
    pub fn signers(&self) -> impl Iterator<Item = KeyId> {
        self.envelope.signers()
    }

    /// Adds a signature, or makes it anew.
    pub fn sign(&mut self, signer: &dyn Signer) -> Result<(), SignError> {
        self.envelope.add_signature(signer)
    }

    /// Adds the signatures of a copy. Returns the keys whose signature is new. What else the copy is does not matter, if it
    /// is the same set: a signature by a key of the set must be valid, others are judged when the set is published.
    pub fn merge(&mut self, copy: &Self) -> Result<Vec<KeyId>, SignError> {
        if copy.envelope.unverified_payload() != self.envelope.unverified_payload() {
            return Err(SignError::InvalidKeySet {
                reason: format!(
                    "it is another one: key set {} of repository {}, made at {}",
                    copy.set.number, copy.set.repository, copy.set.time
                ),
            });
        }
        self.envelope
            .add_signatures_of(&copy.envelope, |key| self.set.keys.get(key))
    }

    /// Returns who of `role` has signed; `key` finds the keys.
    fn signed<'k>(&self, role: &Role, key: impl Fn(&KeyId) -> Option<&'k PublicKey>) -> Signed {
        let valid = |id: &&KeyId| key(id).is_some_and(|key| self.envelope.is_signed_by(key));
        let (by, open): (BTreeSet<&KeyId>, BTreeSet<&KeyId>) = role.keys.iter().partition(valid);
        Signed {
            by: by.into_iter().copied().collect(),
            open: open.into_iter().copied().collect(),
            threshold: role.threshold,
        }
    }

    /// Returns who of its own root keys has signed.
    #[must_use]
    pub fn signed_by_its_own(&self) -> Signed {
        self.signed(&self.set.root, |id| self.set.keys.get(id))
    }

    /// Returns who of the root keys of `before` has signed.
    #[must_use]
    pub fn signed_by_root_of(&self, before: &KeySet) -> Signed {
        self.signed(&before.root, |id| before.keys.get(id))
    }

    /// Returns whether this key has signed.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.envelope.is_signed_by(key)
    }
}
