//! Two versions of a real operating system: a Debian tree as the release published it, and the same tree after
//! a real `apt-get dist-upgrade`.
//!
//! Demo, benchmarks and tests in a virtual machine all want them, and making them takes minutes, so
//! [`ensure_trees`] makes them once below a directory and keeps them under a key of what they were made from:
//!
//! ```text
//! <trees>/v1          the stable pocket alone
//! <trees>/v2          a copy of v1, upgraded with the updates and security pockets
//! <trees>/trees.json  the key, the upgraded packages, counts; written last
//! <trees>/build.log   what debootstrap and apt said
//! ```
//!
//! Signatures are always checked, against the keyring that this machine's apt trusts.

mod archive;
mod build;
mod jail;
mod kernel;
mod sources;
mod unpacked;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::workspace;
use anyhow::{Context, Result};
use serde_json::{Value, json};

pub use archive::{Archive, Availability, find_archive};
pub use jail::namespaced;
pub use kernel::download_kernel;
pub use unpacked::{Package, Packages, ensure_packages, unpack};

/// Increased when trees made by an older recipe are of no more use.
const RECIPE: u32 = 2;

/// Where and from what to make the trees.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The directory that keeps them.
    pub trees: PathBuf,
    /// Debian's name of the release. The default has a kernel that can mount composefs images from files.
    pub release: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trees: workspace::root().join("target/xtask/trees"),
            release: "trixie".to_owned(),
        }
    }
}

impl Options {
    /// A release, kept in `directory`, or where all of them are kept.
    #[must_use]
    pub fn of_release(release: &str, directory: Option<&Path>) -> Self {
        let default = Self::default();
        let trees = match directory {
            Some(directory) => directory.to_owned(),
            None if release == default.release => default.trees,
            None => default.trees.with_file_name(format!("trees-{release}")),
        };
        Self {
            trees,
            release: release.to_owned(),
        }
    }

    /// The default, but kept in another directory if one is given.
    #[must_use]
    pub fn kept_in(directory: Option<&Path>) -> Self {
        Self::of_release(&Self::default().release, directory)
    }
}

/// A package that the upgrade changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Its name, with the architecture where that is needed.
    pub package: String,
    /// The version in v1; `None` if the upgrade brought the package.
    pub from: Option<String>,
    /// The version in v2; `None` if the package went away.
    pub to: Option<String>,
}

/// How large a tree is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Regular files.
    pub files: u64,
    /// Everything that has a name: files, directories, links, devices.
    pub entries: u64,
    /// The bytes of all regular files.
    pub bytes: u64,
}

/// The trees, on disk.
#[derive(Debug, Clone)]
pub struct Trees {
    /// The release as published.
    pub v1: PathBuf,
    /// The same after `dist-upgrade`.
    pub v2: PathBuf,
    /// The release's name.
    pub release: String,
    /// What the upgrade changed, sorted by name.
    pub upgraded: Vec<Upgrade>,
    /// The size of v1.
    pub size_v1: Size,
    /// The size of v2.
    pub size_v2: Size,
}

impl Trees {
    /// Names what the trees were made from, and what is in them.
    #[must_use]
    pub fn key(&self) -> Value {
        to_json(self)
    }
}

/// Returns the trees, made now unless an earlier call has. Takes minutes then, and needs root, debootstrap and
/// an archive that answers; says on standard error what it does.
///
/// # Errors
/// If the archive has what is needed but the trees cannot be made from it.
pub fn ensure_trees(options: &Options, archive: &Archive) -> Result<Trees> {
    std::fs::create_dir_all(&options.trees)
        .with_context(|| format!("cannot make {}", options.trees.display()))?;
    let directory = options
        .trees
        .canonicalize()
        .with_context(|| format!("cannot resolve {}", options.trees.display()))?;
    let _lock = lock(&directory)?;
    if let Some(trees) = load(&directory, &options.release)? {
        return Ok(trees);
    }
    let record = directory.join("trees.json");
    // Both versions go before either is made again: a v2 must never stand beside a v1 that it was not made from.
    for name in ["trees.json", "v1", "v2"] {
        build::remove_tree(&directory.join(name))?;
    }
    let upgraded = build::build(&directory, archive)?;
    let (v1, v2) = (directory.join("v1"), directory.join("v2"));
    let trees = Trees {
        size_v1: measure(&v1)?,
        size_v2: measure(&v2)?,
        release: archive.release.clone(),
        v1,
        v2,
        upgraded,
    };
    let text = serde_json::to_string_pretty(&to_json(&trees)).context("cannot encode the trees' record")?;
    std::fs::write(&record, text).with_context(|| format!("cannot write {}", record.display()))?;
    Ok(trees)
}

