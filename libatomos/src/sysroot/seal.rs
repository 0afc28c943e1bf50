//! Deployments that boot only as somebody has sealed them.
//!
//! The image and every file that it leads to get fs-verity, so that the kernel compares each block that is read with what was sealed.
//! The seal lies beside the image, for `atomos-prepare-root`, which has the keys. Whether all that is possible is found out before anything
//! of the deployment is made.

use std::fs::File;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::cancel::Cancel;
use crate::composefs::{FilesToVerify, ImageReport, MAX_SEAL, Seal, files_to_verify};
use crate::digest::CommitId;
use crate::format::Commit;
use crate::fs::{Dir, FsError, protect, verity_of, why_no_verity, write_all};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{ObjectKind, object_path};
use crate::sign::KeyId;
use crate::verity::{VerityDigest, verity_overhead};

use super::decide::Decision;
use super::root_kind::RootKind;
use super::{DeploymentId, Sysroot, SysrootError, layout};

impl Sysroot {
    /// Returns the seal of what is to be verified; `None` for what is not.
    ///
    /// # Errors
    /// If it would not boot: it is not sealed, or by a key that its own tree does not have; or nothing could be verified on this machine.
    pub(super) fn seal_for(
        &self,
        root: RootKind,
        id: &CommitId,
        commit: &Commit,
    ) -> Result<Option<Seal>, SysrootError> {
        if root != RootKind::VerifiedImage {
            return Ok(None);
        }
        let refuse = |reason: String| SysrootError::NotDeployable { commit: *id, reason };
        let not_sealed = "its root is to be verified, and it is not sealed: commit it with --seal";
        let seal = Seal::of_commit(commit)?.ok_or_else(|| refuse(not_sealed.to_owned()))?;
        if let Some(reason) = seal.why_not_of_tree(&self.repo, commit)? {
            return Err(refuse(reason));
        }
        match why_no_verity(self.repo.dir())? {
            None => Ok(Some(seal)),
            Some((reason, device)) => Err(SysrootError::NoVerity {
                path: self.repo.dir().path().to_owned(),
                reason,
                device,
            }),
        }
    }

    /// Has the kernel verify the image and all that it leads to, and lays the seal beside it. Nothing of it is durable.
    pub(super) fn seal_image(
        &self,
        decision: &Decision,
        seal: &Seal,
        image: &ImageReport,
        deployments: &Dir,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), SysrootError> {
        let refuse = |reason: String| SysrootError::NotDeployable {
            commit: decision.id.commit,
            reason,
        };
        let expected = seal.sealed.image;
        if image.verity != Some(expected) {
            return Err(refuse(differs_from_seal(image.verity, expected)));
        }
        let files = files_to_verify(&self.repo, decision.commit.root, cancel)?;
        crate::failpoint::hit("deploy.verity")?;
        let room = self.repo.room()?;
        let before = |size| Ok(room.take(verity_overhead(size)).map(drop)?);
        self.verify_files(&files, &before, progress, cancel)?;
        crate::failpoint::hit("deploy.verity-files")?;
        let name = layout::image(&decision.id);
        let file = deployments.open_file(&name)?;
        ensure(&file, deployments.path().join(name), &expected, || Ok(()))?;
        crate::failpoint::hit("deploy.verity-image")?;
        let name = layout::seal(&decision.id);
        // Nobody reads it before the marker is there, and everything is synced before that.
        write_all(&deployments.create_file(&name, 0o644)?, &seal.encode())
            .map_err(|error| FsError::new("write", deployments.path().join(&name), error))?;
        crate::failpoint::hit("deploy.sealed")?;
        Ok(())
    }

    /// Has the kernel verify files of the store; where it does not yet, once `before` agrees for one of so many bytes.
    pub(super) fn verify_files(
        &self,
        files: &FilesToVerify,
        before: &(dyn Fn(u64) -> Result<(), SysrootError> + Sync),
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<(), SysrootError> {
        let bytes = files.values().map(|(size, _)| size).sum();
        let phase = PhaseGuard::begin(progress, Phase::Verify, Some(bytes), Unit::Bytes);
        let objects = self.repo.kind_dir(ObjectKind::Blob);
        crate::parallel::pool(None).install(|| {
            files.par_iter().try_for_each(|(blob, (size, expected))| {
                cancel.check()?;
                let path = object_path(blob.digest());
                let file = objects.open_file(&path)?;
                ensure(&file, objects.path().join(path), expected, || before(*size))?;
                phase.advance(*size);
                Ok(())
            })
        })
    }
}

/// Says that a tree makes another image than the one that is sealed.
pub(super) fn differs_from_seal(made: Option<VerityDigest>, sealed: VerityDigest) -> String {
    let made = made.map(|verity| verity.to_string());
    format!(
        "the image that its tree makes is {}, and {sealed} is sealed",
        made.as_deref().unwrap_or("one that lacks digests")
    )
}

/// Has the kernel verify a file, which must be what `expected` says; where it does not yet, once `before` agrees.
pub(super) fn ensure(
    file: &File,
    path: PathBuf,
    expected: &VerityDigest,
    before: impl FnOnce() -> Result<(), SysrootError>,
) -> Result<(), SysrootError> {
    let found = match verity_of(file, &path)? {
        Some(found) => found,
        None => {
            before()?;
            protect(file, &path)?
        }
    };
    match found == *expected {
        true => Ok(()),
        false => Err(SysrootError::VerityDiffers {
            path,
            expected: *expected,
            found,
        }),
    }
}

/// Returns who says to have sealed a deployment's image. Nobody, where that cannot be read: what boots it says so.
pub(super) fn sealed_by(deployments: &Dir, id: &DeploymentId) -> Vec<KeyId> {
    let bytes = deployments.read_optional(Path::new(&layout::seal(id)), MAX_SEAL);
    let seal = bytes.ok().flatten().and_then(|bytes| Seal::decode(&bytes).ok());
    seal.map_or_else(Vec::new, |seal| seal.signers().collect())
}
