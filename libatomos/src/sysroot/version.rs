//! Finding a commit by the version that people know it by.

use std::collections::{BTreeMap, HashSet};

use crate::digest::CommitId;
use crate::names::RefName;
use crate::repo::RepoError;

use super::staged::Staged;
use super::{Origin, State, Sysroot, SysrootError};

/// Commits of a ref's history that are looked at. A ref with more has its oldest versions by their digests alone.
const MAX_HISTORY: usize = 100_000;

impl Sysroot {
    /// Returns the commit that `rev` names and what a deployment of it follows: a ref, a digest, or else the version of
    /// a commit in the history of what the machine follows, or in that of any other ref.
    ///
    /// # Errors
    /// [`SysrootError::AmbiguousVersion`] when other refs than the followed one have several commits of that version.
    pub(super) fn resolve_to_deploy(
        &self,
        rev: &str,
        state: &State,
        staged: Option<&Staged>,
    ) -> Result<(CommitId, Origin), SysrootError> {
        let not_found = match self.repo.resolve_commit(rev) {
            Ok(commit) => {
                let reference = rev
                    .parse::<RefName>()
                    .ok()
                    .filter(|name| matches!(self.repo.ref_optional(name), Ok(Some(_))))
                    .map(|name| self.repo.resolve_alias(&name))
                    .transpose()?;
                let origin = Origin {
                    reference,
                    ..Origin::default()
                };
                return Ok((commit, origin));
            }
            Err(error @ (RepoError::RevNotFound { .. } | RepoError::RefNotFound { .. })) => error,
            Err(error) => return Err(error.into()),
        };
        let current = match (staged, self.booted()?, state.default_deployment()) {
            (Some(staged), _, _) => Some(staged.deployment.id.clone()),
            (None, Some(booted), _) => Some(booted),
            (None, None, first) => first.map(|deployment| deployment.id.clone()),
        };
        if let Some(id) = current {
            let origin = Origin::load(&self.deployments_dir(&id.stateroot)?, &id)?;
            if let Some(reference) = &origin.reference
                && let Some(tip) = self.repo.ref_optional(reference)?
                && let Some(commit) = self.version_in_history(tip, rev, &mut HashSet::new())
            {
                return Ok((commit, origin));
            }
        }
        let mut found: BTreeMap<CommitId, RefName> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (name, tip) in self.repo.refs()?.iter() {
            if let Some(commit) = self.version_in_history(*tip, rev, &mut seen) {
                found.entry(commit).or_insert_with(|| name.clone());
            }
        }
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (None, _) => Err(not_found.into()),
            (Some((commit, name)), None) => {
                let origin = Origin {
                    reference: Some(name),
                    ..Origin::default()
                };
                Ok((commit, origin))
            }
            (Some(first), Some(second)) => Err(SysrootError::AmbiguousVersion {
                version: rev.to_owned(),
                matches: [first, second]
                    .into_iter()
                    .chain(found)
                    .map(|(commit, name)| format!("{} of {name}", commit.short()))
                    .collect(),
            }),
        }
    }

    /// Returns the newest commit of that version from `tip` backwards, as far as the history is here. Commits that were
    /// seen before are not looked at again: refs share their histories.
    fn version_in_history(
        &self,
        tip: CommitId,
        version: &str,
        seen: &mut HashSet<CommitId>,
    ) -> Option<CommitId> {
        let mut next = Some(tip);
        while let Some(id) = next
            && seen.len() < MAX_HISTORY
            && seen.insert(id)
        {
            let commit = self.repo.load_commit(&id).ok()?;
            if commit.version == version {
                return Some(id);
            }
            next = commit.parent;
        }
        None
    }
}
