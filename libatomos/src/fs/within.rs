//! Whether one directory lies in another.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat};

use super::{Dir, FsError, Stat};

/// Returns whether `dir` is `above` or lies in it, however deep. What is mounted on the way is passed through, as a path would.
///
/// # Errors
/// If one of the directories above `dir` cannot be looked at.
pub(crate) fn is_within(dir: &Dir, above: &Dir) -> Result<bool, FsError> {
    let failed = |errno| FsError::new("look for what is above", dir.path(), errno);
    let identity = |stat: &Stat| (stat.dev, stat.ino);
    let wanted = identity(&above.stat_self()?);
    let open = |from: BorrowedFd<'_>, name: &str| {
        openat(
            from,
            name,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let mut at = open(dir.as_fd(), ".").map_err(failed)?;
    let mut here = identity(&rustix::fs::fstat(&at).map(Stat::from).map_err(failed)?);
    while here != wanted {
        at = open(at.as_fd(), "..").map_err(failed)?;
        let parent = identity(&rustix::fs::fstat(&at).map(Stat::from).map_err(failed)?);
        // What is above the root is the root.
        if parent == here {
            return Ok(false);
        }
        here = parent;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lies_in_itself_and_in_what_is_above_it() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient(scratch.path()).unwrap();
        let deep = root.ensure_dir_all(std::path::Path::new("a/b/c"), 0o755).unwrap();
        let (a, sibling) = (root.open_dir("a").unwrap(), root.ensure_dir("a2", 0o755).unwrap());
        for above in [&root, &a, &deep] {
            assert!(is_within(&deep, above).unwrap());
        }
        for other in [&sibling, &deep] {
            assert!(!is_within(&a, other).unwrap());
        }
        assert!(is_within(&a, &Dir::open_ambient("/").unwrap()).unwrap());
    }
}
