//! Making a prepared file system bootable.
//!
//! Somebody has made partitions and file systems, and mounted them: the root at a directory, `/boot` and the EFI system
//! partition within it. [`InstallPlan::make`] looks at that and says what would be done; [`InstallPlan::carry_out`] does
//! it. The order, each step durable before the next:
//!
//! 1. the sysroot and its stateroot, and in it the file `/atomos/installing`: from here on, a run that finds it goes on
//!    where this one stopped, and without it a system that is there already is left alone;
//! 2. the commit, from a repository or a remote;
//! 3. the deployment, with `root=` and the machine's lines of `/etc/fstab`, and its entry in `/boot`;
//! 4. the loader's files, and last the one that the firmware starts. **This is the visible step:** what the machine
//!    booted before, from this disk, it boots no more;
//! 5. `/atomos/installing` goes.
//!
//! Nothing here makes or formats anything, and no loader's configuration is generated. systemd-boot is files, so they are
//! copied from the tree. GRUB is in sectors and in modules for this machine, so `grub-install` of the machine that
//! installs puts it there; the caller starts it, for the library starts no programs.

mod esp;
mod fstab;
mod grub;
mod probe;
mod run;
mod source;
mod superblock;
mod systemd_boot;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Tests arrange by path.
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

use crate::boot::{BootDir, BootOptions};
use crate::fs::Dir;
use crate::names::{RefName, StaterootName};
use crate::repo::RepoError;

use super::bootloader::check_is_nobody_s;
use super::state::STATE;
use super::{DeployReport, Sysroot, SysrootError, SysrootOptions, layout};

pub use probe::MountedFs;
pub use source::InstallSource;
pub(super) use systemd_boot::DIRECTORY as SYSTEMD_BOOT;

use probe::Layout;

/// In `ATOMOS`: an installation was begun and is not finished.
const INSTALLING: &str = "installing";

/// What a `/` has that holds an ordinary operating system.
const ORDINARY: [&str; 4] = ["usr", "etc", "bin", "sbin"];

/// Which boot loader to install.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// systemd-boot where `/boot` is FAT, for there it can read it; else GRUB, and where a disk is named for it.
    #[default]
    Auto,
    /// systemd-boot, from the tree.
    SystemdBoot,
    /// GRUB, by `grub-install`, with the configuration that reads our menu.
    Grub,
    /// None: entries and kernels are written, and the loader is somebody else's.
    None,
}

/// A text names no loader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no boot loader {0:?}: it is auto, systemd-boot, grub or none")]
pub struct UnknownLoader(String);

impl FromStr for Loader {
    type Err = UnknownLoader;

    fn from_str(text: &str) -> Result<Self, UnknownLoader> {
        match text {
            "auto" => Ok(Self::Auto),
            "systemd-boot" => Ok(Self::SystemdBoot),
            "grub" => Ok(Self::Grub),
            "none" => Ok(Self::None),
            other => Err(UnknownLoader(other.to_owned())),
        }
    }
}

/// How to install.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InstallOptions {
    /// The stateroot to make.
    pub stateroot: StaterootName,
    /// Kernel arguments, besides `root=`, which is found, and `panic=10`; either is left out where it stands here.
    pub kargs: Vec<String>,
    /// Which boot loader.
    pub loader: Loader,
    /// Where the EFI system partition is mounted, below the target; found where it is not said.
    pub esp: Option<PathBuf>,
    /// The disk whose first sectors get GRUB, for a BIOS.
    pub grub_device: Option<PathBuf>,
    /// Only write GRUB's configuration: GRUB itself is there, or somebody puts it there.
    pub grub_config_only: bool,
    /// Take a target that has a system already, and a loader's files that are another's.
    pub existing: bool,
    /// Take a target that is a mere directory.
    pub allow_directory: bool,
    /// How the sysroot is opened.
    pub sysroot: SysrootOptions,
}

impl Default for InstallOptions {
    fn default() -> Self {
        Self {
            stateroot: "os".parse().expect("it is a name"),
            kargs: Vec::new(),
            loader: Loader::Auto,
            esp: None,
            grub_device: None,
            grub_config_only: false,
            existing: false,
            allow_directory: false,
            sysroot: SysrootOptions::default(),
        }
    }
}

/// What an installation would do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct InstallPlan {
    /// Where the root file system is mounted.
    #[serde(serialize_with = "crate::fs::path_text::one")]
    pub target: PathBuf,
    /// What is to be deployed, as it is called in the target's repository.
    pub reference: RefName,
    /// The stateroot.
    pub stateroot: StaterootName,
    /// Which loader; never [`Loader::Auto`].
    pub loader: Loader,
    /// Where the EFI system partition is, if there is one.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::fs::path_text::optional"
    )]
    pub esp: Option<PathBuf>,
    /// Kernel arguments, without `atomos=`.
    pub kargs: Vec<String>,
    /// Lines that the deployment's `/etc/fstab` gets.
    pub fstab: Vec<String>,
    /// Programs that have to be run at the end, each with its arguments.
    pub programs: Vec<Vec<String>>,
    /// An interrupted installation is gone on with.
    pub resumes: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
    #[serde(skip)]
    existing: bool,
    #[serde(skip)]
    sysroot: SysrootOptions,
}

