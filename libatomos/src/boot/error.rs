//! What can go wrong between a deployment and the boot loader.

use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::failpoint::Tripped;
use crate::fs::FsError;

use super::bls::BlsError;
use super::kargs::KargsError;

/// Why kernels or entries could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// A file or directory could not be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// There is nothing to boot in the tree.
    #[error("there is no kernel in {}: a bootable tree has one usr/lib/modules/<version>/vmlinuz", tree.display())]
    NoKernel {
        /// The tree.
        tree: PathBuf,
    },
    /// It is not for us to choose one.
    #[error("there are several kernels in {} ({}): a bootable tree has exactly one", tree.display(), versions.join(", "))]
    SeveralKernels {
        /// The tree.
        tree: PathBuf,
        /// Their versions, sorted.
        versions: Vec<String>,
    },
    /// A kernel, an initramfs or a device tree is a link, a device or whatever else.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// More device trees than any kernel has.
    #[error("there are more than {limit} device trees, or directories more than {depth} deep, in {}", path.display())]
    TooManyDeviceTrees {
        /// Where.
        path: PathBuf,
        /// How many are allowed.
        limit: usize,
        /// How deep they may lie.
        depth: usize,
    },
    /// What is in `/boot` is not what was to be put there.
    #[error("{} does not hold the kernel files that its name says", path.display())]
    WrongDigest {
        /// The directory.
        path: PathBuf,
    },
    /// Found before anything was written.
    #[error(
        "{} has {available} bytes free, and the kernel files need {needed}{}",
        path.display(),
        describe_droppable(droppable)
    )]
    NoSpace {
        /// The boot directory.
        path: PathBuf,
        /// Bytes needed, in whole blocks, with a margin.
        needed: u64,
        /// Bytes that can be written.
        available: u64,
        /// Deployments whose kernels could go, with the bytes that this would free.
        droppable: Vec<(String, u64)>,
    },
    /// Somebody would be left without anything to boot.
    #[error("no deployment is to be booted from {}, but it has {entries} of our entries: refusing to remove them all", path.display())]
    NothingToBoot {
        /// The boot directory.
        path: PathBuf,
        /// How many entries there are.
        entries: usize,
    },
    /// Two entries would be one, or a number is used twice.
    #[error("two boot entries have the number {n}")]
    DuplicateNumber {
        /// The number.
        n: u64,
    },
    /// A name that no file system takes.
    #[error("the boot entry name {name} is too long: choose a shorter stateroot name")]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// A value does not fit in an entry.
    #[error("cannot write the boot entry {name}")]
    Entry {
        /// The entry's file name.
        name: String,
        /// Why.
        #[source]
        source: BlsError,
    },
    /// Kernel arguments are not acceptable.
    #[error(transparent)]
    Kargs(#[from] KargsError),
    /// A test stopped it.
    #[error(transparent)]
    Stopped(#[from] Tripped),
}

impl BootError {
    /// Returns the coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fs(error) => error.kind(),
            Self::NoKernel { .. }
            | Self::SeveralKernels { .. }
            | Self::NotAFile { .. }
            | Self::TooManyDeviceTrees { .. }
            | Self::NameTooLong { .. } => ErrorKind::Invalid,
            Self::WrongDigest { .. } => ErrorKind::Corrupt,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::NothingToBoot { .. } | Self::DuplicateNumber { .. } => ErrorKind::Conflict,
            Self::Entry { source, .. } => source.kind(),
            Self::Kargs(error) => error.kind(),
            Self::Stopped(_) => ErrorKind::Cancelled,
        }
    }
}

fn describe_droppable(droppable: &[(String, u64)]) -> String {
    if droppable.is_empty() {
        return "; no deployment's kernel can be dropped".to_owned();
    }
    let list: Vec<_> = droppable
        .iter()
        .map(|(deployment, bytes)| format!("{deployment} ({bytes} bytes)"))
        .collect();
    format!("; could be dropped: {}", list.join(", "))
}
