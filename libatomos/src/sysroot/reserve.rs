//! Room that is kept for saving a machine whose disk is full.
//!
//! A rollback, a verdict on a boot, and the removal of a deployment write a few files, and not all file systems keep blocks back for root. So
//! a file that nobody reads lies in `/atomos`, and gives up its own when one of these finds no room. It is a hint: where it
//! cannot be made, nothing is lost.

use rustix::fs::{FallocateFlags, fallocate};

use crate::error::ErrorKind;
use crate::fs::{Dir, FsError};

use super::{BootLog, State, Sysroot, SysrootError};

/// The file's name, in `/atomos`.
const RESERVE: &str = "reserve";

/// Bytes in it.
const SIZE: u64 = 1 << 20;

/// What has to be available for it to be made.
const PLENTY: u64 = 64 * SIZE;

impl Sysroot {
    /// Takes a step that saves a machine, and takes it again with the room that was kept where there is none. Whoever decides what to do has
    /// done so by then: a step that failed half-way is done again, and nothing else.
    pub(super) fn with_reserve<T>(
        &self,
        step: impl Fn() -> Result<T, SysrootError>,
    ) -> Result<T, SysrootError> {
        let error = match step() {
            Err(error) if error.kind() == ErrorKind::NoSpace => error,
            done => return done,
        };
        match self.atomos.remove_file_optional(RESERVE) {
            Ok(true) => {}
            _ => return Err(error),
        }
        // Blocks are free when the removal is down.
        self.atomos.sync_fs()?;
        step()
    }

    /// Replaces the truth. Durable on return.
    pub(super) fn save_state(&self, state: &State) -> Result<(), SysrootError> {
        self.with_reserve(|| state.save(&self.atomos))
    }

    /// Replaces what is remembered of boots. Durable on return.
    pub(super) fn save_boots(&self, log: &BootLog) -> Result<(), SysrootError> {
        self.with_reserve(|| log.save(&self.atomos))
    }

    /// Makes the reserve where there is plenty of room.
    pub(super) fn keep_reserve(&self) {
        let has_room =
            || Ok::<_, FsError>(!self.atomos.exists(RESERVE)? && self.atomos.available_space()? > PLENTY);
        if has_room().unwrap_or(false) {
            let _ = make(&self.atomos);
        }
    }
}

fn make(atomos: &Dir) -> Result<(), FsError> {
    let file = atomos.create_file(RESERVE, 0o600)?;
    fallocate(&file, FallocateFlags::empty(), 0, SIZE)
        .map_err(FsError::at("make room in", atomos.path(), RESERVE))
        .inspect_err(|_| drop(atomos.remove_file(RESERVE)))
}
