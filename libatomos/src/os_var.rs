//! `/var` of a stateroot, filled from what a version brings along.
//!
//! An operating system tree has no `/var` of its own: what its packages put there lies in `usr/share/factory/var`.
//! A new stateroot's `/var` is seeded from it, and each later version adds what is missing. What is there already is
//! the machine's: it is never overwritten, never deleted, and no metadata of it is changed.
//!
//! Directories of `/var` belong to many users, and some may be hostile: one could put a link where a directory was,
//! or swap a name between two calls on it. So nothing is made in its place. Whatever is missing is copied, with its
//! final metadata, into a directory that only root can enter, synced, and then renamed into place, where nothing may
//! be. The renaming is the visible step; an interrupted run leaves a file whole or absent, and the next one
//! completes it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use serde::Serialize;

use crate::fs::{Dir, FileKind, FsError, copy_tree};

/// Where a tree keeps what belongs into `/var`.
pub const FACTORY_VAR: &str = "usr/share/factory/var";

/// Where copies are made before they are renamed into place: in `/var`, because a rename cannot leave the file system.
const STAGING: &str = ".atomos-seed";

/// What seeding did. Paths are relative to `/var`; of a directory that was copied whole only its own path is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SeedReport {
    /// What was missing and was copied.
    pub added: Vec<String>,
    /// What is another kind of thing here than in the tree (a link in place of a directory, say), and was left alone.
    pub differing: Vec<String>,
    /// Directories that something is mounted on, and were left alone.
    pub mounts: Vec<String>,
}

/// Copies what `var` lacks from the tree's [`FACTORY_VAR`], with owner, mode, times and extended attributes. A tree
/// without one adds nothing.
///
/// The caller holds the lock of whatever `var` belongs to. The copies' contents are durable on return; their names
/// are once the caller has synced the file system. An ordinary user's copies belong to the user.
pub fn seed_var(deployment_root: &Dir, var: &Dir) -> Result<SeedReport, FsError> {
    let mut report = SeedReport::default();
    // What an interrupted run left behind.
    var.remove_tree(STAGING)?;
    let Some(factory) = deployment_root.open_dir_optional(FACTORY_VAR)? else {
        return Ok(report);
    };
    let missing = plan(&factory, var, &mut report)?;
    if missing.is_empty() {
        return Ok(report);
    }
    var.create_dir(STAGING, 0o700)?;
    let staging = var.open_dir(STAGING)?;
    for (index, path) in missing.iter().enumerate() {
        let (parent, name) = split(path);
        let source = open_below(&factory, parent)?;
        copy_tree(&source, name, &staging, staged(index).as_ref())?;
    }
    // A name must not become durable before the bytes are: a file that is there is never copied again.
    staging.sync_fs()?;
    for (index, path) in missing.iter().enumerate() {
        publish(&staging, &staged(index), var, path, &mut report)?;
    }
    var.remove_tree(STAGING)?;
    Ok(report)
}

/// Returns what `var` lacks: the topmost path of each missing thing, in order.
fn plan(factory: &Dir, var: &Dir, report: &mut SeedReport) -> Result<Vec<PathBuf>, FsError> {
    let device = var.stat_self()?.dev;
    let mut missing = Vec::new();
    let mut stack = vec![PathBuf::new()];
    while let Some(path) = stack.pop() {
        let source = open_below(factory, &path)?;
        let Ok(target) = open_below(var, &path) else {
            // It was a directory a moment ago: somebody is working there.
            report.differing.push(lossy(&path));
            continue;
        };
        if target.stat_self()?.dev != device {
            report.mounts.push(lossy(&path));
            continue;
        }
        for entry in source.entries()? {
            let child = path.join(&entry.name);
            if child == Path::new(STAGING) {
                continue;
            }
            let ours = source.stat(&entry.name)?.kind;
            match target.stat_optional(&entry.name)?.map(|stat| stat.kind) {
                None => missing.push(child),
                Some(FileKind::Dir) if ours == FileKind::Dir => stack.push(child),
                Some(theirs) if theirs == ours => {}
                Some(_) => report.differing.push(lossy(&child)),
            }
        }
    }
    missing.sort_unstable();
    report.differing.sort_unstable();
    report.mounts.sort_unstable();
    Ok(missing)
}

