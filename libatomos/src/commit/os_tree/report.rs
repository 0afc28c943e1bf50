//! What was changed, as data.

use std::fmt;

use serde::Serialize;

use crate::unpack::{Compressed, UpdateCost};

/// What was done to a tree to make it deployable. Paths are relative to the root; bytes that are not UTF-8 are
/// replaced in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct OsTreeReport {
    /// The kernel that the tree boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelReport>,
    /// What lies elsewhere now.
    pub moved: Vec<Moved>,
    /// Links that were made, and links whose text had to change because they were moved.
    pub linked: Vec<Linked>,
    /// Files, directories and modes that were made up.
    pub generated: Vec<Generated>,
    /// What was left out, down to the single file.
    pub dropped: Vec<Dropped>,
    /// What was compressed, and is not any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unpacked: Vec<Unpacked>,
    /// What whoever builds the tree should look at.
    pub warnings: Vec<OsTreeWarning>,
}

impl OsTreeReport {
    /// Returns whether the tree had the shape already.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.moved.is_empty()
            && self.linked.is_empty()
            && self.generated.is_empty()
            && self.dropped.is_empty()
            && self.unpacked.is_empty()
    }
}

/// The kernel of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KernelReport {
    /// Its version, which is the name of its modules' directory.
    pub version: String,
    /// Whether it has an initramfs.
    pub initramfs: bool,
    /// Kernels that could have been chosen, and were dropped. Their modules are still there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

/// A file or directory that got another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Moved {
    /// Where it was.
    pub from: String,
    /// Where it is.
    pub to: String,
    /// Regular files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Linked {
    /// Where it is when the system runs.
    pub path: String,
    /// What it says.
    pub target: String,
}

/// Something that was made up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generated {
    /// Where it is.
    pub path: String,
    /// What it is, in a few words.
    pub what: String,
}

/// Why things were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DropReason {
    /// Programs make it again when they need it.
    Cache,
    /// It tells what happened while the tree was built.
    Log,
    /// It lives only while a system runs.
    Volatile,
    /// It belongs to one machine and must not be shared.
    Identity,
    /// The boot loader's, which is set up where the tree is installed.
    BootLoader,
    /// A kernel that was not chosen, or a second copy of the one that was.
    OtherKernel,
    /// Something else took its place.
    Replaced,
}

impl DropReason {
    /// Says it to people.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Log => "log of the build",
            Self::Volatile => "lives only while a system runs",
            Self::Identity => "belongs to one machine",
            Self::BootLoader => "for the boot loader",
            Self::OtherKernel => "kernel not used",
            Self::Replaced => "replaced",
        }
    }
}

/// Things left out beneath one directory for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dropped {
    /// The directory; empty for the root.
    pub beneath: String,
    /// Why.
    pub reason: DropReason,
    /// Each of them, directories included.
    pub paths: Vec<String>,
    /// Bytes in the files among them.
    pub bytes: u64,
}

/// Files that were unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unpacked {
    /// What they are.
    pub what: Compressed,
    /// How many.
    pub files: u64,
    /// Bytes in them before.
    pub bytes: u64,
}

/// Why a file that was to be unpacked was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LeftPacked {
    /// There is a file of the unpacked name, or two would get it.
    NameTaken,
    /// It is not what its name says, or is damaged, or claims to hold more than any such file does.
    NotPacked,
    /// A link elsewhere in the tree calls it by its compressed name.
    Named,
    /// Its attributes have a signature of its compressed bytes.
    Signed,
}

impl LeftPacked {
    /// Says it to people.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::NameTaken => "their unpacked names are taken",
            Self::NotPacked => "their bytes are not what their names say",
            Self::Named => "links elsewhere have their compressed names",
            Self::Signed => "their attributes sign the compressed bytes",
        }
    }
}

/// Something that whoever builds the tree should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OsTreeWarning {
    /// The kernel has no initramfs.
    NoInitramfs {
        /// The kernel.
        kernel: String,
    },
    /// Modules of a kernel that the tree does not boot.
    UnusedModules {
        /// The kernel's version.
        kernel: String,
        /// Bytes in them.
        bytes: u64,
    },
    /// Software where only the machine's own belongs: no later version reaches it.
    LocalContent {
        /// The directory.
        path: String,
        /// Regular files in it.
        files: u64,
    },
    /// Compressed files: patches of them save nothing.
    Compressed {
        /// What they are.
        what: Compressed,
        /// What they cost, as an estimate.
        cost: UpdateCost,
    },
    /// Files that were to be unpacked and were not.
    LeftPacked {
        /// Why.
        reason: LeftPacked,
        /// Which.
        paths: Vec<String>,
    },
}

impl fmt::Display for OsTreeWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInitramfs { kernel } => write!(f, "the kernel {kernel} has no initramfs"),
            Self::UnusedModules { kernel, bytes } => write!(
                f,
                "usr/lib/modules/{kernel} has {bytes} bytes of modules for a kernel that the tree does not boot"
            ),
            Self::LocalContent { path, files } => write!(
                f,
                "{path} has {files} files that become the machine's own: later versions add files there, but change none"
            ),
            Self::Compressed { what, cost } => write!(
                f,
                "compressed {what}, {} files of {} bytes: an update that changes them sends them whole; \
                 unpacked, patches would be about {} bytes (an estimate)",
                cost.files, cost.bytes, cost.patched
            ),
            Self::LeftPacked { reason, paths } => {
                write!(
                    f,
                    "not unpacked, since {}: {}",
                    reason.describe(),
                    paths.join(" ")
                )
            }
        }
    }
}
