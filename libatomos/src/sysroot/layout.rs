//! Where things lie in a sysroot.

use std::path::PathBuf;

use crate::names::StaterootName;
use crate::repo::RootName;

use super::DeploymentId;

/// Everything of ours on the physical root.
pub(super) const ATOMOS: &str = "atomos";
/// The repository, in `ATOMOS`.
pub(super) const REPO: &str = "repo";
/// The stateroots, in `ATOMOS`.
pub(super) const DEPLOY: &str = "deploy";
/// The lock, in `ATOMOS`.
pub(super) const LOCK: &str = "lock";
/// Says that `/boot` was a file system of its own when it was last written, in `ATOMOS`.
pub(super) const BOOT_IS_MOUNTED: &str = "boot-is-mounted";
/// Scratch space of a preview, in `ATOMOS`.
pub(super) const PREVIEW: &str = "preview";
/// Where boot entries and kernels go, in the physical root.
pub(super) const BOOT: &str = "boot";

/// The directory of a stateroot's deployments, in `ATOMOS`.
pub(super) fn deployments(stateroot: &StaterootName) -> PathBuf {
    [DEPLOY, stateroot.as_str(), "deploy"].iter().collect()
}

/// The `/var` of a stateroot, in `ATOMOS`.
pub(super) fn var(stateroot: &StaterootName) -> PathBuf {
    [DEPLOY, stateroot.as_str(), "var"].iter().collect()
}

/// How a marker's name ends.
pub(super) const MARKER: &str = ".complete";

/// The marker that a deployment is complete, beside it.
pub(super) fn marker(id: &DeploymentId) -> String {
    format!("{}{MARKER}", id.dir_name())
}

/// What `atomos-prepare-root` writes to in each boot of a deployment on trial, beside it.
pub(super) fn trial(id: &DeploymentId) -> String {
    format!("{}.trial", id.dir_name())
}

/// Says beside a deployment that it ran out of tries: `atomos-prepare-root` does not choose it by itself.
pub(super) fn bad(id: &DeploymentId) -> String {
    format!("{}.bad", id.dir_name())
}

/// The conflicts that the merge of `/etc` left, beside the deployment.
pub(super) fn conflicts(id: &DeploymentId) -> String {
    format!("{}.conflicts.json", id.dir_name())
}

/// The image that is the deployment's root, where it has one, beside it.
pub(super) fn image(id: &DeploymentId) -> String {
    format!("{}.image", id.dir_name())
}

/// The image while it is being made.
pub(super) fn new_image(id: &DeploymentId) -> String {
    format!(".{}.new", image(id))
}

/// What is known of the image, beside it.
pub(super) fn image_record(id: &DeploymentId) -> String {
    format!("{}.image.json", id.dir_name())
}

/// The seal of the image, where its root is to be verified, beside it.
pub(super) fn seal(id: &DeploymentId) -> String {
    format!("{}.seal", id.dir_name())
}

/// Says beside a deployment that its directory is no root file system: its image is.
pub(super) fn skeleton(id: &DeploymentId) -> String {
    format!("{}.skeleton", id.dir_name())
}

/// The start of the names under which deployments keep objects.
pub(super) const ROOT_PREFIX: &str = "deployment.";

/// What a deployment keeps its objects under.
pub(super) fn root_name(id: &DeploymentId) -> RootName {
    format!("{ROOT_PREFIX}{}.{}", id.dir_name(), id.stateroot)
        .parse()
        .expect("a stateroot's name is at most 100 of a root name's bytes")
}

/// Reads back which deployment keeps objects under this name.
pub(super) fn root_owner(name: &RootName) -> Option<DeploymentId> {
    let text = name.to_string();
    let rest = text.strip_prefix(ROOT_PREFIX)?;
    // Neither a digest nor a number has a dot; a stateroot may.
    let (dot, _) = rest.match_indices('.').nth(1)?;
    DeploymentId::from_dir_name(&rest[dot + 1..].parse().ok()?, &rest[..dot])
}
