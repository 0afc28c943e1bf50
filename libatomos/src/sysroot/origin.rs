//! Where a deployment came from, and what it follows.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::CommitId;
use crate::fs::Dir;
use crate::names::RefName;
use crate::pull::PullError;
use crate::remote::{RemoteName, RemoteState, unverified_commits};
use crate::repo::Repo;

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
    /// The remote that the ref is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteName>,
    /// The ids of the keys that vouched for the commit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<String>,
    /// Nobody vouched for the commit: it was pulled with verification turned off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
}

/// Bytes in an origin.
const MAX_ORIGIN: usize = 64 * 1024;

impl Origin {
    /// Splits `remote:ref` into its parts; `None` for a ref of this repository's own.
    #[must_use]
    pub fn remote_ref(reference: &RefName) -> Option<(RemoteName, RefName)> {
        let (remote, name) = reference.as_str().split_once(':')?;
        Some((remote.parse().ok()?, name.parse().ok()?))
    }

    /// Returns whether both follow the same; who vouched for what is there does not count.
    #[must_use]
    pub fn follows_as(&self, other: &Self) -> bool {
        (&self.reference, &self.pull_from) == (&other.reference, &other.pull_from)
    }

    /// Notes where `commit` came from, and who vouches for it.
    pub(super) fn describe(&mut self, repo: &Repo, commit: &CommitId) -> Result<(), SysrootError> {
        self.unverified = unverified_commits(repo)
            .map_err(PullError::from)?
            .contains(commit);
        let remote = self.reference.as_ref().and_then(Self::remote_ref);
        self.remote = remote.map(|(remote, _)| remote);
        self.keys.clear();
        if let Some(name) = self.remote.as_ref().filter(|_| !self.unverified) {
            let state = RemoteState::load(repo, name).map_err(PullError::from)?;
            let ids = state.keys.iter().flat_map(|keys| &keys.set().record.keys);
            self.keys = ids.map(ToString::to_string).collect();
        }
        Ok(())
    }

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
        // No power cut shows this sync or order: the marker of the deployment comes after a sync of everything. But a staged one
        // may get another origin in the place of one that is whole.
        Ok(deployments.write_atomic(Self::file_name(id), text.as_bytes(), 0o644)?)
    }
}
