//! Turning an ordinary root file system into one that can be deployed.
//!
//! A deployment's root is read-only; `/etc` and `/var` are writable and outlive it. A tree made by debootstrap, or
//! taken from a container image, does not look like that, so its nodes are moved about in memory before anything is
//! hashed; the directory on disk is never touched. `docs/os-tree.md` has the whole list. In short:
//!
//! ```text
//! /etc                      → /usr/etc                       the defaults that a merge starts from
//! /boot/{vmlinuz,initrd}-V  → /usr/lib/modules/V/            one kernel, where the boot code looks for it
//! /home, /root, /opt, …     → /var, with links               what is writable by nature
//! /var/lib/dpkg, …          → /usr/lib/sysimage, with links  what tells which packages *this version* has
//! /var                      → /usr/share/factory/var         from which a machine's /var is seeded
//! ```
//!
//! On request, kernel modules and documents are unpacked (`unpack`), first of all, while links still say where things are.
//! The order matters: `/var` goes last, when everything that belongs into it is there. A tree that has the shape
//! already is left as it is, down to its digest. Nothing disappears unsaid: each file of the source is in the result
//! or named in [`OsTreeReport::dropped`].

mod etc;
mod home;
mod kernel;
mod links;
mod report;
mod shaper;
mod tmpfiles;
mod unpack;
mod var;

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;

use crate::cancel::Cancel;
use crate::unpack::module_index::NoIndex;

use super::{CommitError, SourceKind, SourceTree};

pub use report::{
    DropReason, Dropped, Generated, KernelReport, LeftPacked, Linked, Moved, OsTreeReport, OsTreeWarning,
    Unpacked,
};
use shaper::Shaper;

/// Which kernel a tree shall boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The one with the highest version; none is an error.
    #[default]
    Newest,
    /// The one of this version, as `uname -r` says it.
    Version(String),
    /// The one with the highest version if there is any: for trees that something else boots, such as containers.
    NewestOrNone,
}

/// What of a tree to unpack, so that patches of it are small. What is not unpacked is warned of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpack {
    /// Kernel modules, `.ko.xz` and its like; the indexes that name them follow.
    pub modules: bool,
    /// Documents, `.gz` beneath `/usr/share/doc`, `/usr/share/man` and `/usr/share/info`; links to them follow.
    pub documents: bool,
}

/// How to make a tree deployable.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OsTreeOptions {
    /// Which kernel it boots.
    pub kernel: KernelChoice,
    /// What to unpack.
    pub unpack: Unpack,
}

/// Why a tree cannot be made deployable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OsTreeError {
    /// There is no `/usr`.
    #[error("there is no directory /usr in it, so it is not a root file system")]
    NoUsr,
    /// `/bin` and its like hold files of their own.
    #[error(
        "{} must be a link into /usr, and is a directory; run usrmerge in the tree, or make it with debootstrap --merged-usr",
        directories.join(", ")
    )]
    NotUsrMerged {
        /// The directories.
        directories: Vec<String>,
    },
    /// Defaults in two places.
    #[error(
        "both /etc and /usr/etc have files; a tree has one of them (is it a deployment, and not a tree?)"
    )]
    BothEtc,
    /// Nothing to boot.
    #[error("there is no kernel in it; looked for {}", looked_for.join(", "))]
    NoKernel {
        /// What would have been one.
        looked_for: Vec<String>,
    },
    /// The kernel that was asked for is not there.
    #[error("it has no kernel {wanted}; it has {}", found.join(", "))]
    KernelNotFound {
        /// The version that was asked for.
        wanted: String,
        /// The versions that there are.
        found: Vec<String>,
    },
    /// Something has a name that is needed for something else.
    #[error("/{path} is a {found}, and must be a {wanted}")]
    InTheWay {
        /// Where.
        path: String,
        /// What it is.
        found: &'static str,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Two files would get one name.
    #[error("/{path} and /{other} would become one file")]
    Clash {
        /// What was to be moved.
        path: String,
        /// What has the name.
        other: String,
    },
    /// An index of modules that are to be unpacked cannot be made to name them.
    #[error("cannot make /{path} name unpacked modules; running depmod in the tree makes it anew")]
    ModuleIndex {
        /// The index.
        path: String,
        /// Why.
        source: NoIndex,
    },
    /// Two package databases, and no telling which is true.
    #[error("there is a package database in /{var} and another in /{sysimage}; remove the stale one")]
    TwoPackageDatabases {
        /// The one in `/var`.
        var: String,
        /// The one in `/usr`.
        sysimage: String,
    },
}

/// Brings the tree into a deployable shape. `owner` is whom the commit will record as owner of everything.
pub(super) fn arrange(
    tree: &mut SourceTree,
    options: &OsTreeOptions,
    owner: Option<(u32, u32)>,
    cancel: &Cancel,
) -> Result<OsTreeReport, CommitError> {
    let mut shaper = Shaper::new(tree);
    check_usr(&shaper)?;
    unpack::arrange(&mut shaper, options.unpack, cancel)?;
    etc::arrange(&mut shaper)?;
    home::arrange(&mut shaper)?;
    kernel::arrange(&mut shaper, &options.kernel)?;
    root(&mut shaper)?;
    var::arrange(&mut shaper, owner)?;
    unpack::warn_of_compression(&mut shaper)?;
    Ok(shaper.into_report())
}

/// Directories that the root of a usr-merged system has as links.
pub(crate) const USR_MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

fn check_usr(shaper: &Shaper<'_>) -> Result<(), OsTreeError> {
    if shaper.dir("usr").is_none() {
        return Err(OsTreeError::NoUsr);
    }
    let directories: Vec<String> = USR_MERGED
        .iter()
        .filter(|name| shaper.dir(name).is_some())
        .map(|name| format!("/{name}"))
        .collect();
    if directories.is_empty() {
        Ok(())
    } else {
        Err(OsTreeError::NotUsrMerged { directories })
    }
}

/// Directories that the running system mounts something on, with the mode of one that is missing.
const API_DIRS: [(&str, u32); 5] = [
    ("dev", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];

/// Links at the root that Debian's kernel packages keep for boot loaders of the last century.
const KERNEL_LINKS: [&str; 4] = ["vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"];

/// Mount points and links directly below the root.
fn root(shaper: &mut Shaper<'_>) -> Result<(), OsTreeError> {
    for name in KERNEL_LINKS {
        if matches!(shaper.kind(name), Some(SourceKind::Symlink(_))) {
            shaper.drop_path(name, "", DropReason::BootLoader);
        }
    }
    if shaper.dir("lost+found").is_some_and(|dir| shaper.is_empty(dir)) {
        shaper.drop_path("lost+found", "", DropReason::Volatile);
    }
    for (name, mode) in API_DIRS {
        if shaper.kind(name).is_some() && shaper.dir(name).is_none() {
            shaper.drop_path(name, "", DropReason::Replaced);
        }
        let dir = shaper.make_dir(name, mode)?;
        shaper.drop_contents(name, DropReason::Volatile);
        if name == "tmp" {
            shaper.set_mode(dir, name, mode);
        }
    }
    shaper.make_dir("sysroot", 0o755)?;
    match shaper.kind("atomos") {
        None => shaper.make_link("atomos", "sysroot/atomos"),
        Some(SourceKind::Symlink(_)) => {}
        Some(_) => return Err(shaper.in_the_way("atomos", "symbolic link")),
    }
    Ok(())
}
