//! Where a deployment came from, and what it follows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fs::Dir;
use crate::names::RefName;

use super::{DeploymentId, SysrootError};

/// A deployment's origin. Lies beside it as `<commit>.<serial>.origin`, in TOML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct Origin {
    /// The ref that an upgrade looks at. A deployment of a mere digest follows nothing.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<RefName>,
    /// The repository that an upgrade pulls the ref from first; the sysroot's own alone where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_from: Option<PathBuf>,
}

/// Bytes in an origin.
const MAX_ORIGIN: usize = 64 * 1024;

impl Origin {
    /// Returns the name of the file that holds the origin of `id`.
    pub(super) fn file_name(id: &DeploymentId) -> String {
        format!("{}.origin", id.dir_name())
    }

    /// Reads the origin of `id` in its directory of deployments; a deployment without one follows nothing.
    pub(super) fn load(deployments: &Dir, id: &DeploymentId) -> Result<Self, SysrootError> {
        let name = Self::file_name(id);
        let Some(bytes) = deployments.read_optional(&name, MAX_ORIGIN)? else {
            return Ok(Self::default());
        };
        let damaged = |reason: String| SysrootError::DamagedState {
            path: deployments.path().join(&name),
            reason,
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| damaged(error.to_string()))?;
        toml::from_str(text).map_err(|error| damaged(error.message().replace('\n', "; ")))
    }

    pub(super) fn save(&self, deployments: &Dir, id: &DeploymentId) -> Result<(), SysrootError> {
        let path = || deployments.path().join(Self::file_name(id));
        let text = toml::to_string(self).map_err(|error| SysrootError::DamagedState {
            path: path(),
            reason: error.to_string(),
        })?;
        Ok(deployments.write_atomic(Self::file_name(id), text.as_bytes(), 0o644)?)
    }
}
