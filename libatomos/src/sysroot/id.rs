//! What a deployment is called: `<stateroot>/<commit>.<serial>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::CommitId;
use crate::names::StaterootName;

/// Names a deployment. The text form is what the kernel argument `atomos=` holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId {
    /// The stateroot whose `/var` it shares.
    pub stateroot: StaterootName,
    /// What is deployed.
    pub commit: CommitId,
    /// Tells deployments of one commit apart.
    pub serial: u32,
}

/// A text is not `<stateroot>/<commit>.<serial>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no deployment: one is called <stateroot>/<commit>.<serial>")]
pub struct InvalidDeploymentId {
    text: String,
}

impl DeploymentId {
    /// Returns the name of its directory, `<commit>.<serial>`.
    #[must_use]
    pub fn dir_name(&self) -> String {
        format!("{}.{}", self.commit, self.serial)
    }

    /// Returns the commit's first 12 digits and the serial, for people.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{}.{}", self.commit.short(), self.serial)
    }

    /// Reads a directory's name back; `None` for a name that no deployment has.
    #[must_use]
    pub fn from_dir_name(stateroot: &StaterootName, name: &str) -> Option<Self> {
        let (commit, serial) = name.split_once('.')?;
        let canonical = serial == "0" || !serial.starts_with(['0', '+']);
        Some(Self {
            stateroot: stateroot.clone(),
            commit: commit.parse().ok()?,
            serial: serial.parse().ok().filter(|_| canonical)?,
        })
    }
}

impl FromStr for DeploymentId {
    type Err = InvalidDeploymentId;

    fn from_str(text: &str) -> Result<Self, InvalidDeploymentId> {
        let parse = || {
            let (stateroot, name) = text.split_once('/')?;
            Self::from_dir_name(&stateroot.parse().ok()?, name)
        };
        parse().ok_or_else(|| InvalidDeploymentId {
            text: text.chars().take(120).collect(),
        })
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = InvalidDeploymentId;

    fn try_from(text: String) -> Result<Self, InvalidDeploymentId> {
        text.parse()
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.stateroot, self.commit, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_have_one_spelling() {
        let commit = "ab".repeat(32);
        let id: DeploymentId = format!("default/{commit}.7").parse().unwrap();
        assert_eq!(id.to_string(), format!("default/{commit}.7"));
        for bad in ["", "default", "default/x.0", "/x.0"] {
            assert!(bad.parse::<DeploymentId>().is_err(), "{bad:?}");
        }
        for serial in ["07", "+7", "-1", "", "7.complete", "7.origin", "4294967296"] {
            assert!(
                format!("default/{commit}.{serial}")
                    .parse::<DeploymentId>()
                    .is_err(),
                "{serial:?}"
            );
        }
    }
}
