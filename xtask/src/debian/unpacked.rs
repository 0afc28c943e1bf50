//! Packages as they were released, and the same packages with every update, as files to be unpacked.
//!
//! A tree that is nothing but unpacked packages can be at any point between the two: one package after another goes to its
//! newer version, which makes a history of as many releases as one likes. It does not boot; it is for measuring what
//! travels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::build::{apt_settings, remove_tree};
use super::{Archive, Options};
use crate::process::{Logged, capture, run};

/// Increased when packages got by an older recipe are of no more use.
const RECIPE: u32 = 1;

/// A package in both versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name. A kernel's has its version in it, so that the newer one is another package: it goes by the name of the
    /// package that asks for the newest.
    pub name: String,
    /// As it was released; `None` where the newer set needs it and the older did not.
    pub old: Option<PathBuf>,
    /// With every update; `None` where it is no longer needed.
    pub new: Option<PathBuf>,
}

impl Package {
    /// Whether an update changes it.
    #[must_use]
    pub fn is_updated(&self) -> bool {
        self.old != self.new
    }
}

/// All of them, sorted by name.
#[derive(Debug, Clone)]
pub struct Packages {
    /// The packages.
    pub packages: Vec<Package>,
    /// The release's name.
    pub release: String,
}

/// What is asked for; with what that needs, about 300 packages.
fn wanted() -> Vec<&'static str> {
    include_str!("unpacked.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect()
}

/// Returns the packages, downloaded now unless an earlier call has.
///
/// # Errors
/// If the archive answers and they cannot be had from it.
pub fn ensure_packages(options: &Options, archive: Option<&Archive>) -> Result<Packages> {
    let directory = options.trees.join("unpacked");
    let record = directory.join("packages.json");
    let key = json!({ "recipe": RECIPE, "release": options.release, "wanted": wanted() });
    if let Ok(text) = std::fs::read_to_string(&record) {
        let value: Value =
            serde_json::from_str(&text).with_context(|| format!("cannot read {}", record.display()))?;
        if value["key"] == key {
            return Ok(from_json(&value, &directory, &options.release));
        }
    }
    let Some(archive) = archive else {
        bail!("there are no packages in {}", directory.display());
    };
    remove_tree(&directory)?;
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // apt's downloader runs as a user of its own.
    run(Command::new("chmod").arg("755").arg(&directory))?;
    let old = download(&directory, archive, false)?;
    let new = download(&directory, archive, true)?;
    let value = json!({ "key": key, "old": old, "new": new });
    std::fs::write(&record, value.to_string())
        .with_context(|| format!("cannot write {}", record.display()))?;
    Ok(from_json(&value, &directory, &options.release))
}

fn from_json(value: &Value, directory: &Path, release: &str) -> Packages {
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    for (side, is_new) in [("old", false), ("new", true)] {
        for (name, file) in value[side].as_object().into_iter().flatten() {
            let package = packages.entry(name.clone()).or_insert_with(|| Package {
                name: name.clone(),
                old: None,
                new: None,
            });
            let path = file.as_str().map(|file| directory.join(file));
            if is_new {
                package.new = path;
            } else {
                package.old = path;
            }
        }
    }
    Packages {
        packages: packages.into_values().collect(),
        release: release.to_owned(),
    }
}

