//! The same work for atomos, for ostree and for `cp`, as command lines.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::bare;
use super::discard::Discards;
use super::few_packages::Versions;
use super::measure::{settle, time};
use crate::debian::Trees;
use crate::process::run;

/// The branch that all commits go to.
const REF: &str = "os/bench";

/// The first commit, once there are two.
const FIRST: &str = "os/bench^";

/// The branch of an upgrade of few packages.
const FEW_REF: &str = "os/few";

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// What is measured.
    Atomos,
    /// What it is compared with.
    Ostree,
    /// `cp -a` for a commit, `cp -al` for a checkout; nothing for the rest.
    Cp,
}

/// What a time is compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Whose time,
    pub of: Contestant,
    /// at which work,
    pub at: Work,
    /// and the most that atomos may take of it.
    pub at_most: f64,
}

impl Contestant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Atomos, Self::Ostree, Self::Cp];
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// The first version into an empty repository.
    FirstCommit,
    /// The same, of a tree that may be taken apart.
    Adopt,
    /// The same tree again: every byte is read and hashed, nothing is new.
    CommitAgain,
    /// The same, where what was read is remembered.
    CommitKnown,
    /// The second version, after the first.
    SecondCommit,
    /// The first version as a directory of hardlinks.
    Checkout,
    /// The same, then written back with `sync -f`.
    CheckoutSynced,
    /// The first version mounted: an image is made of it, and mounted over the repository.
    Mount,
    /// The checkout of the first version becomes one of the second.
    Update,
    /// The checkout of the first version gets few of the second one's packages.
    UpdateFew,
    /// Every object verified.
    Fsck,
    /// What changed between the two versions.
    Diff,
}

impl Work {
    /// In the order in which one run does it.
    pub const ALL: [Self; 12] = [
        Self::FirstCommit,
        Self::CommitAgain,
        Self::CommitKnown,
        Self::Checkout,
        Self::CheckoutSynced,
        Self::Mount,
        Self::SecondCommit,
        Self::Update,
        Self::Diff,
        Self::Fsck,
        Self::UpdateFew,
        Self::Adopt,
    ];

    /// What a reader is told.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::FirstCommit => "first commit",
            Self::Adopt => "first commit, `--adopt`",
            Self::CommitKnown => "commit again, stat cache",
            Self::Mount => "composefs: image made and mounted",
            Self::Update => "checkout `--update` to the second version",
            Self::UpdateFew => "checkout `--update` across an upgrade of 24 packages",
            Self::CommitAgain => "commit again, every byte hashed again",
            Self::SecondCommit => "commit of the second version",
            Self::Checkout => "hardlink checkout",
            Self::CheckoutSynced => "hardlink checkout, then `sync -f`",
            Self::Fsck => "fsck, two versions",
            Self::Diff => "diff of the two versions",
        }
    }

    /// What atomos's time is compared with.
    #[must_use]
    pub fn targets(self) -> Vec<Target> {
        use Contestant::{Atomos, Cp, Ostree};
        let targets: &[(Contestant, Self, f64)] = match self {
            Self::FirstCommit => &[(Ostree, self, 0.3), (Cp, self, 0.9)],
            Self::Adopt => &[(Ostree, Self::FirstCommit, 0.1)],
            Self::CommitAgain => &[(Ostree, self, 0.12)],
            Self::CommitKnown => &[(Ostree, Self::CommitAgain, 0.02)],
            Self::Checkout => &[(Ostree, self, 0.4), (Cp, self, 0.75)],
            Self::Mount => &[(Ostree, Self::Checkout, 0.1)],
            Self::Update | Self::UpdateFew => &[(Atomos, Self::Checkout, 0.35)],
            Self::Fsck => &[(Ostree, self, 0.12)],
            Self::Diff => &[(Ostree, self, 0.1)],
            Self::SecondCommit | Self::CheckoutSynced => &[],
        };
        let target = |(of, at, at_most): &(Contestant, Self, f64)| Target {
            of: *of,
            at: *at,
            at_most: *at_most,
        };
        targets.iter().map(target).collect()
    }
}

