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
use crate::format::{Commit, Node};
use crate::fs::{Dir, FsError, protect, verity_of, why_no_verity, write_all};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::repo::{Located, ObjectKind, RepoError, object_path};
use crate::sign::{KeyId, PublicKey};
use crate::verity::{VerityDigest, verity_overhead};

use super::decide::Decision;
use super::root_kind::RootKind;
use super::{DeploymentId, Sysroot, SysrootError, layout};

/// Where a tree has the keys that the hooks take into its initramfs.
const KEYS: [&str; 2] = ["usr/lib/atomos/seal.d", "usr/etc/atomos/seal.d"];

/// How their names end.
const KEY: &[u8] = b".pub";

/// Bytes of one that are read.
const MAX_KEY: usize = 64 * 1024;

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
        let seal = Seal::of_commit(commit)?.ok_or_else(|| {
            refuse("its root is to be verified, and it is not sealed: commit it with --seal".to_owned())
        })?;
        // Where there are none, its initramfs may have them from elsewhere.
        if let Some(keys) = self.keys_in_tree(commit)?
            && seal.signer_among(&keys).is_none()
        {
            let signers: Vec<_> = seal.signers().map(|id| id.to_string()).collect();
            let others = match keys.is_empty() {
                true => format!("nothing in its /{} is an ed25519 public key", KEYS[0]),
                false => format!("the keys in its /{} are others", KEYS[0]),
            };
            return Err(refuse(format!(
                "it is sealed by {}, and {others}, so it would not boot",
                signers.join(", ")
            )));
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

    /// Returns the keys that the tree has for its initramfs; `None` where it has no file of keys. One that is no key does not count, and demands
    /// a seal all the same, as it does when it boots.
    fn keys_in_tree(&self, commit: &Commit) -> Result<Option<Vec<PublicKey>>, SysrootError> {
        let mut keys = None;
        for path in KEYS {
            let tree = match self.repo.locate("", commit.root, None, path.as_bytes()) {
                Ok(Located::Entry(entry)) => match entry.node {
                    Node::Dir { tree } => tree,
                    _ => continue,
                },
                Ok(Located::Root(..)) | Err(RepoError::PathInTree { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            for entry in self.repo.load_dirtree(&tree)?.entries() {
                let Node::File { size, blob, .. } = &entry.node else {
                    continue;
                };
                if !entry.name.ends_with(KEY) {
                    continue;
                }
                let keys = keys.get_or_insert_with(Vec::new);
                if *size == 0 || *size > MAX_KEY as u64 {
                    continue;
                }
                let path = object_path(blob.digest());
                let bytes = self.repo.kind_dir(ObjectKind::Blob).read(path, MAX_KEY)?;
                // What boots it takes no other bytes than text, either, be it in a comment.
                keys.extend(
                    String::from_utf8(bytes)
                        .ok()
                        .and_then(|text| PublicKey::parse(&text).ok()),
                );
            }
        }
        Ok(keys)
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
