//! Watching a whole process, for tests of power cuts.
//!
//! A test that cuts the power between any two writes of a disk must know what the operation was doing, and must show
//! that it would notice if a sync were missing or came too late. So everything that durability rests on is told to a
//! watcher: each failpoint, each sync, and each rename once it is done, the last two by their place in the source. The
//! watcher may leave a sync out, and may ask for one after a rename.
//!
//! In an ordinary build none of this exists: a sync is always made, and nobody is told.

/// What a sync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// The bytes of one file that is about to get its name.
    File,
    /// A whole file system.
    FileSystem,
    /// A whole file system, to where a boot loader looks.
    Flush,
    /// The part of a flush that not every file system needs: it is frozen and thawed.
    Freeze,
}

/// Returns whether the calling function is to sync, which without a watcher it is.
#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub(crate) fn syncs(_what: Sync) -> bool {
    true
}

/// Says that the calling function has renamed; returns whether a sync was put off until now.
#[cfg(not(any(test, feature = "failpoints")))]
#[inline(always)]
pub(crate) fn renamed() -> bool {
    false
}

#[cfg(any(test, feature = "failpoints"))]
mod enabled {
    use std::panic::Location;
    use std::sync::OnceLock;

    use super::Sync;

    /// What a watcher is told.
    #[derive(Debug, Clone, Copy)]
    #[non_exhaustive]
    pub enum Step {
        /// The point of this name is passed.
        Point(&'static str),
        /// There would be a sync now. It is made if the watcher says so.
        Sync(Sync, &'static Location<'static>),
        /// Something was renamed. Its file system is synced if the watcher says so.
        Renamed(&'static Location<'static>),
    }

    type Watcher = Box<dyn Fn(Step) -> bool + Send + std::marker::Sync>;

    static WATCHER: OnceLock<Watcher> = OnceLock::new();

    /// Tells `watcher` every step of this process from now on, from whatever thread. What it returns says whether to
    /// sync, where that is the question. Only the first watcher of a process is heard.
    pub fn watch(watcher: impl Fn(Step) -> bool + Send + std::marker::Sync + 'static) {
        // A second one would be a mistake of the test program, which sees that it is told nothing.
        drop(WATCHER.set(Box::new(watcher)));
    }

    pub(crate) fn passed(name: &'static str) {
        if let Some(watcher) = WATCHER.get() {
            watcher(Step::Point(name));
        }
    }

    /// Returns whether the calling function is to sync, which without a watcher it is.
    #[track_caller]
    pub(crate) fn syncs(what: Sync) -> bool {
        let place = Location::caller();
        WATCHER
            .get()
            .is_none_or(|watcher| watcher(Step::Sync(what, place)))
    }

    /// Says that the calling function has renamed; returns whether a sync was put off until now.
    #[track_caller]
    pub(crate) fn renamed() -> bool {
        let place = Location::caller();
        WATCHER.get().is_some_and(|watcher| watcher(Step::Renamed(place)))
    }
}

#[cfg(any(test, feature = "failpoints"))]
pub(super) use enabled::passed;
#[cfg(any(test, feature = "failpoints"))]
pub use enabled::{Step, watch};
#[cfg(any(test, feature = "failpoints"))]
pub(crate) use enabled::{renamed, syncs};
