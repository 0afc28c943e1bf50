//! Room that is kept for saving a machine whose disk is full.
//!
//! A rollback, a verdict on a boot, and the removal of a deployment write a few files, and not all file systems keep blocks back for root. So
//! a file that nobody reads lies in `/atomos` while there is plenty of room, and gives up its own when there is none. It is a hint: where it
//! cannot be made, nothing is lost.

use rustix::fs::{FallocateFlags, fallocate};

use crate::fs::{Dir, FsError};

/// The file's name, in `/atomos`.
pub(super) const RESERVE: &str = "reserve";

/// Bytes in it.
const SIZE: u64 = 1 << 20;

/// What has to be free for it to be made, and with less than what it goes.
const PLENTY: u64 = 64 * SIZE;
const LITTLE: u64 = SIZE / 4;

/// Makes the reserve, or gives it up. Whoever is about to change the sysroot calls this.
pub(super) fn adjust(atomos: &Dir) {
    let Ok(free) = atomos.free_space() else { return };
    let _ = match atomos.exists(RESERVE) {
        Ok(false) if free > PLENTY => make(atomos),
        // Blocks are free when the removal is down.
        Ok(true) if free < LITTLE => atomos.remove_file(RESERVE).and_then(|()| atomos.sync_fs()),
        _ => Ok(()),
    };
}

fn make(atomos: &Dir) -> Result<(), FsError> {
    let file = atomos.create_file(RESERVE, 0o600)?;
    fallocate(&file, FallocateFlags::empty(), 0, SIZE)
        .map_err(FsError::at("make room in", atomos.path(), RESERVE))
        .inspect_err(|_| drop(atomos.remove_file(RESERVE)))
}
