//! Compression inside a tree, and what it costs.
//!
//! A patch is small because two versions of a file have most of their bytes in common. Compressed, they have none in
//! common: the first changed byte changes all that follow. Distributions compress kernel modules, documents and the
//! initramfs, and an update then sends all of them whole. A site compresses what it sends anyway, so unpacked files
//! travel in as few bytes, and their changes in far fewer.
//!
//! This module knows which files these are (`Compressed::of_path`), how to read them without trusting them
//! (`Unpacker`), what names them ([`module_index`]), what of an initramfs is compressed (`initramfs`), and what it
//! all costs ([`UpdateCost`]). It reads bytes that it is given, and knows nothing of trees.

pub(crate) mod initramfs;
pub mod module_index;
mod unpacker;

use std::fmt;

use serde::Serialize;

pub(crate) use unpacker::{Unpacker, XZ_MEMORY, ZSTD_WINDOW_LOG, begins_as};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Codec {
    /// As `gzip` does (RFC 1952).
    Gzip,
    /// As `xz` does.
    Xz,
    /// As `zstd` does (RFC 8878).
    Zstd,
}

impl Codec {
    const ALL: [Self; 3] = [Self::Gzip, Self::Xz, Self::Zstd];

    /// Returns the end of a compressed file's name, with its dot.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
        }
    }
}

/// What is compressed in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Compressed {
    /// Kernel modules: `.ko.xz` and its like beneath `/usr/lib/modules`.
    Modules,
    /// Documents: `.gz` beneath `/usr/share/doc`, `/usr/share/man` and `/usr/share/info`.
    Documents,
    /// The initramfs of the kernel.
    Initramfs,
}

impl fmt::Display for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modules => "modules",
            Self::Documents => "documents",
            Self::Initramfs => "initramfs",
        })
    }
}

/// Where the kernel's modules are, a directory for each version.
pub(crate) const MODULES: &str = "usr/lib/modules";

/// Where documents are.
pub(crate) const DOCUMENTS: [&str; 3] = ["usr/share/doc", "usr/share/info", "usr/share/man"];

/// What an initramfs is called beside its kernel's modules.
pub(crate) const INITRAMFS: [&str; 2] = ["initramfs.img", "initramfs"];

impl Compressed {
    /// Says what the file at `path`, relative to the root, is, how it is compressed, and what it is called unpacked;
    /// `None` for what is not compressed, or not for the tree to unpack. The initramfs is told by its bytes alone.
    pub(crate) fn of_path(path: &[u8]) -> Option<(Self, Codec, &[u8])> {
        let beneath = |dir: &str| {
            path.strip_prefix(dir.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        if beneath(MODULES) {
            let (codec, name) = Self::Modules.of_name(name)?;
            return Some((Self::Modules, codec, name));
        }
        if DOCUMENTS.iter().any(|dir| beneath(dir)) {
            let (codec, name) = Self::Documents.of_name(name)?;
            return Some((Self::Documents, codec, name));
        }
        None
    }

    /// Says how a file of this sort that has this name is compressed, and what it is called unpacked.
    pub(crate) fn of_name(self, name: &[u8]) -> Option<(Codec, &[u8])> {
        let stem = |codec: Codec| name.strip_suffix(codec.suffix().as_bytes());
        match self {
            Self::Modules => Codec::ALL
                .into_iter()
                .find_map(|codec| Some((codec, stem(codec)?)))
                .filter(|(_, stem)| stem.len() > 3 && stem.ends_with(b".ko")),
            Self::Documents => stem(Codec::Gzip)
                .filter(|stem| !matches!(*stem, b"" | b"." | b".."))
                .map(|stem| (Codec::Gzip, stem)),
            Self::Initramfs => None,
        }
    }
}

/// What compressed files cost: an **estimate**.
///
/// It rests on one measurement: a Debian 13 system (modules as `.ko.xz`, documents as `.gz`) and its upgrade ten weeks
/// later. Sent whole, what was new was 121.4 MB. Patches of the compressed files saved next to nothing; with modules
/// and documents unpacked, patches made by the fast profile were 52.1 MB, and 39.1 MB by the thorough one. The
/// estimate assumes the fast profile, and that an update changes every one of the files, as a new kernel does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UpdateCost {
    /// Compressed files.
    pub files: u64,
    /// Bytes in them, as they are. An update that changes them sends them whole.
    pub bytes: u64,
    /// About what the update would send if they were unpacked, and patched.
    pub patched: u64,
}

/// Bytes of an update sent whole, and with patches of unpacked files, in units of 100 kB.
const MEASURED: (u128, u128) = (1214, 521);

impl UpdateCost {
    /// Counts one more file.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.patched = (u128::from(self.bytes) * MEASURED.1 / MEASURED.0) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_a_file_is() {
        use Compressed::{Documents, Modules};
        let of = |path: &'static str| Compressed::of_path(path.as_bytes());
        for (path, expected) in [
            (
                "usr/lib/modules/6/kernel/a.ko.xz",
                Some((Modules, Codec::Xz, "a.ko")),
            ),
            ("usr/lib/modules/6/a.ko.zst", Some((Modules, Codec::Zstd, "a.ko"))),
            (
                "usr/lib/modules/6/updates/a.ko.gz",
                Some((Modules, Codec::Gzip, "a.ko")),
            ),
            (
                "usr/share/doc/a/changelog.gz",
                Some((Documents, Codec::Gzip, "changelog")),
            ),
            (
                "usr/share/man/de/man1/a.1.gz",
                Some((Documents, Codec::Gzip, "a.1")),
            ),
            (
                "usr/share/info/a.info-1.gz",
                Some((Documents, Codec::Gzip, "a.info-1")),
            ),
            ("usr/lib/modules/6/a.ko", None),
            ("usr/lib/modules/6/.ko.xz", None),
            ("usr/lib/modules/6/config.gz", None),
            ("usr/lib/modules.ko.xz", None),
            ("usr/lib/a.ko.xz", None),
            ("usr/share/doc/a/b.xz", None),
            ("usr/share/doc/a/.gz", None),
            ("usr/share/doc/a/..gz", None),
            ("usr/share/doc/a/...gz", None),
            ("usr/share/documents/a.gz", None),
        ] {
            let expected = expected.map(|(what, codec, name)| (what, codec, name.as_bytes()));
            assert_eq!(of(path), expected, "{path}");
        }
    }

    #[test]
    fn the_estimate_is_that_of_the_measurement_and_never_overflows() {
        let mut cost = UpdateCost::default();
        cost.add(100_000_000);
        cost.add(21_400_000);
        assert_eq!(
            (cost.files, cost.bytes, cost.patched),
            (2, 121_400_000, 52_100_000)
        );
        cost.add(u64::MAX);
        assert_eq!(cost.bytes, u64::MAX);
        assert!(cost.patched < cost.bytes);
    }
}
