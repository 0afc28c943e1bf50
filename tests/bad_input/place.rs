//! A directory to run the program in, in memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libatomos::cancel::Cancel;
use libatomos::progress::NoProgress;
use libatomos::repo::{FsckOptions, Repo};
use libatomos::testing::memory_dir;
use tempfile::TempDir;

/// What the program did.
#[derive(Debug)]
pub struct Run {
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self {
            out: text(output.stdout),
            err: text(output.stderr),
            code: output.status.code(),
        }
    }
}

impl Run {
    /// Asserts that it succeeded, and returns its standard output without the last line feed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out.trim_end().to_owned()
    }

    /// Asserts that it failed with `code`, that it printed nothing as a result, and that its message has every one of
    /// `parts` and a hint.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.out, "", "{self:#?}");
        assert!(self.err.starts_with("error: "), "{self:#?}");
        assert!(self.err.contains("\nhint: "), "no next command: {self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in {self:#?}");
        }
    }
}

/// The directory. It has no repository until one is made.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// Makes the directory alone.
    pub fn empty() -> Self {
        Self::beneath(&memory_dir())
    }

    /// Makes the directory alone, in `parent`.
    pub fn beneath(parent: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("atomos-cli-")
            .tempdir_in(parent)
            .unwrap();
        Self { dir }
    }

    /// Makes the directory, a repository in `repo`, a small tree in `tree`, and its commit as the ref `os`.
    pub fn new() -> Self {
        let place = Self::empty();
        place.atomos(&["init"]).ok();
        place.tree();
        place.atomos(&["commit", "-b", "os", "tree"]).ok();
        place
    }

    /// Makes the small tree.
    pub fn tree(&self) {
        libatomos::testing::small_tree(&self.path("tree"), 1, 30);
        std::fs::create_dir(self.path("tree/etc")).unwrap();
        std::fs::write(self.path("tree/etc/config"), [b'c'; 5000]).unwrap();
    }

    /// Returns the path of `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the program, with nothing of the caller's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atomos"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            // How long something takes is the machine\'s affair.
            .env("ATOMOS_PROGRESS", "never")
            .env("ATOMOS_REPO", "repo")
            .env("SOURCE_DATE_EPOCH", "1709210096")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program.
    pub fn atomos(&self, args: &[&str]) -> Run {
        self.command(args).output().unwrap().into()
    }

    /// Opens the repository.
    pub fn repo(&self) -> Repo {
        Repo::open(&self.path("repo")).unwrap()
    }

    /// Fails on any finding of fsck.
    #[track_caller]
    pub fn assert_clean(&self) {
        let report = self
            .repo()
            .fsck(&FsckOptions::default(), &NoProgress, &Cancel::new())
            .unwrap();
        assert!(report.is_clean(), "fsck: {:#?}", report.findings);
    }

    /// Asserts that the repository is whole, as the program says it, and that a commit and a checkout work.
    #[track_caller]
    pub fn assert_usable(&self) {
        self.atomos(&["fsck"]).ok();
        libatomos::testing::touch_up(&self.path("tree"), 99, 30);
        let commit = self.atomos(&["commit", "-b", "next", "tree"]).ok();
        assert_eq!(self.atomos(&["rev-parse", "next"]).ok(), commit);
        self.atomos(&["checkout", "next", "out-of-next"]).ok();
        std::fs::remove_dir_all(self.path("out-of-next")).unwrap();
        self.atomos(&["fsck"]).ok();
    }
}
