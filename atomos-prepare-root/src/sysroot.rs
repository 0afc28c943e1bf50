//! What the physical root holds: the deployments of one stateroot, and which of them are whole.
//!
//! Directories are held by descriptor, links are not followed, and a name that is not a deployment's is not
//! looked at twice: whatever lies about in there must not stop a boot.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::choice::{Candidate, RootState};
use crate::cmdline::DeploymentName;
use crate::conf::{self, Composefs};
use crate::error::{Doing, Error, Result};
use crate::seal::{self, Keys, Sealed};

/// More than any kernel's command line is long, in bytes; nobody's `/proc/cmdline` is trusted to end.
const CMDLINE_MAX: u64 = 64 * 1024;

/// Where the repository has the bytes of files, below the physical root.
pub(crate) const OBJECTS: &str = "/atomos/repo/objects";

/// `/atomos/deploy/<stateroot>`, held by descriptor.
#[derive(Debug)]
pub(crate) struct Stateroot {
    deployments: OwnedFd,
    /// Where the physical root is, without a slash at its end.
    physical: String,
    /// The path below the physical root, for mounts and messages.
    path: String,
}

/// Opens a directory without following a link in its last component.
pub(crate) fn open_dir(parent: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

impl Stateroot {
    /// Opens the stateroot below the physical root that is mounted at `physical`.
    pub(crate) fn open(physical: &str, name: &str) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir =
            rustix::fs::open(physical, flags, Mode::empty()).doing(|| format!("opening {physical}"))?;
        let mut path = String::new();
        for component in ["atomos", "deploy", name] {
            path = format!("{path}/{component}");
            dir = open_dir(&dir, component).doing(|| {
                format!("opening {path} in the file system at {physical}; does root= name the right device")
            })?;
        }
        let deployments = open_dir(&dir, "deploy").doing(|| format!("opening {path}/deploy"))?;
        Ok(Stateroot {
            deployments,
            physical: physical.trim_end_matches('/').to_owned(),
            path,
        })
    }

    /// Leaves word that this boot found the deployment, where that is on trial. The physical root must be writable.
    pub(crate) fn note_trial(&self, name: &DeploymentName) {
        crate::trial::note(&self.deployments, name);
    }

    /// Where the stateroot's `/var` lies, below the physical root.
    pub(crate) fn var_path(&self) -> String {
        format!("{}/var", self.path)
    }

    /// Where a deployment lies, below the physical root.
    pub(crate) fn deployment_path(&self, name: &DeploymentName) -> String {
        format!("{}/deploy/{name}", self.path)
    }

    /// Opens a deployment's directory.
    pub(crate) fn open_deployment(&self, name: &DeploymentName) -> Result<OwnedFd> {
        open_dir(&self.deployments, &name.to_string())
            .doing(|| format!("opening {}", self.deployment_path(name)))
    }

    /// Lists the deployments, with what makes each fit to be booted on kernel `release` with `settings` on its command line; where there are
    /// `keys`, by which each must be verified.
    pub(crate) fn candidates(
        &self,
        release: &str,
        settings: &[(String, String)],
        keys: Option<&Keys>,
    ) -> Result<Vec<Candidate>> {
        let entries = Dir::read_from(&self.deployments).doing(|| format!("reading {}/deploy", self.path))?;
        let mut candidates = BTreeMap::new();
        for entry in entries {
            let entry = entry.doing(|| format!("reading {}/deploy", self.path))?;
            let Ok(file_name) = entry.file_name().to_str() else {
                continue;
            };
            if let Some(name) = DeploymentName::parse(file_name) {
                candidates.insert(file_name.to_owned(), self.examine(name, release, settings, keys));
            }
        }
        Ok(candidates.into_values().collect())
    }

    /// Returns the tree's `prepare-root.conf`; `None` where it has none.
    pub(crate) fn read_conf(&self, name: &DeploymentName) -> Result<Option<Vec<u8>>> {
        let path = || format!("{}/{}", self.deployment_path(name), conf::PATH.join("/"));
        let [dirs @ .., file] = conf::PATH;
        let mut dir = self.open_deployment(name)?;
        for component in dirs {
            dir = match open_dir(&dir, component) {
                Err(Errno::NOENT) => return Ok(None),
                other => other.doing(|| format!("opening the directories of {}", path()))?,
            };
        }
        read_file(&dir, file, conf::MAX_LEN, path)
    }

    /// Returns what somebody has vouched for, who has one of the `keys`, if that is the deployment's image.
    pub(crate) fn verify(&self, name: &DeploymentName, keys: &Keys) -> Result<Sealed> {
        let path = || format!("{}.seal", self.deployment_path(name));
        let envelope = read_file(&self.deployments, &format!("{name}.seal"), seal::MAX_LEN, path)?;
        let envelope = envelope.ok_or_else(|| Error::new("nobody has sealed it"))?;
        let sealed = keys.verify(&envelope)?;
        let image = self.image_path(name);
        crate::image::check(&format!("{}{image}", self.physical), &image, &sealed.image)?;
        Ok(sealed)
    }

    /// Where a deployment's composefs image lies, below the physical root.
    pub(crate) fn image_path(&self, name: &DeploymentName) -> String {
        format!("{}.image", self.deployment_path(name))
    }

    /// Whether the deployment has a composefs image, a file beside it.
    pub(crate) fn has_image(&self, name: &DeploymentName) -> bool {
        self.beside(name, "image")
            .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// Whether the deployment's directory has too little to be a root: what is beside it, whatever it is, says so.
    pub(crate) fn is_skeleton(&self, name: &DeploymentName) -> bool {
        self.beside(name, "skeleton").is_some()
    }

    fn root_state(&self, name: &DeploymentName, keys: Option<&Keys>) -> RootState {
        if let Some(keys) = keys
            && let Err(error) = self.verify(name, keys)
        {
            return RootState::Unverified(error.to_string());
        }
        if keys.is_none() && !self.is_skeleton(name) {
            return RootState::There;
        }
        if !self.has_image(name) {
            return RootState::ImageMissing;
        }
        match crate::image::try_out(&format!("{}{}", self.physical, self.image_path(name))) {
            Ok(()) => RootState::There,
            Err(error) => RootState::ImageRefused(error.to_string()),
        }
    }

    /// Whether the deployment has what is asked for it.
    fn is_possible(&self, name: &DeploymentName, settings: &[(String, String)], keys: Option<&Keys>) -> bool {
        match self.asked(name, settings) {
            // Whatever else is asked for: its image is the root.
            Ok(_) if keys.is_some() => self.has_image(name),
            // Nobody has asked for that before, so that nobody has looked.
            Ok(Composefs::Verified) => false,
            Ok(Composefs::Off) => !self.is_skeleton(name),
            Ok(Composefs::Wanted) => true,
            Ok(Composefs::Required) => self.has_image(name),
            Err(_) => false,
        }
    }

    /// What is asked for of the deployment's image.
    pub(crate) fn asked(&self, name: &DeploymentName, settings: &[(String, String)]) -> Result<Composefs> {
        conf::composefs(self.read_conf(name)?.as_deref(), settings)
    }

    /// Looks at what lies beside a deployment under its name.
    fn beside(&self, name: &DeploymentName, extension: &str) -> Option<Stat> {
        let path = format!("{name}.{extension}");
        statat(&self.deployments, path, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn examine(
        &self,
        name: DeploymentName,
        release: &str,
        settings: &[(String, String)],
        keys: Option<&Keys>,
    ) -> Candidate {
        let text = name.to_string();
        let marker = self
            .beside(&name, "complete")
            .filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let root = open_dir(&self.deployments, &text).ok();
        let finished_at = marker.map_or(0, |stat| {
            i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
        });
        Candidate {
            finished: marker.is_some() && root.is_some(),
            root: self.root_state(&name, keys),
            is_possible: root.is_some() && self.is_possible(&name, settings, keys),
            fits_kernel: root.is_some_and(|root| has_modules(&root, release)),
            // Whatever it is: nothing else is called so.
            bad: self.beside(&name, "bad").is_some(),
            finished_at,
            name,
        }
    }
}

/// Reads a file of at most `limit` bytes; `None` where there is none. `path` is what people call it.
fn read_file(dir: &OwnedFd, name: &str, limit: u64, path: impl Fn() -> String) -> Result<Option<Vec<u8>>> {
    // Not to wait for the writer of a fifo.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.doing(|| format!("opening {}", path()))?,
    };
    let stat = fstat(&file).doing(|| format!("looking at {}", path()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(format!("{} is not a file", path())));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .doing(|| format!("reading {}", path()))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(format!("{} is larger than any such file", path())));
    }
    Ok(Some(bytes))
}

fn has_modules(root: &OwnedFd, release: &str) -> bool {
    let modules = open_dir(root, "usr")
        .and_then(|usr| open_dir(&usr, "lib"))
        .and_then(|lib| open_dir(&lib, "modules"));
    modules.is_ok_and(|modules| open_dir(&modules, release).is_ok())
}

/// Device and inode of a directory: how a running system recognises what it was booted from.
pub(crate) fn identity(dir: &OwnedFd) -> Result<(u64, u64)> {
    let stat = fstat(dir).doing(|| "looking at the deployment".to_owned())?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The release of the kernel that is running.
pub(crate) fn kernel_release() -> Result<String> {
    let name = rustix::system::uname();
    let release = name
        .release()
        .to_str()
        .map_err(|_| Error::new("the kernel's release is not text"))?;
    Ok(release.to_owned())
}

/// Reads a command line from an open file, not more of it than a command line can have.
pub(crate) fn read_cmdline(file: impl Read) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    file.take(CMDLINE_MAX)
        .read_to_end(&mut line)
        .doing(|| "reading the kernel command line".to_owned())?;
    Ok(line)
}
