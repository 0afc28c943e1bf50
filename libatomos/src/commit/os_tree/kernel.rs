//! One kernel, with what it needs to boot, in `/usr/lib/modules/<version>/`.
//!
//! Distributions put kernels into `/boot` as `vmlinuz-<version>` and into the modules' directory, or both. The file
//! in the modules' directory wins: packages own it. A name in `/boot` that is no version but a flavour
//! (`vmlinuz-lts`) belongs to the modules' directory that ends in it, if there is exactly one.

use std::collections::BTreeMap;

use crate::boot::order::uapi_version;

use super::report::{DropReason, KernelReport, OsTreeWarning};
use super::shaper::{Shaper, Taken, lossy};
use super::{KernelChoice, OsTreeError};

const MODULES: &str = "usr/lib/modules";

/// What kernels are called in `/boot`, up to the version. `vmlinux` is what architectures without a compressed
/// kernel have.
const KERNEL_PREFIXES: [&str; 4] = ["vmlinuz-", "vmlinux-", "Image-", "kernel-"];

/// What an initramfs is called in `/boot`, around the version.
const INITRAMFS_NAMES: [(&str, &str); 5] = [
    ("initrd.img-", ""),
    ("initramfs-", ".img"),
    ("initrd-", ""),
    ("initrd-", ".img"),
    ("initramfs-", ""),
];

#[derive(Debug, Default)]
struct Candidate {
    /// Its name in `/boot`, and the part that says which it is.
    boot: Option<(String, String)>,
    /// There is a regular file `vmlinuz` beside the modules.
    beside_modules: bool,
    /// There is a modules' directory of this version.
    has_modules: bool,
}

pub(super) fn arrange(shaper: &mut Shaper<'_>, choice: &KernelChoice) -> Result<(), OsTreeError> {
    if shaper.kind("boot").is_some() && shaper.dir("boot").is_none() {
        return Err(shaper.in_the_way("boot", "directory"));
    }
    let candidates = candidates(shaper);
    if let Some(chosen) = choose(&candidates, choice)? {
        let chosen = chosen.to_owned();
        place(shaper, &chosen, &candidates[&chosen])?;
        let others: Vec<String> = candidates
            .keys()
            .filter(|version| **version != chosen)
            .cloned()
            .collect();
        for other in &others {
            drop_other(shaper, other, &candidates[other]);
        }
        let initramfs = initramfs_of(shaper, &chosen).is_some();
        if !initramfs {
            shaper.warn(OsTreeWarning::NoInitramfs {
                kernel: chosen.clone(),
            });
        }
        warn_of_unused_modules(shaper, &chosen);
        shaper.set_kernel(KernelReport {
            version: chosen,
            initramfs,
            others,
        });
    }
    shaper.make_dir("boot", 0o755)?;
    shaper.drop_contents("boot", DropReason::BootLoader);
    Ok(())
}

fn candidates(shaper: &Shaper<'_>) -> BTreeMap<String, Candidate> {
    let mut candidates: BTreeMap<String, Candidate> = BTreeMap::new();
    let versions: Vec<String> = shaper
        .dir(MODULES)
        .into_iter()
        .flat_map(|modules| shaper.entries(modules))
        .filter(|(_, node)| shaper.is_dir(*node))
        .filter_map(|(name, _)| String::from_utf8(name.into()).ok())
        .collect();
    for version in &versions {
        let vmlinuz = shaper.tree.find(&format!("{MODULES}/{version}/vmlinuz"));
        if vmlinuz.is_some_and(|node| shaper.is_file(node)) {
            let candidate = candidates.entry(version.clone()).or_default();
            candidate.beside_modules = true;
            candidate.has_modules = true;
        }
    }
    let boot = shaper.dir("boot").into_iter().flat_map(|dir| shaper.entries(dir));
    for (name, _) in boot.filter(|(_, node)| shaper.is_file(*node)) {
        let Ok(name) = String::from_utf8(name.into()) else {
            continue;
        };
        let Some(label) = label(&name) else { continue };
        let version = version_of(label, &versions);
        if version.is_none() && label.is_empty() {
            continue;
        }
        let candidate = candidates.entry(version.unwrap_or(label).to_owned()).or_default();
        candidate.has_modules |= version.is_some();
        candidate.boot.get_or_insert((name.clone(), label.to_owned()));
    }
    // A kernel without modules is one if there is no other: it may have everything built in. Beside one that has
    // modules it is a rescue kernel, a memory test, or a second name.
    if candidates.values().any(|candidate| candidate.has_modules) {
        candidates.retain(|_, candidate| candidate.has_modules);
    }
    candidates
}

