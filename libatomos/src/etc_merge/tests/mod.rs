//! The merge on real directories.
#![allow(
    clippy::disallowed_methods,
    reason = "tests make and look at their trees with the standard library, not with what they test"
)]

mod corners;
mod document;
mod laws;
mod resolving;
mod system;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::cancel::Cancel;
use crate::progress::NoProgress;

/// Three trees and an empty target in a temporary directory.
struct Fixture {
    scratch: tempfile::TempDir,
    policies: Policies,
}

impl Fixture {
    fn new() -> Self {
        Self::beneath(tempfile::tempdir().unwrap())
    }

    /// A fixture of many files: in memory if it can be, since the disk's speed is not the question.
    fn large() -> Self {
        Self::beneath(
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
        )
    }

    fn beneath(scratch: tempfile::TempDir) -> Self {
        for side in ["base", "mine", "theirs", "target"] {
            fs::create_dir(scratch.path().join(side)).unwrap();
        }
        Self {
            scratch,
            policies: Policies::default(),
        }
    }

    /// A fixture whose three trees start from the same entries.
    fn of(entries: &[(&str, What)]) -> Self {
        let fixture = Self::new();
        for side in ["base", "mine", "theirs"] {
            for (path, what) in entries {
                fixture.put(side, path, what.clone());
            }
        }
        fixture
    }

    fn path(&self, side: &str) -> PathBuf {
        self.scratch.path().join(side)
    }

    fn at(&self, side: &str, path: impl AsRef<OsStr>) -> PathBuf {
        self.path(side).join(path.as_ref())
    }

    fn dir(&self, side: &str) -> Dir {
        Dir::open_ambient(self.path(side)).unwrap()
    }

    /// Replaces what is at `path`; makes its parents.
    fn put(&self, side: &str, path: impl AsRef<OsStr>, what: What) {
        let path = self.at(side, path);
        remove(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match what {
            What::File(text, mode) => {
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
            What::Dir(mode) => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
            What::Link(target) => symlink(target, &path).unwrap(),
            What::Fifo => {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::from_raw_mode(0o600),
                    0,
                )
                .unwrap();
            }
        }
    }

    fn write(&self, side: &str, path: &str, text: &str) {
        self.put(side, path, file(text));
    }

    fn chmod(&self, side: &str, path: &str, mode: u32) {
        fs::set_permissions(self.at(side, path), Permissions::from_mode(mode)).unwrap();
    }

    fn remove(&self, side: &str, path: &str) {
        remove(&self.at(side, path));
    }

    fn plan(&self) -> Result<MergePlan, EtcMergeError> {
        let (base, mine, theirs) = (self.dir("base"), self.dir("mine"), self.dir("theirs"));
        plan(
            &MergeInput {
                base: &base,
                mine: &mine,
                theirs: &theirs,
                policies: &self.policies,
            },
            &Cancel::new(),
        )
    }

    fn apply(&self, plan: &MergePlan) -> Result<MergeReport, EtcMergeError> {
        let (base, mine, theirs) = (self.dir("base"), self.dir("mine"), self.dir("theirs"));
        apply(
            plan,
            &MergeInput {
                base: &base,
                mine: &mine,
                theirs: &theirs,
                policies: &self.policies,
            },
            &self.dir("target"),
            &NoProgress,
            &Cancel::new(),
        )
    }

    /// Plans and applies; nothing may be unsettled.
    fn merge(&self) -> MergeReport {
        let report = self.apply(&self.plan().unwrap()).unwrap();
        assert_eq!(report.unsettled, []);
        report
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at("target", path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.at("target", path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    }

    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at("target", path)).is_ok()
    }

    /// Everything in a tree, times included.
    fn list(&self, side: &str) -> Vec<(String, EtcEntry)> {
        fn walk(path: &EtcPath, tree: &snapshot::Tree, list: &mut Vec<(String, EtcEntry)>) {
            list.push((path.to_string(), tree.entry.clone()));
            for (name, child) in &tree.children {
                walk(&path.join(name), child, list);
            }
        }
        let mut list = Vec::new();
        let snapshot = snapshot::read(&self.dir(side), &Cancel::new()).unwrap();
        walk(&EtcPath::root(), &snapshot.tree, &mut list);
        list
    }
}

#[derive(Debug, Clone)]
enum What {
    File(String, u32),
    Dir(u32),
    Link(String),
    Fifo,
}

fn link(target: &str) -> What {
    What::Link(target.to_owned())
}

fn file(text: &str) -> What {
    What::File(text.to_owned(), 0o644)
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// The conflicts' paths and kinds.
fn conflicts(report: &MergeReport) -> Vec<(String, Vec<ConflictKind>)> {
    report
        .conflicts
        .iter()
        .map(|record| (record.path.to_string(), record.conflict.kinds.clone()))
        .collect()
}

fn conflict(path: &str, kind: ConflictKind) -> Vec<(String, Vec<ConflictKind>)> {
    vec![(path.to_owned(), vec![kind])]
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
