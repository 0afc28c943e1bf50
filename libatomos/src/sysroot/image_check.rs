//! Whether the images that deployments boot from are what they were made as.
//!
//! An image is a function of its commit's tree, so it could be compared with one that is made anew. It is compared with the digest that was
//! recorded beside it when it was made, and read back from the disk before its deployment could boot: a version of this program
//! that lays images out in another way would call every image of its predecessors damaged, and none of them is. A record that is lost is
//! damage of its own. Where record and image disagree, one of the two is damaged, and which it is nobody needs to know:
//! [`repair_images`](Sysroot::repair_images) makes both anew.
//!
//! What boots is what has its marker, whatever the truth says: `atomos-prepare-root` takes another finished deployment where the one that it
//! was told to boot will not do. So all that are finished are looked at, and what is staged, which the next boot takes.
//!
//! The bytes of files are the repository's, and [`Repo::fsck`](crate::repo::Repo::fsck) looks at them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::boot::KernelArgs;
use crate::cancel::Cancel;
use crate::composefs::{MAX_SEAL, Seal, Unknown, files_to_verify, unverified_files};
use crate::digest::{BlobId, Digest};
use crate::error::with_causes;
use crate::fs::{Dir, verity_of};
use crate::progress::{Phase, PhaseGuard, Progress, Unit};
use crate::verity::VerityDigest;

use super::cleanup::leads_to;
use super::root_kind::{RootKind, root_kind};
use super::{DeploymentId, Sysroot, SysrootError, layout};

/// What is wrong with an image, or with what lies beside it. The names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ImageProblem {
    /// It is not there, and the deployment was made with it.
    Missing,
    /// Its bytes have another digest than what was made.
    WrongDigest {
        /// Of what was made.
        recorded: Digest,
        /// Of what is there.
        found: Digest,
    },
    /// The record of what was made cannot be used.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// The kernel does not verify it as what was sealed.
    WrongVerity {
        /// What was sealed.
        sealed: VerityDigest,
        /// What the kernel says; absent where it does not verify the file.
        #[serde(skip_serializing_if = "Option::is_none")]
        found: Option<VerityDigest>,
    },
    /// The seal beside it is not the commit's.
    WrongSeal,
    /// Files that it leads to are not verified by the kernel as what was sealed, and cannot be read through it.
    UnverifiedFiles {
        /// How many.
        files: u64,
        /// The first of them.
        first: BlobId,
    },
}

impl fmt::Display for ImageProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "is missing"),
            Self::WrongDigest { recorded, found } => {
                write!(
                    f,
                    "is damaged: its bytes have the digest {found}, and {recorded} was made"
                )
            }
            Self::Malformed { reason } => write!(f, "has a record that cannot be used: {reason}"),
            Self::Unreadable { reason } => write!(f, "cannot be read: {reason}"),
            Self::WrongVerity {
                sealed,
                found: Some(found),
            } => write!(f, "has the fs-verity digest {found}, and {sealed} is sealed"),
            Self::WrongVerity { .. } => write!(f, "is not verified by the kernel, and would not boot"),
            Self::WrongSeal => write!(f, "has a seal that is not the commit's, and would not boot"),
            Self::UnverifiedFiles { files: 1, first } => {
                write!(
                    f,
                    "leads to a file that cannot be read, for the kernel does not verify it: {first}"
                )
            }
            Self::UnverifiedFiles { files, first } => write!(
                f,
                "leads to {files} files that cannot be read, for the kernel does not verify them: {first} is the first"
            ),
        }
    }
}

/// A deployment whose image is not what it was made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImageFinding {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The file that is bad.
    #[serde(serialize_with = "crate::fs::path_text::one")]
    pub path: PathBuf,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: ImageProblem,
}

/// What looking at the images found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImagesReport {
    /// Deployments that have an image, or should.
    pub checked: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Every bad image.
    pub findings: Vec<ImageFinding>,
}

