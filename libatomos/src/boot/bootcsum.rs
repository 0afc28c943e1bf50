//! Which files of a tree the loader needs, and the digest that names them together.
//!
//! A tree has its kernel in `usr/lib/modules/<kver>/`, and exactly one of them:
//!
//! | there | in `/boot/atomos/<stateroot>-<bootcsum>/` | |
//! |---|---|---|
//! | `vmlinuz` | `vmlinuz` | always |
//! | `initramfs.img`, or `initramfs` | `initramfs.img` | where there is one |
//! | `devicetree` | `devicetree` | where there is one |
//! | `dtb/…` | `dtb/…` | where there is one |
//!
//! The **bootcsum** is a BLAKE3 digest over these files: of each its name in `/boot`, its size and its bytes. Deployments
//! with the same files share them. Because names and sizes are part of it, no bytes can move from one file to another
//! unseen, and because both places have the same layout, one function digests either.
//!
//! 32 hexadecimal digits of it are used, 128 bits. A file name has 255 bytes and a stateroot may take 200, which leaves
//! no room for 64 digits; the kernel is not verified by this digest but by the tree it is part of, when it is
//! deployed ([`KernelFiles::digests`]); and two kernels with
//! one bootcsum would have to be made by whoever makes both trees, who could as well ship either.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{BlobId, hex};
use crate::fs::{Dir, FileKind, FsError, read_up_to};

use super::BootError;

/// Separates this digest from every other use of BLAKE3.
const CONTEXT: &str = "atomos 2026 kernel, initramfs and device trees, v1";

/// Device trees of one kernel. Linux 6.12 for arm64 has about 1,500.
const MAX_DEVICE_TREES: usize = 10_000;

/// Directories below `dtb`. Linux has `dtb/<vendor>/<board>.dtb`, and `overlays`.
const MAX_DEVICE_TREE_DEPTH: usize = 8;

const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs.img";
const INITRAMFS_SHORT: &str = "initramfs";
const DEVICE_TREE: &str = "devicetree";
const DEVICE_TREES: &str = "dtb";

/// What of a kernel's directory can go to `/boot`.
pub(crate) const KERNEL_NAMES: [&str; 5] = [KERNEL, INITRAMFS, INITRAMFS_SHORT, DEVICE_TREE, DEVICE_TREES];

/// Names a set of kernel files. Prints as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootCsum([u8; 16]);

/// A text is not a bootcsum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a bootcsum: it takes 32 lower-case hexadecimal digits")]
pub struct InvalidBootCsum {
    text: String,
}

impl fmt::Display for BootCsum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for BootCsum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootCsum({self})")
    }
}

impl FromStr for BootCsum {
    type Err = InvalidBootCsum;