/// Gives the staged copy its place, if that is still free.
fn publish(
    staging: &Dir,
    staged: &str,
    var: &Dir,
    path: &Path,
    report: &mut SeedReport,
) -> Result<(), FsError> {
    let (parent, name) = split(path);
    // A parent that was swapped or removed since the plan was made is its owner's decision, and no reason to fail.
    let Ok(target) = open_below(var, parent) else {
        report.differing.push(lossy(path));
        return Ok(());
    };
    // The kernel wants write permission on a directory that gets another parent; root has it always.
    let read_only = match staging.stat_optional(staged)? {
        None => return Ok(()),
        Some(stat) if stat.kind == FileKind::Dir && stat.mode & 0o200 == 0 => Some(stat),
        Some(_) => None,
    };
    let set_mode = |dir: &Dir, mode: u32| {
        rustix::fs::fchmod(dir, Mode::from_raw_mode(mode))
            .map_err(|errno| FsError::new("set the mode of", dir.path(), errno))
    };
    let opened = match read_only {
        Some(stat) => {
            let dir = staging.open_dir(staged)?;
            set_mode(&dir, stat.mode | 0o200)?;
            Some((dir, stat.mode))
        }
        None => None,
    };
    let renamed = staging.rename_new(staged, &target, name);
    if let Some((dir, mode)) = opened {
        set_mode(&dir, mode)?;
    }
    match renamed {
        Ok(()) => report.added.push(lossy(path)),
        // Made by somebody else since the plan was.
        Err(error) if error.is_already_exists() => {}
        Err(error) if error.source.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
            report.mounts.push(lossy(parent));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn staged(index: usize) -> String {
    index.to_string()
}

fn open_below(dir: &Dir, path: &Path) -> Result<Dir, FsError> {
    if path.as_os_str().is_empty() {
        dir.try_clone()
    } else {
        dir.open_dir(path)
    }
}

fn split(path: &Path) -> (&Path, &OsStr) {
    let name = path.file_name().expect("a path below /var ends in a name");
    (path.parent().unwrap_or(Path::new("")), name)
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    struct Scratch {
        base: tempfile::TempDir,
        root: Dir,
        var: Dir,
    }

    impl Scratch {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let factory = base.path().join("root").join(FACTORY_VAR);
            fs::create_dir_all(factory.join("lib/deep/er")).unwrap();
            fs::create_dir_all(factory.join("log")).unwrap();
            fs::write(factory.join("lib/state"), "from the tree").unwrap();
            fs::write(factory.join("lib/deep/er/file"), "below").unwrap();
            symlink("../../usr/lib/sysimage/dpkg", factory.join("lib/dpkg")).unwrap();
            fs::create_dir(base.path().join("var")).unwrap();
            let root = Dir::open_ambient(base.path().join("root")).unwrap();
            let var = Dir::open_ambient(base.path().join("var")).unwrap();
            Self { base, root, var }
        }

        fn factory(&self, path: &str) -> PathBuf {
            self.base.path().join("root").join(FACTORY_VAR).join(path)
        }

        fn at(&self, path: &str) -> PathBuf {
            self.base.path().join("var").join(path)
        }

        fn seed(&self) -> SeedReport {
            let report = seed_var(&self.root, &self.var).unwrap();
            assert!(!self.at(STAGING).exists(), "nothing is left behind");
            report
        }
    }

    #[test]
    fn an_empty_var_becomes_a_copy_with_exact_metadata() {
        let scratch = Scratch::new();
        fs::set_permissions(scratch.factory("lib/state"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(scratch.factory("lib/deep"), fs::Permissions::from_mode(0o2555)).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(scratch.factory("lib/state"))
            .unwrap()
            .set_modified(time)
            .unwrap();
        let report = scratch.seed();
        assert_eq!(report.added, ["lib", "log"]);
        for path in [
            "lib",
            "lib/state",
            "lib/deep",
            "lib/deep/er/file",
            "lib/dpkg",
            "log",
        ] {
            let (ours, theirs) = (
                fs::symlink_metadata(scratch.at(path)).unwrap(),
                fs::symlink_metadata(scratch.factory(path)).unwrap(),
            );
            assert_eq!(ours.mode(), theirs.mode(), "{path}");
            assert_eq!((ours.uid(), ours.gid()), (theirs.uid(), theirs.gid()), "{path}");
            assert_eq!(ours.mtime(), theirs.mtime(), "{path}");
        }
        assert_eq!(
            fs::read_link(scratch.at("lib/dpkg")).unwrap().to_str(),
            Some("../../usr/lib/sysimage/dpkg")
        );
        assert_eq!(scratch.seed(), SeedReport::default(), "a second run adds nothing");
        // A temporary directory with a read-only one in it cannot be removed by its owner.
        for path in [scratch.at("lib/deep"), scratch.factory("lib/deep")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_read_only_directory_is_seeded_and_stays_read_only() {
        let scratch = Scratch::new();
        fs::set_permissions(scratch.factory("log"), fs::Permissions::from_mode(0o550)).unwrap();
        scratch.seed();
        assert_eq!(fs::metadata(scratch.at("log")).unwrap().mode() & 0o7777, 0o550);
    }

    #[test]
    fn what_is_there_is_neither_overwritten_nor_deleted() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.at("lib")).unwrap();
        fs::set_permissions(scratch.at("lib"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(scratch.at("lib/state"), "mine").unwrap();
        fs::write(scratch.at("lib/own"), "mine too").unwrap();
        let report = scratch.seed();
        assert_eq!(report.added, ["lib/deep", "lib/dpkg", "log"]);
        assert_eq!(fs::read_to_string(scratch.at("lib/state")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(scratch.at("lib/own")).unwrap(), "mine too");
        assert_eq!(fs::metadata(scratch.at("lib")).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let scratch = Scratch::new();
        let outside = scratch.base.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, scratch.at("lib")).unwrap();
        symlink(outside.join("made"), scratch.at("log")).unwrap();
        let report = scratch.seed();
        assert_eq!(report.differing, ["lib", "log"]);
        assert_eq!(report.added, [""; 0]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_staging_place_that_is_a_link_is_replaced_and_not_entered() {
        let scratch = Scratch::new();
        let outside = scratch.base.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        symlink(&outside, scratch.at(STAGING)).unwrap();
        scratch.seed();
        assert!(outside.join("kept").exists());
        assert!(scratch.at("lib/deep/er/file").exists());
    }

    #[test]
    fn an_interrupted_run_is_completed() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.at(STAGING).join("0/half")).unwrap();
        fs::create_dir_all(scratch.at("lib/deep")).unwrap();
        let report = scratch.seed();
        assert_eq!(report.added, ["lib/deep/er", "lib/dpkg", "lib/state", "log"]);
    }

    #[test]
    fn a_tree_without_a_factory_adds_nothing() {
        let scratch = Scratch::new();
        fs::remove_dir_all(scratch.factory("")).unwrap();
        assert_eq!(scratch.seed(), SeedReport::default());
    }
}
