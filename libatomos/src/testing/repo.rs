//! A repository of a test's own.

use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::checkout::{CheckoutError, CheckoutOptions, CheckoutReport, checkout};
use crate::commit::{CommitError, CommitOptions, CommitReport, commit};
use crate::digest::Digest;
use crate::fs::Dir;
use crate::progress::NoProgress;
use crate::repo::{
    FsckOptions, FsckReport, ObjectKind, PruneOptions, PruneReport, Repo, RepoError, RepoMode,
};

/// A repository in a temporary directory, which goes with it.
#[derive(Debug)]
pub struct TestRepo {
    /// Absent where another process made it.
    _owned: Option<tempfile::TempDir>,
    scratch: PathBuf,
    path: PathBuf,
    repo: Repo,
}

impl TestRepo {
    /// Makes one in memory: `bare` for root, `bare-user` for anybody else.
    #[must_use]
    pub fn new() -> Self {
        Self::with_mode(Self::own_mode())
    }

    /// Makes one of this mode in memory, where there is such a file system: a transaction waits for the disk three
    /// times, which a test of hundreds of them has no time for.
    #[must_use]
    pub fn with_mode(mode: RepoMode) -> Self {
        Self::beneath(&super::memory_dir(), mode)
    }

    /// Makes one in the system's temporary directory.
    #[must_use]
    pub fn on_disk() -> Self {
        Self::beneath(&std::env::temp_dir(), Self::own_mode())
    }

    fn own_mode() -> RepoMode {
        if rustix::process::geteuid().is_root() {
            RepoMode::Bare
        } else {
            RepoMode::BareUser
        }
    }

    /// Makes one of this mode in a temporary directory in `parent`.
    #[must_use]
    pub fn beneath(parent: &Path, mode: RepoMode) -> Self {
        let scratch = tempfile::Builder::new()
            .prefix("atomos-test-")
            .tempdir_in(parent)
            .unwrap();
        let path = scratch.path().join("repo");
        let repo = Repo::init(&path, mode).unwrap();
        Self {
            scratch: scratch.path().to_owned(),
            _owned: Some(scratch),
            path,
            repo,
        }
    }

    /// Opens the one that another process has made; `scratch` is its temporary directory, and stays.
    #[must_use]
    pub fn of_another_process(scratch: &Path) -> Self {
        let path = scratch.join("repo");
        Self {
            _owned: None,
            scratch: scratch.to_owned(),
            repo: Repo::open(&path).unwrap(),
            path,
        }
    }

    /// Returns the repository.
    #[must_use]
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// Returns the repository, to set its time-out.
    pub fn repo_mut(&mut self) -> &mut Repo {
        &mut self.repo
    }

    /// Returns the repository's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the temporary directory that the repository lies in; there is room for more beside it.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Opens the repository a second time, as another program would.
    #[must_use]
    pub fn reopen(&self) -> Repo {
        Repo::open(&self.path).unwrap()
    }

    /// Returns options that commit to `reference` at a fixed time.
    #[must_use]
    pub fn options(reference: &str) -> CommitOptions {
        CommitOptions {
            reference: Some(reference.parse().unwrap()),
            time: Some(1_700_000_000),
            ..CommitOptions::default()
        }
    }

    /// Commits `source` to `reference`.
    pub fn try_commit(&self, reference: &str, source: &Path) -> Result<CommitReport, CommitError> {
        commit(
            &self.repo,
            Dir::open_ambient(source)?,
            &Self::options(reference),
            &NoProgress,
            &Cancel::new(),
        )
    }

    /// Commits `source` to `reference`.
    #[must_use]
    pub fn commit(&self, reference: &str, source: &Path) -> CommitReport {
        self.try_commit(reference, source).unwrap()
    }

    /// Checks `rev` out to `destination`.
    pub fn checkout(
        &self,
        rev: &str,
        destination: &Path,
        options: &CheckoutOptions,
    ) -> Result<CheckoutReport, CheckoutError> {
        checkout(&self.repo, rev, destination, options, &NoProgress, &Cancel::new())
    }

    /// Prunes.
    pub fn prune(&self) -> Result<PruneReport, RepoError> {
        self.repo
            .prune(&PruneOptions::default(), &NoProgress, &Cancel::new())
    }

    /// Verifies everything.
    #[must_use]
    pub fn fsck(&self) -> FsckReport {
        self.repo
            .fsck(&FsckOptions::default(), &NoProgress, &Cancel::new())
            .unwrap()
    }

    /// Verifies everything and fails on any finding.
    pub fn assert_clean(&self) {
        let report = self.fsck();
        assert!(report.is_clean(), "fsck: {:#?}", report.findings);
    }

    /// Returns where an object's file lies.
    #[must_use]
    pub fn object(&self, kind: ObjectKind, digest: &Digest) -> PathBuf {
        self.path.join(kind.dir()).join(crate::repo::object_path(digest))
    }

    /// Puts bytes into the store under their true digest, as a writer does that checks nothing.
    #[must_use]
    pub fn plant(&self, kind: ObjectKind, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = self.object(kind, &digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        digest
    }
}

impl Default for TestRepo {
    fn default() -> Self {
        Self::new()
    }
}
