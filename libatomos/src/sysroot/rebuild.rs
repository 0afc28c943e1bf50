//! The truth, made anew from what `/boot` boots: for a machine whose list of deployments is lost or damaged.
//!
//! An entry says which deployment it boots, with which kernel arguments and kernel, and its number is the order. What nothing but the list said is lost:
//! which deployments were pinned, and which were known to be good.

use crate::boot::name::EntryName;
use crate::boot::{FoundEntry, KernelArgs, parse_kernel_dir_name};
use crate::progress::{Event, Progress};

use super::booted::ENTRY_KARG;
use super::cleanup::leads_to;
use super::os_release::pretty_name;
use super::state::{FallbackEntry, STATE};
use super::{DeploymentId, DeploymentState, State, Sysroot, SysrootError, layout};

/// What the list is called that could not be read.
const DAMAGED: &str = "deployments.json.damaged";

/// Numbers of entries from which on a file name says nothing: half of them are left for us.
const MAX_NUMBER: u64 = u64::MAX / 2;

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
        let mut found = Vec::new();
        for entry in boot.list_entries()? {
            let Some(name) = &entry.name else { continue };
            match self.state_of(name, &entry)? {
                Some(deployment) => found.push(deployment),
                None => {
                    let text = format!("{} leads to no deployment that is whole", entry.file_name);
                    progress.report(Event::Warning { text: &text });
                }
            }
        }
        let state = state_from(found);
        if state.deployments.is_empty() {
            return Err(SysrootError::NothingToRebuild {
                path: boot.dir().path().to_owned(),
            });
        }
        state.check(&path)?;
        // What is there first is what somebody may want to look at.
        if is_there && !self.atomos.exists(DAMAGED)? {
            self.atomos.rename(STATE, &self.atomos, DAMAGED)?;
        }
        self.save_state(&state)?;
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
        if !leads_to(name, &id) || name.n >= MAX_NUMBER {
            return Ok(None);
        }
        let deployments = self.deployments_dir(&id.stateroot)?;
        let Some(root) = deployments.open_dir_optional(id.dir_name())? else {
            return Ok(None);
        };
        if !deployments.exists(layout::marker(&id))? {
            return Ok(None);
        }
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

/// Makes a list of what entries say.
fn state_from(mut found: Vec<DeploymentState>) -> State {
    // Of several names of one entry, which a rename leaves that is cut short, the one that was tried most.
    found.sort_by_key(|deployment| {
        (
            std::cmp::Reverse(deployment.entry),
            deployment.tries.unwrap_or(u32::MAX),
        )
    });
    found.dedup_by_key(|deployment| deployment.entry);
    let mut state = State::default();
    for deployment in found {
        state.next_entry = state.next_entry.max(deployment.entry + 1);
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
    state
}
