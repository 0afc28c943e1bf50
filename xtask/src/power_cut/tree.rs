//! Three versions of a small operating system, made of files of the machine that the test runs on.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kit::Kit;
use crate::random::Random;

/// Programs and files of `/etc` that are taken, at most.
const TAKEN: usize = 120;

/// Bytes of a file that is taken, at most.
const LARGEST: u64 = 64 << 10;

/// Files of an application that there are besides.
const FILES: u64 = 120;

/// Makes version `version` (from 1 on) in `target`, which must not exist; one that boots, with a kit for that.
///
/// # Errors
/// If a file cannot be written.
pub fn make(target: &Path, version: u64, kit: Option<&Kit>) -> Result<()> {
    for directory in [
        "boot",
        "etc",
        "usr/bin",
        "usr/lib",
        "usr/sbin",
        "var/lib/app",
        "run",
        "tmp",
    ] {
        std::fs::create_dir_all(target.join(directory))?;
    }
    for (from, to) in [("/usr/bin", "usr/bin"), ("/etc", "etc")] {
        take(Path::new(from), &target.join(to))?;
    }
    let write = |path: &str, bytes: &[u8]| -> Result<()> {
        let path = target.join(path);
        std::fs::create_dir_all(path.parent().expect("it is below the target"))?;
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut kernel = Random::new(version);
    let release = format!("6.1.0-{version}");
    write(&format!("boot/vmlinuz-{release}"), &kernel.bytes(200 << 10))?;
    write(&format!("boot/initrd.img-{release}"), &kernel.bytes(500 << 10))?;
    write(
        &format!("usr/lib/modules/{release}/kernel/disk.ko"),
        &kernel.bytes(60_000),
    )?;
    write(
        "usr/lib/os-release",
        format!("ID=test\nPRETTY_NAME=\"Test {version}\"\nVERSION_ID={version}\n").as_bytes(),
    )?;
    // A tree with checks is on trial until one of its boots is marked good.
    write("usr/lib/atomos/health.d/10-well", b"#!/bin/sh\n")?;
    for number in 0..FILES {
        // One in eight is new in each version, and so is one in eight of the defaults in /etc.
        let made = if number % 8 == 0 { version } else { 1 };
        let mut random = Random::new(number << 8 | made);
        let length = random.below(48 << 10) as usize;
        let bytes = random.bytes(length);
        write(&format!("usr/share/app/{}/file-{number}", number % 7), &bytes)?;
        if number % 2 == 0 {
            let text = format!(
                "# default {number} of version {made}\nvalue = {}\n",
                random.below(1000)
            );
            write(&format!("etc/app/{}/{number}.conf", number % 3), text.as_bytes())?;
        }
    }
    // What an update adds to a `/var` that is there already.
    for number in 0..12 {
        let bytes = Random::new(version << 8 | number).bytes(6000);
        write(&format!("var/lib/app-{version}/{number}"), &bytes)?;
    }
    write("etc/hostname", b"default\n")?;
    write("etc/app/large.conf", &Random::new(version).bytes(100 << 10))?;
    match kit {
        Some(kit) => kit.add_to(target, &release, version),
        None => Ok(()),
    }
}

/// Copies the regular files of a directory, the first by name, that are not large.
fn take(from: &Path, to: &Path) -> Result<()> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(from)
        .with_context(|| format!("cannot list {}", from.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    let is_small = |path: &PathBuf| {
        path.symlink_metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= LARGEST)
    };
    for path in names.into_iter().filter(is_small).take(TAKEN) {
        let copy = to.join(path.file_name().expect("it was listed"));
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::write(&copy, bytes)?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// What a person changed in `/etc`; with `conflicts` also what the next version changes.
///
/// # Errors
/// If it cannot be written.
pub fn edit_etc(etc: &Path, conflicts: bool) -> Result<()> {
    std::fs::write(etc.join("hostname"), "my-machine\n")?;
    std::fs::create_dir_all(etc.join("local"))?;
    for number in 0..30u64 {
        std::fs::write(
            etc.join(format!("local/{number}.conf")),
            format!("written here, {number}\n").repeat(1 + (number as usize % 5) * 40),
        )?;
    }
    // Kept, once against a new default.
    std::fs::write(etc.join("app/2/20.conf"), "mine\n")?;
    if conflicts {
        std::fs::write(etc.join("app/1/16.conf"), "mine\n")?;
    }
    std::fs::remove_file(etc.join("app/2/2.conf"))?;
    std::fs::set_permissions(etc.join("app/0"), std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}