impl ImagesReport {
    /// Returns whether every image is what it was made as.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A deployment that the next boot may take.
pub(super) struct Candidate {
    pub id: DeploymentId,
    /// Its kernel arguments, where they are known.
    kargs: Option<KernelArgs>,
}

impl Sysroot {
    /// Reads the image of each finished deployment, and of what is staged, from the disk, and compares it with what was made; and the seal of
    /// what is verified when it boots; of that, whether the kernel verifies each file that it leads to. Takes no lock.
    ///
    /// # Errors
    /// If the deployments cannot be listed. What is bad is in the report.
    pub fn check_images(
        &self,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<ImagesReport, SysrootError> {
        let mut report = ImagesReport::default();
        let candidates = self.candidates()?;
        let phase = PhaseGuard::begin(progress, Phase::Verify, None, Unit::Bytes);
        for candidate in &candidates {
            cancel.check()?;
            let deployments = self.deployments_dir(&candidate.id.stateroot)?;
            if !has_image(&deployments, &candidate.id)? {
                continue;
            }
            let before = report.bytes;
            let findings = self.check_image(candidate, &deployments, &mut report.bytes, cancel)?;
            phase.advance(report.bytes - before);
            // One that is being removed goes before its image does, and is no deployment any more.
            if !findings.is_empty() && !self.is_candidate(&candidate.id, &deployments)? {
                continue;
            }
            report.checked += 1;
            report.findings.extend(findings);
        }
        Ok(report)
    }

    /// Lists what the next boot may take, in order.
    pub(super) fn candidates(&self) -> Result<Vec<Candidate>, SysrootError> {
        // A truth that cannot be read is told of by whatever needs it.
        let state = self.state().ok();
        let mut candidates = Vec::new();
        // A repository alone, which is to become a sysroot, has nothing that boots.
        if !self.atomos.exists(layout::DEPLOY)? {
            return Ok(candidates);
        }
        for stateroot in self.stateroots()? {
            let deployments = self.deployments_dir(&stateroot)?;
            for entry in deployments.entries()? {
                let name = entry.name.to_str();
                let stem = name.and_then(|name| name.strip_suffix(layout::MARKER));
                let Some(id) = stem.and_then(|stem| DeploymentId::from_dir_name(&stateroot, stem)) else {
                    continue;
                };
                let known = state.as_ref().and_then(|state| state.get(&id));
                if state.is_some() && known.is_none() && self.is_given_up(&id, &deployments)? {
                    continue;
                }
                let kargs = known.and_then(|known| known.kargs.parse().ok());
                candidates.push(Candidate { id, kargs });
            }
        }
        if let Some(state) = &state
            && let Some(staged) = self.usable_staged(state)?
        {
            let staged = staged.deployment;
            candidates.push(Candidate {
                id: staged.id,
                kargs: staged.kargs.parse().ok(),
            });
        }
        candidates.sort_by(|a, b| a.id.cmp(&b.id));
        candidates.dedup_by(|a, b| a.id == b.id);
        Ok(candidates)
    }

    /// Whether a deployment that the truth has let go of is marked as bad and no entry leads to it: nothing boots it, not even in
    /// another's place, and the next upgrade removes it.
    fn is_given_up(&self, id: &DeploymentId, deployments: &Dir) -> Result<bool, SysrootError> {
        if !deployments.exists(layout::bad(id))? || self.booted()?.as_ref() == Some(id) {
            return Ok(false);
        }
        // Where nobody can say what entries there are, there may be one.
        let offered = self.offered_by_boot();
        Ok(offered.is_ok_and(|entries| !entries.iter().any(|entry| leads_to(entry, id))))
    }

    /// Whether the next boot may still take it.
    fn is_candidate(&self, id: &DeploymentId, deployments: &Dir) -> Result<bool, SysrootError> {
        if deployments.exists(layout::marker(id))? {
            return Ok(true);
        }
        let staged = self.usable_staged(&self.state()?)?;
        Ok(staged.is_some_and(|staged| staged.deployment.id == *id))
    }

    /// Looks at one deployment that has an image.
    pub(super) fn check_image(
        &self,
        candidate: &Candidate,
        deployments: &Dir,
        read: &mut u64,
        cancel: &Cancel,
    ) -> Result<Vec<ImageFinding>, SysrootError> {
        let id = &candidate.id;
        let mut findings = Vec::new();
        let mut find = |name: String, problem| {
            findings.push(ImageFinding {
                deployment: id.clone(),
                path: deployments.path().join(name),
                problem,
            });
        };
        let unreadable = |error: &dyn std::error::Error| ImageProblem::Unreadable {
            reason: with_causes(error),
        };
        match self.read_back_image(id, deployments) {
            Ok(Some(bytes)) => *read += bytes,
            Ok(None) => find(layout::image(id), ImageProblem::Missing),
            Err(SysrootError::ImageDamaged { expected, found, .. }) => {
                let recorded = expected;
                find(layout::image(id), ImageProblem::WrongDigest { recorded, found });
            }
            Err(SysrootError::DamagedState { reason, .. }) => {
                find(layout::image_record(id), ImageProblem::Malformed { reason });
            }
            Err(error) => find(layout::image(id), unreadable(&error)),
        }
        // What the commit's own objects are like is the repository's to say.
        let Some(seal) = self.seal_of(candidate, deployments) else {
            return Ok(findings);
        };
        let name = layout::image(id);
        if let Ok(file) = deployments.open_file(&name)
            // A kernel that verifies nothing cannot say, and boots nothing that is to be verified either.
            && let Ok(found) = verity_of(&file, Path::new(&name))
            && found != Some(seal.sealed.image)
        {
            let sealed = seal.sealed.image;
            find(name, ImageProblem::WrongVerity { sealed, found });
        }
        let name = layout::seal(id);
        match deployments.read_optional(&name, MAX_SEAL) {
            Ok(Some(bytes)) if bytes == seal.encode() => {}
            Ok(_) => find(name, ImageProblem::WrongSeal),
            Err(error) => find(name, unreadable(&error)),
        }
        // Directories that are lost are the repository's to tell of.
        if let Ok(files) = files_to_verify(&self.repo, seal.sealed.tree, cancel)
            && let unverified = unverified_files(&self.repo, &files, Unknown::PassedOver, cancel)?
            && let Some(first) = unverified.first()
        {
            let problem = ImageProblem::UnverifiedFiles {
                files: unverified.len() as u64,
                first: *first,
            };
            find(layout::image(id), problem);
        }
        cancel.check()?;
        Ok(findings)
    }

    /// Returns the seal that must lie beside the deployment's image; `None` where it is not verified when it boots, and where its commit
    /// cannot be read.
    pub(super) fn seal_of(&self, candidate: &Candidate, deployments: &Dir) -> Option<Seal> {
        let id = &candidate.id;
        let commit = self.repo.load_commit(&id.commit).ok()?;
        let seal = Seal::of_commit(&commit).ok()??;
        let is_verified = match root_kind(deployments, id).ok()? {
            RootKind::VerifiedImage => true,
            // A seal that is lost leaves what looks like an image that nobody verifies.
            RootKind::Image => {
                let kargs = candidate.kargs.as_ref()?;
                let asked = self.root_kind_for(&id.commit, &commit, kargs);
                matches!(asked, Ok(RootKind::VerifiedImage))
            }
            RootKind::FilesAndImage | RootKind::Files => false,
        };
        is_verified.then_some(seal)
    }
}

/// Whether the deployment was made with an image: it is there, or what lay beside it is.
pub(super) fn has_image(deployments: &Dir, id: &DeploymentId) -> Result<bool, SysrootError> {
    let names = [layout::image(id), layout::image_record(id), layout::skeleton(id)];
    for name in names {
        if deployments.exists(name)? {
            return Ok(true);
        }
    }
    Ok(false)
}