/// Returns the version or flavour in a kernel's name in `/boot`; empty for a plain `vmlinuz`.
fn label(name: &str) -> Option<&str> {
    if name == "vmlinuz" {
        return Some("");
    }
    let label = KERNEL_PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    (!label.is_empty() && !label.ends_with(".old") && !label.starts_with("0-rescue-")).then_some(label)
}

fn version_of<'a>(label: &str, versions: &'a [String]) -> Option<&'a str> {
    if let Some(exact) = versions.iter().find(|version| *version == label) {
        return Some(exact);
    }
    let mut flavoured = versions
        .iter()
        .filter(|version| label.is_empty() || version.ends_with(&format!("-{label}")));
    match (flavoured.next(), flavoured.next()) {
        (Some(version), None) => Some(version),
        _ => None,
    }
}

fn choose<'a>(
    candidates: &'a BTreeMap<String, Candidate>,
    choice: &KernelChoice,
) -> Result<Option<&'a str>, OsTreeError> {
    let newest = || {
        candidates
            .keys()
            .max_by(|a, b| uapi_version(a, b).then_with(|| a.cmp(b)))
            .map(String::as_str)
    };
    match choice {
        KernelChoice::NewestOrNone => Ok(newest()),
        KernelChoice::Newest => newest().map(Some).ok_or_else(|| OsTreeError::NoKernel {
            looked_for: vec![
                "/usr/lib/modules/<version>/vmlinuz".to_owned(),
                "/boot/vmlinuz-<version>".to_owned(),
                "/boot/vmlinux-<version>".to_owned(),
            ],
        }),
        KernelChoice::Version(wanted) => match candidates.get_key_value(wanted) {
            Some((version, _)) => Ok(Some(version)),
            None => Err(OsTreeError::KernelNotFound {
                wanted: wanted.clone(),
                found: if candidates.is_empty() {
                    vec!["none".to_owned()]
                } else {
                    candidates.keys().cloned().collect()
                },
            }),
        },
    }
}

fn place(shaper: &mut Shaper<'_>, version: &str, candidate: &Candidate) -> Result<(), OsTreeError> {
    let target = format!("{MODULES}/{version}");
    shaper.ensure_dir(&target)?;
    let label = candidate.boot.as_ref().map_or(version, |(_, label)| label);
    match &candidate.boot {
        Some((name, _)) if candidate.beside_modules => {
            shaper.drop_path(&format!("boot/{name}"), "boot", DropReason::OtherKernel);
        }
        Some((name, _)) => move_file(shaper, name, &target, "vmlinuz")?,
        None => {}
    }
    if initramfs_of(shaper, version).is_none()
        && let Some(name) = initramfs_in_boot(shaper, &[label, version])
    {
        move_file(shaper, &name, &target, "initramfs.img")?;
    }
    for name in ["config", "System.map"] {
        if shaper.kind(&format!("{target}/{name}")).is_none() {
            move_file(shaper, &format!("{name}-{version}"), &target, name)?;
        }
    }
    let has_trees = ["dtb", "devicetree"]
        .iter()
        .any(|name| shaper.kind(&format!("{target}/{name}")).is_some());
    if !has_trees {
        move_device_trees(shaper, version, &target)?;
    }
    Ok(())
}

fn initramfs_of(shaper: &Shaper<'_>, version: &str) -> Option<String> {
    ["initramfs.img", "initramfs"]
        .iter()
        .map(|name| format!("{MODULES}/{version}/{name}"))
        .find(|path| shaper.tree.find(path).is_some_and(|node| shaper.is_file(node)))
}

