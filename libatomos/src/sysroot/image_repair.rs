//! Making the images anew that are not what they were made as.
//!
//! An image is a function of its commit's tree, so nobody has to have a good copy: the dirtrees are enough, and each of them is verified as
//! it is read. The new image is written beside the old one, verified by the kernel where it is sealed, synced, and **renamed over**
//! the old one; then its record, then its seal. A machine that runs the old one has it open and goes on with that; the next boot takes
//! the new one. An interruption leaves the deployment as bad as it was, or better, and the next run goes on.
//!
//! What is sealed has one image, whoever makes it. One that is not may come out otherwise than an earlier version of this program made it:
//! it shows the same tree, and gets a record of its own.
//!
//! Whether the objects are there that an image leads to is not asked: which image is right does not depend on it, and the repository's own
//! check says what is missing. What is sealed gets fs-verity for those that are: one that was lost has come back without.

use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::composefs::{ImageReport, RootTree, Seal, files_to_verify, write_image};
use crate::error::with_causes;
use crate::format::Commit;
use crate::fs::{Dir, why_no_verity};
use crate::progress::Progress;

use super::image::{read_back_file, record_bytes};
use super::image_check::{Candidate, ImagesReport};
use super::seal::{differs_from_seal, ensure};
use super::{DeploymentId, Sysroot, SysrootError, SysrootLock, layout};

/// How to repair images.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImageRepairOptions {
    /// Find out what could be made anew, and change nothing.
    pub dry_run: bool,
}

/// An image that is whole again, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct RepairedImage {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The image.
    #[serde(serialize_with = "crate::fs::path_text::one")]
    pub path: PathBuf,
    /// Whether it is what runs, which has the damaged one until the next boot.
    pub booted: bool,
}

/// An image that could not be made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LostImage {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The image.
    #[serde(serialize_with = "crate::fs::path_text::one")]
    pub path: PathBuf,
    /// Why not.
    pub reason: String,
}

/// What repairing images found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImagesRepair {
    /// What was found.
    #[serde(flatten)]
    pub found: ImagesReport,
    /// What is whole again.
    pub repaired: Vec<RepairedImage>,
    /// What is not.
    pub lost: Vec<LostImage>,
}

impl Sysroot {
    /// Does what [`check_images`](Self::check_images) does, and makes anew what is bad. Takes the sysroot's lock. Durable on return.
    ///
    /// # Errors
    /// If the deployments cannot be listed. Why an image cannot be made is in the report.
    pub fn repair_images(
        &self,
        options: &ImageRepairOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<ImagesRepair, SysrootError> {
        let lock = self.lock()?;
        let found = self.check_images(progress, cancel)?;
        let mut report = ImagesRepair {
            found,
            ..ImagesRepair::default()
        };
        if report.found.is_clean() {
            return Ok(report);
        }
        let booted = self.booted()?.filter(|_| self.running.image);
        for candidate in self.candidates()? {
            let id = &candidate.id;
            let is_bad = report
                .found
                .findings
                .iter()
                .any(|finding| finding.deployment == *id);
            if !is_bad {
                continue;
            }
            let deployments = self.deployments_dir(&id.stateroot)?;
            let path = deployments.path().join(layout::image(id));
            match self.remake(&lock, &candidate, &deployments, options, progress, cancel) {
                Ok(()) => report.repaired.push(RepairedImage {
                    deployment: id.clone(),
                    path,
                    booted: booted.as_ref() == Some(id),
                }),
                Err(error @ (SysrootError::Cancelled(_) | SysrootError::Failpoint(_))) => return Err(error),
                Err(error) => {
                    // One that cannot be made must not keep the others from it.
                    cancel.check()?;
                    drop(deployments.remove_file_optional(layout::new_image(id)));
                    report.lost.push(LostImage {
                        deployment: id.clone(),
                        path,
                        reason: with_causes(&error),
                    });
                }
            }
        }
        Ok(report)
    }

    /// Makes the image of a deployment anew, and what lies beside it.
    fn remake(
        &self,
        _lock: &SysrootLock,
        candidate: &Candidate,
        deployments: &Dir,
        options: &ImageRepairOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), SysrootError> {
        let id = &candidate.id;
        let _repo_lock = self.repo.lock_shared()?;
        let commit = self.repo.load_commit(&id.commit)?;
        let seal = self.seal_of(candidate, deployments);
        if options.dry_run {
            let file = deployments.create_unnamed(0o600)?;
            self.make_again(id, &commit, seal.as_ref(), &file, cancel)?;
            return Ok(());
        }
        if seal.is_some()
            && let Some((reason, device)) = why_no_verity(deployments)?
        {
            let path = deployments.path().to_owned();
            return Err(SysrootError::NoVerity { path, reason, device });
        }
        // An interrupted run, or a deploy, may have left one; `cleanup` removes it as well.
        let temporary = layout::new_image(id);
        deployments.remove_file_optional(&temporary)?;
        let made = {
            let file = deployments.create_file(&temporary, 0o600)?;
            self.make_again(id, &commit, seal.as_ref(), &file, cancel)?
        };
        if let Some(seal) = &seal {
            let path = deployments.path().join(&temporary);
            // Nobody has it open for writing any more: the kernel asks for that.
            ensure(
                &deployments.open_file(&temporary)?,
                path,
                &seal.sealed.image,
                || Ok(()),
            )?;
        }
        crate::failpoint::hit("repair-image.made")?;
        deployments.sync_fs()?;
        crate::failpoint::hit("repair-image.synced")?;
        read_back_file(deployments, &temporary, &made)?;
        deployments.rename(&temporary, deployments, layout::image(id))?;
        crate::failpoint::hit("repair-image.renamed")?;
        deployments.write_atomic(layout::image_record(id), &record_bytes(&made), 0o644)?;
        crate::failpoint::hit("repair-image.recorded")?;
        if let Some(seal) = &seal {
            deployments.write_atomic(layout::seal(id), &seal.encode(), 0o644)?;
            crate::failpoint::hit("repair-image.sealed")?;
        }
        deployments.sync_fs()?;
        crate::failpoint::hit("repair-image.durable")?;
        if seal.is_some() {
            // A good copy of an object that was lost is a file like any other. Last: one that is missing still does not keep the image
            // from being made.
            let files = files_to_verify(&self.repo, commit.root, cancel)?;
            self.verify_files(&files, &|_| Ok(()), progress, cancel)?;
            crate::failpoint::hit("repair-image.verity-files")?;
            deployments.sync_fs()?;
            crate::failpoint::hit("repair-image.verified")?;
        }
        Ok(())
    }

    /// Writes the image that a commit's tree makes, which must be the one that is sealed.
    fn make_again(
        &self,
        id: &DeploymentId,
        commit: &Commit,
        seal: Option<&Seal>,
        file: &File,
        cancel: &Cancel,
    ) -> Result<ImageReport, SysrootError> {
        let tree = RootTree::new(&self.repo, commit.root)?;
        // What is repaired is not kept from it by the room that is to stay free.
        let metadata = &commit.root_metadata;
        let made = write_image(&tree, tree.root(), metadata, file, &|_| Ok(()), cancel)?;
        match seal {
            Some(seal) if made.verity != Some(seal.sealed.image) => Err(SysrootError::NotDeployable {
                commit: id.commit,
                reason: differs_from_seal(made.verity, seal.sealed.image),
            }),
            _ => Ok(made),
        }
    }
}
