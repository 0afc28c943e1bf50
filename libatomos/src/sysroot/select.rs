//! Which deployment a person means.

use super::{DeploymentId, DeploymentState, State, SysrootError};

impl State {
    /// Finds the deployment that `selector` names: its position in `status` (0 is the default), `booted`, `default`,
    /// its full name, its version, or the start of its commit's digest.
    pub fn select(
        &self,
        selector: &str,
        booted: Option<&DeploymentId>,
    ) -> Result<&DeploymentState, SysrootError> {
        let not_found = || SysrootError::DeploymentNotFound {
            selector: selector.to_owned(),
        };
        match selector {
            "booted" => return booted.and_then(|id| self.get(id)).ok_or_else(not_found),
            "default" => return self.deployments.first().ok_or_else(not_found),
            _ => {}
        }
        // A position has few digits; a prefix of a digest has four at least.
        if selector.len() < 4
            && let Ok(position) = selector.parse::<usize>()
        {
            return self.deployments.get(position).ok_or_else(not_found);
        }
        let matches = |deployment: &&DeploymentState| {
            let id = &deployment.id;
            id.to_string() == selector
                || id.dir_name() == selector
                || id.short() == selector
                || deployment.version == selector
                || (selector.len() >= 4 && id.commit.to_string().starts_with(selector))
        };
        let found: Vec<_> = self.deployments.iter().filter(matches).collect();
        match found.as_slice() {
            [] => Err(not_found()),
            [one] => Ok(one),
            many => Err(SysrootError::AmbiguousDeployment {
                selector: selector.to_owned(),
                matches: many.iter().map(|deployment| deployment.id.to_string()).collect(),
            }),
        }
    }
}
