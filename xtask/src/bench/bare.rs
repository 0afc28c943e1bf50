//! The least that a checkout by hardlinks can cost: a directory for each directory, a link for each file, and for an update two calls for
//! each name that gets another file; and nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// The name that a file has before it takes another one's.
const NEW_NAME: &str = ".new";

/// What a name stands for: a directory, a link and where it leads, or any other file, by its inode.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    Link(PathBuf),
    File(u64),
}

/// The directories of a tree by their paths, each with its entries. A parent comes before what is in it.
type Listing = BTreeMap<PathBuf, BTreeMap<OsString, Entry>>;

/// What leads from one directory tree to another one, by hard links.
#[derive(Debug, Default)]
pub struct Plan {
    from: PathBuf,
    to: PathBuf,
    make: Vec<PathBuf>,
    changes: Vec<Changes>,
    /// What is in a directory comes before it.
    remove: Vec<PathBuf>,
}

/// How many system calls a plan has, but for those that open directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Steps {
    /// Files that get a name that was not there.
    pub links: usize,
    /// Files that get the name of another one: each is linked, then renamed.
    pub replacements: usize,
    /// Names that go.
    pub unlinks: usize,
    /// Directories that are made or removed.
    pub directories: usize,
}

/// What changes in one directory.
#[derive(Debug, Default)]
struct Changes {
    path: PathBuf,
    links: Vec<OsString>,
    replacements: Vec<OsString>,
    unlinks: Vec<OsString>,
}

/// Makes the directories of `from` in `to`, which does not exist, and links its files into them. Returns how long that took, without
/// the listing before.
///
/// # Errors
/// If a system call fails.
pub fn check_out(from: &Path, to: &Path) -> Result<Duration> {
    std::fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    Plan::new(to, from)?.carry_out()
}

impl Plan {
    /// What has to be done to `to` for it to have the names of `from`, with the same files.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn new(to: &Path, from: &Path) -> Result<Self> {
        let (old, new) = (list(to)?, list(from)?);
        let mut plan = Self {
            from: from.to_owned(),
            to: to.to_owned(),
            ..Self::default()
        };
        let nothing = BTreeMap::new();
        for (path, entries) in &new {
            if !old.contains_key(path) {
                plan.make.push(path.clone());
            }
            let there = old.get(path).unwrap_or(&nothing);
            let mut changes = Changes {
                path: path.clone(),
                ..Changes::default()
            };
            for (name, entry) in entries.iter().filter(|(_, entry)| **entry != Entry::Directory) {
                match there.get(name) {
                    Some(same) if same == entry => {}
                    None | Some(Entry::Directory) => changes.links.push(name.clone()),
                    Some(_) => changes.replacements.push(name.clone()),
                }
            }
            let gone = |(name, entry): &(&OsString, &Entry)| {
                **entry != Entry::Directory && entries.get(*name).is_none_or(|new| *new == Entry::Directory)
            };
            changes.unlinks = there.iter().filter(gone).map(|(name, _)| name.clone()).collect();
            plan.changes.extend((!changes.is_empty()).then_some(changes));
        }
        for (path, entries) in old.iter().rev().filter(|(path, _)| !new.contains_key(*path)) {
            let files = entries.iter().filter(|(_, entry)| **entry != Entry::Directory);
            plan.changes.push(Changes {
                path: path.clone(),
                unlinks: files.map(|(name, _)| name.clone()).collect(),
                ..Changes::default()
            });
            plan.remove.push(path.clone());
        }
        Ok(plan)
    }

    /// Its system calls.
    #[must_use]
    pub fn steps(&self) -> Steps {
        let sum = |count: fn(&Changes) -> usize| self.changes.iter().map(count).sum();
        Steps {
            links: sum(|changes| changes.links.len()),
            replacements: sum(|changes| changes.replacements.len()),
            unlinks: sum(|changes| changes.unlinks.len()),
            directories: self.make.len() + self.remove.len(),
        }
    }

    /// Carries it out, files on two threads, and returns how long that took.
    ///
    /// # Errors
    /// If a system call fails, as where a name is a directory in one tree and none in the other.
    pub fn carry_out(&self) -> Result<Duration> {
        let (from, to) = (open(CWD, &self.from)?, open(CWD, &self.to)?);
        let start = Instant::now();
        for path in &self.make {
            rustix::fs::mkdirat(&to, path, Mode::from_raw_mode(0o755)).context("mkdirat")?;
        }
        // By their files: one directory may have as many as all others.
        let total: usize = self.changes.iter().map(Changes::len).sum();
        let mut before = 0;
        let middle = self.changes.iter().position(|changes| {
            before += changes.len();
            before * 2 >= total
        });
        let (first, second) = self.changes.split_at(middle.map_or(0, |index| index + 1));
        thread::scope(|scope| -> Result<()> {
            let run = |part: &[Changes]| part.iter().try_for_each(|changes| changes.carry_out(&from, &to));
            let other = scope.spawn(move || run(second));
            run(first)?;
            other.join().expect("a thread does not panic")
        })?;
        for path in &self.remove {
            rustix::fs::unlinkat(&to, path, AtFlags::REMOVEDIR).context("rmdir")?;
        }
        Ok(start.elapsed())
    }
}