fn initramfs_in_boot(shaper: &Shaper<'_>, labels: &[&str]) -> Option<String> {
    let boot = shaper.dir("boot")?;
    let is_file = |name: &str| {
        shaper
            .tree
            .child(boot, name.as_bytes())
            .is_some_and(|node| shaper.is_file(node))
    };
    for label in labels {
        let named = INITRAMFS_NAMES
            .iter()
            .map(|(before, after)| format!("{before}{label}{after}"))
            .find(|name| is_file(name));
        if named.is_some() {
            return named;
        }
    }
    // A name that says nothing of the version is good enough if there is no second.
    let mut likely = shaper
        .entries(boot)
        .into_iter()
        .filter_map(|(name, _)| String::from_utf8(name.into()).ok())
        .filter(|name| {
            (name.starts_with("initrd") || name.starts_with("initramfs"))
                && !["fallback", "rescue", "kdump", ".old", ".bak"]
                    .iter()
                    .any(|word| name.contains(word))
                && is_file(name)
        });
    match (likely.next(), likely.next()) {
        (Some(name), None) => Some(name),
        _ => None,
    }
}

/// Moves `/boot/<name>`, if it is a regular file.
fn move_file(shaper: &mut Shaper<'_>, name: &str, target: &str, new_name: &str) -> Result<(), OsTreeError> {
    let from = format!("boot/{name}");
    match shaper.tree.find(&from) {
        Some(node) if shaper.is_file(node) => move_node(shaper, &from, target, new_name),
        _ => Ok(()),
    }
}

fn move_node(shaper: &mut Shaper<'_>, from: &str, target: &str, new_name: &str) -> Result<(), OsTreeError> {
    let to = format!("{target}/{new_name}");
    let parent = shaper.ensure_dir(target)?;
    let node = shaper.tree.find(from).expect("the caller found it");
    shaper.note_moved(node, from, &to);
    let node = shaper.take(from, new_name).expect("the caller found it");
    // A link to the file in /boot may have the name.
    shaper.put(node, parent, from.as_bytes(), to.as_bytes(), Taken::Replace)
}

/// Debian's device trees in `/usr/lib/linux-image-<version>` stay there: firmware that speaks UEFI brings its own,
/// and copying all of them to every `/boot` would fill it.
fn move_device_trees(shaper: &mut Shaper<'_>, version: &str, target: &str) -> Result<(), OsTreeError> {
    for from in [
        format!("boot/dtbs/{version}"),
        format!("boot/dtb-{version}"),
        "boot/dtb".to_owned(),
        "boot/dtbs".to_owned(),
    ] {
        match shaper.tree.find(&from) {
            Some(node) if shaper.is_dir(node) && !shaper.is_empty(node) => {
                return move_node(shaper, &from, target, "dtb");
            }
            Some(node) if shaper.is_file(node) => return move_node(shaper, &from, target, "devicetree"),
            _ => {}
        }
    }
    Ok(())
}

fn drop_other(shaper: &mut Shaper<'_>, version: &str, candidate: &Candidate) {
    let dir = format!("{MODULES}/{version}");
    for name in ["vmlinuz", "initramfs.img", "initramfs"] {
        shaper.drop_path(&format!("{dir}/{name}"), &dir, DropReason::OtherKernel);
    }
    if let Some((name, label)) = &candidate.boot {
        shaper.drop_path(&format!("boot/{name}"), "boot", DropReason::OtherKernel);
        if let Some(initramfs) = INITRAMFS_NAMES
            .iter()
            .map(|(before, after)| format!("boot/{before}{label}{after}"))
            .find(|path| shaper.kind(path).is_some())
        {
            shaper.drop_path(&initramfs, "boot", DropReason::OtherKernel);
        }
    }
}

fn warn_of_unused_modules(shaper: &mut Shaper<'_>, chosen: &str) {
    let Some(modules) = shaper.dir(MODULES) else {
        return;
    };
    for (name, node) in shaper.entries(modules) {
        let (files, bytes) = shaper.size(node);
        if shaper.is_dir(node) && *name != *chosen.as_bytes() && files > 0 {
            shaper.warn(OsTreeWarning::UnusedModules {
                kernel: lossy(&name),
                bytes,
            });
        }
    }
}
