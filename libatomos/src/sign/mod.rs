//! Who may say what: keys, signed envelopes, key sets.
//!
//! Everything that a site asks a machine to believe is an [`Envelope`] (DSSE) with signatures by ed25519 keys. Which keys
//! count is said by [`TrustedKeys`]: at first those that a person gave, later those of the newest key set in a
//! chain where each set is signed by the one before it and by itself. The envelope's type is part of what is signed, so
//! a record can never be taken for a key set.

mod draft;
mod envelope;
mod key;
mod key_set;
#[cfg(test)]
mod tests;

use crate::error::ErrorKind;

pub use draft::{KeySetDraft, Signed};
pub use envelope::{Envelope, KEYS_TYPE, Signature};
pub use key::{KeyId, PublicKey, SecretKey, Signer};
pub use key_set::{KeySet, Role, TrustedKeys};

/// Something is not signed as it should be, or cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A text is no key.
    #[error("cannot read the {what} key: {reason}")]
    InvalidKey {
        /// Secret or public.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A secret key has a passphrase, and nobody to ask for it.
    #[error("cannot read the secret key: it has a passphrase ({format})")]
    EncryptedKey {
        /// PEM, or OpenSSH.
        format: &'static str,
    },
    /// Bytes are no envelope.
    #[error("this is no signed envelope: {reason}")]
    InvalidEnvelope {
        /// What is wrong with it.
        reason: String,
    },
    /// The envelope holds something else.
    #[error("the envelope holds {found:?}, and {expected:?} was expected")]
    OtherType {
        /// The type that was asked for.
        expected: &'static str,
        /// The type it says.
        found: String,
    },
    /// Too few of the keys that count have signed.
    #[error(
        "it has {valid} of the {threshold} signatures that it takes; any of these keys would count: {}",
        list(keys)
    )]
    TooFewSignatures {
        /// Valid signatures by different keys.
        valid: usize,
        /// How many it takes.
        threshold: usize,
        /// The keys that count.
        keys: Vec<KeyId>,
    },
    /// A key set breaks a rule.
    #[error("the key set is not acceptable: {reason}")]
    InvalidKeySet {
        /// The rule.
        reason: String,
    },
    /// Signing failed.
    #[error("cannot sign with key {key}: {reason}")]
    Signing {
        /// The key.
        key: KeyId,
        /// Why.
        reason: String,
    },
}

fn list(keys: &[KeyId]) -> String {
    keys.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl SignError {
    /// Returns the coarse kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidKey { .. } | Self::EncryptedKey { .. } => ErrorKind::Invalid,
            Self::Signing { .. } => ErrorKind::Io,
            _ => ErrorKind::Untrusted,
        }
    }
}
