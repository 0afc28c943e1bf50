//! The image that is a deployment's root.
//!
//! It lies beside the deployment's directory, and is made of dirtrees alone: the commit's, with a place for `/etc` besides. The bytes of
//! files stay where they are, in the repository, which the deployment's root record keeps from pruning. What the image must be, its
//! digest, is written beside it, and compared with what the disk gives back. It is durable before the deployment's marker is, like
//! everything else of the deployment.

use std::path::Path;

use rustix::fs::Advice;

use crate::cancel::Cancel;
use crate::composefs::{ComposefsError, Image, ImageReport, RootTree, overlay, write_image};
use crate::digest::DirTreeId;
use crate::format::{DirTree, Node};
use crate::fs::{Dir, FsError, hash_file, write_all};
use crate::parallel::both;
use crate::progress::{Event, Progress};
use crate::repo::{ObjectKind, Repo, RepoError, TreeSource, object_path};

use super::decide::Decision;
use super::root_kind::RootKind;
use super::{DeploymentId, Sysroot, SysrootError, layout};

/// Bytes that stay free beside an image: for the directories and the files of the deployment.
const SPARE: u64 = 8 * 1024 * 1024;

/// What a mount that nobody else sees is called.
const SOURCE: &str = "atomos-booted";

/// Bytes of what is known of an image.
const MAX_RECORD: usize = 64 * 1024;

impl Sysroot {
    /// Makes the deployment's image beside its directory, and the record of it, while `meanwhile` does what needs no image. Nothing of
    /// it is durable. There is no image where the deployment is to have none, and where the tree cannot have one and its files will do.
    pub(super) fn with_image<T>(
        &self,
        decision: &Decision,
        deployments: &Dir,
        progress: &dyn Progress,
        cancel: &Cancel,
        meanwhile: impl FnOnce() -> Result<T, SysrootError>,
    ) -> Result<(Option<ImageReport>, T), SysrootError> {
        if !decision.root.has_image() {
            return Ok((None, meanwhile()?));
        }
        crate::failpoint::hit("deploy.image")?;
        let temporary = layout::new_image(&decision.id);
        let (written, done) = both(
            || self.write_image(decision, deployments, &temporary, cancel),
            meanwhile,
        );
        let done = done?;
        let image = self.name_image(decision, deployments, &temporary, written, progress)?;
        Ok((image, done))
    }

