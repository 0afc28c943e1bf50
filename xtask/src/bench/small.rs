//! Trees of many small files, the same on every day and every machine.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::contest::{Ring, remove};
use super::store::{self, Store};
use crate::process::run;
use crate::random::Random;

/// How many files are compared with ostree's and with `cp`'s.
pub const FILES: usize = 200_000;

/// Files of a directory.
const PER_DIRECTORY: usize = 100;

/// Directories of one of those above them.
const DIRECTORIES: usize = 50;

/// The least bytes of a file, and how many more it may have.
const SIZES: (u64, u64) = (64, 4000);

/// One file of so many is another one in the second version.
const CHANGED: usize = 100;

/// What they are, for the document.
pub fn describe(files: usize) -> String {
    format!(
        "{files} files of {} to {} bytes, no two alike, {PER_DIRECTORY} in a directory, and the same with one of {CHANGED} changed",
        SIZES.0,
        SIZES.0 + SIZES.1 - 1
    )
}

/// Compares the contestants on [`FILES`] of them.
///
/// # Errors
/// If a command fails.
pub fn measure(directory: &Path, atomos: &Path, runs: u16) -> Result<Store> {
    std::fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    make_trees(directory, FILES)?;
    let ring = Ring::of(directory, atomos);
    let store = store::measure(&ring, runs)?;
    ring.remove_all()?;
    remove(directory)?;
    Ok(store)
}

/// Makes the trees `v1` and `v2`.
///
/// # Errors
/// If a file cannot be written.
pub fn make_trees(directory: &Path, files: usize) -> Result<()> {
    let (v1, v2) = (directory.join("v1"), directory.join("v2"));
    let mut random = Random::new(files as u64);
    for number in 0..files {
        write(&v1, number, &mut random)?;
    }
    run(Command::new("cp").arg("-a").args([&v1, &v2]))?;
    (0..files)
        .step_by(CHANGED)
        .try_for_each(|number| write(&v2, number, &mut random))
}

fn write(tree: &Path, number: usize, random: &mut Random) -> Result<()> {
    let directory = number / PER_DIRECTORY;
    let parent = tree.join(format!("{}/{}", directory / DIRECTORIES, directory % DIRECTORIES));
    if number.is_multiple_of(PER_DIRECTORY) {
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let path = parent.join(format!("file-{number}"));
    let length = SIZES.0 + random.below(SIZES.1);
    let bytes = random.bytes(usize::try_from(length).unwrap_or_default());
    File::create(&path)
        .and_then(|mut file| file.write_all(&bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tree_facts;

    #[test]
    fn no_two_files_are_alike_and_one_of_a_hundred_changes() {
        let scratch = tempfile::tempdir().unwrap();
        make_trees(scratch.path(), 1000).unwrap();
        let facts = |name| tree_facts(&scratch.path().join(name)).unwrap();
        let expected = crate::facts::expected_additions(&facts("v1"), &facts("v2"));
        assert_eq!(expected.blobs.len(), 10);
        let nothing = scratch.path().join("nothing");
        std::fs::create_dir(&nothing).unwrap();
        let all = crate::facts::expected_additions(&tree_facts(&nothing).unwrap(), &facts("v1"));
        assert_eq!(all.blobs.len(), 1000);
    }
}
