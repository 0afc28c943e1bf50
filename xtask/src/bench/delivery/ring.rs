//! Repositories, sites and clients of both tools, as command lines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::contest::remove;
use crate::bench::measure::time;
use crate::process::{capture, run};

/// What is published.
pub const REF: &str = "os";

/// A place for one tree in two versions.
#[derive(Debug)]
pub struct Ring {
    directory: PathBuf,
    atomos: PathBuf,
}

/// How atomos publishes the second version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// The first version alone.
    First,
    /// Without patches.
    Whole,
    /// With patches, profile fast.
    Fast,
    /// Without patches and image, profile fast; only its time is wanted.
    FastWhole,
    /// Without patches, profile thorough.
    ThoroughWhole,
    /// With patches, profile thorough.
    Thorough,
}

impl Site {
    fn name(self) -> &'static str {
        match self {
            Self::First => "site-first",
            Self::Whole => "site-whole",
            Self::Fast => "site-fast",
            Self::FastWhole => "site-fast-whole",
            Self::ThoroughWhole => "site-thorough-whole",
            Self::Thorough => "site-thorough",
        }
    }

    /// Options of `publish`.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::First => &[],
            Self::Whole => &["--no-patches"],
            Self::Fast => &["--no-image"],
            Self::FastWhole => &["--no-image", "--no-patches"],
            Self::ThoroughWhole => &["--no-image", "--no-patches", "--profile", "thorough"],
            Self::Thorough => &["--no-image", "--profile", "thorough"],
        }
    }
}

impl Ring {
    /// Makes the repositories, and the keys.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn prepare(directory: &Path, atomos: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let ring = Self {
            directory: directory.to_owned(),
            atomos: atomos.to_owned(),
        };
        time(ring.plain().args(["key", "generate"]).arg(ring.path("key")))?;
        time(&mut ring.atomos("repo", &["init", "--mode", "bare"]))?;
        time(&mut ring.ostree("ostree-bare", &["init", "--mode=bare"]))?;
        Ok(ring)
    }

    /// Something in the place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn plain(&self) -> Command {
        Command::new(&self.atomos)
    }

    /// A command of atomos on a repository of the place.
    pub fn atomos(&self, repo: &str, words: &[&str]) -> Command {
        let mut command = self.plain();
        command.arg("--repo").arg(self.path(repo)).args(words);
        command
    }

    /// A command of ostree on a repository of the place.
    pub fn ostree(&self, repo: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ostree");
        let mut option = std::ffi::OsString::from("--repo=");
        option.push(self.path(repo));
        command.args(words).arg(option);
        command
    }

    /// Commits a tree with atomos; returns the commit.
    pub fn commit(&self, repo: &str, tree: &Path, version: &str) -> Result<String> {
        let mut command = self.atomos(repo, &["commit", "--ref", REF, "--version", version, "--quiet"]);
        time(command.arg(tree))?;
        Ok(capture(&mut self.atomos(repo, &["rev-parse", REF]))?
            .trim()
            .to_owned())
    }

    /// Commits a tree with ostree; returns the commit.
    pub fn ostree_commit(&self, tree: &Path) -> Result<String> {
        let option = format!("--tree=dir={}", tree.display());
        let words = ["commit", "--branch", REF, "--subject", "bench", &option];
        Ok(capture(&mut self.ostree("ostree-bare", &words))?
            .trim()
            .to_owned())
    }

    /// `atomos publish` of the repository into a site.
    pub fn publish(&self, site: Site) -> Command {
        self.publish_to("repo", site.name(), site.options())
    }

    /// `atomos publish` with any options.
    pub fn publish_to(&self, repo: &str, site: &str, options: &[&str]) -> Command {
        let mut command = self.atomos(repo, &["publish", "--ref", REF, "--key"]);
        command.arg(self.path("key")).arg("--to").arg(self.path(site));
        command.args(options);
        command
    }

    /// Where a site is.
    pub fn site(&self, site: Site) -> PathBuf {
        self.path(site.name())
    }

    /// Begins a site anew, as a copy of the one with the first version.
    pub fn begin_site(&self, site: Site) -> Result<()> {
        remove(&self.site(site))?;
        if site == Site::First {
            return Ok(());
        }
        // What a site has is replaced and never written to: a copy may share the files.
        run(Command::new("cp")
            .arg("-al")
            .arg(self.site(Site::First))
            .arg(self.site(site)))
    }

    /// A client of atomos that has `commit`, or nothing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin_client(&self, site: &Path, commit: Option<&str>, name: &str) -> Result<()> {
        remove(&self.path(name))?;
        time(&mut self.atomos(name, &["init", "--mode", "bare"]))?;
        self.set_remote(name, &format!("file://{}", site.display()))?;
        if let Some(commit) = commit {
            let wanted = format!("{REF}@{commit}");
            time(&mut self.atomos(name, &["pull", "origin", &wanted]))?;
        }
        Ok(())
    }

    /// Says where a client's remote is.
    pub fn set_remote(&self, client: &str, url: &str) -> Result<()> {
        let mut command = self.atomos(client, &["remote", "add", "--force", "origin", url, "--key"]);
        time(command.arg(self.path("key.pub"))).map(|_| ())
    }

    /// A client of ostree that has `commit`, or nothing, of the archive.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn begin_ostree_client(&self, commit: Option<&str>, name: &str) -> Result<()> {
        remove(&self.path(name))?;
        time(&mut self.ostree(name, &["init", "--mode=bare"]))?;
        let url = format!("file://{}", self.path("ostree-archive").display());
        self.set_ostree_remote(name, &url)?;
        if let Some(commit) = commit {
            let wanted = format!("{REF}@{commit}");
            time(&mut self.ostree(name, &["pull", "--disable-static-deltas", "origin", &wanted]))?;
        }
        Ok(())
    }

    /// Says where a client's remote is.
    pub fn set_ostree_remote(&self, client: &str, url: &str) -> Result<()> {
        let words = ["remote", "add", "--force", "--no-gpg-verify", "origin", url];
        time(&mut self.ostree(client, &words)).map(|_| ())
    }

    /// A copy of a client that may be changed.
    pub fn clone_client(&self, from: &str, to: &str) -> Result<()> {
        remove(&self.path(to))?;
        run(Command::new("cp")
            .arg("-a")
            .arg(self.path(from))
            .arg(self.path(to)))
    }

    /// Removes something.
    pub fn remove(&self, name: &str) -> Result<()> {
        remove(&self.path(name))
    }
}
