//! The least that a hardlink checkout can cost: a directory for each directory and a link for each file, and nothing else.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Directories, each with its files, in an order in which a parent comes before what is in it.
struct Listing(Vec<(OsString, Vec<OsString>)>);

/// Makes the directories of `from` in `to` and links its files into them, on two threads; links of links, and nothing of metadata.
/// Only that is timed, not the listing.
///
/// # Errors
/// If a system call fails.
pub fn measure(from: &Path, to: &Path) -> Result<Duration> {
    let mut listing = Listing(Vec::new());
    list(from, &OsString::from("."), &mut listing)?;
    let (from, flags) = (open(from)?, OFlags::DIRECTORY | OFlags::CLOEXEC);
    std::fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    let to = open(to)?;
    let start = Instant::now();
    for (path, _) in listing.0.iter().skip(1) {
        rustix::fs::mkdirat(&to, path, Mode::from_raw_mode(0o755)).context("mkdirat")?;
    }
    let half = listing.0.len().div_ceil(2);
    thread::scope(|scope| -> Result<()> {
        let link = |part: &[(OsString, Vec<OsString>)]| -> Result<()> {
            for (path, files) in part {
                let source = rustix::fs::openat(&from, path, flags, Mode::empty()).context("openat")?;
                let target = rustix::fs::openat(&to, path, flags, Mode::empty()).context("openat")?;
                for name in files {
                    rustix::fs::linkat(&source, name, &target, name, AtFlags::empty()).context("linkat")?;
                }
            }
            Ok(())
        };
        let threads: Vec<_> = listing
            .0
            .chunks(half)
            .map(|part| scope.spawn(move || link(part)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a thread does not panic"))
    })?;
    Ok(start.elapsed())
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

fn list(root: &Path, path: &OsString, listing: &mut Listing) -> Result<()> {
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    let directory = root.join(path);
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.context("cannot read an entry")?;
        let kind = entry.file_type().context("cannot look at an entry")?;
        if kind.is_dir() {
            directories.push(Path::new(path).join(entry.file_name()).into_os_string());
        } else {
            files.push(entry.file_name());
        }
    }
    listing.0.push((path.clone(), files));
    directories.iter().try_for_each(|path| list(root, path, listing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_and_is_a_link() {
        use std::os::unix::fs::MetadataExt;
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        for name in ["x", "a/y", "a/b/z"] {
            std::fs::write(from.join(name), name).unwrap();
        }
        measure(&from, &to).unwrap();
        for name in ["x", "a/y", "a/b/z"] {
            let inode = |root: &Path| std::fs::metadata(root.join(name)).unwrap().ino();
            assert_eq!(inode(&from), inode(&to));
        }
    }
}