    /// Gives the image that was written its name, and records what it must be.
    fn name_image(
        &self,
        decision: &Decision,
        deployments: &Dir,
        temporary: &str,
        written: Result<ImageReport, SysrootError>,
        progress: &dyn Progress,
    ) -> Result<Option<ImageReport>, SysrootError> {
        match written {
            Ok(report) => {
                let name = layout::image(&decision.id);
                crate::failpoint::hit("deploy.image-written")?;
                deployments.rename(temporary, deployments, &name)?;
                crate::failpoint::hit("deploy.image-named")?;
                let name = layout::image_record(&decision.id);
                // Nobody reads it before the marker is there, and everything is synced before that.
                write_all(&deployments.create_file(&name, 0o644)?, &record_bytes(&report))
                    .map_err(|error| FsError::new("write", deployments.path().join(&name), error))?;
                crate::failpoint::hit("deploy.image-recorded")?;
                Ok(Some(report))
            }
            // The files do what is needed.
            Err(SysrootError::Composefs(
                error @ (ComposefsError::NotInImages { .. } | ComposefsError::TooLarge),
            )) if decision.root == RootKind::FilesAndImage => {
                deployments.remove_file_optional(temporary)?;
                let text = format!("{error}; the deployment has its files alone");
                progress.report(Event::Warning { text: &text });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn write_image(
        &self,
        decision: &Decision,
        deployments: &Dir,
        name: &str,
        cancel: &Cancel,
    ) -> Result<ImageReport, SysrootError> {
        let commit = &decision.commit;
        // Links are made of what is there; an image could be made of anything.
        let whole = Whole(&self.repo);
        let tree = RootTree::new(&whole, commit.root)?;
        let room = self.repo.room_beside(deployments)?;
        let take = |bytes| {
            drop(room.take(bytes)?);
            let available = deployments.available_space()?;
            match available >= bytes + SPARE {
                true => Ok(()),
                false => Err(ComposefsError::Repo(RepoError::NoRoom {
                    path: deployments.path().to_owned(),
                    needed: bytes,
                    available,
                    reserved: SPARE,
                })),
            }
        };
        // Whoever may not look into a directory of the tree is not to read its names here.
        let file = deployments.create_file(name, 0o600)?;
        write_image(&tree, tree.root(), &commit.root_metadata, &file, &take, cancel).map_err(|error| {
            match error {
                ComposefsError::Repo(error) => {
                    self.repo.explain_missing(Some(decision.id.commit), error).into()
                }
                error => error.into(),
            }
        })
    }

    /// Reads the image from the disk, past the caches, and compares it with what was made. Everything has been synced. Returns its bytes;
    /// `None` where the deployment has no image.
    pub(super) fn read_back_image(
        &self,
        id: &DeploymentId,
        deployments: &Dir,
    ) -> Result<Option<u64>, SysrootError> {
        match image_report(deployments, id)? {
            Some(expected) => read_back_file(deployments, &layout::image(id), &expected).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the tree of the deployment that is running, as the disk has it and with nothing mounted in it: its directory, or its image
    /// mounted anew where nobody else sees it. Of the latter `etc` is empty. Mounting takes root.
    ///
    /// # Errors
    /// If the image is damaged, or cannot be mounted.
    pub fn booted_tree(&self, id: &DeploymentId) -> Result<Dir, SysrootError> {
        if !self.running.image {
            return self.deployment_dir(id);
        }
        let path = self
            .deployments_dir(&id.stateroot)?
            .path()
            .join(layout::image(id));
        let image = self.open_image(id)?;
        let mount = overlay(&self.repo, &image, SOURCE, &path, self.running.files_are(), None)?;
        let mount = Dir::from_fd(mount, path);
        // Of a mount's own descriptor nothing can be read. What is open keeps the mount.
        Ok(mount.open_dir(".")?)
    }

    /// Opens the deployment's image, once it is known to be what was made.
    pub(super) fn open_image(&self, id: &DeploymentId) -> Result<Image, SysrootError> {
        let deployments = self.deployments_dir(&id.stateroot)?;
        let name = layout::image(id);
        let path = deployments.path().join(&name);
        let image = Image::of_file(deployments.open_file(&name)?, &path)?;
        match image_report(&deployments, id)? {
            Some(expected) if expected.digest != image.digest => Err(SysrootError::ImageDamaged {
                path,
                expected: expected.digest,
                found: image.digest,
            }),
            _ => Ok(image),
        }
    }
}

/// A repository's dirtrees, each of whose blobs is there, and as long as it says. An empty file needs none. Dirtrees are read on all processors.
struct Whole<'a>(&'a Repo);

impl TreeSource for Whole<'_> {
    fn dirtree(&self, id: &DirTreeId) -> Result<DirTree, RepoError> {
        let tree = self.0.dirtree(id)?;
        let objects = self.0.kind_dir(ObjectKind::Blob);
        for entry in tree.entries() {
            let Node::File { size, blob, .. } = entry.node else {
                continue;
            };
            if size == 0 {
                continue;
            }
            let (kind, digest) = (ObjectKind::Blob, *blob.digest());
            match objects.stat_optional(object_path(&digest))? {
                None => return Err(RepoError::ObjectMissing { kind, digest }),
                Some(stat) if stat.size != size => {
                    return Err(RepoError::ObjectDamaged {
                        kind,
                        digest,
                        reason: format!("it has {} bytes, and the tree records {size}", stat.size),
                    });
                }
                Some(_) => {}
            }
        }
        Ok(tree)
    }
}

/// Reads an image from the disk, past the caches, and compares it with what was made. It has been synced. Returns its bytes.
pub(super) fn read_back_file(
    deployments: &Dir,
    name: &str,
    expected: &ImageReport,
) -> Result<u64, SysrootError> {
    let path = || deployments.path().join(name);
    let file = deployments.open_file(name)?;
    // Advice: a kernel that does not take it leaves a reading of the cache.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    let (found, bytes) = hash_file(&file).map_err(|error| FsError::new("read back", path(), error))?;
    match *found.digest() == expected.digest {
        true => Ok(bytes),
        false => Err(SysrootError::ImageDamaged {
            path: path(),
            expected: expected.digest,
            found: *found.digest(),
        }),
    }
}

/// Returns what is written beside an image.
pub(super) fn record_bytes(report: &ImageReport) -> Vec<u8> {
    serde_json::to_vec_pretty(report).expect("numbers and digests are text")
}

/// Returns what is known of the deployment's image; `None` where it has none.
pub(super) fn image_report(
    deployments: &Dir,
    id: &DeploymentId,
) -> Result<Option<ImageReport>, SysrootError> {
    if !deployments.exists(layout::image(id))? {
        return Ok(None);
    }
    let name = layout::image_record(id);
    let damaged = |reason: String| SysrootError::DamagedState {
        path: deployments.path().join(Path::new(&name)),
        reason,
    };
    let bytes = deployments.read_optional(&name, MAX_RECORD)?;
    let bytes = bytes.ok_or_else(|| damaged("it is missing, and there is an image".to_owned()))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| damaged(error.to_string()))
}
