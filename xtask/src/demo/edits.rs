//! What an administrator does to `/etc` between two versions, and what must have become of it after the upgrade.
//!
//! The files are chosen by looking at both versions, because what a real `dist-upgrade` changes is not known
//! beforehand: the conflict has to be a file that the upgrade changes, the directory one that it adds to.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::narrator::Narrator;
use crate::facts::{entry_names, hash_file};

/// Merged by key or made anew, not as files: no examples of the ordinary rule.
const SPECIAL: [&str; 13] = [
    "passwd",
    "group",
    "shadow",
    "gshadow",
    "subuid",
    "subgid",
    "passwd-",
    "group-",
    "shadow-",
    "gshadow-",
    "ld.so.cache",
    "machine-id",
    ".pwd.lock",
];

/// Files below `/etc`, by their path there, and what happens to each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edits {
    /// Written over; the upgrade leaves it alone.
    pub changed: PathBuf,
    /// Made; no version has it.
    pub added: PathBuf,
    /// Deleted; the upgrade leaves it alone.
    pub deleted: PathBuf,
    /// A directory that only root may enter from now on.
    pub restricted: PathBuf,
    /// What the upgrade adds in it.
    pub added_by_upgrade: PathBuf,
    /// Edited; the upgrade changes it too.
    pub conflict: PathBuf,
}

/// Chooses the files. `None` if the upgrade changes no default, or adds none in a directory that was there.
///
/// # Errors
/// If `/etc` of a version cannot be read.
pub fn choose(old_etc: &Path, new_etc: &Path) -> Result<Option<Edits>> {
    let mut same = Vec::new();
    let mut differing = Vec::new();
    let mut grown = Vec::new();
    for path in walk(old_etc)? {
        let (old, new) = (old_etc.join(&path), new_etc.join(&path));
        let Ok(new_metadata) = new.symlink_metadata() else {
            continue;
        };
        let old_metadata = old
            .symlink_metadata()
            .with_context(|| format!("cannot look at {}", old.display()))?;
        if old_metadata.is_dir() && new_metadata.is_dir() {
            let before: BTreeSet<_> = entry_names(&old)?.into_iter().collect();
            let fresh = entry_names(&new)?.into_iter().find(|name| {
                !before.contains(name)
                    && new
                        .join(name)
                        .symlink_metadata()
                        .is_ok_and(|found| found.is_file())
            });
            if let Some(name) = fresh {
                let added = path.join(name);
                grown.push((path, added));
            }
        } else if old_metadata.is_file() && new_metadata.is_file() && is_text(&path, &old) {
            let equal = old_metadata.mode() == new_metadata.mode() && hash_file(&old)? == hash_file(&new)?;
            if equal {
                same.push(path)
            } else {
                differing.push(path)
            };
        }
    }
    let mut take = |preferred: &str| {
        let index = same
            .iter()
            .position(|path| path == Path::new(preferred))
            .unwrap_or(0);
        (!same.is_empty()).then(|| same.remove(index))
    };
    let (changed, deleted) = (take("hostname"), take("motd"));
    let (Some(changed), Some(deleted)) = (changed, deleted) else {
        return Ok(None);
    };
    let (Some(conflict), Some((restricted, added_by_upgrade))) =
        (differing.into_iter().next(), grown.into_iter().next())
    else {
        return Ok(None);
    };
    Ok(Some(Edits {
        changed,
        added: PathBuf::from("site.d/uplink.conf"),
        deleted,
        restricted,
        added_by_upgrade,
        conflict,
    }))
}

/// Whether a file can be edited by a line: small, UTF-8, and under the ordinary rule.
fn is_text(path: &Path, file: &Path) -> bool {
    let special = path.to_str().is_none_or(|path| {
        SPECIAL.contains(&path)
            || path.starts_with("ssl/")
            || path.starts_with("ssh/")
            || path.contains(char::is_whitespace)
    });
    !special && std::fs::read_to_string(file).is_ok_and(|text| text.len() < 1 << 16)
}

