//! The truth, made anew from what `/boot` boots: for a machine whose list of deployments is lost or damaged.
//!
//! An entry says which deployment it boots, with which kernel arguments and kernel, and its number is the order. What nothing but the list said is lost:
//! which deployments were pinned, and which were known to be good.

use crate::boot::name::EntryName;
use crate::boot::{FoundEntry, KernelArgs, parse_kernel_dir_name};
use crate::progress::{Event, Progress};

use super::booted::ENTRY_KARG;
use super::os_release::pretty_name;
use super::state::{FallbackEntry, STATE};
use super::{DeploymentId, DeploymentState, State, Sysroot, SysrootError, layout};

/// What the list is called that could not be read.
const DAMAGED: &str = "deployments.json.damaged";

impl Sysroot {
    /// Makes the list of deployments anew from the entries in `/boot` whose deployments are there and finished, and puts one aside that is
    /// there and cannot be read. Returns the deployments. Takes the lock; the visible step is the replacement of the list.
    ///
    /// # Errors
    /// [`SysrootError::NotDamaged`] where the list can be read: it is the truth. [`SysrootError::NothingToRebuild`] where no entry leads to a
    /// deployment.
    pub fn rebuild_state(&self, progress: &dyn Progress) -> Result<Vec<DeploymentId>, SysrootError> {
        let _lock = self.lock()?;
        let path = self.atomos.path().join(STATE);
        let is_there = self.atomos.exists(STATE)?;
        match State::load(&self.atomos) {
            Ok(_) if is_there => return Err(SysrootError::NotDamaged { path }),
            Ok(_) | Err(SysrootError::DamagedState { .. }) => {}
            Err(error) => return Err(error),
        }
        let boot = self.boot_dir()?;
        self.check_boot_is_mounted(&boot)?;
        let mut found: Vec<(EntryName, DeploymentState)> = Vec::new();
        for entry in boot.list_entries()? {
            let Some(name) = entry.name.clone() else { continue };
            match self.state_of(&name, &entry)? {
                Some(deployment) => found.push((name, deployment)),
                None => {
                    let text = format!("{} leads to no deployment that is whole", entry.file_name);
                    progress.report(Event::Warning { text: &text });
                }
            }
        }
        found.sort_by_key(|(name, _)| std::cmp::Reverse(name.n));
        let mut state = State::default();
        for (name, deployment) in found {
            state.next_entry = state.next_entry.max(name.n + 1);
            let newer = state
                .deployments
                .iter_mut()
                .find(|newer| newer.id == deployment.id);
            match newer {
                None => state.deployments.push(deployment),
                // The entry that is kept beside one with other arguments.
                Some(newer) if newer.fallback.is_none() => {
                    newer.fallback = Some(FallbackEntry {
                        entry: deployment.entry,
                        kargs: deployment.kargs,
                        good: false,
                    });
                }
                Some(_) => {}
            }
        }
        if state.deployments.is_empty() {
            return Err(SysrootError::NothingToRebuild {
                path: boot.dir().path().to_owned(),
            });
        }
        if is_there {
            self.atomos.rename(STATE, &self.atomos, DAMAGED)?;
        }
        state.save(&self.atomos)?;
        Ok(state
            .deployments
            .into_iter()
            .map(|deployment| deployment.id)
            .collect())
    }

    /// Returns what an entry says of its deployment; `None` where that is not there, or was never finished.
    fn state_of(
        &self,
        name: &EntryName,
        found: &FoundEntry,
    ) -> Result<Option<DeploymentState>, SysrootError> {
        let Ok(entry) = &found.entry else { return Ok(None) };
        let Ok(mut kargs) = entry.options().parse::<KernelArgs>() else {
            return Ok(None);
        };
        let id = kargs.get("atomos").and_then(|id| id.parse::<DeploymentId>().ok());
        let kernel = found.kernel_dir().and_then(parse_kernel_dir_name);
        let (Some(id), Some((_, bootcsum))) = (id, kernel) else {
            return Ok(None);
        };
        if id.stateroot != name.stateroot
            || !self.deployments_dir(&id.stateroot)?.exists(layout::marker(&id))?
        {
            return Ok(None);
        }
        let root = self.deployment_dir(&id)?;
        kargs.delete_all("atomos");
        kargs.delete_all(ENTRY_KARG);
        // What only the menu shows.
        let title = pretty_name(&root).ok().flatten();
        let version = self.repo.load_commit(&id.commit).map(|commit| commit.version);
        Ok(Some(DeploymentState {
            id,
            entry: name.n,
            kargs: kargs.to_string(),
            bootcsum: bootcsum.to_string(),
            title: title.unwrap_or_else(|| "atomos".to_owned()),
            version: version.unwrap_or_default(),
            pinned: false,
            good: false,
            tries: name.tries.map(|tries| tries.left),
            fallback: None,
        }))
    }
}
