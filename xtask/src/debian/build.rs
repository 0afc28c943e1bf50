//! The recipe of the two trees.
//!
//! It is what an image builder does: no service is started, the package manager does not flush every file (the
//! whole is flushed once, and thrown away if it fails), the initramfs is generated once and not at each trigger, and
//! what belongs to one machine alone (host keys, machine id, logs, caches) is taken out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::jail::{Jail, namespaced};
use super::{Archive, Upgrade};
use crate::process::{Logged, capture, run};

/// What to install beside the minimal variant.
pub fn packages() -> Vec<&'static str> {
    include_str!("packages.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect()
}

/// Files that exist only while packages are installed: content and mode.
const SCAFFOLD: [(&str, &str, u32); 2] = [
    // "Action forbidden": invoke-rc.d then starts nothing.
    ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755),
    ("etc/dpkg/dpkg.cfg.d/unsafe-io", "force-unsafe-io\n", 0o644),
];

/// Just after a point release the archive has nothing newer than the release. With fewer packages than this changed, the second
/// version gets some more and loses some.
const FEW: usize = 8;

/// What it gets, and what it loses.
const GAINED: [&str; 6] = ["vim", "htop", "nginx-light", "sqlite3", "zip", "bc"];
const LOST: [&str; 2] = ["nano", "strace"];

/// Answers to what packages would ask. The manual's index is a cache that nobody reads here.
const ANSWERS: &str = "man-db man-db/auto-update boolean false\n";