/// Everything below a directory, parents first.
fn walk(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        for name in entry_names(&directory.join(&path))? {
            let path = path.join(name);
            if directory
                .join(&path)
                .symlink_metadata()
                .is_ok_and(|metadata| metadata.is_dir())
            {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl Edits {
    /// Does it all, as shell commands in the deployment's root.
    ///
    /// # Errors
    /// If a command fails.
    pub fn make(&self, narrator: &mut Narrator, root: &Path) -> Result<()> {
        let shown = |path: &Path| format!("etc/{}", path.display());
        let added = shown(&self.added);
        let parent = Path::new(&added)
            .parent()
            .context("the added file has no directory")?
            .display();
        for line in [
            format!("echo gateway-7 > {}", shown(&self.changed)),
            format!("mkdir {parent} && echo uplink=fibre > {added}"),
            format!("rm {}", shown(&self.deleted)),
            format!("chmod 700 {}", shown(&self.restricted)),
            format!("echo '# edited here' >> {}", shown(&self.conflict)),
        ] {
            narrator.shell(root, &line)?;
        }
        Ok(())
    }

    /// Checks the new deployment: each edit is there, the upgrade's own changes too, and nothing else differs from
    /// the new defaults. `old` is the deployment that was edited.
    ///
    /// # Errors
    /// If a promise is broken, or something cannot be read.
    pub fn check(&self, narrator: &mut Narrator, old: &Path, new: &Path) -> Result<()> {
        let mine = |path: &Path| old.join("etc").join(path);
        let merged = |path: &Path| new.join("etc").join(path);
        let default = |path: &Path| new.join("usr/etc").join(path);
        for (path, what) in [
            (&self.changed, "changed"),
            (&self.added, "added"),
            (&self.conflict, "conflicting"),
        ] {
            narrator.promise(
                hash_file(&merged(path))? == hash_file(&mine(path))?,
                &format!("the {what} /etc/{} has the person's bytes", path.display()),
            )?;
        }
        narrator.promise(
            !exists(&merged(&self.deleted)) && exists(&default(&self.deleted)),
            &format!("the deleted /etc/{} stays deleted", self.deleted.display()),
        )?;
        narrator.promise(
            mode(&merged(&self.restricted))? == 0o700,
            &format!("the directory /etc/{} is still 0700", self.restricted.display()),
        )?;
        narrator.promise(
            hash_file(&merged(&self.added_by_upgrade))? == hash_file(&default(&self.added_by_upgrade))?,
            &format!(
                "/etc/{}, new in this version, is in it",
                self.added_by_upgrade.display()
            ),
        )?;
        let strange = self.other_differences(new)?;
        narrator.promise(
            strange.is_empty(),
            &format!(
                "the rest of /etc is the new version's default, and nothing lies beside{}",
                list(&strange)
            ),
        )
    }

    /// Paths at which `/etc` and `/usr/etc` differ, other than the edited ones.
    fn other_differences(&self, root: &Path) -> Result<Vec<PathBuf>> {
        let (etc, defaults) = (root.join("etc"), root.join("usr/etc"));
        let edited: Vec<&Path> = [
            &self.changed,
            &self.added,
            &self.deleted,
            &self.restricted,
            &self.conflict,
        ]
        .map(PathBuf::as_path)
        .into();
        let is_edited =
            |path: &Path| edited.contains(&path) || self.added.parent().is_some_and(|parent| parent == path);
        // What account tools lock while they work; the merge does too, and leaves it as they do.
        let lock = Path::new(".pwd.lock");
        let paths: BTreeSet<PathBuf> = walk(&etc)?.into_iter().chain(walk(&defaults)?).collect();
        let mut strange = Vec::new();
        for path in paths.into_iter().filter(|path| path != lock && !is_edited(path)) {
            if !same_entry(&etc.join(&path), &defaults.join(&path))? {
                strange.push(path);
            }
        }
        Ok(strange)
    }
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let names: Vec<String> = paths
        .iter()
        .take(8)
        .map(|path| path.display().to_string())
        .collect();
    format!(" (but {} paths do not agree: {})", paths.len(), names.join(", "))
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn mode(path: &Path) -> Result<u32> {
    let metadata = path
        .symlink_metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Whether two entries are of one kind with one mode, owner and content.
fn same_entry(a: &Path, b: &Path) -> Result<bool> {
    let (Ok(left), Ok(right)) = (a.symlink_metadata(), b.symlink_metadata()) else {
        return Ok(false);
    };
    if left.mode() != right.mode() || left.uid() != right.uid() || left.gid() != right.gid() {
        return Ok(false);
    }
    if left.is_symlink() {
        let target = |path: &Path| std::fs::read_link(path).context("cannot read a link");
        return Ok(target(a)? == target(b)?);
    }
    Ok(!left.is_file() || hash_file(a)? == hash_file(b)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn etc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        scratch
    }

    #[test]
    fn the_conflict_is_what_the_upgrade_changes_and_the_directory_what_it_adds_to() {
        let old = etc(&[
            ("hostname", "a"),
            ("motd", "b"),
            ("passwd", "c"),
            ("tool.conf", "1"),
            ("d/x", "x"),
        ]);
        let new = etc(&[
            ("hostname", "a"),
            ("motd", "b"),
            ("passwd", "changed"),
            ("tool.conf", "2"),
            ("d/x", "x"),
            ("d/y", "y"),
        ]);
        let edits = choose(old.path(), new.path()).unwrap().unwrap();
        assert_eq!(edits.conflict, Path::new("tool.conf"));
        assert_eq!(
            (edits.restricted.as_path(), edits.added_by_upgrade.as_path()),
            (Path::new("d"), Path::new("d/y"))
        );
        assert_eq!(
            (edits.changed.as_path(), edits.deleted.as_path()),
            (Path::new("hostname"), Path::new("motd"))
        );
    }

    #[test]
    fn an_upgrade_that_changes_no_default_offers_no_conflict() {
        let old = etc(&[("hostname", "a"), ("motd", "b")]);
        assert_eq!(choose(old.path(), old.path()).unwrap(), None);
    }

    #[test]
    fn a_file_beside_the_defaults_is_noticed() {
        let root = etc(&[("etc/a", "1"), ("usr/etc/a", "1"), ("etc/a.new", "2")]);
        let edits = Edits {
            changed: "c".into(),
            added: "site.d/uplink.conf".into(),
            deleted: "d".into(),
            restricted: "r".into(),
            added_by_upgrade: "r/n".into(),
            conflict: "x".into(),
        };
        assert_eq!(
            edits.other_differences(root.path()).unwrap(),
            [PathBuf::from("a.new")]
        );
    }
}
