//! Making a sysroot and its stateroots.

use std::path::Path;

use crate::fs::Dir;
use crate::names::StaterootName;
use crate::repo::{Repo, RepoMode};

use super::layout::{ATOMOS, BOOT, DEPLOY, REPO};
use super::{Sysroot, SysrootError, SysrootOptions};

impl Sysroot {
    /// Makes a sysroot on the physical root `path`, with an empty repository. Where there is one already, it is opened.
    ///
    /// `/atomos` can be entered by root alone: old deployments have old setuid files.
    pub fn init(path: &Path, mode: RepoMode, options: &SysrootOptions) -> Result<Self, SysrootError> {
        let root = Dir::ensure_ambient(path)?;
        let atomos = root.ensure_dir(ATOMOS, 0o700)?;
        root.ensure_dir(BOOT, 0o755)?;
        atomos.ensure_dir(DEPLOY, 0o755)?;
        Repo::init_at(atomos.ensure_dir(REPO, 0o755)?, mode)?;
        atomos.sync_fs()?;
        Self::open(path, options)
    }

    /// Makes a stateroot with an empty `/var`. Where there is one already, nothing changes.
    pub fn init_stateroot(&self, name: &StaterootName) -> Result<(), SysrootError> {
        let _lock = self.lock()?;
        let stateroot = self.atomos.open_dir(DEPLOY)?.ensure_dir(name.as_str(), 0o755)?;
        stateroot.ensure_dir("deploy", 0o755)?;
        stateroot.ensure_dir("var", 0o755)?;
        stateroot.sync_fs()?;
        Ok(())
    }
}