/// The place where everything is done, on one filesystem.
#[derive(Debug)]
pub struct Ring {
    directory: PathBuf,
    atomos: PathBuf,
    v1: PathBuf,
    v2: PathBuf,
    few_packages: Option<PathBuf>,
    discards: Discards,
}

impl Ring {
    /// Copies the trees, without the devices of `/dev`, which ostree refuses to commit.
    ///
    /// # Errors
    /// If copying fails.
    pub fn prepare(directory: &Path, atomos: &Path, trees: &Trees) -> Result<Self> {
        let mut ring = Self::of(directory, atomos);
        for (from, to) in [(&trees.v1, &ring.v1), (&trees.v2, &ring.v2)] {
            run(Command::new("cp").arg("-a").args([from, to]))?;
            run(Command::new("find")
                .arg(to.join("dev"))
                .args(["-mindepth", "1", "-delete"]))?;
        }
        let few = directory.join("v2-few-packages");
        let versions = Versions {
            v1: &ring.v1,
            v2: &ring.v2,
        };
        ring.few_packages = versions.upgrade_few(&trees.upgraded, &few)?.then_some(few);
        Ok(ring)
    }

    /// For the trees `v1` and `v2` that are in the directory.
    #[must_use]
    pub fn of(directory: &Path, atomos: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            atomos: atomos.to_owned(),
            v1: directory.join("v1"),
            v2: directory.join("v2"),
            few_packages: None,
            discards: Discards::beneath(directory),
        }
    }

    /// What can be done with its trees, in the order in which one run does it.
    pub fn works(&self) -> impl Iterator<Item = Work> + use<> {
        let has_few = self.few_packages.is_some();
        Work::ALL
            .into_iter()
            .filter(move |work| has_few || *work != Work::UpdateFew)
    }

    /// The trees as they are committed.
    #[must_use]
    pub fn trees(&self) -> (&Path, &Path) {
        (&self.v1, &self.v2)
    }

    /// A contestant's repository, or what is a repository to `cp`: a directory.
    #[must_use]
    pub fn repo(&self, contestant: Contestant) -> PathBuf {
        self.directory.join(match contestant {
            Contestant::Atomos => "repo-atomos",
            Contestant::Ostree => "repo-ostree",
            Contestant::Cp => "repo-cp",
        })
    }

    /// Sees to it that there is room for another run.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn make_room(&self) -> Result<()> {
        self.discards.make_room(&self.directory)
    }

    /// Brings a contestant to where it was before a run.
    ///
    /// # Errors
    /// If something cannot be put aside or made.
    pub fn reset(&self, contestant: Contestant) -> Result<()> {
        for made in self.made(contestant)? {
            self.discards.put(&made)?;
        }
        match contestant {
            Contestant::Atomos => time(&mut self.atomos(&["init", "--mode", "bare", "--quiet"]))?,
            Contestant::Ostree => time(&mut self.ostree(&["init", "--mode=bare"]))?,
            Contestant::Cp => {
                let path = self.repo(contestant);
                std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
                Duration::ZERO
            }
        };
        settle(&self.directory)
    }

    /// Removes all that was made.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove_all(&self) -> Result<()> {
        for contestant in Contestant::ALL {
            for made in self.made(contestant)? {
                remove(&made)?;
            }
        }
        self.discards.empty()
    }

    /// What a contestant makes, none of it mounted.
    fn made(&self, contestant: Contestant) -> Result<Vec<PathBuf>> {
        let mut made = vec![self.repo(contestant), self.checkout_directory(contestant)];
        if contestant == Contestant::Atomos {
            self.unmount()?;
            made.extend([self.adopting(), self.consumed()]);
        }
        Ok(made)
    }

    /// A repository that adopts a tree, and the tree.
    fn adopting(&self) -> PathBuf {
        self.directory.join("repo-adopt")
    }

    /// Where a tree is mounted.
    fn mounted(&self) -> PathBuf {
        self.directory.join("mounted")
    }

    /// Ends the mount of the run before, if there was one, and leaves the directory.
    fn unmount(&self) -> Result<()> {
        let place = self.mounted();
        let parent = self
            .directory
            .metadata()
            .context("cannot look at the work directory")?;
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let found = place
            .metadata()
            .with_context(|| format!("cannot look at {}", place.display()))?;
        if found.dev() != parent.dev() {
            time(&mut self.atomos(&["umount", path(&place)]))?;
        }
        Ok(())
    }

    fn consumed(&self) -> PathBuf {
        self.directory.join("consumed")
    }

    /// Puts aside what a piece of work would find in its way.
    ///
    /// # Errors
    /// If it cannot be renamed, or what is needed cannot be made.
    pub fn clear(&self, contestant: Contestant, work: Work) -> Result<()> {
        if matches!(
            work,
            Work::Checkout | Work::CheckoutSynced | Work::Update | Work::UpdateFew
        ) {
            self.discards.put(&self.checkout_directory(contestant))?;
        }
        if contestant == Contestant::Atomos {
            match work {
                Work::Update | Work::UpdateFew => {
                    if let (Work::UpdateFew, Some(tree)) = (work, &self.few_packages) {
                        time(&mut self.atomos(&["commit", "--ref", FEW_REF, path(tree)]))?;
                    }
                    self.check_out(FIRST, &self.checkout_directory(contestant))?;
                }
                Work::Mount => self.unmount()?,
                Work::Adopt => {
                    self.discards.put(&self.adopting())?;
                    self.discards.put(&self.consumed())?;
                    time(&mut self.atomos_in(&self.adopting(), &["init", "--mode", "bare", "--quiet"]))?;
                    run(Command::new("cp").arg("-a").arg(&self.v1).arg(self.consumed()))?;
                }
                _ => {}
            }
        }
        settle(&self.directory)
    }

    fn check_out(&self, revision: &str, to: &Path) -> Result<()> {
        time(&mut self.atomos(&["checkout", "--link", "hardlink", revision, path(to)])).map(drop)
    }

    /// Makes what a checkout makes without anything that a checkout is for, and puts it aside. Returns how long making took.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn bare_checkout(&self) -> Result<Duration> {
        let to = self.directory.join("bare");
        self.discards.put(&to)?;
        settle(&self.directory)?;
        let elapsed = bare::check_out(&self.checkout_directory(Contestant::Atomos), &to)?;
        self.discards.put(&to)?;
        Ok(elapsed)
    }

    /// The same for an updated checkout, which is there: another one of the first version is led to the same names.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn bare_update(&self) -> Result<(Duration, bare::Steps)> {
        let to = self.directory.join("bare");
        self.discards.put(&to)?;
        self.check_out(FIRST, &to)?;
        let plan = bare::Plan::new(&to, &self.checkout_directory(Contestant::Atomos))?;
        settle(&self.directory)?;
        let elapsed = plan.carry_out()?;
        self.discards.put(&to)?;
        Ok((elapsed, plan.steps()))
    }

    /// The command, or `None` where a contestant has no such work.
    #[must_use]
    pub fn command(&self, contestant: Contestant, work: Work) -> Option<Command> {
        match contestant {
            Contestant::Atomos => Some(self.atomos_command(work)),
            Contestant::Ostree => self.ostree_command(work),
            Contestant::Cp => self.cp_command(work),
        }
    }

    fn checkout_directory(&self, contestant: Contestant) -> PathBuf {
        self.repo(contestant).with_extension("checkout")
    }

    fn atomos_command(&self, work: Work) -> Command {
        match work {
            Work::FirstCommit | Work::CommitKnown => self.atomos(&["commit", "--ref", REF, path(&self.v1)]),
            Work::CommitAgain => self.atomos(&["commit", "--no-cache", "--ref", REF, path(&self.v1)]),
            Work::Adopt => self.atomos_in(
                &self.adopting(),
                &["commit", "--adopt", "--ref", REF, path(&self.consumed())],
            ),
            Work::Update | Work::UpdateFew => {
                let to = self.checkout_directory(Contestant::Atomos);
                let revision = if work == Work::Update { REF } else { FEW_REF };
                self.atomos(&["checkout", "--update", "--link", "hardlink", revision, path(&to)])
            }
            Work::SecondCommit => self.atomos(&["commit", "--ref", REF, path(&self.v2)]),
            Work::Checkout => {
                let to = self.checkout_directory(Contestant::Atomos);
                self.atomos(&["checkout", "--link", "hardlink", REF, path(&to)])
            }
            Work::Mount => self.atomos(&["mount", REF, path(&self.mounted())]),
            Work::CheckoutSynced => then_sync(self.atomos_command(Work::Checkout), &self.directory),
            Work::Fsck => self.atomos(&["fsck"]),
            Work::Diff => self.atomos(&["diff", FIRST, REF]),
        }
    }

    fn ostree_command(&self, work: Work) -> Option<Command> {
        let parent = format!("{REF}^");
        let tree = |tree: &Path| format!("--tree=dir={}", tree.display());
        Some(match work {
            Work::FirstCommit | Work::CommitAgain => {
                self.ostree(&["commit", "--branch", REF, "--subject", "bench", &tree(&self.v1)])
            }
            Work::SecondCommit => {
                self.ostree(&["commit", "--branch", REF, "--subject", "bench", &tree(&self.v2)])
            }
            Work::Checkout => {
                let to = self.checkout_directory(Contestant::Ostree);
                self.ostree(&["checkout", "--require-hardlinks", REF, path(&to)])
            }
            Work::CheckoutSynced => then_sync(self.ostree_command(Work::Checkout)?, &self.directory),
            Work::Fsck => self.ostree(&["fsck", "--quiet"]),
            Work::Diff => self.ostree(&["diff", &parent, REF]),
            Work::Adopt | Work::CommitKnown | Work::Mount | Work::Update | Work::UpdateFew => {
                return None;
            }
        })
    }

    fn cp_command(&self, work: Work) -> Option<Command> {
        let copied = self.repo(Contestant::Cp).join("v1");
        let words = |options: &str, from: &Path, to: &Path| {
            let mut command = Command::new("cp");
            command.arg(options).arg(from).arg(to);
            command
        };
        let checkout = || words("-al", &copied, &self.checkout_directory(Contestant::Cp));
        match work {
            Work::FirstCommit => Some(then_sync(words("-a", &self.v1, &copied), &self.directory)),
            Work::Checkout => Some(checkout()),
            Work::CheckoutSynced => Some(then_sync(checkout(), &self.directory)),
            _ => None,
        }
    }

    fn atomos(&self, words: &[&str]) -> Command {
        self.atomos_in(&self.repo(Contestant::Atomos), words)
    }

    fn atomos_in(&self, repo: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(&self.atomos);
        command.arg("--repo").arg(repo).args(words);
        command
    }

    fn ostree(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ostree");
        command.args(words);
        let mut option = std::ffi::OsString::from("--repo=");
        option.push(self.repo(Contestant::Ostree));
        command.arg(option);
        command
    }
}

/// The bench works below the project's target directory or where `--work` says; [`super::bench`] checks that it is UTF-8.
fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// The command, then `sync -f`, as one.
fn then_sync(command: Command, directory: &Path) -> Command {
    let mut both = Command::new("sh");
    both.args([
        "-euc",
        "directory=$1; shift; \"$@\"; sync -f \"$directory\"",
        "then-sync",
    ]);
    both.arg(directory)
        .arg(command.get_program())
        .args(command.get_args());
    both
}

/// Removes a file or a tree, if it is there.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    run(Command::new("rm")
        .args([
            OsStr::new("-rf"),
            OsStr::new("--one-file-system"),
            OsStr::new("--"),
        ])
        .arg(path))
}