/// Installs packages in a tree, without what they recommend, from the archive that the tree's own apt names. Needs root; logs go to `work`.
///
/// # Errors
/// If the archive does not answer, or apt fails.
pub fn add_packages(tree: &Path, work: &Path, packages: &[&str]) -> Result<()> {
    build::add_packages(tree, work, packages)
}

/// Returns the trees if they are there already and made by the present recipe.
///
/// # Errors
/// If there is a record that cannot be read.
pub fn load_trees(options: &Options) -> Result<Option<Trees>> {
    match options.trees.canonicalize() {
        Ok(directory) => load(&directory, &options.release),
        Err(_) => Ok(None),
    }
}

fn load(directory: &Path, release: &str) -> Result<Option<Trees>> {
    let record = directory.join("trees.json");
    if !record.exists() {
        return Ok(None);
    }
    let text =
        std::fs::read_to_string(&record).with_context(|| format!("cannot read {}", record.display()))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", record.display()))?;
    if value["key"] != key(release) {
        return Ok(None);
    }
    let trees = from_json(&value, directory);
    Ok(Some(trees).filter(|trees| trees.v1.is_dir() && trees.v2.is_dir()))
}

/// Names what the trees are made from.
fn key(release: &str) -> Value {
    json!({ "recipe": RECIPE, "release": release, "packages": build::packages() })
}

fn to_json(trees: &Trees) -> Value {
    let size = |size: Size| json!({ "files": size.files, "entries": size.entries, "bytes": size.bytes });
    let upgraded: Vec<Value> = trees
        .upgraded
        .iter()
        .map(|upgrade| json!({ "package": upgrade.package, "from": upgrade.from, "to": upgrade.to }))
        .collect();
    json!({
        "key": key(&trees.release),
        "release": trees.release,
        "v1": size(trees.size_v1),
        "v2": size(trees.size_v2),
        "upgraded": upgraded,
    })
}

fn from_json(value: &Value, directory: &Path) -> Trees {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let size = |value: &Value| Size {
        files: value["files"].as_u64().unwrap_or_default(),
        entries: value["entries"].as_u64().unwrap_or_default(),
        bytes: value["bytes"].as_u64().unwrap_or_default(),
    };
    let upgraded = value["upgraded"].as_array().map_or(&[][..], Vec::as_slice);
    Trees {
        v1: directory.join("v1"),
        v2: directory.join("v2"),
        release: text(&value["release"]).unwrap_or_default(),
        size_v1: size(&value["v1"]),
        size_v2: size(&value["v2"]),
        upgraded: upgraded
            .iter()
            .map(|upgrade| Upgrade {
                package: text(&upgrade["package"]).unwrap_or_default(),
                from: text(&upgrade["from"]),
                to: text(&upgrade["to"]),
            })
            .collect(),
    }
}

/// Counts a tree.
///
/// # Errors
/// If a directory cannot be read.
pub fn measure(tree: &Path) -> Result<Size> {
    let mut size = Size::default();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let metadata = entry
                .metadata()
                .with_context(|| format!("cannot look at {}", entry.path().display()))?;
            size.entries += 1;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file() {
                size.files += 1;
                size.bytes += metadata.size();
            }
        }
    }
    Ok(size)
}

/// Keeps two processes from building at once; held as long as the file is open.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trees(directory: &Path) -> Trees {
        Trees {
            v1: directory.join("v1"),
            v2: directory.join("v2"),
            release: "trixie".to_owned(),
            upgraded: vec![Upgrade {
                package: "apt".to_owned(),
                from: Some("1".to_owned()),
                to: None,
            }],
            size_v1: Size {
                files: 1,
                entries: 2,
                bytes: 3,
            },
            size_v2: Size {
                files: 4,
                entries: 5,
                bytes: 6,
            },
        }
    }

    #[test]
    fn a_record_is_read_back_only_for_its_own_recipe_and_with_both_trees_there() {
        let directory = tempfile::tempdir().unwrap();
        let expected = trees(directory.path());
        std::fs::write(
            directory.path().join("trees.json"),
            to_json(&expected).to_string(),
        )
        .unwrap();
        assert!(load(directory.path(), "trixie").unwrap().is_none());
        std::fs::create_dir(&expected.v1).unwrap();
        std::fs::create_dir(&expected.v2).unwrap();
        let found = load(directory.path(), "trixie").unwrap().unwrap();
        assert_eq!(found.upgraded, expected.upgraded);
        assert_eq!(
            (found.size_v1, found.size_v2),
            (expected.size_v1, expected.size_v2)
        );
        assert!(load(directory.path(), "bookworm").unwrap().is_none());
    }

    #[test]
    fn a_tree_is_counted_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::fs::write(directory.path().join("a/f"), "1234").unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("l")).unwrap();
        assert_eq!(
            measure(directory.path()).unwrap(),
            Size {
                files: 1,
                entries: 3,
                bytes: 4
            }
        );
    }
}