    fn from_str(text: &str) -> Result<Self, InvalidBootCsum> {
        let invalid = || InvalidBootCsum {
            text: text.chars().take(80).collect(),
        };
        let mut bytes = [0; 16];
        if text.len() != 2 * bytes.len() {
            return Err(invalid());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| match digit {
                b'0'..=b'9' => Ok(digit - b'0'),
                b'a'..=b'f' => Ok(digit - b'a' + 10),
                _ => Err(invalid()),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for BootCsum {
    type Error = InvalidBootCsum;

    fn try_from(text: String) -> Result<Self, InvalidBootCsum> {
        text.parse()
    }
}

impl From<BootCsum> for String {
    fn from(csum: BootCsum) -> Self {
        csum.to_string()
    }
}

/// One of the files: where it is, and what it is called in `/boot`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFile {
    /// Path in the directory that it was found in.
    pub source: PathBuf,
    /// Path in the directory in `/boot`.
    pub name: PathBuf,
    /// Bytes in it.
    pub size: u64,
}

/// A kernel, its initramfs and its device trees, in a tree or in `/boot`.
#[derive(Debug)]
pub struct KernelFiles {
    dir: Dir,
    files: Vec<KernelFile>,
    version: Option<String>,
}

impl KernelFiles {
    /// Finds the kernel of a tree.
    ///
    /// # Errors
    /// When there is none, or more than one, or one of its files is not a regular file.
    pub fn find(tree: &Dir) -> Result<Self, BootError> {
        let no_kernel = || BootError::NoKernel {
            tree: tree.path().to_owned(),
        };
        let modules = tree.open_dir_optional("usr/lib/modules")?.ok_or_else(no_kernel)?;
        let mut versions = Vec::new();
        for entry in modules.entries()? {
            let is_dir = match entry.kind {
                FileKind::Unknown => modules.stat(&entry.name)?.kind == FileKind::Dir,
                kind => kind == FileKind::Dir,
            };
            if is_dir && modules.exists(Path::new(&entry.name).join(KERNEL))? {
                versions.push(entry.name);
            }
        }
        match versions.as_slice() {
            [] => Err(no_kernel()),
            [version] => {
                let mut files = Self::open(modules.open_dir(version)?)?;
                files.version = Some(version.to_string_lossy().into_owned());
                Ok(files)
            }
            _ => Err(BootError::SeveralKernels {
                tree: tree.path().to_owned(),
                versions: versions
                    .iter()
                    .map(|version| version.to_string_lossy().into_owned())
                    .collect(),
            }),
        }
    }

    /// Lists the kernel files in `dir`, a kernel's module directory or one of ours in `/boot`.
    pub fn open(dir: Dir) -> Result<Self, BootError> {
        let mut files = Vec::new();
        let mut add = |source: PathBuf, name: PathBuf| -> Result<bool, BootError> {
            let Some(stat) = dir.stat_optional(&source)? else {
                return Ok(false);
            };
            if stat.kind != FileKind::File {
                return Err(BootError::NotAFile {
                    path: dir.path().join(source),
                });
            }
            files.push(KernelFile {
                source,
                name,
                size: stat.size,
            });
            Ok(true)
        };
        if !add(KERNEL.into(), KERNEL.into())? {
            return Err(BootError::NoKernel {
                tree: dir.path().to_owned(),
            });
        }
        if !add(INITRAMFS.into(), INITRAMFS.into())? {
            add(INITRAMFS_SHORT.into(), INITRAMFS.into())?;
        }
        add(DEVICE_TREE.into(), DEVICE_TREE.into())?;
        let mut names = Vec::new();
        if let Some(dtb) = dir.open_dir_optional(DEVICE_TREES)? {
            list_files(&dtb, Path::new(DEVICE_TREES), 0, &mut names)?;
        }
        for name in names {
            add(name.clone(), name)?;
        }
        // The digest must not depend on how a directory happens to be sorted, or on where "initramfs" would stand.
        files.sort_by(|a, b| a.name.as_os_str().cmp(b.name.as_os_str()));
        Ok(Self {
            dir,
            files,
            version: None,
        })
    }

    /// Returns the directory that the files are in.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns the files, sorted by their names in `/boot`.
    #[must_use]
    pub fn files(&self) -> &[KernelFile] {
        &self.files
    }

    /// Returns the kernel's version, where it was found in a tree.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Returns the sizes of the files, for [`super::check_space`].
    pub fn sizes(&self) -> impl Iterator<Item = u64> {
        self.files.iter().map(|file| file.size)
    }

    /// Returns whether there is an initramfs.
    #[must_use]
    pub fn has_initramfs(&self) -> bool {
        self.has(INITRAMFS)
    }

    /// Returns whether there is one device tree for the loader to load.
    #[must_use]
    pub fn has_device_tree(&self) -> bool {
        self.has(DEVICE_TREE)
    }

    /// Returns whether there are device trees for the loader to choose from.
    #[must_use]
    pub fn has_device_trees(&self) -> bool {
        self.files.iter().any(|file| file.name.starts_with(DEVICE_TREES))
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.name == Path::new(name))
    }

    /// Opens one of the files. What was regular when it was listed must be so still.
    pub(super) fn open_file(&self, file: &KernelFile) -> Result<File, BootError> {
        let opened = self.dir.open_file(&file.source)?;
        let fail = |error: std::io::Error| FsError::new("look at", self.dir.path().join(&file.source), error);
        if !opened.metadata().map_err(fail)?.is_file() {
            return Err(BootError::NotAFile {
                path: self.dir.path().join(&file.source),
            });
        }
        Ok(opened)
    }

    /// Reads all files and returns the digest that names them.
    pub fn digest(&self) -> Result<BootCsum, BootError> {
        Ok(self.digests()?.0)
    }

    /// As [`digest`](Self::digest), with the digest of each file by itself, in the order of [`files`](Self::files): what the tree that they
    /// are of says that they are.
    pub fn digests(&self) -> Result<(BootCsum, Vec<BlobId>), BootError> {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        let mut buffer = vec![0; 256 * 1024];
        let mut blobs = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let name = file.name.as_os_str().as_bytes();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update(&file.size.to_le_bytes());
            let opened = self.open_file(file)?;
            let path = || self.dir.path().join(&file.source);
            let (mut size, mut own) = (0, blake3::Hasher::new());
            loop {
                let len =
                    read_up_to(&opened, &mut buffer).map_err(|error| FsError::new("read", path(), error))?;
                hasher.update(&buffer[..len]);
                own.update(&buffer[..len]);
                size += len as u64;
                if len < buffer.len() {
                    break;
                }
            }
            if size != file.size {
                let changed = std::io::Error::other("its size changed while it was read");
                return Err(FsError::new("read", path(), changed).into());
            }
            blobs.push(BlobId::new(own.finalize().into()));
        }
        let mut csum = [0; 16];
        csum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Ok((BootCsum(csum), blobs))
    }
}

fn list_files(dir: &Dir, path: &Path, depth: usize, names: &mut Vec<PathBuf>) -> Result<(), BootError> {
    let too_many = || BootError::TooManyDeviceTrees {
        path: dir.path().to_owned(),
        limit: MAX_DEVICE_TREES,
        depth: MAX_DEVICE_TREE_DEPTH,
    };
    for entry in dir.entries()? {
        let name = path.join(&entry.name);
        let kind = match entry.kind {
            FileKind::Unknown => dir.stat(&entry.name)?.kind,
            kind => kind,
        };
        match kind {
            FileKind::Dir if depth == MAX_DEVICE_TREE_DEPTH => return Err(too_many()),
            FileKind::Dir => list_files(&dir.open_dir(&entry.name)?, &name, depth + 1, names)?,
            _ if names.len() == MAX_DEVICE_TREES => return Err(too_many()),
            _ => names.push(name),
        }
    }
    Ok(())
}

/// The name of a directory below `/boot/atomos`: `<stateroot>-<bootcsum>`.
#[must_use]
pub fn kernel_dir_name(stateroot: &crate::names::StaterootName, csum: BootCsum) -> OsString {
    OsString::from_vec(format!("{stateroot}-{csum}").into_bytes())
}

/// Takes the name of such a directory apart.
#[must_use]
pub fn parse_kernel_dir_name(name: &str) -> Option<(crate::names::StaterootName, BootCsum)> {
    let (stateroot, csum) = name.rsplit_once('-')?;
    Some((stateroot.parse().ok()?, csum.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Dir) {
        let scratch = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = scratch.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let dir = Dir::open_ambient(scratch.path()).unwrap();
        (scratch, dir)
    }

    fn csum(files: &[(&str, &str)]) -> BootCsum {
        KernelFiles::find(&tree(files).1).unwrap().digest().unwrap()
    }

    #[test]
    fn one_kernel_with_all_that_belongs_to_it_is_found() {
        let (_scratch, tree) = tree(&[
            ("usr/lib/modules/6.1.0/vmlinuz", "kernel"),
            ("usr/lib/modules/6.1.0/initramfs", "initramfs"),
            ("usr/lib/modules/6.1.0/dtb/vendor/b.dtb", "b"),
            ("usr/lib/modules/6.1.0/dtb/a.dtb", "a"),
            ("usr/lib/modules/6.1.0/kernel/x.ko", "module"),
            ("usr/lib/modules/extra/y.ko", "module of no kernel"),
        ]);
        let files = KernelFiles::find(&tree).unwrap();
        assert_eq!(files.version(), Some("6.1.0"));
        let names: Vec<_> = files
            .files()
            .iter()
            .map(|file| file.name.to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            ["dtb/a.dtb", "dtb/vendor/b.dtb", "initramfs.img", "vmlinuz"]
        );
        assert!(files.has_initramfs() && files.has_device_trees() && !files.has_device_tree());
    }

    #[test]
    fn none_and_several_are_errors_that_name_them() {
        let find = |files| KernelFiles::find(&tree(files).1).unwrap_err();
        assert!(matches!(find(&[("etc/x", "")]), BootError::NoKernel { .. }));
        assert!(matches!(
            find(&[("usr/lib/modules/6.1/x.ko", "")]),
            BootError::NoKernel { .. }
        ));
        let several = find(&[
            ("usr/lib/modules/6.9/vmlinuz", ""),
            ("usr/lib/modules/6.10/vmlinuz", ""),
        ]);
        assert!(
            matches!(&several, BootError::SeveralKernels { versions, .. } if versions == &["6.10", "6.9"]),
            "{several}"
        );
    }

    #[test]
    fn a_kernel_or_a_module_directory_that_is_a_link_is_not_followed() {
        let (scratch, tree) = tree(&[("usr/lib/modules/6.1/x", ""), ("secret", "")]);
        symlink("/etc/passwd", scratch.path().join("usr/lib/modules/6.1/vmlinuz")).unwrap();
        assert!(matches!(
            KernelFiles::find(&tree),
            Err(BootError::NotAFile { .. })
        ));
        std::fs::remove_dir_all(scratch.path().join("usr/lib/modules")).unwrap();
        symlink("/lib/modules", scratch.path().join("usr/lib/modules")).unwrap();
        assert!(matches!(KernelFiles::find(&tree), Err(BootError::Fs(_))));
    }

    #[test]
    fn the_digest_depends_on_every_byte_name_and_boundary_and_on_nothing_else() {
        let vmlinuz = "usr/lib/modules/1/vmlinuz";
        let initramfs = "usr/lib/modules/1/initramfs.img";
        let base = csum(&[(vmlinuz, "ab"), (initramfs, "cd")]);
        let same = csum(&[
            ("usr/lib/modules/2/vmlinuz", "ab"),
            ("usr/lib/modules/2/initramfs", "cd"),
            ("usr/lib/modules/2/modules.dep", "x"),
        ]);
        assert_eq!(base, same);
        let others = [
            csum(&[(vmlinuz, "ab")]),
            csum(&[(vmlinuz, "abc"), (initramfs, "d")]),
            csum(&[(vmlinuz, "a"), (initramfs, "bcd")]),
            csum(&[(vmlinuz, "ab"), ("usr/lib/modules/1/devicetree", "cd")]),
            csum(&[(vmlinuz, "ab"), ("usr/lib/modules/1/dtb/x", "cd")]),
            csum(&[(vmlinuz, "ab"), ("usr/lib/modules/1/dtb/y", "cd")]),
            csum(&[(vmlinuz, "ab"), (initramfs, "ce")]),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(*other, base);
            assert!(!others[..index].contains(other));
        }
    }

    #[test]
    fn the_digest_of_known_files_never_changes() {
        let csum = csum(&[
            ("usr/lib/modules/6.1/vmlinuz", "kernel"),
            ("usr/lib/modules/6.1/initramfs.img", "initramfs"),
            ("usr/lib/modules/6.1/dtb/vendor/board.dtb", "tree"),
        ]);
        assert_eq!(csum.to_string(), "d4cc0fe479e728f2f9f859e495aa33bb");
        assert_eq!(csum.to_string().parse(), Ok(csum));
        assert!(csum.to_string().to_uppercase().parse::<BootCsum>().is_err());
        let name = kernel_dir_name(&"my-os".parse().unwrap(), csum);
        assert_eq!(
            parse_kernel_dir_name(name.to_str().unwrap()),
            Some(("my-os".parse().unwrap(), csum))
        );
        assert_eq!(parse_kernel_dir_name(".new-x"), None);
    }
}