impl Changes {
    const fn len(&self) -> usize {
        self.links.len() + self.replacements.len() + self.unlinks.len()
    }

    const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn carry_out(&self, from: &OwnedFd, to: &OwnedFd) -> Result<()> {
        let to = open(to, &self.path)?;
        for name in &self.unlinks {
            rustix::fs::unlinkat(&to, name, AtFlags::empty()).context("unlinkat")?;
        }
        if self.links.is_empty() && self.replacements.is_empty() {
            return Ok(());
        }
        let from = open(from, &self.path)?;
        let link = |name: &OsStr, new: &OsStr| {
            rustix::fs::linkat(&from, name, &to, new, AtFlags::empty()).context("linkat")
        };
        for name in &self.links {
            link(name, name)?;
        }
        for name in &self.replacements {
            link(name, NEW_NAME.as_ref())?;
            rustix::fs::renameat(&to, NEW_NAME, &to, name).context("renameat")?;
        }
        Ok(())
    }
}

fn open(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    rustix::fs::openat(at, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

fn list(root: &Path) -> Result<Listing> {
    let mut listing = Listing::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let directory = root.join(&path);
        let found =
            std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        let mut entries = BTreeMap::new();
        for entry in found {
            let entry = entry.context("cannot read an entry")?;
            let (name, kind) = (
                entry.file_name(),
                entry.file_type().context("cannot look at an entry")?,
            );
            let what = if kind.is_dir() {
                waiting.push(path.join(&name));
                Entry::Directory
            } else if kind.is_symlink() {
                Entry::Link(std::fs::read_link(entry.path()).context("cannot read a link")?)
            } else {
                Entry::File(entry.metadata().context("cannot look at an entry")?.ino())
            };
            entries.insert(name, what);
        }
        listing.insert(path, entries);
    }
    Ok(listing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn every_name_is_there_and_is_a_link() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        make(&from, &[("x", "x"), ("a/y", "y"), ("a/b/z", "z")]);
        std::os::unix::fs::symlink("x", from.join("link")).unwrap();
        check_out(&from, &to).unwrap();
        assert_eq!(list(&from).unwrap(), list(&to).unwrap());
    }

    #[test]
    fn an_update_leads_to_the_same_names_and_files() {
        let scratch = tempfile::tempdir().unwrap();
        let (old, new, to) = (
            scratch.path().join("old"),
            scratch.path().join("new"),
            scratch.path().join("to"),
        );
        make(
            &old,
            &[
                ("same", "1"),
                ("changed", "1"),
                ("gone/a", "1"),
                ("gone/b/c", "1"),
                ("kept/d", "1"),
            ],
        );
        make(&new, &[("changed", "2"), ("come/a", "2"), ("kept/e", "2")]);
        std::fs::hard_link(old.join("same"), new.join("same")).unwrap();
        check_out(&old, &to).unwrap();
        let plan = Plan::new(&to, &new).unwrap();
        let steps = Steps {
            links: 2,
            replacements: 1,
            unlinks: 3,
            directories: 3,
        };
        assert_eq!(plan.steps(), steps);
        plan.carry_out().unwrap();
        assert_eq!(list(&new).unwrap(), list(&to).unwrap());
    }
}
