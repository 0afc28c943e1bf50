//! Key sets, and the chain of them that a machine follows.
//!
//! As in The Update Framework's root role: set n+1 counts when set n's root keys signed it, and its own did, too. So the
//! publisher can replace any key, and a machine that was away for years follows the chain from where it was. Whether
//! an old set has expired does not matter for that; whether the newest has, does.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Envelope, KEYS_TYPE, KeyId, PublicKey, SignError};

/// Keys of which some must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// The keys that count.
    pub keys: BTreeSet<KeyId>,
    /// How many of them it takes.
    pub threshold: usize,
}

/// Which keys may sign what, from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeySet {
    /// The repository's id; empty in the set that a person's choice of keys implies.
    pub repository: String,
    /// 1 and up; 0 is the implied one.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub time: i64,
    /// Until when the newest set is to be believed; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Every key that a role names.
    pub keys: BTreeMap<KeyId, PublicKey>,
    /// Signs the next set.
    pub root: Role,
    /// Signs records.
    pub record: Role,
    /// Signs releases, by keys that are kept offline; whoever signs records does where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Role>,
}

fn invalid(reason: impl Into<String>) -> SignError {
    SignError::InvalidKeySet {
        reason: reason.into(),
    }
}

impl KeySet {
    /// Refuses a set that cannot work, or that says less than it seems to.
    pub fn check(&self) -> Result<(), SignError> {
        for (id, key) in &self.keys {
            if key.id() != *id {
                return Err(invalid(format!("key {} stands as {id}", key.id())));
            }
        }
        let roles = [
            ("root", Some(&self.root)),
            ("record", Some(&self.record)),
            ("release", self.release.as_ref()),
        ];
        for (name, role) in roles {
            let Some(role) = role else { continue };
            if role.threshold == 0 || role.threshold > role.keys.len() {
                return Err(invalid(format!(
                    "{name} takes {} of {} signatures",
                    role.threshold,
                    role.keys.len()
                )));
            }
            if let Some(id) = role.keys.iter().find(|id| !self.keys.contains_key(id)) {
                return Err(invalid(format!("{name} names key {id}, which is not in the set")));
            }
        }
        Ok(())
    }

    fn keys_of<'a>(&'a self, role: &'a Role) -> impl Iterator<Item = &'a PublicKey> {
        role.keys.iter().filter_map(|id| self.keys.get(id))
    }

    /// Returns the payload to be signed.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a key set's fields are text and numbers")
    }

    /// Reads a payload.
    pub fn from_payload(payload: &[u8]) -> Result<Self, SignError> {
        let set: Self = serde_json::from_slice(payload).map_err(|error| invalid(error.to_string()))?;
        set.check()?;
        Ok(set)
    }
}

/// The key set that a machine, or a publisher, goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustedKeys(KeySet);

impl TrustedKeys {
    /// Trusts the keys that a person gave: each for everything, and one signature is enough.
    pub fn pinned(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, SignError> {
        let keys: BTreeMap<_, _> = keys.into_iter().map(|key| (key.id(), key)).collect();
        if keys.is_empty() {
            return Err(invalid("it has no key"));
        }
        let role = Role {
            keys: keys.keys().copied().collect(),
            threshold: 1,
        };
        Ok(Self(KeySet {
            repository: String::new(),
            number: 0,
            time: 0,
            expires: None,
            keys,
            root: role.clone(),
            record: role,
            release: None,
        }))
    }

    /// Takes a set that a person gave, or that lies on the publisher's own disk, where nobody else writes. What comes over
    /// a network must follow the chain.
    #[must_use]
    pub const fn given(set: KeySet) -> Self {
        Self(set)
    }

    /// Returns the set.
    #[must_use]
    pub const fn set(&self) -> &KeySet {
        &self.0
    }

    /// Returns the set's number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.0.number
    }

    /// Returns the next set of the chain, which `bytes` must be: the next number, the same repository, signed by this
    /// set's root keys and by its own.
    pub fn advance(&self, bytes: &[u8]) -> Result<Self, SignError> {
        let envelope = Envelope::decode(bytes)?;
        let payload = envelope.verify(KEYS_TYPE, self.0.keys_of(&self.0.root), self.0.root.threshold)?;
        let next = KeySet::from_payload(payload)?;
        envelope.verify(KEYS_TYPE, next.keys_of(&next.root), next.root.threshold)?;
        if Some(next.number) != self.0.number.checked_add(1) {
            return Err(invalid(format!(
                "it is number {}, and {} is followed by another",
                next.number, self.0.number
            )));
        }
        if !self.0.repository.is_empty() && next.repository != self.0.repository {
            return Err(invalid(format!(
                "it is of repository {}, and this one is {}",
                next.repository, self.0.repository
            )));
        }
        Ok(Self(next))
    }

    /// Returns the payload of a record's envelope if the record keys signed it.
    pub fn verify_record<'e>(
        &self,
        envelope: &'e Envelope,
        payload_type: &'static str,
    ) -> Result<&'e [u8], SignError> {
        envelope.verify(
            payload_type,
            self.0.keys_of(&self.0.record),
            self.0.record.threshold,
        )
    }

    /// Returns the payload of a release's envelope if the release keys signed it, or, where there are none, the record
    /// keys.
    pub fn verify_release<'e>(
        &self,
        envelope: &'e Envelope,
        payload_type: &'static str,
    ) -> Result<&'e [u8], SignError> {
        let role = self.0.release.as_ref().unwrap_or(&self.0.record);
        envelope.verify(payload_type, self.0.keys_of(role), role.threshold)
    }
}