/// Takes out what belongs to one machine or can be made again.
const STRIP: &str = r"
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
rm -f /var/lib/dbus/machine-id
rm -f /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache
rm -rf /var/lib/apt/lists/*
rm -f /var/log/*.log /var/log/apt/*
echo localhost > /etc/hostname
";

/// Settings of the machine's apt that must hold inside the tree too: how to reach the archive, never what to trust.
const APT_SETTINGS: [&str; 6] = [
    "Acquire::http::Proxy ",
    "Acquire::https::Proxy ",
    "Acquire::ForceIPv4 ",
    "Acquire::Check-Valid-Until ",
    "Acquire::Check-Date ",
    "Acquire::Retries ",
];

/// Makes `v1` and `v2` below `directory` and returns what the upgrade changed.
pub fn build(directory: &Path, archive: &Archive) -> Result<Vec<Upgrade>> {
    let log = Logged::create(&directory.join("build.log"))?;
    let cache = directory.join("packages");
    let apt_conf = directory.join("apt.conf");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    std::fs::write(&apt_conf, apt_settings()?)
        .with_context(|| format!("cannot write {}", apt_conf.display()))?;

    // Built under other names, so that nothing called v1 or v2 is ever half made.
    let (made_v1, made_v2) = (directory.join("v1.building"), directory.join("v2.building"));
    for tree in [&made_v1, &made_v2] {
        remove_tree(tree)?;
    }
    timed("v1: debootstrap", || bootstrap(&made_v1, &cache, archive, &log))?;
    let jail = Jail::new(&made_v1, &cache, &apt_conf, &log)?;
    timed("v1: packages", || install(&made_v1, &jail))?;
    timed("v1: initramfs", || finish(&made_v1, &jail))?;
    timed("v2: a copy of v1", || {
        run(Command::new("cp").args(["-a"]).args([&made_v1, &made_v2]))
    })?;
    let jail = Jail::new(&made_v2, &cache, &apt_conf, &log)?;
    timed("v2: dist-upgrade", || upgrade(&made_v2, &jail, archive))?;
    let mut upgraded = difference(&versions(&made_v1)?, &versions(&made_v2)?);
    if upgraded.len() < FEW {
        eprintln!("  the archive has little that is newer than the release");
        timed("v2: other packages", || rearrange(&jail))?;
        upgraded = difference(&versions(&made_v1)?, &versions(&made_v2)?);
    }
    timed("v2: initramfs", || finish(&made_v2, &jail))?;
    if upgraded.is_empty() {
        bail!("the second version has the packages of the first");
    }
    for (made, name) in [(&made_v1, "v1"), (&made_v2, "v2")] {
        std::fs::rename(made, directory.join(name))
            .with_context(|| format!("cannot rename {}", made.display()))?;
    }
    remove_tree(&cache)?;
    std::fs::remove_file(&apt_conf).with_context(|| format!("cannot remove {}", apt_conf.display()))?;
    timed("flush", || run(Command::new("sync").arg("-f").arg(directory)))?;
    Ok(upgraded)
}

/// Removes a file or a tree, if it is there. Refuses to leave the filesystem that it starts on.
pub fn remove_tree(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    run(Command::new("rm")
        .args(["-rf", "--one-file-system", "--"])
        .arg(path))
}

fn bootstrap(tree: &Path, cache: &Path, archive: &Archive, log: &Logged) -> Result<()> {
    log.run(
        namespaced()
            .args([
                "debootstrap",
                "--arch=amd64",
                "--variant=minbase",
                "--components=main",
                "--force-check-gpg",
            ])
            .arg(with_path("--keyring=", &archive.keyring))
            .arg(with_path("--cache-dir=", cache))
            .arg(&archive.release)
            .arg(tree)
            .arg(&archive.uri)
            .env("LC_ALL", "C"),
    )
}

fn with_path(option: &str, path: &Path) -> std::ffi::OsString {
    let mut word = std::ffi::OsString::from(option);
    word.push(OsStr::new(path));
    word
}

fn install(tree: &Path, jail: &Jail<'_>) -> Result<()> {
    scaffold(tree)?;
    jail.run(&[
        "sh",
        "-c",
        "printf %s \"$1\" | debconf-set-selections",
        "answers",
        ANSWERS,
    ])?;
    jail.run(&["apt-get", "-q", "update"])?;
    let mut words = vec!["apt-get", "-q", "-y", "--no-install-recommends", "install"];
    words.extend(packages());
    jail.run(&words)
}

/// Adds packages to a tree that is otherwise finished, and leaves nothing else in it that was not there.
pub fn add_packages(tree: &Path, work: &Path, packages: &[&str]) -> Result<()> {
    let log = Logged::create(&work.join("packages.log"))?;
    let cache = work.join("packages");
    let apt_conf = work.join("apt.conf");
    std::fs::write(&apt_conf, apt_settings()?)
        .with_context(|| format!("cannot write {}", apt_conf.display()))?;
    scaffold(tree)?;
    let jail = Jail::new(tree, &cache, &apt_conf, &log)?;
    jail.run(&["apt-get", "-q", "update"])?;
    let mut words = vec!["apt-get", "-q", "-y", "--no-install-recommends", "install"];
    words.extend(packages);
    jail.run(&words)?;
    jail.run(&["sh", "-euc", STRIP])?;
    for (path, _, _) in SCAFFOLD {
        remove_tree(&tree.join(path))?;
    }
    remove_tree(&cache)
}

fn upgrade(tree: &Path, jail: &Jail<'_>, archive: &Archive) -> Result<()> {
    scaffold(tree)?;
    let release = &archive.release;
    let mut sources = format!("deb {} {release}-updates main\n", archive.uri);
    match &archive.security {
        Some(security) => sources.push_str(&format!("deb {security} {release}-security main\n")),
        None => eprintln!("  this machine's apt takes no security updates, so v2 has none"),
    }
    let path = tree.join("etc/apt/sources.list.d/updates.list");
    std::fs::write(&path, sources).with_context(|| format!("cannot write {}", path.display()))?;
    // One initramfs, of the new kernel, at the end: with no old one there is none to update.
    let old_kernels = file_names(&tree.join("boot"), "vmlinuz-")?;
    jail.run(&["sh", "-c", "rm -f /boot/initrd.img-*"])?;
    jail.run(&["apt-get", "-q", "update"])?;
    jail.run(&[
        "apt-get",
        "-q",
        "-y",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
        "dist-upgrade",
    ])?;
    // apt keeps old kernels for a machine to fall back to; here the previous deployment has it.
    if file_names(&tree.join("boot"), "vmlinuz-")?.len() > old_kernels.len() {
        for version in &old_kernels {
            jail.run(&["apt-get", "-q", "-y", "purge", &format!("linux-image-{version}")])?;
        }
    }
    Ok(())
}

fn rearrange(jail: &Jail<'_>) -> Result<()> {
    let mut words = vec!["apt-get", "-q", "-y", "--no-install-recommends", "install"];
    words.extend(GAINED);
    jail.run(&words)?;
    let mut words = vec!["apt-get", "-q", "-y", "purge"];
    words.extend(LOST);
    jail.run(&words)
}

/// Generates the initramfs and takes out what was there for building only.
fn finish(tree: &Path, jail: &Jail<'_>) -> Result<()> {
    jail.run(&["update-initramfs", "-c", "-k", "all"])?;
    jail.run(&["sh", "-euc", STRIP])?;
    for (path, _, _) in SCAFFOLD {
        remove_tree(&tree.join(path))?;
    }
    Ok(())
}

fn scaffold(tree: &Path) -> Result<()> {
    for (path, content, mode) in SCAFFOLD {
        let path = tree.join(path);
        std::fs::write(&path, content)
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The rest of the names in `directory` that begin with `prefix`.
fn file_names(directory: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        names.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(prefix))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

/// The machine's own settings for reaching the archive, in apt's format.
pub fn apt_settings() -> Result<String> {
    let dump = capture(Command::new("apt-config").args(["dump", "Acquire"]))?;
    let chosen = dump
        .lines()
        .filter(|line| APT_SETTINGS.iter().any(|setting| line.starts_with(setting)));
    Ok(chosen.map(|line| format!("{line}\n")).collect())
}

/// Every installed package of a tree with its version.
fn versions(tree: &Path) -> Result<BTreeMap<String, String>> {
    let database = tree.join("var/lib/dpkg");
    let text = capture(
        Command::new("dpkg-query")
            .arg(with_path("--admindir=", &database))
            .args([
                "--showformat=${db:Status-Abbrev}\\t${binary:Package}\\t${Version}\\n",
                "--show",
            ]),
    )?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (status, package, version) = (fields.next()?, fields.next()?, fields.next()?);
            status
                .starts_with("ii")
                .then(|| (package.to_owned(), version.to_owned()))
        })
        .collect())
}

fn difference(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Upgrade> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Upgrade {
            package: name.clone(),
            from: old.get(name).cloned(),
            to: new.get(name).cloned(),
        })
        .collect()
}

/// Says what is done and how long it took, on standard error.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work().with_context(|| format!("making the Debian trees: {what}"))?;
    eprintln!("  {what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_list_has_what_boots_and_no_comments() {
        let packages = packages();
        for needed in [
            "linux-image-amd64",
            "systemd-sysv",
            "udev",
            "openssh-server",
            "python3",
            "perl",
        ] {
            assert!(packages.contains(&needed), "{needed}");
        }
        assert!(packages.iter().all(|package| !package.contains('#')));
    }

    #[test]
    fn an_upgrade_lists_changed_new_and_removed_packages() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
                .collect()
        };
        let difference = difference(
            &map(&[("a", "1"), ("b", "1"), ("c", "1")]),
            &map(&[("b", "2"), ("c", "1"), ("d", "1")]),
        );
        let shown: Vec<(&str, Option<&str>, Option<&str>)> = difference
            .iter()
            .map(|upgrade| {
                (
                    upgrade.package.as_str(),
                    upgrade.from.as_deref(),
                    upgrade.to.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("a", Some("1"), None),
                ("b", Some("1"), Some("2")),
                ("d", None, Some("1"))
            ]
        );
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tree");
        remove_tree(&path).unwrap();
        std::fs::create_dir_all(path.join("below")).unwrap();
        remove_tree(&path).unwrap();
        assert!(!path.exists());
    }
}
