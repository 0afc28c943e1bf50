//! Which deployment a person means.

use super::staged::Staged;
use super::{DeploymentId, DeploymentState, State, SysrootError};

/// What a person means.
#[derive(Debug, Clone)]
pub(super) enum Selected {
    /// What is staged.
    Staged(Staged),
    /// One that the truth names.
    Deployment(DeploymentState),
}

impl Selected {
    pub fn id(&self) -> &DeploymentId {
        match self {
            Self::Staged(staged) => &staged.deployment.id,
            Self::Deployment(deployment) => &deployment.id,
        }
    }

    /// Returns the deployment, for what cannot be done to one that is staged.
    pub fn finished(self, action: &'static str) -> Result<DeploymentState, SysrootError> {
        match self {
            Self::Deployment(deployment) => Ok(deployment),
            Self::Staged(staged) => Err(SysrootError::NotFinished {
                id: staged.deployment.id,
                action,
            }),
        }
    }
}

impl State {
    /// Finds the deployment that `selector` names: its position in `status`, `booted`, `default`, `staged`, its full name,
    /// its version, or the start of its commit's digest. What is staged stands first in `status`.
    pub(super) fn select(
        &self,
        selector: &str,
        staged: Option<&Staged>,
        booted: Option<&DeploymentId>,
    ) -> Result<Selected, SysrootError> {
        let not_found = || SysrootError::DeploymentNotFound {
            selector: selector.to_owned(),
        };
        let deployment = |found: Option<&DeploymentState>| {
            let found = found.ok_or_else(not_found)?;
            Ok(Selected::Deployment(found.clone()))
        };
        match selector {
            "booted" => return deployment(booted.and_then(|id| self.get(id))),
            "default" => return deployment(self.default_deployment()),
            "staged" => return staged.cloned().map(Selected::Staged).ok_or_else(not_found),
            _ => {}
        }
        let all = || {
            let first = staged.cloned().map(Selected::Staged);
            first
                .into_iter()
                .chain(self.deployments.iter().cloned().map(Selected::Deployment))
        };
        // A position has few digits; a prefix of a digest has four at least. A version may be a number, too.
        if selector.len() < 4
            && let Ok(position) = selector.parse::<usize>()
            && let Some(found) = all().nth(position)
        {
            return Ok(found);
        }
        let matches = |selected: &Selected| {
            let id = selected.id();
            let version = match selected {
                Selected::Staged(staged) => &staged.deployment.version,
                Selected::Deployment(deployment) => &deployment.version,
            };
            id.to_string() == selector
                || id.dir_name() == selector
                || id.short() == selector
                || version == selector
                || (selector.len() >= 4 && id.commit.to_string().starts_with(selector))
        };
        let mut found: Vec<_> = all().filter(matches).collect();
        match found.len() {
            0 => Err(not_found()),
            1 => Ok(found.remove(0)),
            _ => Err(SysrootError::AmbiguousDeployment {
                selector: selector.to_owned(),
                matches: found.iter().map(|selected| selected.id().to_string()).collect(),
            }),
        }
    }
}
