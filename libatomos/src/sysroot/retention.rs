//! Which deployments stay when a new one comes.
//!
//! The machine's owner says so in `/etc/atomos/retention.toml`, the system's maker in `/usr/lib/atomos/retention.toml`; what
//! one does not say the other does:
//!
//! ```toml
//! keep = 3        # deployments of a stateroot, the new one and the running one among them
//! ```
//!
//! Whatever it says, what is running, what is pinned, what a person went back to and has not booted yet, and the newest that is known to be good
//! stay.

use serde::Deserialize;

use crate::fs::Dir;
use crate::progress::{Event, Progress};

use super::{DeploymentId, DeploymentState, State, Sysroot, SysrootError};

/// The local policy, in a deployment.
const LOCAL: &str = "etc/atomos/retention.toml";
/// The system's.
const VENDOR: &str = "usr/lib/atomos/retention.toml";
/// Bytes in a policy.
const MAX_POLICY: usize = 64 * 1024;
/// Deployments that are kept where nobody says anything: the new one, and one to go back to.
const DEFAULT_KEEP: usize = 2;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Policy {
    keep: Option<std::num::NonZeroUsize>,
}

impl Policy {
    /// Reads the policies of a deployment. One that cannot be read is told of and does not count: it must not keep a
    /// machine from being upgraded.
    fn load(root: &Dir, progress: &dyn Progress) -> Self {
        let read = |name: &str| {
            let text = match root.read_in_root(name, MAX_POLICY) {
                Ok(None) => return Self::default(),
                Ok(Some(bytes)) => String::from_utf8(bytes).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let parsed = text
                .and_then(|text| toml::from_str(&text).map_err(|error| error.message().replace('\n', "; ")));
            parsed.unwrap_or_else(|error| {
                let text = format!("/{name} does not count: {error}");
                progress.report(Event::Warning { text: &text });
                Self::default()
            })
        };
        let (local, vendor) = (read(LOCAL), read(VENDOR));
        Self {
            keep: local.keep.or(vendor.keep),
        }
    }
}

/// Returns the newest deployment of the stateroot that is known to be good, other than `new`: going back to it is what a
/// machine does when all else fails. Where none is, on a machine that runs, what has come up and nothing says that it is bad: what is
/// running, unless that is on trial itself; else the last that ran, or the newest.
fn worth_going_back_to(
    state: &State,
    new: &DeploymentId,
    booted: Option<&DeploymentId>,
    ran: &[DeploymentId],
) -> Option<DeploymentId> {
    let unproven = || {
        state.deployments.iter().filter(|other| {
            let is_doubtful = other.is_bad() || other.is_on_trial();
            other.id != *new && other.id.stateroot == new.stateroot && !is_doubtful
        })
    };
    let found = state.last_good(&new.stateroot, new).or_else(|| {
        let booted = booted?;
        let ran = || {
            ran.iter()
                .rev()
                .find_map(|id| unproven().find(|other| other.id == *id))
        };
        let running = unproven().find(|other| other.id == *booted);
        running.or_else(ran).or_else(|| unproven().next())
    });
    found.map(|other| other.id.clone())
}

impl Sysroot {
    /// Takes out of the truth what retention lets go of: all but the newest `keep` of the stateroot, what is running, what
    /// is pinned, what a person went back to, and the newest that is known to be good.
    pub(super) fn retire(
        &self,
        state: &mut State,
        new: &DeploymentId,
        keep: Option<usize>,
        progress: &dyn Progress,
    ) -> Result<Vec<DeploymentId>, SysrootError> {
        let booted = self.booted()?;
        let keep = match keep {
            Some(keep) => keep,
            None => self.policy_keep(state, new, booted.as_ref(), progress)?,
        };
        // A record that cannot be read tells of none.
        let ran = self.boot_log().unwrap_or_default().ran;
        let good = worth_going_back_to(state, new, booted.as_ref(), &ran);
        let mut others = state.deployments.iter().filter(|other| other.id != *new);
        let chosen = self.chosen(others.find(|other| !other.is_bad()));
        let chosen = chosen.map(|chosen| chosen.deployment);
        let is_booted = |id: &DeploymentId| booted.as_ref() == Some(id);
        // The new one and what is running have their places; the rest go to the newest of the others, and to bad ones last.
        let running_here = booted
            .as_ref()
            .is_some_and(|booted| booted.stateroot == new.stateroot);
        let left = keep.saturating_sub(1 + usize::from(running_here));
        let stays = |deployment: &DeploymentState| {
            let id = &deployment.id;
            id == new || is_booted(id) || deployment.pinned || id.stateroot != new.stateroot
        };
        let (bad, fair): (Vec<_>, Vec<_>) = state
            .deployments
            .iter()
            .filter(|deployment| !stays(deployment))
            .partition(|deployment| deployment.is_bad());
        let saved = |id: &DeploymentId| good.as_ref() == Some(id) || chosen.as_ref() == Some(id);
        let removed: Vec<DeploymentId> = fair
            .into_iter()
            .chain(bad)
            .skip(left)
            .map(|deployment| deployment.id.clone())
            .filter(|id| !saved(id))
            .collect();
        state
            .deployments
            .retain(|deployment| !removed.contains(&deployment.id));
        Ok(removed)
    }

    /// Returns what the policy of the running deployment says, or of the newest: the first new one has nothing to retire.
    fn policy_keep(
        &self,
        state: &State,
        new: &DeploymentId,
        booted: Option<&DeploymentId>,
        progress: &dyn Progress,
    ) -> Result<usize, SysrootError> {
        let newest = state.deployments.iter().map(|deployment| &deployment.id);
        let mut newest = newest.filter(|id| *id != new && id.stateroot == new.stateroot);
        let Some(from) = booted.or_else(|| newest.next()) else {
            return Ok(DEFAULT_KEEP);
        };
        let policy = Policy::load(&self.deployment_dir(from)?, progress);
        Ok(policy.keep.map_or(DEFAULT_KEEP, std::num::NonZeroUsize::get))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Tests arrange by path.
mod tests {
    use super::*;
    use crate::progress::NoProgress;

    #[test]
    fn the_owner_s_policy_comes_before_the_maker_s_and_nonsense_does_not_count() {
        let scratch = tempfile::tempdir().unwrap();
        for dir in ["etc/atomos", "usr/lib/atomos"] {
            std::fs::create_dir_all(scratch.path().join(dir)).unwrap();
        }
        let root = Dir::open_ambient(scratch.path()).unwrap();
        let keep = || {
            Policy::load(&root, &NoProgress)
                .keep
                .map(std::num::NonZeroUsize::get)
        };
        let write = |name: &str, text: &str| std::fs::write(scratch.path().join(name), text).unwrap();
        assert_eq!(keep(), None);
        write(VENDOR, "keep = 4\n");
        assert_eq!(keep(), Some(4));
        write(LOCAL, "keep = 3\n");
        assert_eq!(keep(), Some(3));
        for nonsense in ["keep = 0", "keep = -1", "keep = \"3\"", "keeep = 3", "\u{fffd}["] {
            write(LOCAL, nonsense);
            assert_eq!(keep(), Some(4), "{nonsense}");
        }
        write(LOCAL, "");
        assert_eq!(keep(), Some(4));
    }
}