/// What an installation did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct InstallReport {
    /// What was planned.
    pub plan: InstallPlan,
    /// The deployment's name.
    pub deployment: super::DeploymentId,
    /// How it was made; an interrupted installation may have made it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy: Option<Box<DeployReport>>,
    /// Files that were written for the loader, as paths below the target.
    #[serde(serialize_with = "crate::fs::path_text::all")]
    pub loader_files: Vec<PathBuf>,
}

/// Starts a program with its arguments, and waits for it.
pub type RunProgram<'a> = dyn Fn(&[String]) -> io::Result<()> + 'a;

/// Makes the error that says why nothing can be installed to `target`.
fn refuse(target: &Path, reason: impl Into<String>) -> SysrootError {
    SysrootError::NotInstallable {
        target: target.to_owned(),
        reason: reason.into(),
    }
}

impl InstallPlan {
    /// Looks at what is mounted at `target` and says how `source` would be installed there. Changes nothing.
    pub fn make(
        target: &Path,
        source: &InstallSource<'_>,
        options: &InstallOptions,
    ) -> Result<Self, SysrootError> {
        let root = Dir::open_ambient(target)?;
        let layout = Layout::probe(&root, options)?;
        let mut warnings = Vec::new();
        let loader = layout.choose_loader(options);
        let resumes = check_vacant(&root, options)?;
        check_boot_is_vacant(&root, options)?;
        let kargs = layout.kargs(&options.kargs)?;
        let fstab = fstab::lines(&layout, &mut warnings);
        if loader == Loader::SystemdBoot {
            systemd_boot::check(&layout, options, resumes)?;
            source.check_tree(
                target,
                systemd_boot::DIRECTORY,
                "systemd-boot is taken from the tree",
            )?;
        }
        let mut programs = Vec::new();
        if loader == Loader::Grub {
            grub::check(&layout, options, resumes)?;
            programs = grub::programs(&layout, options, &mut warnings)?;
        }
        if loader == Loader::None {
            warnings.push("no boot loader is installed: one has to be there that reads /boot".to_owned());
        }
        Ok(Self {
            target: target.to_owned(),
            reference: source.local_ref(target)?,
            stateroot: options.stateroot.clone(),
            loader,
            esp: layout.esp.as_ref().map(|esp| esp.path.clone()),
            kargs,
            fstab,
            programs,
            resumes,
            warnings,
            existing: options.existing,
            sysroot: options.sysroot.clone(),
        })
    }
}

/// Refuses a `/boot` by which another system boots whose entries this one would take for its own.
fn check_boot_is_vacant(root: &Dir, options: &InstallOptions) -> Result<(), SysrootError> {
    let has_state = root.exists(Path::new(layout::ATOMOS).join(STATE))?;
    match root.open_dir_optional(layout::BOOT)? {
        Some(boot) if !has_state => check_is_nobody_s(
            &BootDir::new(boot, BootOptions::default())?,
            std::slice::from_ref(&options.stateroot),
        ),
        _ => Ok(()),
    }
}

/// Refuses a target that has a system, unless that was said. Returns whether an installation was interrupted there.
fn check_vacant(root: &Dir, options: &InstallOptions) -> Result<bool, SysrootError> {
    let sysroot = match Sysroot::open(root.path(), &options.sysroot) {
        Ok(sysroot) => Some(sysroot),
        Err(SysrootError::NotASysroot { .. }) => None,
        // Its making was interrupted; what is there is continued, or refused, when it is made again.
        Err(SysrootError::Repo(RepoError::NotARepository { .. })) => None,
        Err(error) => return Err(error),
    };
    if let Some(sysroot) = &sysroot
        && sysroot.atomos.exists(INSTALLING)?
    {
        return Ok(true);
    }
    if options.existing {
        return Ok(false);
    }
    if let Some(sysroot) = sysroot
        && let Some(deployment) = sysroot.state()?.deployments.first()
    {
        let reason = format!(
            "it has deployments already, of which {} is the default",
            deployment.id
        );
        return Err(refuse(root.path(), reason));
    }
    for name in ORDINARY {
        if root.exists(name)? {
            return Err(refuse(
                root.path(),
                format!("it has a system already: there is a /{name}"),
            ));
        }
    }
    Ok(false)
}
