//! The store through its public interface: round trips, locks, interrupted runs, damage.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking and owns the directories that it names"
)]

mod adopt;
mod archives;
mod crash;
mod damage;
mod exports;
mod fsck;
mod images;
mod kept;
mod locks;
mod ostree;
mod repair;
mod resume;
mod round_trip;
mod shared;
mod stats;
mod stored;
mod verity;