/// Lets apt choose and download, as if for a machine without any package. Returns file names by package.
fn download(directory: &Path, archive: &Archive, updates: bool) -> Result<BTreeMap<String, String>> {
    let side = if updates { "new" } else { "old" };
    let apt = directory.join(format!("apt-{side}"));
    for part in ["lists/partial", "archives/partial", "parts"] {
        let part = apt.join(part);
        std::fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    let (release, keyring) = (&archive.release, archive.keyring.display());
    let line = |uri: &str, suite: &str| format!("deb [arch=amd64 signed-by={keyring}] {uri} {suite} main\n");
    let mut sources = line(&archive.uri, release);
    if updates {
        sources.push_str(&line(&archive.uri, &format!("{release}-updates")));
        if let Some(security) = &archive.security {
            sources.push_str(&line(security, &format!("{release}-security")));
        }
    }
    let write = |name: &str, text: &str| {
        let path = apt.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("sources.list", &sources)?;
    write("status", "")?;
    let place = apt.display();
    write(
        "apt.conf",
        &format!(
            "{}Dir::Etc::sourcelist \"{place}/sources.list\";\nDir::Etc::sourceparts \"{place}/parts\";\n\
             Dir::Etc::preferencesparts \"{place}/parts\";\nDir::State::lists \"{place}/lists\";\n\
             Dir::State::status \"{place}/status\";\nDir::Cache::archives \"{place}/archives\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nAPT::Architecture \"amd64\";\n\
             APT::Architectures {{ \"amd64\"; }};\nAPT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n",
            apt_settings()?
        ),
    )?;
    let log = Logged::create(&directory.join(format!("{side}.log")))?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-y"])
            .env("APT_CONFIG", apt.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    };
    eprintln!(
        "  downloading the packages of {release}{}",
        if updates { " with every update" } else { "" }
    );
    log.run(apt_get().arg("update"))?;
    log.run(apt_get().args(["--download-only", "install"]).args(wanted()))?;
    let mut files = BTreeMap::new();
    let entries =
        std::fs::read_dir(apt.join("archives")).with_context(|| format!("cannot list {}", apt.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", apt.display()))?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if !file.ends_with(".deb") {
            continue;
        }
        let kept = directory.join(&file);
        std::fs::rename(entry.path(), &kept)
            .with_context(|| format!("cannot rename to {}", kept.display()))?;
        files.insert(package_name(&kept)?, file);
    }
    remove_tree(&apt)?;
    if files.is_empty() {
        bail!("apt downloaded nothing");
    }
    Ok(files)
}

fn package_name(file: &Path) -> Result<String> {
    let name = capture(
        Command::new("dpkg-deb")
            .args(["--field"])
            .arg(file)
            .arg("Package"),
    )?;
    let name = name.trim();
    // `linux-image-6.1.0-49-amd64`, whose successor is another package.
    Ok(
        if name.starts_with("linux-image-")
            && name.bytes().any(|byte| byte.is_ascii_digit())
            && name.matches('-').count() > 2
        {
            "linux-image".to_owned()
        } else {
            name.to_owned()
        },
    )
}

/// Unpacks `new` into `tree`, after removing what `old` had there and `new` has not.
///
/// # Errors
/// If a package cannot be read, or the tree not be written.
pub fn unpack(tree: &Path, old: Option<&Path>, new: Option<&Path>) -> Result<()> {
    let list = |package: Option<&Path>| -> Result<Vec<String>> {
        let Some(package) = package else {
            return Ok(Vec::new());
        };
        let script = "dpkg-deb --fsys-tarfile \"$1\" | tar --list --quoting-style=literal";
        let text = capture(
            Command::new("bash")
                .args(["-euo", "pipefail", "-c", script, "list"])
                .arg(package),
        )?;
        Ok(text
            .lines()
            .map(|line| line.trim_start_matches("./").to_owned())
            .collect())
    };
    if let Some(old) = old {
        let kept = list(new)?;
        let kept: std::collections::HashSet<&String> = kept.iter().collect();
        let mut gone = list(Some(old))?;
        gone.retain(|path| !path.is_empty() && !kept.contains(path));
        // What is deepest first.
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for path in gone {
            let path = tree.join(&path);
            // A directory that another package uses, too, is not empty and stays.
            let _ = match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(&path),
                _ => std::fs::remove_file(&path),
            };
        }
    }
    if let Some(new) = new {
        let script = "dpkg-deb --fsys-tarfile \"$1\" | tar --extract --preserve-permissions --keep-directory-symlink --directory \"$2\"";
        run(Command::new("bash")
            .args(["-euo", "pipefail", "-c", script, "unpack"])
            .arg(new)
            .arg(tree))?;
    }
    Ok(())
}
